"""Virtual time: an event loop on which waiting takes no time, a clock that reads it, and ids that repeat.

When nothing is ready to run, the loop's time jumps to the next timer, so ``asyncio.sleep`` and ``asyncio.timeout``
work as always and an hour passes in milliseconds. The same program runs the same way each time. Not for real sockets:
their packets take real time, which does not exist here; threads are waited for.
"""

import asyncio
import itertools
import selectors
from collections import defaultdict
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_DEADLOCK_AFTER_REAL_S = 5.0
EPOCH_NS = 1_750_000_000 * 1_000_000_000
"""The wall clock at virtual time 0."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a number that it advances itself, from 0."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._threads_running = 0
        super().__init__(_JumpingSelector(self))
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> "asyncio.Future[T]":
        """Run in a thread; meanwhile time stands still."""
        future = super().run_in_executor(executor, func, *args)
        self._threads_running += 1
        future.add_done_callback(self._thread_ended)
        return future

    def wait(self, poll: Callable[[float], list[Any]], timeout_s: float | None) -> list[Any]:
        """Jump ``timeout_s`` ahead unless something real is pending; raises RuntimeError when nothing ever can be."""
        if timeout_s == 0.0:  # something is ready to run: neither wait nor jump
            return poll(0)
        if self._threads_running or timeout_s is None:
            ready = poll(_DEADLOCK_AFTER_REAL_S)
            if not ready and not self._threads_running:
                raise RuntimeError("deadlock in virtual time: every task waits and no timer is set")
            return ready
        ready = poll(0)
        if not ready:
            self.now_s += timeout_s
        return ready

    def _thread_ended(self, _future: "asyncio.Future[Any]") -> None:
        self._threads_running -= 1


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that leaves the waiting to the loop."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        """Report what is ready, or jump to the next timer."""
        return self._loop.wait(super().select, timeout)


class VirtualClock:
    """Implements ``gateway.clock.Clock`` by the running loop's time; the wall clock starts at ``EPOCH_NS``."""

    @staticmethod
    def monotonic_ns() -> int:
        """Return the loop's time."""
        return round(asyncio.get_running_loop().time() * 1e9)

    @staticmethod
    def wall_ns() -> int:
        """Return the loop's time, counted from the epoch."""
        return EPOCH_NS + round(asyncio.get_running_loop().time() * 1e9)


class SequentialIds:
    """Implements ``gateway.clock.Ids``: ``req_0001``, ``req_0002``, each prefix with its own count."""

    def __init__(self) -> None:
        self._counters: defaultdict[str, itertools.count[int]] = defaultdict(lambda: itertools.count(1))

    def __call__(self, prefix: str) -> str:
        """Make the next id."""
        return f"{prefix}_{next(self._counters[prefix]):04d}"


def run_virtual(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a program from virtual time 0 to its end and return its result; call it where no loop runs."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)
