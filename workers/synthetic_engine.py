"""An engine that produces made-up tokens at a configured speed, with a bounded queue like a real one's.

It decides when a token is due and how many requests run or wait; it knows nothing of HTTP. Everything around an engine
(serving, routing, metrics, clients that leave) can be tested on it without a model.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from workers.synthetic_spec import SyntheticSpec

_WORDS = ("The", " toll", " is", " paid", " by", " the", " token", ",", " and", " every", " token", " counts", ".", " ")

NATURAL_LENGTH = 64
"""Tokens after which the engine stops of itself."""


def token(index: int) -> str:
    """Return the text of the output token at ``index`` (from 0): the same for every request."""
    return _WORDS[index % len(_WORDS)]


class QueueFullError(Exception):
    """Raised when as many requests wait as may wait."""


class SyntheticEngine:
    """Produce tokens for up to ``max_running`` requests at once.

    ``now`` returns seconds and ``sleep`` takes them; both are given so that a test can be its own clock.
    """

    def __init__(
        self,
        spec: SyntheticSpec,
        *,
        now: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._spec = spec
        self._now = now or asyncio.get_running_loop().time
        self._sleep = sleep
        self._slots = asyncio.Semaphore(spec.max_running)
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a place among the running requests and hold it; leaving, also by cancellation, frees it at once.

        Raises ``QueueFullError`` instead of waiting when the queue is full.
        """
        if self._slots.locked() and self.waiting >= self._spec.max_waiting:
            raise QueueFullError
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._slots.release()

    async def tokens(self, count: int) -> AsyncIterator[str]:
        """Yield ``count`` tokens, the first after ``ttft_ms``, the others ``tpot_ms`` apart. Call it inside ``slot``.

        Due times are absolute, so a slow consumer does not slow the engine and small sleeps do not add up.
        """
        start = self._now()
        for index in range(count):
            due = start + (self._spec.ttft_ms + index * self._spec.tpot_ms) / 1000
            # Also when nothing is left to wait for: other requests run between two tokens, as in a real engine.
            await self._sleep(max(0.0, due - self._now()))
            yield token(index)
