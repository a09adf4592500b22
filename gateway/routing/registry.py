"""Names every filter, predictor and objective. A new one is a file and a line here (docs/extend)."""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.clock import Clock
from gateway.routing.base import Filter, Objective, Predictors
from gateway.routing.filters.by_request import Capability, ContextLength, Expressible, Refuser
from gateway.routing.filters.by_target import Health
from gateway.routing.objectives.cost import Cheapest
from gateway.routing.objectives.latency import Fastest
from gateway.routing.predictors.cost import RatesTimesTokens
from gateway.routing.predictors.measured import MeasuredOutputTokens, MeasuredTpot, MeasuredTtft
from gateway.routing.router import Router

OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "cost": Cheapest(),
        "latency": Fastest(),
    }
)


def predictors(clock: Clock) -> Predictors:
    """Return the predictor of each quantity; the clock is for prices that depend on the hour."""
    return Predictors(
        output_tokens=MeasuredOutputTokens(),
        ttft_ms=MeasuredTtft(),
        tpot_ms=MeasuredTpot(),
        cost_nano_usd=RatesTimesTokens(clock.wall_ns),
    )


def filters(adapters: Mapping[str, Refuser]) -> tuple[Filter, ...]:
    """Return the filters in order.

    The first rejection of a target is the one recorded, so what never changes comes first.
    """
    return (
        Capability(),
        ContextLength(),
        Expressible(adapters),
        Health(),
    )


def router(*, adapters: Mapping[str, Refuser], clock: Clock) -> Router:
    """Put the policy together. ``adapters`` know what a target's wire format cannot express of a call."""
    return Router(filters=filters(adapters), predictors=predictors(clock), objectives=OBJECTIVES)
