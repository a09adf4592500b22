"""A hedged strategy is one file and one line: a second target is asked when the first keeps silent for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.execution.attempts import Attempts
from gateway.execution.base import Reply
from gateway.execution.registry import STRATEGIES
from gateway.types import Call, Candidate, Plan
from tests.ground.configs import two_models
from tests.ground.script import Answer, error_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import VirtualGateway, virtual_gateway
from tests.ground.virtual_time import run_virtual

CHEAP, DEAR, HEDGE_S = "http://cheap.test", "http://dear.test", 0.5


class Hedged:
    """Asks two targets at most; the first that begins to answer wins, and the other is cancelled."""

    def __init__(self, *_: object) -> None:
        pass

    @asynccontextmanager
    async def answer(self, plan: Plan, call: Call, attempts: Attempts) -> AsyncIterator[Reply]:  # noqa: ARG002
        first: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        over, racers = asyncio.Event(), list[asyncio.Task[None]]()

        async def race(candidate: Candidate) -> None:
            try:
                async with await attempts.begin(candidate) as attempt:
                    reply = await attempt.send()
                    reply.reason = f"first of {len(racers)} to answer"
                    if not first.done():
                        racers.remove(asyncio.current_task())  # type: ignore[arg-type]
                        first.set_result(reply)
                        await over.wait()
            except UpstreamError as error:
                attempts.failed(error, candidate.target, None)

        try:
            for candidate in plan.candidates[:2]:
                racers.append(asyncio.create_task(race(candidate)))
                await asyncio.wait([first, *racers], timeout=HEDGE_S, return_when=asyncio.FIRST_COMPLETED)
                if first.done():
                    break
            await asyncio.wait([first, asyncio.gather(*racers)], return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                raise GatewayError(ErrorKind.NO_TARGET, "No target could answer; retry later.")
            await _cancelled(racers)
            yield first.result()
        finally:
            over.set()
            await _cancelled(racers)


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
    monkeypatch.setitem(STRATEGIES, "hedged", Hedged)  # the registry's line
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
