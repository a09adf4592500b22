"""The watch over the process's growth."""

import asyncio
import errno
import itertools
import time

from gateway.memory import GrowthWatch
from gateway.simulation.virtual_time import run_virtual


def test_watch_outlives_a_size_that_cannot_be_read() -> None:
    """Without a free descriptor nothing can be opened; when one is free again, garbage is collected as before."""
    sizes: list[int | OSError] = [0, 1, OSError(errno.EMFILE, "x"), OSError(errno.EMFILE, "x"), 100_000_000, 2]
    collections: list[float] = []

    def resident_bytes() -> int:
        size = sizes.pop(0) if sizes else 2
        if isinstance(size, OSError):
            raise size
        return size

    async def scenario() -> None:
        GrowthWatch(resident_bytes, lambda: collections.append(asyncio.get_running_loop().time())).start()
        await asyncio.sleep(10)

    run_virtual(scenario())
    assert collections == [4.0]


def test_free_pages_are_returned_once_a_minute() -> None:
    """A heap with holes, whose size no garbage collection changes."""
    trims: list[float] = []

    async def scenario() -> None:
        watch = GrowthWatch(lambda: 1, trim=lambda: trims.append(asyncio.get_running_loop().time()))
        watch.start()
        await asyncio.sleep(150)

    run_virtual(scenario())
    assert trims == [60.0, 120.0]


def test_free_pages_are_returned_while_collections_take_long() -> None:
    """A collection of 50 ms puts off the next look by five seconds, and not what is done each minute."""
    trims: list[float] = []
    sizes = itertools.chain((0, 100_000_000), itertools.repeat(0))

    def collect() -> None:
        until_s = time.perf_counter() + 0.05
        while time.perf_counter() < until_s:
            pass

    async def scenario() -> None:
        now_s = asyncio.get_running_loop().time
        GrowthWatch(lambda: next(sizes), collect, lambda: trims.append(now_s())).start()
        await asyncio.sleep(150)

    run_virtual(scenario())
    assert trims == [60.0, 120.0]
