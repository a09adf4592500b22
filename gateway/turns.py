"""Pauses connections that receive much data and lets them go on one at a time, so that the event loop stays responsive.

A read brings up to 256 KB, and the loop reads up to 32 times from one connection before it looks at another. What is
made of so much takes milliseconds; with a hundred streams that send as fast as they can, a turn of the loop took a
second. So a connection that has brought more than a little is paused until its turn comes, and in each turn of the
loop one of them is read. A connection that brings little never waits.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """A queue of connections of one event loop, each a function that reads on. ``pause_s`` lies between two of them."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, read_on: Callable[[], None]) -> None:
        """Call ``read_on`` when it has its turn, which is never now."""
        self._waiting.append(read_on)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(self._pause_s, self._give)

    def _give(self) -> None:
        try:
            self._waiting[0]()
        finally:
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_later(self._pause_s, self._give)
