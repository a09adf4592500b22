"""What a killed run has left: told from a living run's by a lock, ended and removed when the next one starts.

A run that is killed cannot clean up. Its Ray goes with it, but agents of Ray, an engine or the gateway may stay, with
their memory and ports. So every run holds a lock on a file in its directory, which the system lets go of however the
run ends, and all of its processes have the directory's path in their environment, or write to a file below it. Who
does so while the lock is free is ours and of no use to anyone; nothing else is touched, no other Ray either.
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

from workers.children import end_all
from workers.errors import WorkerError

RUN = "TOLLWAY_RUN"
"""The environment variable with the directory of the run that a process belongs to."""

# Not the user's TMPDIR: a path to a socket may have 107 bytes, and Ray's own part takes most of them.
_PARENT = Path("/tmp")
_PREFIX = "tollway-"
_OWNER = "owner"
# A gateway settles what is under way, and workers that have lost their parent are stopping already.
_PATIENCE_S = 10.0


@contextmanager
def run_directory(given: Path | None = None) -> Iterator[Path]:
    """Hold a new directory, removed at the end, or the ``given`` one, which is not, as that of this process's run."""
    if given is not None:
        with _held(given):
            yield given
    else:
        with TemporaryDirectory(prefix=_PREFIX, dir=_PARENT, ignore_cleanup_errors=True) as made, _held(Path(made)):
            yield Path(made)


def end_leftovers(say: Callable[[str], None], given: Path | None = None) -> None:
    """End every process of this user's killed runs, SIGTERM first, and remove their directories, ``given`` excepted.

    ``say`` gets a sentence for each run that had processes left. Raises ``WorkerError`` when ``given`` is the directory
    of a run that lives.
    """
    for directory in [*_PARENT.glob(f"{_PREFIX}*"), *([given] if given else [])]:
        # Whatever cannot be opened is not ours, or has gone with its run just now.
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError), (directory / _OWNER).open("rb") as owner:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if directory == given:
                    raise WorkerError(f"{given} is the directory of a run that is not over; choose another.") from None
                continue
            if os.fstat(owner.fileno()).st_uid != os.getuid():
                continue
            left = partial(_processes, directory)
            if count := len(left()):
                say(f"ending what a killed run has left: {count} process{'es' * (count > 1)} of {directory}")
                end_all(left, _PATIENCE_S)
            if directory != given:
                shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    made = directory / f"{_OWNER}-{os.getpid()}"
    try:
        owner = made.open("wb")
        fcntl.flock(owner, fcntl.LOCK_EX)
        # Only now, so that nobody ever finds it without its lock.
        made.rename(directory / _OWNER)
    except OSError as error:
        raise WorkerError(f"{directory} cannot be the directory of a run: {error.strerror}.") from error
    os.environ[RUN] = str(directory.absolute())
    try:
        with owner:
            yield
    finally:
        del os.environ[RUN]


def _processes(directory: Path) -> list[int]:
    """Return the living processes of a run, those of a run within it too."""
    path = str(directory.absolute())
    found = [int(process.name) for process in Path("/proc").glob("[0-9]*") if _belongs(process, path)]
    return [pid for pid in found if pid != os.getpid()]


def _belongs(process: Path, path: str) -> bool:
    mark = f"{RUN}={path}"
    with suppress(OSError):
        values = (process / "environ").read_bytes().decode(errors="replace").split("\0")
        if any(value == mark or value.startswith(f"{mark}/") for value in values):
            return True
        # Ray's agents write their titles over a part of their environment; but they write logs below the directory.
        return any(
            entry.lstat().st_mode & stat.S_IWUSR and str(entry.readlink()).startswith(f"{path}/")
            for entry in (process / "fd").iterdir()
        )
    return False
