"""Names every filter, predictor and objective. A new one is a file and a line here (docs/extend)."""

from collections.abc import Mapping, Sequence

from gateway.config.parts import Part, Tools, all_of, narrowed, one_if_several, one_of
from gateway.config.schema import PredictorsSection, RequireSection, RouteSection
from gateway.config.section import Section
from gateway.routing.base import Demand, Filter, Predictors
from gateway.routing.ceilings import Ceilings, Options
from gateway.routing.filters.by_request import Capability, ContextLength, Expressible, TaskQuality
from gateway.routing.filters.demands import DataUse, Hosting, Licence, Quality, Region
from gateway.routing.filters.health import Health
from gateway.routing.objectives.balanced import Balanced
from gateway.routing.objectives.cost import Cheapest
from gateway.routing.objectives.goodput import CheapestInTime
from gateway.routing.objectives.latency import Fastest
from gateway.routing.policy import Policy
from gateway.routing.predictors.cost import RatesTimesTokens
from gateway.routing.predictors.measured import MeasuredOutputTokens, MeasuredTpot, MeasuredTtft
from gateway.types import Target

FILTERS: dict[str, type[Filter | Demand]] = {
    "licence": Licence,
    "hosting": Hosting,
    "region": Region,
    "data_policy": DataUse,
    "quality": Quality,
    "task_quality": TaskQuality,
    "capability": Capability,
    "context": ContextLength,
    "expressible": Expressible,
    "health": Health,
}
"""In order: the first rejection of a target is the one recorded. Their keys stand in a route's ``require``."""
OUTPUT_TOKENS: dict[str, type[Part]] = {"measured": MeasuredOutputTokens}
TTFT_MS: dict[str, type[Part]] = {"measured": MeasuredTtft}
TPOT_MS: dict[str, type[Part]] = {"measured": MeasuredTpot}
COST_NANO_USD: dict[str, type[Part]] = {"tariff": RatesTimesTokens}
PREDICTORS: Mapping[str, dict[str, type[Part]]] = {
    "output_tokens": OUTPUT_TOKENS,
    "ttft_ms": TTFT_MS,
    "tpot_ms": TPOT_MS,
    "cost_nano_usd": COST_NANO_USD,
}
"""By what they predict: a route chooses one of each in ``predictors``, where there are several."""
OBJECTIVES: dict[str, type[Part]] = {
    "cost": Cheapest,
    "latency": Fastest,
    "balanced": Balanced,
    "goodput": CheapestInTime,
}


def keys() -> dict[str, type[Section] | Section]:
    """Return the kinds of those keys of a route's section that the parts decide: see ``narrowed``."""
    choices = {key: one_if_several(key, *parts.items()) for key, parts in PREDICTORS.items()}
    predictors = narrowed(PredictorsSection, **choices)
    return {
        "objective": one_of("objective", *OBJECTIVES.items()),
        "predictors": predictors if predictors.model_fields else predictors(),
        "limits": Options,
        "require": all_of(RequireSection, *FILTERS.values()),
    }


def policy(section: RouteSection, targets: Sequence[Target], tools: Tools) -> Policy:
    """Make the policy that a route's section asks for, over these targets."""
    tools = tools._replace(limits=section.limits)
    filters = {name: part(section.require, tools) for name, part in FILTERS.items()}
    return Policy(
        targets=targets,
        demands={name: part for name, part in filters.items() if isinstance(part, Demand)},
        filters={name: part for name, part in filters.items() if isinstance(part, Filter)},
        predictors=Predictors(**{name: getattr(section.predictors, name).made(tools) for name in PREDICTORS}),
        ceilings=Ceilings(section.limits),
        objective=section.objective.made(tools),
        strategy=section.strategy.made(tools),
        insists=section.when_none_fits == "reject",
    )
