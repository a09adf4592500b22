"""Decodes and translates large request bodies in two threads beside the event loop, and small ones on the loop.

There are two, so that no body of ordinary size waits for a huge one to end. Each takes what is due first: work
is due when it arrived plus the time that its body's size allows, so small ones overtake, and none for ever. Work whose
caller has left is not done. What may be decoded at all, and how much of it is kept, is decided before (admission).
"""

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import heappop, heappush
from typing import Any, TypeVar

_Made = TypeVar("_Made")

_ALWAYS_QUICK_BYTES = 1 << 16
_MAYBE_QUICK_BYTES = 1 << 19
_QUICK_PARTS = 5_000
"""Strings and brackets: with so few, half a megabyte is decoded in a millisecond or two."""
_ORDINARY_BYTES = 1 << 21
_BYTES_PER_S = 10_000_000
"""A body of 20 MB may be overtaken by what comes within two seconds behind it."""


class Beside:
    """The threads of one process. ``now_s`` is a monotonic clock."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._ordinary = Lane("bodies")
        self._large = Lane("large-bodies")

    async def run(self, body: bytes, work: Callable[[], _Made]) -> _Made:
        """Return what ``work``, which reads all of ``body``, makes; raises what it raises."""
        if len(body) <= _ALWAYS_QUICK_BYTES or _is_quick(body):
            return work()
        lane = self._ordinary if len(body) <= _ORDINARY_BYTES else self._large
        return await lane.run(self._now_s() + len(body) / _BYTES_PER_S, work)


class Lane:
    """One thread, and the work that waits for it."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._numbers = itertools.count()
        # Pushed by the loop and popped by the thread: each is one call into C, and the number decides before the rest.
        self._waiting: list[tuple[float, int, Future[Any], Callable[[], Any]]] = []

    async def run(self, due_s: float, work: Callable[[], _Made]) -> _Made:
        """Do the work in the thread, before what is due later."""
        future: Future[_Made] = Future()
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


def _is_quick(body: bytes) -> bool:
    """Return whether a body is decoded sooner than a thread would begin with it."""
    return len(body) <= _MAYBE_QUICK_BYTES and sum(map(body.count, (b'"', b"[", b"{"))) <= _QUICK_PARTS
