"""Patience: one timer, three limits, and no confusion with a cancellation by the caller."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.execution.patience import Patience
from gateway.simulation.virtual_time import VirtualClock, run_virtual
from gateway.types import Call, Candidate, Prediction, Quantiles, Timeouts
from tests.ground.builders import build_call, build_envelope, build_route, build_target, chat_body

NONE = Quantiles(0.0, 0.0, 0.0, 0.0)
PREDICTION = Prediction(output_tokens=NONE, ttft_ms=None, tpot_ms=None, cost_nano_usd=NONE)


def streamed_call(**members: object) -> Call:
    return build_call(
        build_envelope(chat_body(stream=True, **members)),
        build_route(limits={"ttft_ms": {"p95": 1500.0}}),
        deadline_ns=60_000_000_000,
    )


def plain_call(**members: object) -> Call:
    return build_call(build_envelope(chat_body(**members)), deadline_ns=600_000_000_000)


def build_candidate(prediction: Prediction = PREDICTION, **target: Any) -> Candidate:
    fields = {"timeouts": Timeouts(first_token_s=20, idle_s=5, total_s=600), **target}
    return Candidate(target=build_target(**fields), prediction=prediction, within_ceilings=True)


def outcome_of(
    program: Callable[[Patience], Awaitable[None]],
    *,
    call: Call | None = None,
    candidate: Candidate | None = None,
    others: int = 1,
    probe: bool = False,
) -> tuple[ErrorKind | None, float]:
    """Run a program in the context; return the error that it ended in and when, in virtual seconds."""

    async def run() -> tuple[ErrorKind | None, float]:
        first = candidate or build_candidate()
        loop = asyncio.get_running_loop()
        try:
            with Patience(
                call or streamed_call(), first, VirtualClock(), others=[build_candidate()] * others, probe=probe
            ) as patience:
                await program(patience)
        except GatewayError as error:
            return error.kind, loop.time()
        return None, loop.time()

    return run_virtual(run())


async def _silence(_: Patience) -> None:
    await asyncio.Event().wait()


def test_the_first_token_is_waited_for_once() -> None:
    """20 s, however many waits there are before it."""

    async def connect_then_wait(_: Patience) -> None:
        await asyncio.sleep(15)
        await asyncio.Event().wait()

    assert outcome_of(connect_then_wait) == (ErrorKind.UPSTREAM_TIMEOUT, 20)


def test_a_probe_waits_no_longer_than_its_ceiling() -> None:
    """Its caller has other targets."""
    assert outcome_of(_silence, probe=True) == (ErrorKind.UPSTREAM_TIMEOUT, 1.5)


def test_idle_time_counts_from_the_last_bytes() -> None:
    """Ten chunks four seconds apart are no stall; five seconds of nothing behind them are."""

    async def ten_chunks(patience: Patience) -> None:
        for _ in range(10):
            patience.for_upstream()
            await asyncio.sleep(4)
        patience.for_upstream()
        await asyncio.Event().wait()

    assert outcome_of(ten_chunks) == (ErrorKind.UPSTREAM_STALLED, 45)


def test_a_caller_who_reads_slowly_does_not_make_the_upstream_idle() -> None:
    """Thirty seconds of writing are the caller's; then the upstream has its five again."""

    async def slow_reader(patience: Patience) -> None:
        patience.for_upstream()
        await asyncio.sleep(1)
        patience.for_caller()
        await asyncio.sleep(30)
        patience.for_upstream()
        await asyncio.Event().wait()

    assert outcome_of(slow_reader) == (ErrorKind.UPSTREAM_STALLED, 36)


def test_the_deadline_of_the_call_bounds_everything() -> None:
    """Chunks that never end, and a caller who stops reading."""

    async def endless(patience: Patience) -> None:
        while True:
            patience.for_upstream()
            await asyncio.sleep(4)

    async def stopped_reader(patience: Patience) -> None:
        patience.for_caller()
        await asyncio.Event().wait()

    assert outcome_of(endless) == (ErrorKind.DEADLINE, 60)
    assert outcome_of(stopped_reader) == (ErrorKind.DEADLINE, 60)


def test_limits_run_on_outside_the_context() -> None:
    """Nothing is bounded there; whichever task enters it again has what is left."""

    async def run() -> float:
        patience = Patience(streamed_call(), build_candidate(), VirtualClock())
        with patience:
            await asyncio.sleep(15)
        await asyncio.sleep(4)

        async def pour() -> None:
            with patience:
                await asyncio.Event().wait()

        with pytest.raises(UpstreamError):
            await asyncio.create_task(pour())
        return asyncio.get_running_loop().time()

    assert run_virtual(run()) == 20


@pytest.mark.parametrize(
    ("members", "tokens", "tpot_ms", "ends_at_s"),
    [
        ({"max_tokens": 16}, 16.0, None, 20 + 1.6),
        ({}, 300.0, None, 20 + 30.0),
        ({}, 300.0, 20.0, 20 + 30.0),
        ({}, 100.0, 300.0, 20 + 30.0),
        ({"n": 4}, 1200.0, None, 20 + 30.0),
        ({}, 100_000.0, None, 300.0),
    ],
)
def test_plain_answer_is_waited_for_as_long_as_a_slow_model_would_take(
    members: dict[str, object], tokens: float, tpot_ms: float | None, ends_at_s: float
) -> None:
    """And no longer while another candidate stands behind it, for which half of the time is left."""
    prediction = Prediction(
        output_tokens=Quantiles(1.0, 1.0, 1.0, tokens),
        ttft_ms=None,
        tpot_ms=None if tpot_ms is None else Quantiles(tpot_ms, tpot_ms, tpot_ms, tpot_ms),
        cost_nano_usd=NONE,
    )
    call, candidate = plain_call(**members), build_candidate(prediction)
    assert outcome_of(_silence, call=call, candidate=candidate) == (
        ErrorKind.UPSTREAM_TIMEOUT,
        pytest.approx(ends_at_s),
    )


STREAMED = {"always_stream": True}
SLOW_TTFT = Quantiles(20_000.0, 30_000.0, 35_000.0, 40_000.0)


@pytest.mark.parametrize(
    ("prediction", "target", "members", "ends_at_s"),
    [
        ({}, STREAMED, {}, 20),
        ({"ttft_ms": SLOW_TTFT}, STREAMED, {}, 80),
        ({}, STREAMED, {"reasoning_effort": "high"}, 20 + 30),
        ({}, {**STREAMED, "capabilities": frozenset({"chat", "reasoning"})}, {}, 20 + 30),
        ({}, {**STREAMED, "hides_reasoning": True}, {}, 20 + 30),
        ({"ttft_ms": SLOW_TTFT}, {**STREAMED, "hides_reasoning": True}, {}, 80),
        ({"billed_output_tokens": Quantiles(1.0, 1.0, 1.0, 500.0)}, STREAMED, {}, 20 + 50),
        ({"billed_output_tokens": Quantiles(1.0, 1.0, 1.0, 500.0)}, {}, {}, 20 + 50),
        ({}, {"timeouts": Timeouts(first_token_s=3)}, {}, 3 + 30),
        ({}, {"timeouts": Timeouts(first_token_s=3, total_s=10)}, {}, 5),
        ({}, {**STREAMED, "timeouts": Timeouts(first_token_s=3)}, {}, 3),
    ],
)
def test_plain_answer_that_is_streamed_to_us_is_waited_for_to_its_first_token(
    prediction: dict[str, Any], target: dict[str, Any], members: dict[str, object], ends_at_s: float
) -> None:
    """Hidden reasoning comes before it, and takes as long as what is written."""
    fields = {"output_tokens": Quantiles(1.0, 1.0, 1.0, 300.0), "ttft_ms": None, "tpot_ms": None, "cost_nano_usd": NONE}
    needs = frozenset({"chat", "reasoning"} if members else {"chat"})
    call = build_call(build_envelope(chat_body(**members), needs=needs))
    candidate = build_candidate(Prediction(**fields | prediction), **target)
    assert outcome_of(_silence, call=call, candidate=candidate) == (ErrorKind.UPSTREAM_TIMEOUT, ends_at_s)


def test_last_candidate_of_a_plain_call_has_what_is_left_of_the_total() -> None:
    """A caller who streams is told after the first token's time, as ever; a directory's target has other replicas."""
    replicas = build_candidate(always_stream=True, cluster_url="http://cluster.test")
    bounded = build_candidate(timeouts=Timeouts(first_token_s=20, total_s=100))
    assert outcome_of(_silence, call=plain_call(), others=0) == (ErrorKind.DEADLINE, 600)
    assert outcome_of(_silence, call=plain_call(), others=0, candidate=bounded) == (ErrorKind.UPSTREAM_TIMEOUT, 100)
    assert outcome_of(_silence, call=plain_call(), others=0, candidate=replicas) == (ErrorKind.UPSTREAM_TIMEOUT, 20)
    assert outcome_of(_silence, others=0) == (ErrorKind.UPSTREAM_TIMEOUT, 20)


def test_attempt_has_a_total_of_its_own() -> None:
    """However often bytes come; a slow reader's time is the caller's."""
    candidate = build_candidate(timeouts=Timeouts(first_token_s=20, idle_s=5, total_s=30))

    async def endless(patience: Patience) -> None:
        while True:
            patience.for_upstream()
            await asyncio.sleep(4)

    assert outcome_of(endless, candidate=candidate) == (ErrorKind.UPSTREAM_TIMEOUT, 30)


def test_error_body_has_a_limit_of_its_own() -> None:
    """Five seconds, or what is left if that is less; the timer does not interfere."""

    async def stalled(patience: Patience) -> None:
        await asyncio.sleep(19)
        assert patience.for_error_s() == 5
        await asyncio.sleep(5)

    async def late(patience: Patience) -> None:
        patience.for_caller()
        await asyncio.sleep(58)
        assert patience.for_error_s() == 2

    assert outcome_of(stalled) == (None, 24)
    assert outcome_of(late) == (None, 58)


def test_cancellation_at_the_moment_of_a_timeout_stays_a_cancellation() -> None:
    """A caller who leaves at the very moment of a time-out has left: the task ends cancelled."""

    async def run() -> None:
        candidate = build_candidate()

        async def attempt() -> None:
            with Patience(streamed_call(), candidate, VirtualClock(), probe=False):
                await asyncio.Event().wait()

        for leaving_s in (5, 20):
            task = asyncio.create_task(attempt())
            asyncio.get_running_loop().call_later(leaving_s, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task

    run_virtual(run())
