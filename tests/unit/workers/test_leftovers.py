"""What a killed run has left is ended by the next one; a living run, and what is nobody's, is left alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers import leftovers
from workers.errors import WorkerError
from workers.leftovers import RUN, end_leftovers, run_directory

# A run whose child ignores SIGTERM and outlives it; it prints its directory when all of that is so.
A_RUN = """
import pathlib, subprocess, sys
from workers import leftovers
leftovers._PARENT = pathlib.Path(sys.argv[1])
code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
with leftovers.run_directory(*map(pathlib.Path, sys.argv[2:])) as directory:
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
    print(directory, child.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the runs of a test have their directories."""
    monkeypatch.setattr(leftovers, "_PARENT", tmp_path)
    monkeypatch.setattr(leftovers, "_PATIENCE_S", 0.0)
    return tmp_path


@contextmanager
def a_run(*arguments: Path) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    """Start a run; its process, its directory and its child's number."""
    command = [sys.executable, "-c", A_RUN, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        directory, child = run.stdout.readline().split()
        try:
            yield run, Path(directory), int(child)
        finally:
            run.kill()
            if is_alive(int(child)):
                os.kill(int(child), signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_a_killed_run_has_left_is_ended_and_removed(parent: Path) -> None:
    """The child ignores SIGTERM and is in a session of its own: it is known by its environment alone."""
    said: list[str] = []
    with a_run(parent) as (run, directory, child):
        run.kill()
        run.wait()
        assert is_alive(child)
        end_leftovers(said.append)
        assert not is_alive(child)
    assert not directory.exists()
    assert said == [f"ending what a killed run has left: 1 process of {directory}"]


def test_a_run_that_lives_keeps_its_processes_and_its_directory(parent: Path) -> None:
    said: list[str] = []
    with a_run(parent) as (run, directory, child):
        end_leftovers(said.append)
        assert run.poll() is None
        assert is_alive(child)
        assert directory.exists()
    assert said == []


def test_a_directory_that_no_run_has_marked_is_left_alone(parent: Path) -> None:
    (parent / "tollway-mine").mkdir()
    (parent / "tollway-mine" / "notes").touch()
    (parent / "tollway-notes").touch()
    end_leftovers(pytest.fail)
    assert (parent / "tollway-mine" / "notes").exists()


def test_a_directory_of_ones_own_is_emptied_of_processes_and_kept(parent: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    said: list[str] = []
    with a_run(parent, mine) as (run, directory, child):
        assert directory == mine
        with pytest.raises(WorkerError, match="is not over"):
            end_leftovers(said.append, mine)
        run.kill()
        run.wait()
        end_leftovers(said.append, mine)
        assert not is_alive(child)
    assert mine.exists()
    assert len(said) == 1


def test_a_run_that_ends_by_itself_leaves_no_directory(parent: Path) -> None:
    with run_directory() as directory:
        assert os.environ[RUN] == str(directory)
        assert list(parent.iterdir()) == [directory]
    assert RUN not in os.environ
    assert list(parent.iterdir()) == []


def test_a_directory_that_is_not_there_is_one_plain_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(WorkerError, match=r"nowhere cannot be the directory of a run: No such file"),
        run_directory(tmp_path / "nowhere"),
    ):
        pass


def test_a_process_that_lost_its_environment_is_known_by_what_it_writes(parent: Path) -> None:
    """Ray's agents write their titles over a part of it. Who only reads there is somebody else."""
    said: list[str] = []
    with a_run(parent) as (run, directory, _):
        run.kill()
        run.wait()
        with (directory / "log").open("wb") as log, subprocess.Popen(["sleep", "600"], stdout=log, env={}) as writer:
            with (directory / "log").open("rb") as read, subprocess.Popen(["sleep", "600"], stdin=read) as reader:
                log.close()
                end_leftovers(said.append)
                assert writer.wait() == -signal.SIGTERM
                assert reader.poll() is None
                reader.kill()
    assert said == [f"ending what a killed run has left: 2 processes of {directory}"]
