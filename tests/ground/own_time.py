"""A clock for bounds in real time that does not count the time in which the machine stood still."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_TICK_S = 0.02


@dataclass
class OwnTime:
    """Seconds in which this process's loop ran."""

    s: float = 0.0


@asynccontextmanager
async def own_time() -> AsyncIterator[OwnTime]:
    """Count the seconds from here on; while the loop is held up, by the machine or by its own work, they stand still.

    What happened meanwhile cannot be seen, so a bound on what is seen must not count it.
    """
    time_ = OwnTime()

    async def run() -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(_TICK_S)
            time_.s += min(time.monotonic() - begun, 2 * _TICK_S)

    running = asyncio.create_task(run())
    try:
        yield time_
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
