"""Lets connections that bring much go on one after the other, so that the rest of the event loop is never far behind.

A read brings up to 256 KB, and the loop reads up to 32 times from one connection before it looks at another. What is
made of so much takes milliseconds; with a hundred streams that send as fast as they can, a turn of the loop took a
second. So who has brought more than a little is read no further until it has its turn, and each turn of the loop has
room for one of them. Who brings little never waits.
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
