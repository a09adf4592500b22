"""The synthetic engine's timing and queue, under a clock of the test's own."""

import asyncio

import pytest

from workers.synthetic_engine import QueueFullError, SyntheticEngine
from workers.synthetic_spec import SyntheticSpec


class ManualClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        """Return seconds."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass, and others run."""
        self.seconds += seconds
        await asyncio.sleep(0)


async def test_the_first_token_comes_after_ttft_and_the_others_tpot_apart() -> None:
    clock = ManualClock()
    engine = SyntheticEngine(SyntheticSpec(ttft_ms=100, tpot_ms=20), now=clock.now, sleep=clock.sleep)
    async with engine.slot():
        arrivals = [clock.seconds async for _ in engine.tokens(4)]
    assert arrivals == pytest.approx([0.1, 0.12, 0.14, 0.16])


async def test_a_slow_reader_does_not_slow_the_engine() -> None:
    clock = ManualClock()
    engine = SyntheticEngine(SyntheticSpec(ttft_ms=0, tpot_ms=10), now=clock.now, sleep=clock.sleep)
    async with engine.slot():
        async for _ in engine.tokens(3):
            clock.seconds += 0.05
    assert clock.seconds == pytest.approx(0.15), "all was due while the reader was busy"


async def test_more_than_max_running_wait_and_more_than_max_waiting_are_refused() -> None:
    engine = SyntheticEngine(SyntheticSpec(max_running=1, max_waiting=1))
    async with engine.slot():
        second = asyncio.create_task(engine.slot().__aenter__())
        await asyncio.sleep(0)
        assert (engine.running, engine.waiting) == (1, 1)
        with pytest.raises(QueueFullError):
            await engine.slot().__aenter__()
    await second
    assert (engine.running, engine.waiting) == (1, 0)


async def test_who_leaves_the_queue_is_not_counted_any_more() -> None:
    engine = SyntheticEngine(SyntheticSpec(max_running=1))
    async with engine.slot():
        waiting = asyncio.create_task(engine.slot().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (engine.running, engine.waiting) == (1, 0)
    assert engine.running == 0
