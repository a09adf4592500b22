"""Orders candidates by what a call costs that keeps the route's ceilings on time."""

from collections.abc import Sequence
from typing import Any

from gateway.config.parts import Part, Tools
from gateway.routing.ceilings import Ceilings
from gateway.types import Call, Candidate

_LEAST = 0.01
"""No chance is taken to be smaller: a quantile that nothing was measured beyond is no promise."""


class CheapestInTime(Part):
    """The least cost for each call that keeps the ceilings on time: predicted cost over the chance to keep them.

    So a target that keeps them nine times in ten is worth its price to nine tenths. Without such ceilings it is `cost`.
    """

    superlative = "cheapest in time"

    def __init__(self, options: Any, tools: Tools) -> None:
        super().__init__(options, tools)
        self._ceilings = Ceilings(tools.limits)

    def order(self, call: Call, candidates: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002 - the protocol's
        """Sort by dollars; the sort is stable, so ties stay in the order of the configuration."""
        return sorted(candidates, key=self._nano_usd)

    def figure(self, candidate: Candidate) -> str:
        """Write the cost and the chance."""
        usd = candidate.prediction.cost_nano_usd.p50 / 1e9
        return f"${usd:.6f} predicted, in time with {self._ceilings.chance(candidate.prediction):.0%}"

    def _nano_usd(self, candidate: Candidate) -> float:
        """One of which nothing was learnt for a while is taken to keep them, or it would never be tried again."""
        chance = 1.0 if candidate.probe_due else self._ceilings.chance(candidate.prediction)
        return candidate.prediction.cost_nano_usd.p50 / max(chance, _LEAST)
