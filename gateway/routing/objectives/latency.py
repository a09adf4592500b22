"""Orders candidates by predicted time."""

from collections.abc import Sequence

from gateway.config.parts import Part
from gateway.routing.ceilings import total_ms
from gateway.types import Call, Candidate


def _total_ms(candidate: Candidate) -> float:
    median_ms = total_ms(candidate.prediction, "p50")
    return float("inf") if median_ms is None else median_ms


def _rank(candidate: Candidate) -> float:
    return -1.0 if candidate.probe_due else _total_ms(candidate)


class Fastest(Part):
    """The fastest, by the predicted time to the last token.

    A slower target would never be measured again, and a target never measured has no place in the order. So one of
    which nothing was learnt for a while comes first, once: while that call runs, it is not due again. An unknown target
    that is being tried already comes last.
    """

    superlative = "fastest"

    def order(self, call: Call, candidates: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002 - the protocol's
        """Sort by predicted time; the sort is stable, so ties stay in the order of the configuration."""
        return sorted(candidates, key=_rank)

    def figure(self, candidate: Candidate) -> str:
        """Write milliseconds."""
        median_ms = _total_ms(candidate)
        return f"{median_ms:.0f} ms predicted" if median_ms < float("inf") else "not measured yet"
