"""Counts each key's requests and bytes of bodies as ``gate`` does, over all processes of a gateway, in shared files.

What is counted stands in one file per key, mapped into each process's memory and changed under a lock on the file. So a
limit of N admits exactly N, whichever processes the calls come to, without a message between them. The kernel releases
a dead process's lock, and what its calls held is freed by the next process in its slot. Two system calls a
request; the lock is held for microseconds.

A file is an array of 64-bit integers: how many requests of each slot are running, how many bytes their bodies have,
then the ring of the times (monotonic nanoseconds, which all processes of a machine share) of the admissions of the last
minute. When a reload raises a limit, the first process to see it makes the ring larger, and the others map
the file anew. One more file has the bytes of all keys.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.admission.base import Admission
from gateway.admission.gate import WINDOW_NS, WINDOW_S, Admitted, check_body, rate_limited, too_many_concurrent
from gateway.clock import Clock
from gateway.errors import Allowance, ErrorKind, GatewayError
from gateway.types import BodyBudget, Principal

SLOTS = 64
"""Processes that can share a limit."""
_CAPACITY, _FIRST, _COUNT, _RUNNING = 0, 1, 2, 3
_BODIES = _RUNNING + SLOTS
_RING = _BODIES + SLOTS
_INTEGER_BYTES = 8


class SharedGate:
    """The gate of one process among several. ``directory`` is theirs alone; ``slot`` tells them apart."""

    def __init__(self, directory: Path, slot: int, clock: Clock) -> None:
        self._directory = directory
        self._slot = slot
        self._now_ns = clock.monotonic_ns
        self._counts: dict[str | None, _Counts] = {}

    def start(self) -> None:
        """Count no more what a dead predecessor in the slot held."""
        self._directory.mkdir(parents=True, exist_ok=True)
        free_held_by(self._directory, self._slot)

    async def admit(self, key: Principal, budget: BodyBudget) -> Admission:
        """Let a call in, or raise GatewayError: RATE_LIMITED (``retry_after_s`` is exact), TOO_MANY_CONCURRENT."""
        allowance = None
        if key.requests_per_minute is not None or key.concurrency is not None:
            try:
                allowance = self._count_call(key, self._counts_of(key.key_id), self._now_ns())
            except OSError:
                raise _uncountable() from None
        return Admitted(self, key, budget, allowance)

    def _count_call(self, key: Principal, counts: "_Counts", now_ns: int) -> Allowance | None:
        limit, concurrency, left = key.requests_per_minute, key.concurrency, 0
        with counts:
            if limit is not None:
                room_ns = counts.room_in_ns(limit, now_ns)
                if room_ns > 0:
                    raise rate_limited(key.key_id, limit, room_ns, counts.full_in_ns(now_ns))
                left = limit - counts.cells[_COUNT]
            if concurrency is not None:
                if counts.running() >= concurrency:
                    raise too_many_concurrent(key, left, counts.full_in_ns(now_ns))
                counts.cells[_RUNNING + self._slot] += 1
            if limit is None:
                return None
            counts.append(now_ns)
            return Allowance(limit, left - 1, WINDOW_S)

    def count_body(self, key_id: str, more_bytes: int, budget: BodyBudget) -> None:
        """See ``gate.Counts``."""
        try:
            # Always in this order, so that no two processes wait for each other.
            with self._counts_of(key_id) as of_key, self._counts_of(None) as of_all:
                check_body(key_id, of_key.body_bytes() + more_bytes, of_all.body_bytes() + more_bytes, budget)
                of_key.cells[_BODIES + self._slot] += more_bytes
                of_all.cells[_BODIES + self._slot] += more_bytes
        except OSError:
            raise _uncountable() from None

    def leave(self, key: Principal, body_bytes: int) -> None:
        """See ``gate.Counts``."""
        if key.concurrency is None and not body_bytes:
            return
        of_key = self._counts_of(key.key_id)
        with of_key:
            of_key.cells[_RUNNING + self._slot] -= key.concurrency is not None
            of_key.cells[_BODIES + self._slot] -= body_bytes
        if body_bytes:
            of_all = self._counts_of(None)
            with of_all:
                of_all.cells[_BODIES + self._slot] -= body_bytes

    def stop(self) -> None:
        """Let go of the files."""
        for counts in self._counts.values():
            counts.close()
        self._counts.clear()

    def _counts_of(self, key_id: str | None) -> "_Counts":
        counts = self._counts.get(key_id)
        if counts is None:
            # A key may be named anything, a file may not.
            name = "all" if key_id is None else hashlib.sha256(key_id.encode()).hexdigest()
            counts = self._counts[key_id] = _Counts(self._directory / name)
        return counts


def _uncountable() -> GatewayError:
    sentence = "The gateway cannot count its limits: its state directory takes no file at present. Try again shortly."
    return GatewayError(ErrorKind.STORAGE_UNAVAILABLE, sentence, retry_after_s=5.0)


def free_held_by(directory: Path, slot: int) -> None:
    """Count no more what a dead process in the slot held. Raises OSError."""
    for path in directory.iterdir():
        with contextlib.closing(_Counts(path)) as counts, counts:
            counts.cells[_RUNNING + slot] = counts.cells[_BODIES + slot] = 0


class _Counts:
    """One key's file, and the context in which it is this process's alone: all but ``close`` is for within."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.cells: memoryview[int] = memoryview(b"").cast("q")

    def __enter__(self) -> Self:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if not self.cells or self.cells[_CAPACITY] != len(self.cells) - _RING:
                self._map()
        except OSError:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def running(self) -> int:
        """Return how many requests run in all processes."""
        return sum(self.cells[_RUNNING:_BODIES])

    def body_bytes(self) -> int:
        """Return how many bytes of bodies are held in all processes."""
        return sum(self.cells[_BODIES:_RING])

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

    def full_in_ns(self, now_ns: int) -> int:
        """Return how long until the window is empty, of which those that are out of it have been dropped."""
        cells = self.cells
        if not cells[_COUNT]:
            return 0
        return cells[_RING + (cells[_FIRST] + cells[_COUNT] - 1) % cells[_CAPACITY]] + WINDOW_NS - now_ns

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
