"""A hedged strategy is one file and one line: a second target is asked when the first keeps silent for a while."""

from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ErrorKind, GatewayError
from gateway.execution.registry import STRATEGIES
from gateway.simulation.virtual_time import run_virtual
from tests.ground.configs import two_models
from tests.ground.script import Answer, error_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import VirtualGateway, virtual_gateway

CHEAP, DEAR = "http://cheap.test", "http://dear.test"
PAGE = Path(__file__).parents[2] / "docs" / "extend" / "strategy.md"


def hedged() -> Any:
    """Return the strategy that docs/extend/strategy.md shows."""
    module: dict[str, Any] = {"__name__": "hedged"}
    code = PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    exec(compile(code, PAGE, "exec"), module)  # noqa: S102 - our own page
    return module["Hedged"]


ROWS: dict[str, tuple[Answer | None, list[tuple[str, str, bool]]]] = {
    "the first in time": (None, [("cheap", "ok", True)]),
    "the first too slow": (Answer(stall_after=0), [("cheap", "cancelled", True), ("dear", "ok", True)]),
    "the first refuses": (error_answer(503), [("cheap", "refused", False), ("dear", "ok", True)]),
}
"""What the first target does, and the entries by time: target, outcome, and whether it costs something."""


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_hedged_call_bills_both(name: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loser is cancelled and billed for what it read; the caller reads the cost of both."""
    monkeypatch.setitem(STRATEGIES, "hedged", hedged())  # the registry's line
    (scripted, rows), cheap = ROWS[name], ScriptedUpstream()
    if scripted is not None:
        cheap.on_path("/v1/chat/completions", scripted)

    async def scenario() -> VirtualGateway:
        setup, upstreams = two_models(CHEAP, DEAR, strategy="hedged"), {CHEAP: cheap, DEAR: ScriptedUpstream()}
        async with virtual_gateway(setup, tmp_path, upstreams) as running:
            answered = await running.chat(stream=stream)
            assert answered.status == 200, answered.body
            cost_usd = float(answered.stream.cost_usd or answered.headers["x-tollway-cost-usd"])
            assert round(cost_usd * 1e9) == running.ledger.records[0].cost_nano_usd
            return running

    ledger = run_virtual(scenario()).ledger
    entries = sorted(ledger.entries, key=lambda each: each.started_at_ns)
    assert [(each.target_id, each.outcome, each.cost_nano_usd > 0) for each in entries] == rows
    record = ledger.records[0]
    assert record.cost_nano_usd == sum(each.cost_nano_usd for each in entries)
    assert (record.target_id, record.outcome, len(record.attempt_ids)) == (rows[-1][0], "ok", len(rows))


def test_error_for_the_caller_is_not_hidden_by_the_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no target's failure is what the caller reads: here, that no attempt can be noted."""
    monkeypatch.setitem(STRATEGIES, "hedged", hedged())

    def refuse(*_: object) -> None:
        raise GatewayError(ErrorKind.STORAGE_UNAVAILABLE, "The ledger cannot be written; retry later.")

    async def scenario() -> str:
        setup, upstreams = (
            two_models(CHEAP, DEAR, strategy="hedged"),
            {CHEAP: ScriptedUpstream(), DEAR: ScriptedUpstream()},
        )
        async with virtual_gateway(setup, tmp_path, upstreams) as running:
            monkeypatch.setattr(running.ledger, "dispatch", refuse)
            return (await running.chat()).body.decode()

    assert "The ledger cannot be written" in run_virtual(scenario())
