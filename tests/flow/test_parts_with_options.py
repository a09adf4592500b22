"""A filter and an objective with an option are a class and a line each; a reload changes what the file says of them."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import Field

from gateway.app import read_snapshot
from gateway.config.fields import Count
from gateway.config.parts import Part
from gateway.config.problems import ConfigError
from gateway.config.section import Section
from gateway.reference import render
from gateway.routing.base import Filter
from gateway.routing.registry import FILTERS, OBJECTIVES
from gateway.simulation.virtual_time import run_virtual
from gateway.types import Call, Candidate, Target, TargetView
from tests.ground.configs import two_models
from tests.ground.gateway import write_config
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import virtual_gateway

CHEAP, DEAR = "http://cheap.test", "http://dear.test"


class Short(Filter):
    """Long prompts stay away from some targets."""

    class Options(Section):  # noqa: D106
        short: dict[str, Count] = Field(default={}, description="The longest prompt of a model, in tokens.")

    options: Options
    fault = "context"

    def concerns(self, target: Target) -> bool:
        return target.id in self.options.short

    def reject(self, call: Call, view: TargetView) -> str | None:
        most = self.options.short.get(view.target.id, call.input_tokens_estimate)
        return f"prompts of {most} tokens at most" if call.input_tokens_estimate > most else None


class Named(Part):
    """A target of one's choice."""

    class Options(Section):  # noqa: D106
        first: str = Field(default="cheap", description="The model that comes first.")

    options: Options
    superlative = "chosen"

    def order(self, call: Call, candidates: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002
        return sorted(candidates, key=lambda each: each.target.id != self.options.first)

    def figure(self, candidate: Candidate) -> str:
        return candidate.target.id


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILTERS, "short", Short)
    monkeypatch.setitem(OBJECTIVES, "named", Named)


ROWS: list[tuple[dict[str, object], str, str]] = [
    ({"objective": "named"}, "cheap", "chosen (cheap)"),
    ({"objective": {"named": {"first": "dear"}}}, "dear", "chosen (dear)"),
    ({"objective": {"named": None}, "require": {"short": {"cheap": 1}}}, "dear", "only target left, 1 ruled out"),
    ({"require": {"short": {"cheap": 999, "dear": 1}}}, "cheap", "only target left, 1 ruled out"),
    ({"require": {"short": {"other": 1}}}, "cheap", "cheapest ("),
]
"""A route's keys, and where its calls go for which reason."""


def test_options_decide_where_calls_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        upstreams = {CHEAP: ScriptedUpstream(), DEAR: ScriptedUpstream()}
        async with virtual_gateway(two_models(CHEAP, DEAR), tmp_path, upstreams) as running:
            for keys, target, reason in ROWS:
                write_config(tmp_path, two_models(CHEAP, DEAR, **keys))
                assert await running.gateway.reload()
                headers = (await running.chat()).headers
                assert headers["x-tollway-target"] == target
                assert headers["x-tollway-reason"].startswith(reason)

    run_virtual(scenario())


def test_keys_of_parts_are_those_of_the_file(tmp_path: Path) -> None:
    """A misspelt one has its line and the nearest spelling, and each is on the reference page."""
    file = write_config(tmp_path, two_models(CHEAP, DEAR, objective={"named": {"frist": 1}}, require={"shrt": {}}))
    with pytest.raises(ConfigError) as caught:
        read_snapshot(file, {})
    said = " ".join(caught.value.problems)
    assert "routes.auto.objective.named: unknown key 'frist'; did you mean 'first'?" in said
    assert "routes.auto.require: unknown key 'shrt'; did you mean 'short'?" in said
    assert "| `first` | text | `cheap` | The model that comes first. |" in render()
