"""The interfaces of the policy's parts. All are pure: they read a call and a view of a target, and keep nothing."""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from gateway.types import Call, Candidate, Quantiles, TargetView

Fault = Literal["request", "context", "route", "health"]
"""To blame when a filter leaves nothing: what the call asks for, its size, the route's own demands, the moment."""


class Filter(Protocol):
    """Rules targets out. ``name`` is stored with the plan; ``fault`` chooses the error if no target remains."""

    @property
    def name(self) -> str:
        """A short word: a label."""

    @property
    def fault(self) -> Fault:
        """What a rejection says about the call."""

    def reject(self, call: Call, view: TargetView) -> str | None:
        """Return a short reason, shown to the caller and in explain, or None to let the target pass."""


class Predictor(Protocol):
    """Predicts one quantity of a call at a target, in the unit of the slot it fills in ``Predictors``."""

    def predict(self, call: Call, view: TargetView) -> Quantiles | None:
        """Return quantiles, or None while nothing is known: an unknown target is worth a try."""


class LengthPredictor(Protocol):
    """Predicts output tokens over all choices of a call; has to answer for a target never tried, too."""

    def predict(self, call: Call, view: TargetView) -> Quantiles:
        """Return quantiles in tokens."""


class CostPredictor(Protocol):
    """Predicts nano-dollars from what the other predictors said of the same call."""

    def predict(
        self,
        call: Call,
        view: TargetView,
        output_tokens: Quantiles,
        ttft_ms: Quantiles | None,
        tpot_ms: Quantiles | None,
    ) -> Quantiles:
        """Return quantiles in nano-dollars; optimistic where nothing is known, so that the unknown gets its try."""


class Predictors(Struct, frozen=True, kw_only=True):
    """The predictor of each quantity."""

    output_tokens: LengthPredictor
    ttft_ms: Predictor
    tpot_ms: Predictor
    cost_nano_usd: CostPredictor


class Objective(Protocol):
    """An order of preference among candidates."""

    @property
    def superlative(self) -> str:
        """Why the first is first, in a word of ASCII: ``cheapest``."""

    def order(self, call: Call, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return all candidates, the preferred one first; ties keep the order given, which is the configuration's.

        Ceilings are the router's business: order as if every candidate kept them. ``candidate.probe_due`` says that
        nothing was learnt of this target for a while.
        """

    def figure(self, candidate: Candidate) -> str:
        """Write what the order looked at, in ASCII: ``$0.000012 predicted``."""
