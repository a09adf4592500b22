"""Starts the applier, the process that runs all SQL, talks to it over a socket pair, and starts it again when it ends.

Whatever ends it (``kill -9``, no memory) loses nothing: the journal has the lines, and the next one applies them once
more. Questions that the one that ended has not answered are put to the next.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable

from msgspec.structs import replace

from gateway.accounting.messages import NOTHING_APPLIED, Begin, Order, Report, decode_report, line_of

_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 5.0
_END_TIMEOUT_S = 5.0
_LINE_BYTES = 64 << 20
"""More than the longest report has: a trace of a thousand calls."""


def launch(theirs: socket.socket) -> "subprocess.Popen[bytes]":
    """Start an applier at its end of a socket pair, which is closed here. Raises OSError."""
    with theirs:
        command = [sys.executable, "-P", "-m", "gateway.applier", str(theirs.fileno())]
        # A group of its own: Ctrl-C is for the gateway. No session: its niceness would count for nothing (sched(7)).
        return subprocess.Popen(  # noqa: S603 - a command of ours
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )


class ApplierProcess:
    """Keeps one applier running. All verbs belong to one event loop; ``on_report`` is called there with each report."""

    def __init__(self, again: Callable[[], Begin], on_report: Callable[[Report], None]) -> None:
        """``again`` says what one is to do that takes the place of another."""
        self._again = again
        self._on_report = on_report
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, tuple[Order, asyncio.Future[Report]]] = {}
        self._questions = 0
        self._running: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._pause_s = _FIRST_PAUSE_S

    def start(self, begin: Begin) -> None:
        """Start the first."""
        self._running = asyncio.create_task(self._run(begin))

    async def stop(self) -> None:
        """Have it close the database and end, within seconds."""
        if self._running is None:
            return
        self._stopping.set()
        self.say(Order(end=True))
        await asyncio.wait([self._running], timeout=_END_TIMEOUT_S)
        if self._process is not None:
            self._process.kill()
        await self._running

    def say(self, message: Begin | Order) -> None:
        """Send it a message, if it is there."""
        if self._writer is not None:
            self._writer.write(line_of(message))

    async def ask(self, question: Order, timeout_s: float) -> Report:
        """Return its answer, or that of the one after it. Raises TimeoutError."""
        self._questions += 1
        order, answer = replace(question, number=self._questions), asyncio.get_running_loop().create_future()
        self._asked[order.number] = order, answer
        self.say(order)
        try:
            async with asyncio.timeout(timeout_s):
                report: Report = await answer
                return report
        finally:
            del self._asked[order.number]

    async def _run(self, begin: Begin) -> None:
        """Keep one running until the end."""
        while True:
            try:
                cause = await self._run_one(begin)
            except Exception as error:  # noqa: BLE001 - such as a descriptor that was missing: the next may do
                cause = f"cannot be kept ({type(error).__name__})"
                with contextlib.suppress(RuntimeError):  # without a thread it is not waited for
                    await self._end()
            if self._stopping.is_set():
                return
            self._on_report(Report(stuck=f"the process that writes the ledger's database {cause}"))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause_s)
                return
            self._pause_s = min(2 * self._pause_s, _LAST_PAUSE_S)
            begin = self._again()

    async def _run_one(self, begin: Begin) -> str:
        """Start one and read its reports until its end; return what became of it."""
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.to_thread(launch, theirs)
        except OSError as error:
            ours.close()
            return f"cannot be started: {error.strerror}"
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES)
        self.say(begin)
        for order in (*(order for order, _ in self._asked.values()), Order(end=self._stopping.is_set())):
            self.say(order)
        with contextlib.suppress(OSError):
            while (line := await reader.readline()).endswith(b"\n"):
                self._take(decode_report(line))
        return f"has ended (exit code {await self._end()})"

    async def _end(self) -> int | None:
        """End what is left of one, and return its exit code; None when there was no process."""
        process, writer = self._process, self._writer
        self._process = self._writer = None
        if writer is not None:
            writer.close()
        if process is None:
            return None
        process.kill()
        return await asyncio.to_thread(process.wait)

    def _take(self, report: Report) -> None:
        if report.applied is not None and report.applied > NOTHING_APPLIED:
            self._pause_s = _FIRST_PAUSE_S
        if (asked := self._asked.get(report.answered or 0)) is None:
            self._on_report(report)
        elif not asked[1].done():
            asked[1].set_result(report)
