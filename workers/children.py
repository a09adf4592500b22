"""Child processes of a command: started apart from the terminal, stopped together, and none of theirs left behind.

A child runs in a session of its own, so that Ctrl-C reaches only the command, which then stops its children in order.
All that a child starts inherits an environment variable with the run's id; a last sweep ends by it whatever a child
that crashed left running. (Ray and vLLM start a dozen processes, and a killed parent does not take all with it.)
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_RUN_VARIABLE = "TOLLWAY_RUN"


class Child:
    """One process whose output goes to ``log``. Its standard input is a pipe that closes when this process ends."""

    def __init__(self, command: Sequence[str], log: Path, run_id: str, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment, _RUN_VARIABLE: run_id},
            )

    @property
    def exit_code(self) -> int | None:
        """The exit code, or none while it runs."""
        return self._process.poll()

    def stop(self, patience_s: float) -> None:
        """End it: SIGTERM and the end of its standard input, after ``patience_s`` SIGKILL. Returns when it is gone."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def sweep(run_id: str, patience_s: float = 5.0) -> None:
    """End every process that a child of this run left: SIGTERM, after ``patience_s`` SIGKILL. Linux only, by /proc."""
    deadline = time.monotonic() + patience_s
    signum = signal.SIGTERM
    while left := _processes_of(run_id):
        if time.monotonic() > deadline:
            signum = signal.SIGKILL
        for pid in left:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def _processes_of(run_id: str) -> list[int]:
    marker = f"{_RUN_VARIABLE}={run_id}".encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            # A zombie's environment is empty: it is gone but for its parent's notice.
            if marker in (directory / "environ").read_bytes().split(b"\0"):
                found.append(int(directory.name))
        except OSError:
            continue
    return found
