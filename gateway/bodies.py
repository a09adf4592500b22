"""Decodes request bodies: what is quick on the event loop, everything else beside it, by size and by age.

There are two threads, so that no body of ordinary size waits for a huge one to end. Each takes what is due first: a
body is due when it arrived plus the time that its size allows, so small ones overtake, and none for ever. One whose
caller has left is not decoded. What may be decoded at all, and how much of it is kept, is decided before (admission).
"""

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from heapq import heappop, heappush

from gateway.formats.openai.decode import decode
from gateway.types import Envelope, Inbound

_ALWAYS_QUICK_BYTES = 1 << 16
_MAYBE_QUICK_BYTES = 1 << 19
_QUICK_PARTS = 5_000
"""Strings and brackets: with so few, half a megabyte is decoded in a millisecond or two."""
_ORDINARY_BYTES = 1 << 21
_BYTES_PER_S = 10_000_000
"""A body of 20 MB may be overtaken by what comes within two seconds behind it."""


class Bodies:
    """The decoding of one process. ``now_s`` is a monotonic clock."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._ordinary = Lane("bodies")
        self._large = Lane("large-bodies")

    async def decode(self, inbound: Inbound, body: bytes) -> Envelope:
        """Return the envelope. Raises GatewayError, see ``formats.openai.decode``."""
        if is_quick(body):
            return decode(inbound.operation, inbound.dialect, body)
        lane = self._ordinary if len(body) <= _ORDINARY_BYTES else self._large
        due_s = self._now_s() + len(body) / _BYTES_PER_S
        return await lane.run(due_s, partial(decode, inbound.operation, inbound.dialect, body))


class Lane:
    """One thread, and the work that waits for it."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._numbers = itertools.count()
        # Pushed by the loop and popped by the thread: each is one call into C, and the number decides before the rest.
        self._waiting: list[tuple[float, int, Future[Envelope], Callable[[], Envelope]]] = []

    async def run(self, due_s: float, work: Callable[[], Envelope]) -> Envelope:
        """Do the work in the thread, before what is due later."""
        future: Future[Envelope] = Future()
        heappush(self._waiting, (due_s, next(self._numbers), future, work))
        self._thread.submit(self._take_next)
        return await asyncio.wrap_future(future)

    def _take_next(self) -> None:
        _, _, future, work = heappop(self._waiting)
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)
        finally:
            del future, work  # the error holds this frame, and would hold itself and the body


def is_quick(body: bytes) -> bool:
    """Tell whether a body is decoded faster than a thread is asked to."""
    if len(body) <= _ALWAYS_QUICK_BYTES:
        return True
    if len(body) > _MAYBE_QUICK_BYTES:
        return False
    return body.count(b'"') + body.count(b"[") + body.count(b"{") <= _QUICK_PARTS
