"""Counts requests per minute and at a time, per key, over all processes of one gateway: the same rules as ``gate``.

What is counted stands in one file per key, mapped into each process's memory and changed under a lock on the file. So a
limit of N admits exactly N, whichever processes the calls come to, and nobody is asked over a socket. The kernel gives
up a dead process's lock, and the places that it held are freed by the next process in its slot. Two system calls a
request; the lock is held for microseconds.

A file is an array of 64-bit integers: how many requests of each slot are running, then the ring of the times (monotonic
nanoseconds, which all processes of a machine share) of the admissions of the last minute. When a reload raises a limit,
whoever sees it first makes the ring larger, and the others map the file anew.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
from pathlib import Path
from types import TracebackType

from gateway.admission.base import Hold
from gateway.admission.gate import NOTHING, WINDOW_NS, rate_limited, too_many_concurrent
from gateway.clock import Clock
from gateway.types import Call, Plan, Usage

SLOTS = 64
"""Processes that can share a limit."""
_CAPACITY, _FIRST, _COUNT, _RUNNING = 0, 1, 2, 3
_RING = _RUNNING + SLOTS
_INTEGER_BYTES = 8


class SharedGate:
    """The gate of one process among several. ``directory`` is theirs alone; ``slot`` tells them apart."""

    def __init__(self, directory: Path, slot: int, clock: Clock) -> None:
        self._directory = directory
        self._slot = slot
        self._now_ns = clock.monotonic_ns
        self._counts: dict[str, _Counts] = {}

    def start(self) -> None:
        """Free the places that a dead predecessor in the slot held."""
        self._directory.mkdir(parents=True, exist_ok=True)
        free_places(self._directory, self._slot)

    async def admit(self, call: Call) -> Hold:
        """Let a call in, or raise GatewayError: RATE_LIMITED (``retry_after_s`` is exact), TOO_MANY_CONCURRENT."""
        key = call.principal
        limit, concurrency = key.requests_per_minute, key.concurrency
        if limit is None and concurrency is None:
            return NOTHING
        counts = self._counts_of(key.key_id)
        now_ns = self._now_ns()
        with counts:
            if limit is not None:
                room_ns = counts.room_in_ns(limit, now_ns)
                if room_ns > 0:
                    raise rate_limited(key.key_id, limit, room_ns)
            if concurrency is not None:
                if counts.running() >= concurrency:
                    raise too_many_concurrent(key.key_id, concurrency)
                counts.cells[_RUNNING + self._slot] += 1
            if limit is not None:
                counts.append(now_ns)
        return NOTHING if concurrency is None else _Place(counts, self._slot)

    async def reserve(self, call: Call, plan: Plan) -> Hold:  # noqa: ARG002 - budgets are not there yet
        """Hold nothing: there are no budgets yet."""
        return NOTHING

    def stop(self) -> None:
        """Let go of the files."""
        for counts in self._counts.values():
            counts.close()
        self._counts.clear()

    def _counts_of(self, key_id: str) -> "_Counts":
        counts = self._counts.get(key_id)
        if counts is None:
            # A key may be named anything, a file may not.
            path = self._directory / hashlib.sha256(key_id.encode()).hexdigest()
            counts = self._counts[key_id] = _Counts(path)
        return counts


def free_places(directory: Path, slot: int) -> None:
    """Free the places that a dead process in the slot held. Raises OSError."""
    for path in directory.iterdir():
        with contextlib.closing(_Counts(path)) as counts, counts:
            counts.cells[_RUNNING + slot] = 0


class _Place:
    """One of a key's places for running requests."""

    __slots__ = ("_counts", "_slot")

    def __init__(self, counts: "_Counts", slot: int) -> None:
        self._counts: _Counts | None = counts
        self._slot = slot

    def settle(self, usage: Usage) -> None:  # noqa: ARG002 - a place is free again whatever was used
        """Free the place."""
        self.release()

    def release(self) -> None:
        """Free the place, once."""
        counts, self._counts = self._counts, None
        if counts is not None:
            with counts:
                counts.cells[_RUNNING + self._slot] -= 1


class _Counts:
    """One key's file, and the context in which it is this process's alone: all but ``close`` is for within."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.cells: memoryview[int] = memoryview(b"").cast("q")

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if not self.cells or self.cells[_CAPACITY] != len(self.cells) - _RING:
                self._map()
        except OSError:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def running(self) -> int:
        """Return how many requests run in all processes."""
        return sum(self.cells[_RUNNING:_RING])

    def room_in_ns(self, limit: int, now_ns: int) -> int:
        """Return how long until fewer than ``limit`` admissions lie within the window; 0: there is room."""
        if limit > self.cells[_CAPACITY]:
            self._enlarge(limit)
        cells = self.cells
        capacity, first, count = cells[_CAPACITY], cells[_FIRST], cells[_COUNT]
        while count and now_ns - cells[_RING + first] >= WINDOW_NS:
            first, count = (first + 1) % capacity, count - 1
        cells[_FIRST], cells[_COUNT] = first, count
        if count < limit:
            return 0
        return cells[_RING + (first + count - limit) % capacity] + WINDOW_NS - now_ns

    def append(self, now_ns: int) -> None:
        """Count an admission."""
        cells = self.cells
        cells[_RING + (cells[_FIRST] + cells[_COUNT]) % cells[_CAPACITY]] = now_ns
        cells[_COUNT] += 1

    def close(self) -> None:
        """Let go of the file."""
        self.cells.release()
        os.close(self._fd)

    def _allocate(self, count: int) -> None:
        # With disk behind it: to write to a mapped page that gets none kills the process.
        os.posix_fallocate(self._fd, 0, count * _INTEGER_BYTES)

    def _map(self) -> None:
        if os.fstat(self._fd).st_size == 0:
            self._allocate(_RING)
        self.cells = memoryview(mmap.mmap(self._fd, 0)).cast("q")

    def _enlarge(self, capacity: int) -> None:
        old, first, count = self.cells[_CAPACITY], self.cells[_FIRST], self.cells[_COUNT]
        times = [self.cells[_RING + (first + i) % old] for i in range(count)]
        self._allocate(_RING + capacity)
        self._map()
        self.cells[_CAPACITY], self.cells[_FIRST] = capacity, 0
        for index, time_ns in enumerate(times):
            self.cells[_RING + index] = time_ns
