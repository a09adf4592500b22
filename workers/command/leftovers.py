"""Ends and removes what a killed run has left behind; a lock shows which runs still live.

A run that is killed cannot clean up. Its Ray goes with it, but agents of Ray, an engine or the gateway may stay, with
their memory and ports. So every run makes a directory of its own and holds a lock on a marker in it, which the system
lets go of however the run ends, and all of its processes have the directory's path in their environment, or write to a
file below it. A process that does so while the lock is free is ours and of no use; nothing else is touched: no other
Ray, no directory without a marker, nothing of another user's.
"""

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from workers.cluster.children import end_all, parent_of
from workers.errors import WorkerError

RUN = "TOLLWAY_RUN"
"""The environment variable with the directory of the run that a process belongs to."""

# Not the user's TMPDIR: a path to a socket may have 107 bytes, and Ray's own part takes most of them.
_PARENT = Path("/tmp")
_PREFIX = "tollway-"
_MARKER = ".tollway-run"
# A gateway settles what is under way, and workers that have lost their parent are stopping already.
_PATIENCE_S = 10.0
_AGENTS_PATIENCE_S = 1.0


@contextmanager
def run_directory(given: Path | None = None) -> Iterator[Path]:
    """Hold a new directory, in ``given`` or else in /tmp, as that of this process's run; it is removed at the end.

    Raises ``WorkerError`` when none can be made there.
    """
    parent = given or _PARENT
    try:
        made = TemporaryDirectory(prefix=_PREFIX, dir=parent.absolute(), ignore_cleanup_errors=True)
        directory = Path(made.name)
        marker = (directory / "unmarked").open("wb")
        fcntl.flock(marker, fcntl.LOCK_EX)
        # Only now, so that it is never found without its lock.
        (directory / "unmarked").rename(directory / _MARKER)
    except OSError as error:
        raise WorkerError(f"{parent} cannot take the directory of a run: {error.strerror}.") from error
    # The lock goes last, so that no other run removes what is just being removed.
    with marker, made:
        os.environ[RUN] = str(directory.resolve())
        try:
            yield directory
        finally:
            # All that had something to finish has ended; Ray does not wait for the last of its own.
            end_all(partial(_processes, directory.resolve()), _AGENTS_PATIENCE_S)
            del os.environ[RUN]


def end_leftovers(say: Callable[[str], None], given: Path | None = None) -> None:
    """End every process of this user's killed runs in /tmp and ``given``, SIGTERM first, and remove their directories.

    ``say`` gets a sentence for each run. Raises ``WorkerError`` when a process does not end.
    """
    for parent in {_PARENT.resolve(), (given or _PARENT).resolve()}:
        for directory in parent.glob(f"{_PREFIX}*"):
            # Whatever cannot be opened or locked is not ours, or lives; and a run that ended while it was looked at has
            # removed its directory before it let go of the lock.
            with suppress(OSError), _opened(directory / _MARKER) as marker:
                if _is_own(os.fstat(marker), stat.S_IFREG) and _is_own(directory.lstat(), stat.S_IFDIR):
                    fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(marker).st_nlink:
                        _end(directory, say)


def _end(directory: Path, say: Callable[[str], None]) -> None:
    left = partial(_processes, directory)
    count = len(left())
    say(f"ending what a killed run has left: {directory}, {count or 'no'} process{'es' * (count != 1)}")
    end_all(left, _PATIENCE_S)
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    # Any user may put anything there: a link out of it is not followed, a pipe not waited for.
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield file
    finally:
        os.close(file)


def _is_own(status: os.stat_result, kind: int) -> bool:
    return status.st_uid == os.getuid() and stat.S_IFMT(status.st_mode) == kind


def _processes(directory: Path) -> list[int]:
    """Return this user's living processes of a run, and of a run within it, but none that this one runs under."""
    above, pid = set(), os.getpid()
    while pid:
        above.add(pid)
        pid = parent_of(pid)
    found = [int(process.name) for process in Path("/proc").glob("[0-9]*") if _belongs(process, str(directory))]
    return [pid for pid in found if pid not in above]


def _belongs(process: Path, path: str) -> bool:
    mark = f"{RUN}={path}"
    with suppress(OSError):
        if process.stat().st_uid != os.getuid():
            return False
        values = (process / "environ").read_bytes().decode(errors="replace").split("\0")
        if any(value == mark or value.startswith(f"{mark}/") for value in values):
            return True
        # Ray's agents write their titles over a part of their environment; but they write logs below the directory.
        return any(
            entry.lstat().st_mode & stat.S_IWUSR and str(entry.readlink()).startswith(f"{path}/")
            for entry in (process / "fd").iterdir()
        )
    return False
