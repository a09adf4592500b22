"""Returns freed memory to the system, and runs the garbage collector when a process has grown by much.

What a request makes is freed by counting references (``tests/hostile/test_cycles.py`` holds that), so the collector
runs rarely. It counts objects, though, and one object may be a body of 20 MB: here is a bound in bytes for what some
cycle that we do not know of would hold.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BLOCK_BYTES = 1 << 20
_LOOK_S = 1.0
_TRIM_S = 60.0
_MOST_GROWTH_BYTES = 64_000_000
_MOST_SHARE = 0.01
"""Of the time, for collections."""


@cache
def _libc() -> ctypes.CDLL:
    """Load the C library once: each time makes classes that only the collector frees."""
    return ctypes.CDLL(None)


def return_freed_blocks() -> None:
    """Have glibc give a large block back as soon as it is freed; other C libraries have ways of their own.

    Left alone it raises its threshold to the largest block that was ever freed, up to 32 MB (mallopt(3)): some bodies
    of 19 MB later, such blocks lie among small ones, and what is free between them stays resident.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _LARGE_BLOCK_BYTES)


def return_free_pages() -> None:
    """Have glibc give back the pages that are free within its heap (malloc_trim(3)), which it never does by itself.

    Blocks of some hundred KB lie among small ones that stay: in half an hour of callers of every kind the free part of
    the heap grew by 4 MB while what was in use did not grow. 10 ms the first time, then less than one.
    """
    malloc_trim = getattr(_libc(), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


class GrowthWatch:
    """Collects garbage when the process has grown by 64 MB, and then again; ``start`` within the event loop.

    Once a minute it also returns what is free to the system.
    """

    def __init__(
        self,
        resident_bytes: Callable[[], int],
        collect: Callable[[], object] = gc.collect,
        trim: Callable[[], object] = return_free_pages,
    ) -> None:
        self._resident_bytes = resident_bytes
        self._collect = collect
        self._trim = trim
        self._least_bytes = 0
        """Since the last collection."""

    def start(self) -> None:
        """Look every second from now on; where a process cannot read its size, only return what is free."""
        asyncio.get_running_loop().call_later(_TRIM_S, self._return_free)
        with contextlib.suppress(OSError):
            self._least_bytes = self._resident_bytes()
            asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _return_free(self) -> None:
        self._trim()
        asyncio.get_running_loop().call_later(_TRIM_S, self._return_free)

    def _look(self) -> None:
        pause_s = _LOOK_S
        with contextlib.suppress(OSError):  # without a free descriptor nothing can be read; later it can
            now_bytes = self._resident_bytes()
            self._least_bytes = min(self._least_bytes, now_bytes)
            if now_bytes > self._least_bytes + _MOST_GROWTH_BYTES:
                begun_s = time.perf_counter()
                self._collect()
                pause_s = max(pause_s, (time.perf_counter() - begun_s) / _MOST_SHARE)
                self._least_bytes = self._resident_bytes()
        asyncio.get_running_loop().call_later(pause_s, self._look)


def resident_bytes() -> int:
    """Return how much memory this process has, as proc(5) tells. Raises OSError where there is no such file."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
