"""Patience: one timer, three limits, and no confusion with a cancellation from elsewhere."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.errors import ErrorKind, GatewayError
from gateway.execution.patience import Patience
from gateway.types import Call, Candidate, Ceiling, Constraints, Prediction, Quantiles, Timeouts
from tests.ground.builders import build_call, build_envelope, build_route, build_target, chat_body
from tests.ground.virtual_time import VirtualClock, run_virtual

NONE = Quantiles(0.0, 0.0, 0.0, 0.0)
PREDICTION = Prediction(output_tokens=NONE, ttft_ms=None, tpot_ms=None, cost_nano_usd=NONE)


def streamed_call(**members: object) -> Call:
    return build_call(
        build_envelope(chat_body(stream=True, **members)),
        build_route(constraints=Constraints(ttft_ms=Ceiling("p95", 1500.0))),
        timeouts=Timeouts(first_token_s=20, idle_s=5, total_s=60),
        deadline_ns=60_000_000_000,
    )


def outcome_of(
    program: Callable[[Patience], Awaitable[None]],
    *,
    call: Call | None = None,
    probe: bool = False,
    last: bool = False,
    prediction: Prediction = PREDICTION,
) -> tuple[ErrorKind | None, float]:
    """Run a program in the context; return the error that it ended in and when, in virtual seconds."""

    async def run() -> tuple[ErrorKind | None, float]:
        candidate = Candidate(target=build_target(), prediction=prediction, within_ceilings=True)
        loop = asyncio.get_running_loop()
        try:
            with Patience(call or streamed_call(), candidate, VirtualClock(), probe=probe, last=last) as patience:
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


def test_an_answer_that_is_whole_is_not_bounded_any_more() -> None:
    """What follows has limits of its own."""

    async def whole(patience: Patience) -> None:
        patience.end()
        await asyncio.sleep(100)

    assert outcome_of(whole) == (None, 100)


@pytest.mark.parametrize(
    ("members", "tokens", "tpot_ms", "ends_at_s"),
    [
        ({"max_tokens": 16}, 16.0, None, 20 + 1.6),
        ({}, 300.0, None, 20 + 30.0),
        ({}, 300.0, 20.0, 20 + 30.0),
        ({}, 100.0, 300.0, 20 + 30.0),
        ({"n": 4}, 1200.0, None, 20 + 30.0),
        ({}, 2048.0, None, 60),
    ],
)
def test_plain_answer_is_waited_for_as_long_as_a_slow_model_would_take(
    members: dict[str, object], tokens: float, tpot_ms: float | None, ends_at_s: float
) -> None:
    """And no longer while another candidate stands behind it; the last one has what is left of the total."""
    call = build_call(
        build_envelope(chat_body(**members)), timeouts=Timeouts(first_token_s=20), deadline_ns=60_000_000_000
    )
    prediction = Prediction(
        output_tokens=Quantiles(1.0, 1.0, 1.0, tokens),
        ttft_ms=None,
        tpot_ms=None if tpot_ms is None else Quantiles(tpot_ms, tpot_ms, tpot_ms, tpot_ms),
        cost_nano_usd=NONE,
    )
    kind = ErrorKind.DEADLINE if ends_at_s == 60 else ErrorKind.UPSTREAM_TIMEOUT
    assert outcome_of(_silence, call=call, prediction=prediction) == (kind, pytest.approx(ends_at_s))
    assert outcome_of(_silence, call=call, prediction=prediction, last=True) == (ErrorKind.DEADLINE, 60)


def test_a_cancellation_from_elsewhere_stays_one() -> None:
    """A caller who leaves at the very moment of a time-out has left: the task ends cancelled."""

    async def run() -> None:
        candidate = Candidate(target=build_target(), prediction=PREDICTION, within_ceilings=True)

        async def attempt() -> None:
            with Patience(streamed_call(), candidate, VirtualClock(), probe=False, last=False):
                await asyncio.Event().wait()

        for leaving_s in (5, 20):
            task = asyncio.create_task(attempt())
            asyncio.get_running_loop().call_later(leaving_s, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task

    run_virtual(run())
