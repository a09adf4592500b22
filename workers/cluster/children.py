"""Runs child processes of a command: starts them apart from the terminal, and stops them with all their descendants.

A child runs in a session of its own, so that Ctrl-C reaches only the command, which then stops its children in order.
What a child starts stays in its session, and a last sweep ends by it whatever a child that crashed or was killed left
running. (Ray and vLLM start a dozen processes, and a killed parent does not take all with it.)
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from workers.errors import WorkerError

# Memory of many gigabytes takes a while to give back.
_DYING_S = 10.0


class Child:
    """One process whose output goes to ``log``. Its standard input is a pipe that closes when this process ends."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self._shared_memory: set[Path] = set()
        with log.open("wb") as output:
            # By the clock of files, which lags behind time.time() by a tick: files are compared with it.
            self._started_at_s = log.stat().st_ctime
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    @property
    def exit_code(self) -> int | None:
        """The exit code, or none while it runs."""
        return self._process.poll()

    def stop(self, patience_s: float) -> None:
        """End it: SIGTERM and the end of its standard input, after ``patience_s`` SIGKILL. Returns when it is gone."""
        for pid in _session(self._process.pid):
            self._shared_memory |= _shared_memory(pid)
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def sweep(self, patience_s: float = 5.0) -> None:
        """End every process left in this one's session: SIGTERM, after ``patience_s`` SIGKILL. Linux only, by /proc.

        Then remove the shared memory that they had when ``stop`` was called, and the semaphores that no process has any
        more: an engine that is killed leaves its own. Raises ``WorkerError`` when a process does not end.
        """
        end_all(lambda: _session(self._process.pid), patience_s)
        for path in self._shared_memory | _orphaned_semaphores(self._started_at_s):
            path.unlink(missing_ok=True)


def end_all(find: Callable[[], list[int]], patience_s: float) -> None:
    """End the processes that ``find`` returns until it returns none: SIGTERM, after ``patience_s`` SIGKILL.

    Raises ``WorkerError`` when some are still there long after that.
    """
    deadline = time.monotonic() + patience_s
    asked = set()
    while left := find():
        late_s = time.monotonic() - deadline
        if late_s > _DYING_S:
            raise WorkerError(f"Killed, but not gone (a device may hold them): {', '.join(map(str, left))}.")
        for pid in left:
            # It may have ended since.
            with suppress(ProcessLookupError):
                # Once: to a gateway the second SIGTERM says to wait for no stream.
                if pid not in asked:
                    os.kill(pid, signal.SIGTERM)
                elif late_s > 0:
                    os.kill(pid, signal.SIGKILL)
            asked.add(pid)
        time.sleep(0.1)


def parent_of(pid: int) -> int:
    """Return the number of a process's parent, 0 when there is none or the process is gone."""
    with suppress(OSError):
        return int(_stat(Path(f"/proc/{pid}"))[1])
    return 0


def has_child(program: str) -> bool:
    """Say whether a program of that name runs as a child of this process."""
    return any(process.parent == os.getpid() and process.name == program for process in _living())


def _session(leader: int) -> list[int]:
    """Return the living processes of a session. Its number is not given to another one while any of them is there."""
    return [process.pid for process in _living() if process.session == leader]


class _Process(NamedTuple):
    pid: int
    name: str
    """Of its program, the first fifteen characters."""
    parent: int
    session: int


def _living() -> Iterator[_Process]:
    """Find the processes of this machine that have not ended: a zombie has."""
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, _, session = _stat(directory)
            if state != "Z":
                name = (directory / "comm").read_text(errors="replace").removesuffix("\n")
                yield _Process(int(directory.name), name, int(parent), int(session))


def _stat(process: Path) -> list[str]:
    """Return the state, parent, process group and session; they stand after the name, which may hold anything."""
    return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]


def _shared_memory(pid: int) -> set[Path]:
    """Return the files in /dev/shm that a process has mapped and that still have a name."""
    with suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
        # The sixth column is the path; "(deleted)" follows it when the name is gone already.
        columns = (line.split() for line in maps.splitlines())
        return {Path(c[5]) for c in columns if len(c) == 6 and c[5].startswith("/dev/shm/")}
    return set()


def _orphaned_semaphores(since_s: float) -> set[Path]:
    """Return multiprocessing's named semaphores of this user, made since then, that no living process has mapped."""
    made = {}
    for path in Path("/dev/shm").glob("sem.mp-*"):
        with suppress(OSError):
            state = path.stat()
            if state.st_uid == os.getuid() and state.st_ctime >= since_s:
                made[str(state.st_ino)] = path
    # By inode: the process that made one has it mapped under the name that it had before it got this one.
    for directory in Path("/proc").glob("[0-9]*") if made else ():
        with suppress(OSError):
            maps = (directory / "maps").read_text(encoding="utf-8", errors="replace")
            for line in maps.splitlines():
                if "/dev/shm/" in line:
                    made.pop(line.split()[4], None)
    return set(made.values())
