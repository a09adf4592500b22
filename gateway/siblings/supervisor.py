"""Starts the processes of one gateway, keeps them running, and replaces them one by one without losing a stream.

All of them accept from one listening socket, which this process opened and never closes: while a process is replaced,
connections wait in the socket's queue or go to the others, and none is refused. A *slot* is a number that a process has
to itself: it names its journal, its figures and its socket to the others. A process that dies is started again in its
slot, with a pause that doubles while it keeps dying at once.

A replacement is started in a free slot first; only when it serves is the old process told to end, and it takes no new
connections and finishes its streams.

Each process holds the reading end of a pipe whose writing end is here: should this process die, however suddenly, they
read its end and stop by themselves.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable

_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 10.0
_GOOD_RUN_S = 10.0
"""Whoever ran for so long did not die at once."""
_START_TIMEOUT_S = 60.0
_KILL_GRACE_S = 15.0
"""Beyond the time that running requests have to end: to write the journal into the database."""

_log = logging.getLogger("tollway.supervisor")

Command = Callable[[int, int, int], list[str]]
"""A slot, the descriptor to write a byte to once it serves, the descriptor whose end says to stop -> a command."""


class Supervisor:
    """``count`` processes behind one socket. ``listener_fd`` is inherited by all under the same number."""

    def __init__(self, command: Command, *, count: int, listener_fd: int, drain_s: float) -> None:
        self._command = command
        self._count = count
        self._listener_fd = listener_fd
        self._drain_s = drain_s
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        self._retiring: set[asyncio.subprocess.Process] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._failed = False
        self._rolling = asyncio.Lock()
        self._life_read, self._life_write = os.pipe()

    async def run(self, serving: Callable[[], None]) -> bool:
        """Start all, call ``serving`` once all serve, and return after ``stop``; False when none could start."""
        started = await asyncio.gather(*(self._start(slot) for slot in range(self._count)))
        if all(started):
            serving()
            await self._stopping.wait()
        else:
            self._failed = True
            self._stopping.set()
        workers = [*self._workers.values(), *self._retiring]
        for worker in workers:
            _signal(worker, signal.SIGTERM)
        await asyncio.gather(*(self._end(worker) for worker in workers))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        os.close(self._life_write)
        os.close(self._life_read)
        return not self._failed

    def stop(self) -> None:
        """Have all end as soon as their running requests have."""
        self._stopping.set()

    def reload(self) -> None:
        """Have all read the configuration again."""
        for worker in self._workers.values():
            _signal(worker, signal.SIGHUP)

    def replace_all(self) -> None:
        """Replace all processes, one after the other."""
        self._spawn(self._replace_all())

    async def _replace_all(self) -> None:
        async with self._rolling:
            for slot, worker in list(self._workers.items()):
                if self._stopping.is_set():
                    return
                free = next(number for number in range(2 * self._count + 1) if self._is_free(number))
                if not await self._start(free):
                    _log.error("a replacement did not start; the processes that run stay as they are")
                    return
                if self._workers.get(slot) is worker:
                    del self._workers[slot]
                self._retiring.add(worker)
                _signal(worker, signal.SIGTERM)
            _log.info("all %d processes were replaced", self._count)

    def _is_free(self, slot: int) -> bool:
        return slot not in self._workers and all(getattr(each, "slot", None) != slot for each in self._retiring)

    async def _start(self, slot: int) -> bool:
        """Start a process and wait until it serves; False when it does not."""
        ready_read, ready_write = os.pipe()
        try:
            worker = await asyncio.create_subprocess_exec(
                *self._command(slot, ready_write, self._life_read),
                pass_fds=(self._listener_fd, ready_write, self._life_read),
                start_new_session=True,  # Ctrl-C is for us; we tell them
            )
        finally:
            os.close(ready_write)
        self._workers[slot] = worker
        try:
            serves = await asyncio.wait_for(_read_byte(ready_read), _START_TIMEOUT_S)
        except TimeoutError:
            serves = False
        if serves:
            self._spawn(self._watch(slot, worker))
            return True
        del self._workers[slot]
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        await worker.wait()
        return False
