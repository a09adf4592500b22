"""The examples of docs/extend run as printed."""

import re
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from gateway.clock import SystemClock
from gateway.routing.registry import OBJECTIVES, filters, predictors
from gateway.routing.router import Router
from gateway.types import Plan, TargetView
from tests.ground.builders import build_adapters, build_call, build_principal, build_route, build_target, build_view

DOCS = Path(__file__).parents[3] / "docs" / "extend"


def example(page: str, name: str) -> Any:
    """Run the file that a page shows, and build what its one line of registration names."""
    code, line = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert f"{name}()" in line
    namespace: dict[str, Any] = {"__name__": name}
    exec(compile(code, page, "exec"), namespace)  # noqa: S102 - our own page
    return namespace[name]()


def plan_with(views: list[TargetView], call: dict[str, Any], **changed: Any) -> Plan:
    objective = changed.pop("objective", "cost")
    parts: dict[str, Any] = {
        "filters": filters(build_adapters()),
        "predictors": predictors(SystemClock()),
        "objectives": OBJECTIVES,
    }
    route = build_route(*[view.target for view in views], objective=objective)
    return Router(**(parts | changed)).plan(build_call(route=route, **call), views)


def test_the_filter_of_the_docs_filters() -> None:
    """A key of the team ``eu`` stays in Europe, and the plan says so in the page's words."""
    views = [build_view(build_target("us", region="us-east-1")), build_view(build_target("eu", region="eu-west-1"))]
    chain = (*filters(build_adapters()), example("filter.md", "Residency"))
    plan = plan_with(views, {"principal": build_principal(team_id="eu")}, filters=chain)
    assert [each.target.id for each in plan.candidates] == ["eu"]
    (dropped,) = plan.dropped
    shown = f'Dropped(target_id="{dropped.target_id}", filter="{dropped.filter}", reason="{dropped.reason}")'
    assert shown in (DOCS / "filter.md").read_text(encoding="utf-8")


def test_the_predictor_of_the_docs_predicts() -> None:
    """A cap of four tokens is used up, and the cost follows."""
    ours = replace(predictors(SystemClock()), output_tokens=example("predictor.md", "ShortCapsAreUsedUp"))
    call = {"max_output_tokens": 4, "input_tokens_estimate": 0}
    prediction = plan_with([build_view()], call, predictors=ours).candidates[0].prediction
    assert prediction.output_tokens.p50 == 4
    assert prediction.cost_nano_usd.p50 == 4 * 400


def test_the_objective_of_the_docs_orders() -> None:
    """The best comes first, with the reason as the page shows it."""
    views = [build_view(build_target(name, quality={"mmlu": score})) for name, score in (("a", 0.3), ("b", 0.82))]
    objectives = {**OBJECTIVES, "quality": example("objective.md", "Best")}
    plan = plan_with(views, {}, objectives=objectives, objective="quality")
    assert [each.target.id for each in plan.candidates] == ["b", "a"]
    assert plan.reason in (DOCS / "objective.md").read_text(encoding="utf-8")
