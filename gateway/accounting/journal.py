"""Writes what happens to each attempt and call to an append-only file, from which the database's rows are made later.

How each attempt gets exactly one row
-------------------------------------
*At least once.* A line is written before a byte of an attempt goes upstream (``Dispatched``: the row it deserves if
we die now), before output beyond the last bound is relayed (``Progress``), when it ends (``Settled``), and when its
call ends (``Recorded``). A line is one unbuffered ``write`` to a file opened with O_APPEND: once that has returned,
the bytes are the kernel's, and no death of this process takes them back. It costs microseconds and is the one
blocking call that the event loop may make. A thread calls fdatasync every 0.2 s (``fsync_interval_s``), so a power
cut takes no more than that.

*At most once.* Every row has an id of our own, and SQL inserts it "or does nothing". So lines may be applied any
number of times: by an applier, by the next one after it was killed, by recovery, by a recovery that was killed. What
must not be repeated is a *decision*: an unsettled attempt becomes ``interrupted`` only in recovery, when the exclusive
lock on the state directory proves that no process is left that could settle it, and after every line was read and
applied.

*Forgetting.* Lines go into numbered segments. A segment is deleted, oldest first, once all its lines are in a
durable SQL commit. What it said of calls that are still open is first written anew at the end of the journal and
synced, so that one long stream pins no disk. A death in between leaves both copies, with the same ids. A copy of a
dispatch that comes to lie behind its own settlement does no harm: the settlement is in SQL first, and the first row
stays.

*Torn lines.* Each line is JSON and, behind it, its CRC-32; one that does not match is not believed. At the end
of a segment, without its newline, it is what a death in the middle of a write (or a power cut) leaves, and is passed
over: its ``write`` never returned, so nothing was sent, relayed or reported on the strength of it. Anywhere else it is
damage: it is put aside in ``rejected.jsonl``, with an alarm, and the lines around it count.

When the disk refuses
---------------------
ENOSPC, EIO and a short write are one case. The fragment is cut off again (or, if even that fails, closed with a
newline, so that it spoils no other line). What then happens depends on what the line is for:

- ``append`` (a dispatch) raises, and the attempt is not sent. What cannot be accounted for is not spent: fail closed.
- ``keep`` (all others) speaks of money that is already spent, so it never raises: the frame stays in memory and is
  tried again with every write and every sync tick, in the order it came. Meanwhile every dispatch fails, so what is
  kept is bounded by the calls that were in flight at the first failure. The exception, records of refused calls, which
  cost nothing and arrive as fast as callers retry, is capped and counted. Should the process die before the disk is
  back, recovery finds those attempts unsettled: ``interrupted``, by the last bound that was written.

What is removed while the gateway runs (the present segment, the lock, the directory) is written anew from what is still
open, five times a second (``restore``). Where that fails it is a disk that refuses.

A running stream is not cut because its next bound cannot be written: that would turn a full disk, which loses
nothing as long as we live, into a visible failure of calls already paid for.

This module decides how lines get to the disk and back. What they mean, and SQL, is the ledger's.
"""

import contextlib
import errno
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from gateway.accounting.lines import Line, frame_into, segment_numbers, segment_path
from gateway.errors import StateUnusableError

_MAX_KEPT_EXPENDABLE = 10_000
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND

Position = tuple[int, int]
"""Segment number and byte offset in it: positions are ordered like the lines."""


class Journal:
    """The segments of one state directory. ``open`` takes the directory's lock, ``close`` lets go of it.

    ``append``, ``keep`` and what they share are guarded by ``lock``. The caller of these two holds it already, so that
    its own state changes in step with the lines; the other verbs take it themselves. It is never held during an fsync.
    """

    def __init__(self, state_dir: Path, *, segment_bytes: int, alarm: Callable[[str], None]) -> None:
        self.lock = threading.RLock()
        self._dir = state_dir
        self._segment_bytes = segment_bytes
        self._alarm = alarm
        self._lock_fd = -1
        self._fd = -1
        self._lost_fd = -1
        """The present segment, while it is not in the directory and ``_fd`` takes no lines."""
        self._number = 0
        self._size = 0
        self._rotate_at = segment_bytes
        self._fragment_bytes = 0
        """At the end of the segment: of a line that could be neither finished nor cut off."""
        self._dirty = False
        self._retired: list[int] = []
        self._buffer = bytearray()
        self._kept: deque[bytes] = deque()
        self._dropped_records = 0
        self._write_failure: str | None = None
        self._sync_failure: str | None = None

    # Life cycle

    def acquire(self) -> None:
        """Create the state directory and take its lock. Raises StateUnusableError."""
        fd = lock_directory(self._dir)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
        self._lock_fd = fd

    def open(self) -> None:
        """Begin a new segment behind those that are there."""
        self._begin_segment(max(self.segments(), default=0) + 1)

    def close(self) -> None:
        """Sync and close the files and let go of the lock. Later lines are kept in memory and lost."""
        with contextlib.suppress(OSError):
            self.sync()
        with self.lock:
            if self._kept:
                self._alarm(f"{len(self._kept)} lines of the journal were never written and are lost")
            for fd in (self._fd, self._lost_fd, self._lock_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._lost_fd = self._lock_fd = -1

    # Writing

    def append(self, line: Line) -> int:
        """Write a line and return its segment's number. Raises OSError when it is not written."""
        if self._kept:
            self._write_kept()
        return self._put(frame_into(line, self._buffer))

    def keep(self, line: Line, *, expendable: bool = False) -> None:
        """Write a line, or keep it in memory until that works; an ``expendable`` one only while they are few."""
        frame = frame_into(line, self._buffer)
        try:
            if self._kept:
                self._write_kept()
            self._put(frame)
        except OSError:
            if expendable and len(self._kept) >= _MAX_KEPT_EXPENDABLE:
                self._dropped_records += 1
            else:
                self._kept.append(bytes(frame))

    def retry_kept(self) -> bool:
        """Try to write what is kept in memory; True when nothing is left of it."""
        with self.lock:
            with contextlib.suppress(OSError):
                self._write_kept()
            return not self._kept

    def _write_kept(self) -> None:
        while self._kept:
            self._put(self._kept[0])
            self._kept.popleft()
        if self._dropped_records:
            self._alarm(f"{self._dropped_records} records of refused calls were lost while the journal was unwritable")
            self._dropped_records = 0

    def _put(self, frame: bytes | bytearray) -> int:
        if self._fragment_bytes:
            frame = b"\n" + frame
        size = len(frame)
        try:
            if (written := os.write(self._fd, frame)) != size:
                self._take_back(written)
        except OSError as error:
            if self._write_failure is None:
                self._write_failure = f"the journal cannot be written: {error.strerror}"
                self._alarm(self._write_failure)
            raise
        if self._write_failure is not None:
            self._fragment_bytes, self._write_failure = 0, None
        self._dirty = True
        self._size += size
        number = self._number
        if self._size >= self._rotate_at:
            self._rotate()
        return number

    def _take_back(self, written: int) -> NoReturn:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._size += written
            self._fragment_bytes += written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def rotate(self) -> None:
        """Begin another segment."""
        with self.lock:
            self._rotate()

    def _rotate(self) -> None:
        old = self._fd
        try:
            self._begin_segment(self._number + 1)
        except OSError as error:
            # The present segment still takes lines; a later one will try again.
            self._rotate_at = self._size + self._segment_bytes
            self._alarm(f"the journal cannot begin a segment: {error.strerror}")
        else:
            self._retired.append(old)

    def _begin_segment(self, number: int) -> None:
        self._fd = os.open(self._path(number), _OPEN_FLAGS, 0o600)
        self._number, self._size, self._rotate_at = number, 0, self._segment_bytes
        self._dirty = True

    def restore(self) -> None:
        """See that lock and present segment are in the directory, and write anew what is not. Not for the event loop.

        While that fails, no line is written: dispatches are refused, and what must be kept is kept in memory.
        """
        with self.lock:
            present = max(self._fd, self._lost_fd)
            try:
                try:
                    self._put_back(present)
                except FileNotFoundError:  # the directory went between the two looks; the first makes it anew
                    self._put_back(present)
            except (OSError, StateUnusableError) as error:
                self._fd, self._lost_fd = -1, present
                failure = f"the journal was removed, and cannot be written anew: {error}"
                if failure != self._write_failure:
                    self._write_failure = failure
                    self._alarm(failure)
            else:
                if self._lost_fd >= 0:
                    self._fd, self._lost_fd, self._write_failure = self._lost_fd, -1, None

    def _put_back(self, present: int) -> None:
        if not _is_at(self._lock_fd, self._dir / "lock"):
            self.acquire()
        if not _is_at(present, self._path(self._number)):
            self._write_anew(present)
        elif os.fstat(present).st_size != self._size:
            self._alarm(f"the journal's segment {self._number} was changed: what was cut off it is lost")
            self._rotate()

    def _write_anew(self, present: int) -> None:
        """Write the present segment from its open file, which replaces whatever has its name now."""
        path = self._path(self._number)
        draft = path.with_suffix(".new")
        fresh = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            at = 0
            while at < self._size:
                if not (piece := os.pread(present, min(self._size - at, 1 << 20), at)):
                    break  # it was cut before it was removed, which the next look finds
                at += os.write(fresh, piece)
            draft.replace(path)
        except OSError:
            os.close(fresh)
            raise
        os.close(present)
        self._fd, self._lost_fd, self._write_failure = fresh, -1, None
        self._dirty = True
        self._alarm(f"the journal's file {path} was removed and has been written anew")

    def sync(self) -> None:
        """Wait until all that is written is on the disk. Raises OSError. Not for the event loop's thread."""
        with self.lock:
            if not self._dirty or self._fd < 0:
                return
            # A duplicate, so that rotation or close cannot give the number to another file meanwhile.
            try:
                current = os.dup(self._fd)
            except OSError as error:  # no descriptor is free
                self._note_unsynced(error)
                raise
            self._dirty = False
            retired, self._retired = self._retired, []
        try:
            for fd in (*retired, current):
                os.fdatasync(fd)
            self._sync_directory()
        except OSError as error:
            # The kernel may have thrown the pages away and reported it once (fsync's semantics since Linux 4.13), so a
            # later success proves nothing about these lines; say so, and go on: they are still readable for SQL.
            self._dirty = True
            self._note_unsynced(error)
            raise
        else:
            self._sync_failure = None
        finally:
            for fd in (*retired, current):
                os.close(fd)

    def _note_unsynced(self, error: OSError) -> None:
        if self._sync_failure is None:
            self._sync_failure = f"the journal cannot be synced: {error.strerror}"
            self._alarm(self._sync_failure)

    def _sync_directory(self) -> None:
        fd = os.open(self._dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # Forgetting

    def segments(self) -> list[int]:
        """Return the numbers of all segments there are, oldest first. Raises OSError."""
        return segment_numbers(self._dir)

    def end(self) -> Position:
        """Return the position behind the last whole line."""
        with self.lock:
            return self._number, self._size - self._fragment_bytes

    def delete(self, number: int) -> None:
        """Forget a segment."""
        self._path(number).unlink(missing_ok=True)

    def failure(self) -> str | None:
        """Return what is wrong with the disk at present."""
        return self._write_failure or self._sync_failure

    def _path(self, number: int) -> Path:
        return segment_path(self._dir, number)


def lock_directory(journal_dir: Path) -> int:
    """Create a journal's directory, take its lock, return the descriptor that holds it. Raises StateUnusableError."""
    journal_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(journal_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip()
        os.close(fd)
        msg = (
            f"another gateway (process {holder or 'unknown'}) uses the state directory {journal_dir}; "
            "stop it, or give this one its own state_dir"
        )
        raise StateUnusableError(msg) from None
    os.ftruncate(fd, 0)
    os.write(fd, b"%d\n" % os.getpid())
    return fd


def _is_at(fd: int, path: Path) -> bool:
    """Whether an open file is what stands at a path."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
