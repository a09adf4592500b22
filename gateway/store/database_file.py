"""Checks that the SQLite file that is open is still the file at its path.

SQLite does not look again at a file that it has open. Rows put into one that was removed or replaced are gone, and what
the write-ahead log (``-wal``) has of one database would be read into another that takes its name. So the file is looked
at before rows are written and once more after they are committed, and only then do they count.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Literal

_HEADER_BYTES = 32
_MAGIC = b"SQLite format 3\0"

FileState = Literal["same", "gone", "other"]
_Identity = tuple[int, int]


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{path}"


class DatabaseFile:
    """One database's file. ``hold`` it once connections have it open; ``release`` it when they are closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._size = 0
        self._wal: _Identity | None = None

    @property
    def held(self) -> bool:
        """Whether a file was opened, and not let go of since."""
        return self._fd >= 0

    def make(self) -> None:
        """Make an empty file unless there is something. Raises OSError."""
        if not self.path.exists():
            self.path.touch()

    def hold(self) -> None:
        """Remember what is at the path now."""
        # As long as it is open, no other file can have its number. It is closed only when SQLite has closed it too: a
        # process that closes any descriptor of a file loses its locks on it.
        if not self.held:
            self._fd = os.open(self.path, os.O_RDONLY)
        self._size = os.fstat(self._fd).st_size
        self._wal = _identity(self._beside("-wal"))

    def release(self) -> None:
        """Forget it."""
        if self.held:
            os.close(self._fd)
            self._fd = -1

    def state(self) -> FileState:
        """Compare the file that is held with what is at its path."""
        try:
            found = self.path.stat()
        except OSError:
            return "gone"
        held = os.fstat(self._fd)
        if not os.path.samestat(held, found):
            return "other"
        header = os.pread(self._fd, _HEADER_BYTES, 0)
        is_cut = held.st_size < self._size and _promised_bytes(header) > held.st_size  # VACUUM makes it shorter, too
        if is_cut or not header.startswith(_MAGIC):
            return "other"
        self._size = held.st_size
        return "same"

    def drop_log(self) -> None:
        """Remove the write-ahead log of the file that is held, so that it is not read into another; no other log."""
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Other processes do the same: what one of them has begun anew is not what was held.
            fcntl.flock(folder, fcntl.LOCK_EX)
            if self._wal is not None and _identity(self._beside("-wal")) == self._wal:
                for suffix in ("-wal", "-shm"):
                    with contextlib.suppress(FileNotFoundError):
                        self._beside(suffix).unlink()
        finally:
            os.close(folder)

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)


def _promised_bytes(header: bytes) -> int:
    """Return the size that a database's header states (sqlite.org/fileformat.html, "The Database Header")."""
    page_bytes = int.from_bytes(header[16:18], "big")
    return int.from_bytes(header[28:32], "big") * (1 << 16 if page_bytes == 1 else page_bytes)


def _identity(path: Path) -> _Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
