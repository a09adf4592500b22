"""The cost that a caller reads is the call's: that of all its attempts, as its record has it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.simulation.virtual_time import run_virtual
from tests.ground.script import Answer, Seen, error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import Answered, virtual_gateway

OWN, HOSTED = "http://own.test", "http://hosted.test"
NANO_USD_PER_S = 10_000_000
"""Of own hardware at 36 USD an hour."""
HOSTED_NANO_USD = 6 * 1000 + 5 * 10_000
"""Six tokens of the prompt and five of the answer, at 1 and 10 USD per million."""
SILENT = Answer(stall_after=0)
REFUSES_STREAMS = json_answer({"error": {"message": "stream is not supported", "param": "stream"}}, status=400)
MODES: dict[str, tuple[bool, bool]] = {"streamed": (True, True), "assembled": (False, True), "whole": (False, False)}
"""Whether the caller wants a stream, and whether we do of a target of our own."""


def after(seconds: float, answer: Answer) -> Answer:
    return replace(answer, first_byte_delay_s=seconds)


FAILURES: dict[str, tuple[Sequence[Answer], float]] = {
    "silent": ([SILENT], 1.0),
    "refused": ([after(0.25, error_answer(503))], 0.25),
    "hung up": ([after(0.5, Answer(hang_up=True))], 0.5),
    "our own credential": ([after(0.1, error_answer(401))], 0.1),
}
"""What our own target does, and for how many seconds of it we pay, before the hosted one answers."""


def config(*, always_stream: bool, models: Sequence[str] = ("own", "hosted")) -> dict[str, Any]:
    return {
        "providers": {
            "one": {"type": "vllm", "base_url": f"{OWN}/v1", "always_stream": always_stream},
            "two": {"type": "openai-compatible", "base_url": f"{HOSTED}/v1"},
        },
        "models": {
            "own": {"provider": "one", "hardware": {"name": "gpu", "usd_per_hour": 36}},
            "hosted": {"provider": "two", "price": {"input": 1.0, "output": 10.0}},
        },
        "routes": {"auto": {"models": list(models), "objective": "latency"}},
        "timeouts": {"first_token_s": 1, "idle_s": 5, "total_s": 20},
    }


def play(path: Path, setup: dict[str, Any], own: ScriptedUpstream, *, stream: bool) -> tuple[int, Any, list[Any]]:
    """Send one chat; return the cost that its caller reads in nano-dollars, its record and its entries by time."""

    async def run() -> tuple[int, Any, list[Any]]:
        async with virtual_gateway(setup, path, {OWN: own, HOSTED: ScriptedUpstream()}) as running:
            answered = await running.chat(stream=stream, messages=[{"role": "user", "content": "a b c d e f"}])
        (record,) = running.ledger.records
        return _cost_nano_usd(answered), record, running.ledger.entries

    return run_virtual(run())


def _cost_nano_usd(answered: Answered) -> int:
    assert answered.status == 200, answered.body
    usd = answered.stream.cost_usd or answered.headers["x-tollway-cost-usd"]
    return round(float(usd) * 1e9)


def in_turn(*answers: Answer) -> Callable[[Seen], Answer] | None:
    left = list(answers)
    model = ScriptedUpstream().model
    return lambda seen: left.pop(0) if left else model.answer(seen)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("failure", FAILURES)
def test_cost_has_the_attempts_before_the_answer(failure: str, mode: str, tmp_path: Path) -> None:
    """Our machine worked for nothing, and was paid for; what a hosted target refuses costs nothing."""
    (stream, always_stream), (answers, seconds) = MODES[mode], FAILURES[failure]
    own = ScriptedUpstream().on_path("/v1/chat/completions", in_turn(*answers, *answers, *answers))
    cost, record, entries = play(tmp_path, config(always_stream=always_stream), own, stream=stream)
    paid = sum(each.cost_nano_usd for each in entries if each.target_id == "own")
    assert paid >= seconds * NANO_USD_PER_S
    assert cost == record.cost_nano_usd == paid + HOSTED_NANO_USD
    assert record.attempt_ids == tuple(each.attempt_id for each in entries)


@pytest.mark.parametrize("mode", ["assembled"])
def test_cost_has_the_attempt_that_was_refused_its_stream(mode: str, tmp_path: Path) -> None:
    """The same target answers the second request, which asks for no stream."""
    stream, always_stream = MODES[mode]
    own = ScriptedUpstream().on_path("/v1/chat/completions", in_turn(after(0.5, REFUSES_STREAMS)))
    cost, record, entries = play(tmp_path, config(always_stream=always_stream, models=["own"]), own, stream=stream)
    assert [each.outcome for each in entries] == ["refused", "ok"]
    assert cost == record.cost_nano_usd == sum(each.cost_nano_usd for each in entries) >= 0.5 * NANO_USD_PER_S


@pytest.mark.parametrize("mode", MODES)
def test_cost_has_the_attempt_that_is_made_once_more(mode: str, tmp_path: Path) -> None:
    """With one target a passing failure is waited out, and its time is part of the call's cost."""
    stream, always_stream = MODES[mode]
    own = ScriptedUpstream().on_path("/v1/chat/completions", in_turn(after(0.25, error_answer(503))))
    cost, record, entries = play(tmp_path, config(always_stream=always_stream, models=["own"]), own, stream=stream)
    assert record.reason == "retry: own upstream_overloaded"
    assert cost == record.cost_nano_usd == sum(each.cost_nano_usd for each in entries) >= 0.25 * NANO_USD_PER_S
