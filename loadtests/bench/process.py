"""Programs under measurement: pinned to a core, frozen while others are measured, ended by process id.

Figures come from ``/proc`` and are of the whole tree: a launcher, its workers, and what they started.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_TERM_WAIT_S = 5.0
_RUNS = (["R"], ["S"], ["D"])


class Process:
    """A running program. A context manager: leaving it ends the whole tree."""

    def __init__(self, argv: Sequence[str], *, core: int, log: Path, env: Mapping[str, str], cwd: Path) -> None:
        """Start ``argv`` on one core; its output goes to ``log``. Should the bench be killed, the program is too."""
        self._earlier_peak_bytes = self._from_bytes = 0
        with log.open("wb") as output:
            self._popen = subprocess.Popen(  # noqa: S603 - every command is a list of ours
                ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(core), *argv],  # noqa: S607 - Debian's own
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,  # Ctrl-C reaches the bench alone, which ends what it started in order
            )
        self._log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def ended(self) -> str | None:
        """Return the log's last line once the program has ended, else None."""
        if self._popen.poll() is None:
            return None
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"ended with {self._popen.returncode}: {lines[-1] if lines else 'no output'}"

    def cpu_s(self) -> float:
        """CPU time of the tree so far, user and system, in seconds; the clock ticks every 10 ms."""
        ticks = 0
        for pid in self._tree():
            fields = _stat(pid)
            # 14-17 of proc(5): user and system time, then those of children that have ended.
            ticks += sum(int(value) for value in fields[11:15])
        return ticks / _TICKS_PER_S

    def peak_rss_bytes(self) -> int:
        """Return the sum of the processes' largest resident sizes so far; what they share is counted in each."""
        return max(self._earlier_peak_bytes, self._high_water_bytes())

    def begin_peak(self) -> None:
        """Let ``peak_growth_bytes`` begin here."""
        self._earlier_peak_bytes = self.peak_rss_bytes()
        for pid in self._tree():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): VmHWM is now what is resident
        self._from_bytes = self._high_water_bytes()

    def peak_growth_bytes(self) -> int:
        """Return by how much the largest resident size since ``begin_peak`` is above what was resident then."""
        return self._high_water_bytes() - self._from_bytes

    def pause(self) -> None:
        """Freeze the tree: it costs no CPU until it is resumed. Returns when all of it has stopped."""
        self._signal(signal.SIGSTOP)
        until = time.monotonic() + _TERM_WAIT_S
        while any(_stat(pid)[:1] in _RUNS for pid in self._tree()) and time.monotonic() < until:
            time.sleep(0.001)

    def resume(self) -> None:
        """Let a frozen tree go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the tree: politely, then by force; return when none of it is left."""
        handles = [handle for pid in self._tree() if (handle := _handle(pid)) is not None]
        self._signal(signal.SIGCONT)
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_TERM_WAIT_S)
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        self._popen.wait()
        for handle in handles:
            select.select([handle], [], [], _TERM_WAIT_S)
            os.close(handle)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _high_water_bytes(self) -> int:
        return sum(_high_water_bytes(pid) for pid in self._tree())

    def _tree(self) -> list[int]:
        """Return the program and all its descendants that are alive, parents first."""
        if self._popen.poll() is not None:
            return []
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                children.setdefault(int(fields[1]), []).append(int(entry.name))
        tree = [self._popen.pid]
        for pid in tree:
            tree.extend(children.get(pid, []))
        return tree


def _handle(pid: int) -> int | None:
    """Return a descriptor that stays with this very process, whoever gets its number later; None: it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _stat(pid: int) -> list[str]:
    """Return what follows the command's name in ``/proc/PID/stat``; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return stat_fields(text)


def stat_fields(text: str) -> list[str]:
    """Split a ``stat`` line behind the command's name, which may hold spaces and brackets: state is field 0."""
    return text.rpartition(")")[2].split()


def core_busy_s(core: int) -> float:
    """CPU time that programs, whichever, have had on one core so far, in seconds; interrupts are not counted."""
    return core_busy_ticks(Path("/proc/stat").read_text(), core) / _TICKS_PER_S


def core_busy_ticks(text: str, core: int) -> int:
    """Add user, nice and system time of one core from ``/proc/stat``, in clock ticks."""
    for line in text.splitlines():
        name, *values = line.split()
        if name == f"cpu{core}":
            return sum(int(value) for value in values[:3])
    raise ValueError(f"no core {core}")


def _high_water_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return high_water_bytes(text)


def high_water_bytes(status: str) -> int:
    """Read ``VmHWM``, the largest resident size, from a ``status`` page, in bytes."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def wait_until(ready: Callable[[], str | None], process: Process, limit_s: float) -> float:
    """Ask every 20 ms until ``ready`` returns None; return the seconds that took.

    Raises StartError with the last reason when the program ends or the time is up.
    """
    started = time.monotonic()
    while True:
        reason = ready()
        waited_s = time.monotonic() - started
        if reason is None:
            return waited_s
        ended = process.ended()
        if ended is not None:
            raise StartError(ended)
        if waited_s > limit_s:
            raise StartError(f"no answer within {limit_s:g} s: {reason}")
        time.sleep(0.02)


class StartError(Exception):
    """A contender did not start; the message is one line for the table."""
