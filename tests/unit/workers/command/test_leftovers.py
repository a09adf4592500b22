"""Leftovers of a killed run are ended by the next one; living runs and what other users own are left alone."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.command import leftovers
from workers.command.leftovers import _MARKER as MARKER
from workers.command.leftovers import RUN, end_leftovers, run_directory
from workers.errors import WorkerError

# A run whose child ignores SIGTERM and outlives it; it prints its directory when all of that is so.
A_RUN = """
import pathlib, subprocess, sys
from workers.command import leftovers
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


def killed(parent: Path) -> Path:
    """Return the directory that a killed run without children has left."""
    (directory := parent / "tollway-killed").mkdir()
    (directory / MARKER).touch()
    return directory


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


def test_leftovers_of_a_killed_run_are_ended_and_removed(parent: Path) -> None:
    """The child ignores SIGTERM and is in a session of its own: it is known by its environment alone."""
    said: list[str] = []
    with a_run(parent) as (run, directory, child):
        run.kill()
        run.wait()
        assert is_alive(child)
        end_leftovers(said.append)
        assert not is_alive(child)
    assert not directory.exists()
    assert said == [f"ending what a killed run has left: {directory}, 1 process"]


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


@pytest.mark.slow
def test_configured_directory_loses_leftovers_and_keeps_its_owners_files(parent: Path) -> None:
    """Two runs have it at once; who works in it, names it or writes a log there is nobody's leftover."""
    given = parent / "given"
    given.mkdir()
    said: list[str] = []
    with (given / "log").open("wb") as log:
        owners = subprocess.Popen(["sleep", "600"], stdout=log, env={RUN: str(given)})
    with owners, a_run(parent, given) as (first, old, child), a_run(parent, given) as (second, living, _):
        assert old.parent == living.parent == given
        first.kill()
        first.wait()
        end_leftovers(said.append, given)
        assert not is_alive(child)
        assert [each.poll() for each in (second, owners)] == [None, None]
        assert set(given.iterdir()) == {given / "log", living}
        second.communicate()
        end_leftovers(said.append)
        end_leftovers(said.append, given)
        assert owners.poll() is None
        owners.kill()
    assert list(given.iterdir()) == [given / "log"]
    assert said == [f"ending what a killed run has left: {old}, 1 process"]


def test_a_given_directory_may_have_two_names(parent: Path) -> None:
    """A link to it is a way to a short path."""
    (given := parent / "given").mkdir()
    (link := parent / "link").symlink_to(given)
    with a_run(parent, link) as (run, directory, child):
        assert directory.parent == link
        run.kill()
        run.wait()
        end_leftovers(lambda _: None, given)
        assert not is_alive(child)
    assert list(given.iterdir()) == []


def test_parents_of_this_process_are_not_ended(parent: Path) -> None:
    """Such as a shell that was started by a run now killed, and starts the next one."""
    directory = killed(parent)
    ask = "import sys; from pathlib import Path; from workers.command import leftovers"
    ask += "; leftovers._PARENT = Path(sys.argv[1])"
    shell = f"{sys.executable} -c '{ask}; leftovers.end_leftovers(print)' {parent}; echo still there"
    environment = {**os.environ, RUN: str(directory)}
    done = subprocess.run(["bash", "-c", shell], env=environment, capture_output=True, text=True, check=False)
    said = f"ending what a killed run has left: {directory}, no processes"
    assert done.stdout.splitlines() == [said, "still there"], done.stderr


def test_a_directory_without_processes_is_removed_and_said(parent: Path) -> None:
    directory = killed(parent)
    said: list[str] = []
    end_leftovers(said.append)
    assert said == [f"ending what a killed run has left: {directory}, no processes"]
    assert not directory.exists()


def test_run_that_ends_while_it_is_looked_at_is_not_reported_as_killed(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory goes, and then its lock, between the look at its marker and the try for the lock."""
    directory = killed(parent)

    def lock(_: int, __: int) -> None:
        shutil.rmtree(directory)

    monkeypatch.setattr(leftovers.fcntl, "flock", lock)
    end_leftovers(pytest.fail)


def test_odd_entries_are_passed_over(parent: Path) -> None:
    """Anybody may put such into /tmp; none keeps a run from starting, or from ending what is left."""
    odd = [parent / f"tollway-{name}" for name in ("directory", "loop", "elsewhere", "socket", "pipe")]
    for each in odd:
        each.mkdir()
    directory, loop, elsewhere, listening, pipe = [each / MARKER for each in odd]
    directory.mkdir()
    loop.symlink_to(loop)
    (parent / "file").touch()
    elsewhere.symlink_to(parent / "file")
    os.mkfifo(pipe)
    (parent / "mine").mkdir()
    (parent / "mine" / MARKER).touch()
    (parent / "tollway-link").symlink_to(parent / "mine")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        before = set(parent.rglob("*"))
        end_leftovers(pytest.fail)
    assert set(parent.rglob("*")) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make what is another user's")
@pytest.mark.parametrize("entry", [".", MARKER])
def test_directory_of_another_user_is_left_alone(parent: Path, entry: str) -> None:
    directory = killed(parent)
    os.chown(directory / entry, 12345, 12345)
    end_leftovers(pytest.fail)
    assert directory.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run as another user")
def test_a_process_of_another_user_is_left_alone(parent: Path) -> None:
    directory = killed(parent)
    with subprocess.Popen(["sleep", "600"], env={RUN: str(directory)}, user=12345) as other:
        end_leftovers(lambda _: None)
        assert other.poll() is None
        other.kill()


def test_a_run_that_ends_by_itself_leaves_no_directory(parent: Path) -> None:
    with run_directory() as directory:
        assert os.environ[RUN] == str(directory)
        assert list(parent.iterdir()) == [directory]
    assert RUN not in os.environ
    assert list(parent.iterdir()) == []


def test_a_run_that_ends_by_itself_leaves_no_process(parent: Path) -> None:
    """Ray ends before the last of its agents does."""
    (link := parent / "link").symlink_to(parent)
    with run_directory(link):
        left = subprocess.Popen(["sleep", "600"])
    assert left.wait() == -signal.SIGTERM


def test_a_directory_that_is_not_there_is_one_plain_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(WorkerError, match=r"nowhere cannot take the directory of a run: No such file"),
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
    assert said == [f"ending what a killed run has left: {directory}, 2 processes"]
