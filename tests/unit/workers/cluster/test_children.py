"""Child processes: all of a child's family ends, whatever the child itself did."""

import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers.cluster import children
from workers.cluster.children import Child, end_all
from workers.errors import WorkerError

# A child that leaves a grandchild behind, prints its pid, and then does as it is told. Both ignore SIGTERM.
FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
left = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
left.stdout.readline()
print(left.pid, flush=True)
{end}
"""


def start(tmp_path: Path, end: str) -> tuple[Child, int]:
    child = Child([sys.executable, "-c", FAMILY.format(end=end)], tmp_path / "log", {"PYTHONUNBUFFERED": "1"})
    while not (text := child.log.read_text(encoding="utf-8")).endswith("\n"):
        time.sleep(0.01)
    return child, int(text)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_child_ends_when_its_standard_input_closes(tmp_path: Path) -> None:
    child, left = start(tmp_path, "sys.stdin.read()")
    child.stop(patience_s=10)
    assert child.exit_code == 0
    child.sweep(patience_s=0)
    assert not is_alive(left)


def test_leftovers_of_a_crashed_child_are_swept(tmp_path: Path) -> None:
    child, left = start(tmp_path, "__import__('os')._exit(3)")
    while child.exit_code is None:
        time.sleep(0.01)
    assert is_alive(left)
    child.stop(patience_s=10)
    child.sweep(patience_s=0)
    assert not is_alive(left)


def test_a_child_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    child, _ = start(tmp_path, "time.sleep(600)")
    child.stop(patience_s=0.2)
    assert child.exit_code == -9
    child.sweep(patience_s=0)


def test_a_process_is_asked_once_and_then_killed(tmp_path: Path) -> None:
    """A second SIGTERM would tell a gateway to wait for none of its streams."""
    code = "import signal; signal.signal(15, lambda *_: print('asked', flush=True)); print(flush=True)"
    forever = "\nwhile True: signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code + forever], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        looks = 0

        def find() -> list[int]:
            nonlocal looks
            looks += 1
            if looks == 2:  # what follows is not to depend on when the process gets to run
                assert process.stdout is not None
                assert process.stdout.readline() == b"asked\n"
            return [process.pid] if process.poll() is None else []

        end_all(find, 0.5)
        assert process.stdout.read() == b""
        assert process.wait() == -signal.SIGKILL


def test_a_process_that_cannot_be_ended_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits for a device; a zombie, which nobody has waited for, does not go either."""
    monkeypatch.setattr(children, "_DYING_S", 0.3)
    with subprocess.Popen(["true"]) as process, pytest.raises(WorkerError, match=rf"not gone .*: {process.pid}\.$"):
        end_all(lambda: [process.pid], 0.0)


def test_unused_semaphores_are_removed(tmp_path: Path) -> None:
    """A killed engine cannot remove its own; those of a living process, and older ones, stay."""
    shared = Path("/dev/shm")
    older = shared / f"sem.mp-older{os.getpid()}"
    older.touch()
    time.sleep(0.05)  # the file system's own clock is coarse
    child = Child([sys.executable, "-c", "pass"], tmp_path / "log", {})
    orphan, held = (shared / f"sem.mp-{name}{os.getpid()}" for name in ("orphan", "held"))
    orphan.touch()
    held.write_bytes(bytes(32))
    try:
        with held.open("r+b") as file, mmap.mmap(file.fileno(), 32):
            child.stop(patience_s=10)
            child.sweep()
            assert not orphan.exists()
            assert held.exists()
        assert older.exists()
    finally:
        for path in (older, orphan, held):
            path.unlink(missing_ok=True)


def test_a_semaphore_of_another_engine_that_is_starting_stays(tmp_path: Path) -> None:
    """Its maker knows it by another name until a second process has opened it."""
    child = Child([sys.executable, "-c", "pass"], tmp_path / "log", {})
    lock = multiprocessing.get_context("spawn").Lock()
    path = Path(f"/dev/shm/sem.{lock._semlock.name.removeprefix('/')}")  # type: ignore[attr-defined]
    child.stop(patience_s=10)
    child.sweep()
    assert path.exists()
