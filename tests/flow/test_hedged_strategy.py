"""The hedged strategy: the next target is asked as well when the first is silent, within a budget; both are booked."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.accounting.base import Ledger
from gateway.errors import ErrorKind, GatewayError
from gateway.simulation.virtual_time import run_virtual
from tests.ground.configs import two_models
from tests.ground.script import Answer, error_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import Answered, VirtualGateway, virtual_gateway

CHEAP, DEAR = "http://cheap.test", "http://dear.test"
SOON: dict[str, Any] = {"hedged": {"silence_ms": 300, "share": 1}}
SILENT = Answer(stall_after=0)
Play = Callable[[VirtualGateway], Awaitable[None]]


def played(
    path: Path, play: Play, cheap: ScriptedUpstream, dear: ScriptedUpstream, strategy: object = SOON, **more: Any
) -> VirtualGateway:
    """Run a gateway in virtual time; when it has stopped, each record's cost is that of its attempts."""

    async def scenario() -> VirtualGateway:
        setup, upstreams = two_models(CHEAP, DEAR, strategy=strategy, **more), {CHEAP: cheap, DEAR: dear}
        async with virtual_gateway(setup, path, upstreams) as running:
            await play(running)
            return running

    running = run_virtual(scenario())
    cost = {entry.attempt_id: entry.cost_nano_usd for entry in running.ledger.entries}
    for record in running.ledger.records:
        assert record.cost_nano_usd == sum(cost.pop(each) for each in record.attempt_ids)
    assert cost == {}, "an attempt of no call, or of two"
    return running


def answering(script: Answer | None) -> ScriptedUpstream:
    upstream = ScriptedUpstream()
    if script is not None:
        upstream.on_path("/v1/chat/completions", script)
    return upstream


class Case(NamedTuple):
    """What the two targets do, and what comes of it: the status and the entries by time (target, outcome, billed)."""

    cheap: Answer | None
    dear: Answer | None
    status: int
    rows: list[tuple[str, str, bool]]


CASES = {
    "the first in time": Case(None, None, 200, [("cheap", "ok", True)]),
    "the first silent": Case(SILENT, None, 200, [("cheap", "cancelled", True), ("dear", "ok", True)]),
    "the first refuses": Case(error_answer(503), None, 200, [("cheap", "refused", False), ("dear", "ok", True)]),
    "the second refuses": Case(
        Answer(first_byte_delay_s=2, hang_up=True),
        error_answer(503),
        503,
        [("cheap", "cut", True), ("dear", "refused", False), ("dear", "refused", False)],  # the last is the retry
    ),
    "the caller's fault": Case(error_answer(400), SILENT, 400, [("cheap", "refused", False)]),
    "the caller's fault, late": Case(
        Answer(status=400, first_byte_delay_s=0.4, chunks=[b"{}"]),
        SILENT,
        400,
        [("cheap", "refused", False), ("dear", "cancelled", True)],
    ),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_hedged_call_books_whatever_was_asked(case: Case, stream: bool, tmp_path: Path) -> None:
    answers: list[Answered] = []

    cheap = answering(case.cheap if stream else None)

    async def play(running: VirtualGateway) -> None:
        if not stream:  # how long a whole answer takes has to be known before one is late
            await running.chat(model="cheap")
            if case.cheap is not None:
                cheap.on_path("/v1/chat/completions", case.cheap)
        answers.append(await running.chat(stream=stream))

    ledger = played(tmp_path, play, cheap, answering(case.dear)).ledger
    record = ledger.records[-1]
    entries = sorted(
        (each for each in ledger.entries if each.call_id == record.call_id), key=lambda each: each.started_at_ns
    )
    assert answers[0].status == case.status
    assert [(each.target_id, each.outcome, each.cost_nano_usd > 0) for each in entries] == case.rows


def test_silence_is_measured_against_the_prediction(tmp_path: Path) -> None:
    """A hundred calls of up to 0.1 s, then one of 3 s: the other target answers it at the p95 of what is known."""

    async def play(running: VirtualGateway) -> None:
        for number in range(100):
            cheap.model.ttft_s = 0.005 * (number % 20 + 1)
            await running.chat(model="cheap")
        cheap.model.ttft_s = 3.0
        late = await running.chat()
        assert 0.09 < late.ttft_s < 0.12
        assert late.headers["x-tollway-target"] == "dear"
        assert late.headers["x-tollway-reason"].startswith("hedged: cheap was silent for ")

    cheap = ScriptedUpstream()
    ledger = played(tmp_path, play, cheap, ScriptedUpstream(), strategy="hedged").ledger
    assert [each.target_id for each in ledger.entries].count("dear") == 1


def test_budget_bounds_what_is_asked_twice(tmp_path: Path) -> None:
    """When every call is slow, a twentieth is hedged beside the ten at the start and one a minute."""

    async def play(running: VirtualGateway) -> None:
        for _ in range(300):
            assert (await running.chat()).status == 200

    cheap = ScriptedUpstream()
    cheap.model.ttft_s = 0.4
    strategy = {"hedged": {"silence_ms": 300, "share": 0.05}}
    ledger = played(tmp_path, play, cheap, ScriptedUpstream(), strategy).ledger
    hedged = [each.target_id for each in ledger.entries].count("dear")
    assert 10 + 300 * 0.05 - 2 <= hedged <= 10 + 300 * 0.05 + 3


def test_single_target_is_never_hedged(tmp_path: Path) -> None:
    async def play(running: VirtualGateway) -> None:
        assert (await running.chat()).status == 200

    cheap = ScriptedUpstream()
    cheap.model.ttft_s = 1.0
    assert len(played(tmp_path, play, cheap, ScriptedUpstream(), models=["cheap"]).ledger.entries) == 1


@pytest.mark.parametrize("run", range(8))
def test_answer_counts_before_an_error_of_the_same_moment(run: int, tmp_path: Path) -> None:
    """The first refuses at 1.3 s, when the second, asked at 0.3 s, begins; of many runs, since a set has no order."""

    async def play(running: VirtualGateway) -> None:
        assert (await running.chat()).status == 200

    dear = ScriptedUpstream()
    dear.model.ttft_s = 1.0
    cheap = answering(Answer(status=400, first_byte_delay_s=1.3, chunks=[b"{}"]))
    entries = played(tmp_path, play, cheap, dear).ledger.entries
    assert sorted((each.target_id, each.outcome) for each in entries) == [("cheap", "refused"), ("dear", "ok")]


@pytest.mark.parametrize("silence_ms", [199, 200, 201])
def test_last_target_is_asked_once_when_the_first_gives_up_at_the_hedge(silence_ms: int, tmp_path: Path) -> None:
    """The limit of the first token is 0.2 s: at the same moment the first goes on to it, and it is hedged with."""

    async def play(running: VirtualGateway) -> None:
        assert (await running.chat()).status == 200

    strategy = {"hedged": {"silence_ms": silence_ms, "share": 1}}
    timeouts = {"first_token_s": 0.2}
    entries = played(tmp_path, play, answering(SILENT), ScriptedUpstream(), strategy, timeouts=timeouts).ledger.entries
    first = "cancelled" if silence_ms < 200 else "timeout"
    assert sorted((each.target_id, each.outcome) for each in entries) == [("cheap", first), ("dear", "ok")]


@pytest.mark.parametrize("after_s", [0.1, 0.5])
def test_caller_who_leaves_ends_all_that_was_asked(after_s: float, tmp_path: Path) -> None:
    """Before the second is asked, and while both are."""

    async def play(running: VirtualGateway) -> None:
        calling = asyncio.create_task(running.chat())
        await asyncio.sleep(after_s)
        calling.cancel()
        await asyncio.wait({calling})
        assert not any(running.gateway.pool.in_flight().values())

    ledger = played(tmp_path, play, answering(SILENT), answering(SILENT)).ledger
    assert [each.outcome for each in ledger.entries] == ["cancelled"] * (1 + (after_s > 0.3))


def test_error_for_the_caller_is_not_hidden_by_the_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no target's failure is what the caller reads: here, that no attempt can be noted."""

    def refuse(_ledger: Ledger, *_: object) -> None:
        raise GatewayError(ErrorKind.STORAGE_UNAVAILABLE, "The ledger cannot be written; retry later.")

    async def play(running: VirtualGateway) -> None:
        monkeypatch.setattr(type(running.ledger), "dispatch", refuse)
        assert "The ledger cannot be written" in (await running.chat()).body.decode()

    played(tmp_path, play, ScriptedUpstream(), ScriptedUpstream())
