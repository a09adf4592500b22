"""Programs of their own: a gateway, a scripted upstream or Prometheus as a process that a test can kill."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_URL = re.compile(r"http://[\w.:]+")
_LINE_BYTES = 1 << 20
_START_S = 240.0
_END_S = 120.0


class Program:
    """A running process. What it writes to stderr is in ``log``."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self.log = log
        self.url = ""
        """The first address that it printed."""

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def resident_bytes(self) -> int:
        """How much memory it has now (proc(5))."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descendants(self) -> list[int]:
        """Return the processes that it has started, and they, parents first (proc(5): children of each thread)."""
        found = [self.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found.extend(map(int, task.read_text().split()))
        return found[1:]

    def appliers(self) -> list[int]:
        """Return those of them that write its database."""
        return [pid for pid in self.descendants() if b"gateway.applier" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def check(self) -> None:
        """Fail with what it said if it has ended."""
        assert self._process.returncode is None, f"it has ended: {self.log.read_text()}"

    async def listening(self) -> None:
        """Wait until it has printed its address; fails with what it said instead."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_START_S):
            line = await self._process.stdout.readline()
        found = _URL.search(line.decode())
        assert found is not None, f"it did not start: {line.decode()}{self.log.read_text()}"
        self.url = found[0]

    async def ask(self, line: str) -> str:
        """Write a line to its stdin, and return the line that it answers with."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n".encode())
        async with asyncio.timeout(_END_S):
            return (await self._process.stdout.readline()).decode()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait until it has ended by itself, and return its exit code."""
        async with asyncio.timeout(_END_S):
            return await self._process.wait()

    async def kill(self) -> None:
        """Send SIGKILL and wait until it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end (SIGTERM) and wait; one that does not is killed, and fails the test."""
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"it did not stop: {self.log.read_text()}") from None


@asynccontextmanager
async def program(
    *command: str | Path, log: Path, environ: Mapping[str, str] | None = None, root: Path = _ROOT
) -> AsyncIterator[Program]:
    """Run a program in the folder ``root`` until the context is left; its stderr is appended to ``log``."""
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES, stderr=stderr, cwd=root, env=environ
        )
    running = Program(process, log)
    try:
        yield running
    finally:
        await running.stop()


@asynccontextmanager
async def gateway_process(
    config: Path, *, module: str = "gateway", environ: Mapping[str, str] | None = None, root: Path = _ROOT
) -> AsyncIterator[Program]:
    """Run ``tollway serve`` on any free port, or a module that does the same and more; ``environ`` comes on top.

    The code is that of the folder ``root``.
    """
    log = config.with_name("gateway.log")
    command = (sys.executable, "-m", module, "serve", "--config", config, "--port", "0")
    async with program(*command, log=log, environ={**os.environ, **(environ or {})}, root=root) as running:
        await running.listening()
        yield running


@asynccontextmanager
async def upstream_process(*options: str, path: Path) -> AsyncIterator[Program]:
    """Run the scripted model; ``options`` are those of ``python -m tests.ground.upstream --help``."""
    log = path / "upstream.stderr"
    async with program(sys.executable, "-m", "tests.ground.upstream", *options, log=log) as running:
        await running.listening()
        yield running


def lives(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has (proc(5), state Z)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
