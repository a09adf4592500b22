"""Virtual time: fast, exact, repeatable."""

import asyncio
import random
import time

import pytest

from gateway.simulation.virtual_time import EPOCH_NS, SequentialIds, VirtualClock, run_virtual


def test_hour_of_sleeps_takes_moments() -> None:
    """Waiting costs no real time, and the clock shows exactly what was waited."""

    async def hour() -> tuple[int, int]:
        clock = VirtualClock()
        begun_ns = clock.monotonic_ns()
        for _minute in range(60):
            await asyncio.sleep(60)
        return clock.monotonic_ns() - begun_ns, clock.wall_ns()

    began_s = time.monotonic()
    assert run_virtual(hour()) == (3_600_000_000_000, EPOCH_NS + 3_600_000_000_000)
    assert time.monotonic() - began_s < 30


def test_timeouts_fire_in_virtual_time() -> None:
    """``asyncio.timeout`` ends a wait at its moment."""

    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7.5):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(wait()) == 7.5


def test_same_program_runs_the_same_way() -> None:
    """Tasks that wait random times by seed finish in the same order at the same times."""

    async def race() -> list[tuple[int, float]]:
        randomness = random.Random(7)
        finished: list[tuple[int, float]] = []

        async def run(number: int) -> None:
            for _step in range(5):
                await asyncio.sleep(randomness.random())
            finished.append((number, asyncio.get_running_loop().time()))

        await asyncio.gather(*(run(number) for number in range(50)))
        return finished

    assert run_virtual(race()) == run_virtual(race())


def test_threads_are_waited_for() -> None:
    """Work in a thread takes no virtual time, and no timer overtakes it."""

    async def work() -> list[str]:
        order = []

        async def timer() -> None:
            await asyncio.sleep(0.001)
            order.append("timer")

        timing = asyncio.ensure_future(timer())
        await asyncio.to_thread(order.append, "thread")
        await timing
        return order

    assert run_virtual(work()) == ["thread", "timer"]


def test_ids_repeat() -> None:
    """Each prefix counts for itself."""
    ids = SequentialIds()
    assert [ids("req"), ids("req"), ids("att")] == ["req_0001", "req_0002", "att_0001"]
