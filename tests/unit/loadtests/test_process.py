"""What the bench reads of a process, and that it ends what it starts."""

import os
import sys
from pathlib import Path

import pytest

from loadtests.bench.process import (
    Process,
    StartError,
    _stat,
    core_busy_ticks,
    high_water_bytes,
    stat_fields,
    wait_until,
)

# A child that outlives its parent's end unless somebody ends it too.
_FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_command_name_with_spaces_and_brackets_does_not_shift_the_fields() -> None:
    fields = stat_fields("4242 (a (b) c) S 17 4242 4242 0 -1 4194560 1 2 3 4 55 66 77 88 20 0")
    assert (fields[0], fields[1]) == ("S", "17")
    assert fields[11:15] == ["55", "66", "77", "88"]


def test_the_largest_resident_size_is_read_in_bytes() -> None:
    assert high_water_bytes("Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  123 kB\nVmRSS:\t  100 kB\n") == 123 * 1024
    assert high_water_bytes("Name:\ta kernel thread\n") == 0


def test_a_core_is_busy_with_programs_not_with_waiting_or_interrupts() -> None:
    assert core_busy_ticks("cpu  9 9 9 9\ncpu0 1 2 3 400 500 600 700\ncpu1 4 5 6 4 4\nintr 1\n", 1) == 15


def _start(tmp_path: Path, *argv: str) -> Process:
    core = min(os.sched_getaffinity(0))
    return Process([sys.executable, *argv], core=core, log=tmp_path / "log", env=os.environ, cwd=tmp_path)


def _state(pid: int) -> str:
    return stat_fields(Path(f"/proc/{pid}/stat").read_text())[0]


def test_leaving_ends_the_whole_tree_even_a_frozen_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with _start(tmp_path, "-c", _FAMILY) as process:
        wait_until(lambda: None if log.read_text().endswith("\n") else "no child yet", process, 20.0)
        child = int(log.read_text())
        assert process.peak_rss_bytes() > 1_000_000
        process.pause()
        # A running process takes the signal when it next leaves user space, at the latest with the next clock tick.
        wait_until(lambda: None if _state(child) == "T" else "not frozen yet", process, 5.0)
    fields = _stat(child)  # whoever inherits it may collect it at any moment
    assert not fields or fields[0] in {"Z", "X"}


def test_program_that_ends_is_reported_with_its_last_output(tmp_path: Path) -> None:
    with (
        _start(tmp_path, "-c", "print('first'); raise SystemExit('no licence')") as process,
        pytest.raises(StartError, match="ended with 1: no licence"),
    ):
        wait_until(lambda: "not yet", process, 20.0)
