"""Starts the processes of one gateway, keeps them running, and replaces them one by one without losing a stream.

All of them accept from one listening socket, which this process opened and keeps open: while a process is replaced,
connections wait in the socket's queue or go to the others, and none is refused. A *slot* is a number that a process has
to itself: it names its journal, its figures and its socket to the others. A process that dies is started again in its
slot, after a pause that doubles while it keeps dying at once.

A replacement starts in a free slot; only when it serves is the old process stopped: it takes no new connections
and finishes its streams.

Each process holds the reading end of a pipe whose writing end is here: should this process die, however suddenly, they
see the pipe's end and stop by themselves.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from socket import socket
from typing import Any

from gateway.admission.shared import SLOTS

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


class _Worker:
    """One process in its slot."""

    def __init__(self, slot: int, process: asyncio.subprocess.Process) -> None:
        self.slot = slot
        self.process = process
        self.serves = False
        self.reload_due = False
        self.retiring = False

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Supervisor:
    """``count`` processes that share one socket; ``release_slot`` is called with each slot that has become free."""

    def __init__(
        self, command: Command, *, count: int, listener: socket, drain_s: float, release_slot: Callable[[int], None]
    ) -> None:
        self._command = command
        self._release_slot = release_slot
        self._count = count
        self._listener = listener
        self._drain_s = drain_s
        self._workers: dict[int, _Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()
        """Held while a process takes a slot, so that two never take the same."""

    async def run(self, serving: Callable[[], None]) -> bool:
        """Start all, call ``serving`` once all serve, and return after ``stop``; False: not all started.

        The socket is closed as the stop begins: a caller who connects later is refused at once.
        """
        self._life_read, life_write = os.pipe()
        try:
            async with self._starting:
                good = all(await asyncio.gather(*(self._start(slot) for slot in range(self._count))))
            if self._stopping.is_set():
                good = True  # a process that was not let start did not fail
            elif good:
                serving()
                await self._stopping.wait()
            self._stopping.set()
            self._listener.close()
            for worker in self._workers.values():
                if not worker.retiring:  # a second signal would cut what runs
                    worker.signal(signal.SIGTERM)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._drain_s + _KILL_GRACE_S)
            for worker in self._workers.values():
                worker.signal(signal.SIGKILL)
            await asyncio.gather(*self._tasks)
        finally:
            os.close(life_write)
            os.close(self._life_read)
        return good

    def stop(self) -> None:
        """Have all end as soon as their running requests have; called a second time, at once."""
        if self._stopping.is_set():
            for worker in self._workers.values():
                worker.signal(signal.SIGTERM)
        self._stopping.set()

    def reload(self) -> None:
        """Have all read the configuration again."""
        for worker in self._workers.values():
            if worker.serves:
                worker.signal(signal.SIGHUP)
            else:
                worker.reload_due = True  # nothing handles the signal yet: it would kill

    def replace_all(self) -> None:
        """Replace all processes, one after the other."""
        self._spawn(self._replace_all())

    async def _replace_all(self) -> None:
        async with self._starting:
            for old in [worker for worker in self._workers.values() if not worker.retiring]:
                free = next(slot for slot in range(SLOTS + 1) if slot not in self._workers)
                if free == SLOTS:
                    _log.error("too many replaced processes still finish their streams; what runs stays as it is")
                    return
                if not await self._start(free):
                    self._workers.pop(free, None)
                    _log.error("a replacement did not start; what runs stays as it is")
                    return
                if self._stopping.is_set():
                    return  # all have been signalled; a second time, the old one would cut what runs
                old.retiring = True
                old.signal(signal.SIGTERM)
            _log.info("all processes were replaced")

    async def _start(self, slot: int) -> bool:
        """Start a process in a slot and wait until it serves; False when it does not, or all are to end."""
        if self._stopping.is_set():
            return False
        ready_read, ready_write = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(slot, ready_write, self._life_read),
                pass_fds=(self._listener.fileno(), ready_write, self._life_read),
                start_new_session=True,  # Ctrl-C is for us; they get a signal
            )
        except OSError as error:  # no more processes or memory, or the program is just being replaced
            _log.error("no process can be started: %s", error.strerror)
            os.close(ready_read)
            return False
        finally:
            os.close(ready_write)
        worker = self._workers[slot] = _Worker(slot, process)
        if self._stopping.is_set():
            worker.signal(signal.SIGKILL)  # it was not there when the others were signalled
        if await _says_ready(ready_read):
            worker.serves = True
            if worker.reload_due:
                worker.signal(signal.SIGHUP)
            self._spawn(self._watch(worker))
            return True
        worker.signal(signal.SIGKILL)
        await process.wait()
        return False

    async def _watch(self, worker: _Worker) -> None:
        """Wait for a process's end; unless it was meant, start it again."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        code = await worker.process.wait()
        self._release_slot(worker.slot)
        if worker.retiring:
            del self._workers[worker.slot]
            return
        if self._stopping.is_set():
            return
        _log.error("process %d ended by itself (exit code %d); it is started again", worker.process.pid, code)
        pause_s = 0.0 if loop.time() - began_s > _GOOD_RUN_S else _FIRST_PAUSE_S
        while not await self._waited_for_stop(pause_s):
            async with self._starting:
                if self._workers[worker.slot].retiring:  # another was started in its slot meanwhile
                    del self._workers[worker.slot]
                    return
                if await self._start(worker.slot):
                    return
            pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LAST_PAUSE_S)

    async def _waited_for_stop(self, pause_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause_s)
        return self._stopping.is_set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _says_ready(fd: int) -> bool:
    """Wait for the byte of a process that serves; the pipe's end without it says that the process has died."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(fd, lambda: None if readable.done() else readable.set_result(None))
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            await readable
        return os.read(fd, 1) != b""
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
        os.close(fd)
