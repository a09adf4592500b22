"""Orders candidates by predicted cost."""

from collections.abc import Sequence
from operator import attrgetter

from gateway.config.parts import Part
from gateway.types import Call, Candidate

_nano_usd = attrgetter("prediction.cost_nano_usd.p50")


class Cheapest(Part):
    """The cheapest, by predicted median cost.

    One not measured yet needs no special place: its cost is predicted optimistically.
    """

    superlative = "cheapest"

    def order(self, call: Call, candidates: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002 - the protocol's
        """Sort by the median; the sort is stable, so ties stay in the order of the configuration."""
        return sorted(candidates, key=_nano_usd)

    def figure(self, candidate: Candidate) -> str:
        """Write dollars, with enough decimals for a cheap call."""
        usd = _nano_usd(candidate) / 1e9
        figure = f"${usd:.6f} predicted" if usd >= 1e-6 or not usd else f"${usd:.9f} predicted"
        return figure if candidate.prediction.ttft_ms is not None else f"{figure}, latency not measured yet"
