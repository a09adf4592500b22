"""Orders candidates by what a call costs, with the caller's time and the answer's quality priced in dollars."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from gateway.config.fields import Name, Number
from gateway.config.parts import Part
from gateway.config.section import Section
from gateway.routing.ceilings import total_ms
from gateway.routing.task import task_of
from gateway.types import Call, Candidate

_POINTS = 100


class Balanced(Part):
    """The least dollars, with time and quality at a price: weights that can be argued about.

    One of which nothing was learnt for a while is taken to answer at once: if it is not worth it even so, it gets no
    try. A target never tried that is being tried comes last.
    """

    class Options(Section):
        """What a second and a point of quality are worth."""

        usd_per_second: Annotated[float, Number, Field(ge=0, le=1_000)] = Field(
            default=0.001, description="What a second until the last token costs its caller, in USD."
        )
        usd_per_quality_point: Annotated[float, Number, Field(ge=0, le=1_000)] = Field(
            default=0,
            description="What a point of quality is worth in one answer, in USD. A point is a hundredth of the score.",
        )
        score: Name | None = Field(
            default=None,
            description="The key of `models.NAME.quality` that counts; what has no such score has 0. Default: the task "
            "of the call (`x-tollway-task`, or the route's `task`); without one, quality does not count.",
        )

    options: Options
    superlative = "best balanced"

    def order(self, call: Call, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Sort by dollars; the sort is stable, so ties stay in the order of the configuration."""
        score = self.options.score or task_of(call)
        return sorted(candidates, key=lambda each: self._usd(each, score))

    def figure(self, candidate: Candidate) -> str:
        """Write dollars and seconds."""
        median_ms = total_ms(candidate.prediction, "p50")
        time = "latency not measured yet" if median_ms is None else f"{median_ms / 1e3:.2f} s"
        return f"${candidate.prediction.cost_nano_usd.p50 / 1e9:.6f}, {time} predicted"

    def _usd(self, candidate: Candidate, score: str | None) -> float:
        usd = candidate.prediction.cost_nano_usd.p50 / 1e9
        if score is not None:
            points = _POINTS * candidate.target.quality.get(score, 0.0)
            usd -= self.options.usd_per_quality_point * points
        if candidate.probe_due:
            return usd
        median_ms = total_ms(candidate.prediction, "p50")
        return float("inf") if median_ms is None else usd + self.options.usd_per_second * median_ms / 1e3
