"""The base classes and interfaces of a policy's parts. All are pure: they read a call and a view, and keep nothing."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

from msgspec import Struct

from gateway.config.parts import Part
from gateway.types import Call, Candidate, Quantiles, Target, TargetView

Fault = Literal["request", "context", "route", "health"]
"""To blame when a filter leaves nothing: what the call asks for, its size, the route's own demands, the moment."""


class Demand(Part, ABC):
    """What a route demands of a target whatever the call: decided once, when the snapshot is built."""

    @abstractmethod
    def unmet(self, target: Target) -> str | None:
        """Return a short reason to leave the target out of the route, shown as a filter's, or None."""


class Filter(Part, ABC):
    """Rules targets out for one call. ``fault`` chooses the error if no target remains."""

    fault: ClassVar[Fault]

    def concerns(self, target: Target) -> bool:  # noqa: ARG002 - filters that can tell override it
        """Tell whether it may ever reject this target: it is not asked on a route where it may reject none."""
        return True

    @abstractmethod
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

        Ceilings are the policy's business: order as if every candidate kept them. ``candidate.probe_due`` says that
        nothing was learnt of this target for a while.
        """

    def figure(self, candidate: Candidate) -> str:
        """Write what the order looked at, in ASCII: ``$0.000012 predicted``."""
