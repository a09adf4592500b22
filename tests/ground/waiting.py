"""Waits for what another process or socket brings about where no event announces it."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

SOON_S = 50.0
"""Bounds a wait for what comes at once, also on a busy machine; the gateway's own limits of a minute are longer."""


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return once the condition holds; the test's own time limit bounds it."""
    while True:
        holds = condition()
        if await holds if inspect.isawaitable(holds) else holds:
            return
        await asyncio.sleep(0.005)
