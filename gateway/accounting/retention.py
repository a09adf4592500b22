"""Deletes old rows in small steps: those beyond the age or the size that the configuration sets.

A row may be deleted once no journal can bring it back: a line that is applied a second time, by a recovery, would
insert its row anew, beside the sums that it was added to. The journals' segments end after an hour
(``ledger.SEGMENT_MAX_AGE_S``), and a call lasts a day at most. So whatever began 25 hours before the last write to the
oldest segment there is stands in no journal. Records of refused calls cost nothing and may go at any age: at worst,
after a crash, some of them are counted twice.

Of several processes one does it: the one that has the lock, until it ends.
"""

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from gateway.clock import Clock
from gateway.config.snapshot import Keep, Storage
from gateway.errors import StateUnusableError

_STEP_ROWS = 200
_PAUSE_S = 0.05
"""Between two steps, so that the ledger's own writes come in between."""
_DAY_NS = 86_400_000_000_000
_MARGIN_NS = 25 * 3_600_000_000_000

_log = logging.getLogger("tollway.retention")


class Forgetter(Protocol):
    """Deletes rows, a step at a time; see ``store.forget``."""

    def forget_calls(self, before_ns: int, limit: int) -> int:
        """Delete the calls of up to ``limit`` attempts from before then; return how many attempts went."""

    def forget_refusals(self, before_ns: int, limit: int) -> int:
        """Delete up to ``limit`` records of refused calls from before then; return how many went."""

    def sum_up_refusals(self, before_ns: int, limit: int) -> int:
        """Turn up to ``limit`` counts of minutes before then into counts of days; return how many went."""

    def refusal_bytes(self) -> int:
        """Return about how many bytes the records of refused calls take."""

    def used_bytes(self) -> int:
        """Return the size of the database without the room that deleted rows have left."""


class Retention:
    """Keeps one state directory within its bounds. ``run`` is a thread's whole life."""

    def __init__(
        self, state_dir: Path, rows: Forgetter, clock: Clock, storage: Callable[[], Storage], interval_s: float = 60.0
    ) -> None:
        self._state_dir = state_dir
        self._rows = rows
        self._clock = clock
        self._storage = storage
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._lock_fd = -1

    def run(self, stopping: threading.Event) -> None:
        """Make a round every ``interval_s`` until it is stopped. Never raises: what fails is tried again."""
        self._stopping = stopping
        failed = False
        try:
            while not stopping.wait(self._interval_s):
                try:
                    if self._is_ours():
                        self.make_round()
                    failed = False
                except Exception as error:  # noqa: BLE001 - whatever it is, nothing is lost, and the next round may do
                    if not failed:
                        # A driver's text may quote a row.
                        cause = error if isinstance(error, StateUnusableError) else type(error).__name__
                        _log.warning("old rows cannot be deleted at present: %s", cause)
                    failed = True
        finally:
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
                self._lock_fd = -1

    def _is_ours(self) -> bool:
        """Whether this process has the lock, or gets it now."""
        if self._lock_fd < 0:
            fd = os.open(self._state_dir / "retention.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            self._lock_fd = fd
        return True

    def make_round(self) -> None:
        """Delete all that is beyond a bound now. Raises what the database raises, and OSError."""
        rows, storage, now_ns = self._rows, self._storage(), self._clock.wall_ns()
        safe_ns = self._in_no_journal_ns(now_ns)
        self._forget(rows.forget_refusals, storage.refusals, now_ns, now_ns, rows.refusal_bytes)
        self._forget(rows.forget_calls, storage.calls, now_ns, safe_ns, rows.used_bytes)
        self._repeat(rows.sum_up_refusals, safe_ns)
        self._forget_rejected(storage.rejected, now_ns)

    def _forget(
        self,
        forget: Callable[[int, int], int],
        keep: Keep,
        now_ns: int,
        safe_ns: int,
        used_bytes: Callable[[], int],
    ) -> None:
        if keep.max_days is not None:
            self._repeat(forget, min(safe_ns, now_ns - round(keep.max_days * _DAY_NS)))
        if (bound := keep.max_bytes) is not None:
            self._repeat(forget, safe_ns, lambda: used_bytes() > bound)

    def _repeat(
        self, forget: Callable[[int, int], int], before_ns: int, needed: Callable[[], bool] = lambda: True
    ) -> None:
        while needed() and forget(before_ns, _STEP_ROWS) and not self._stopping.wait(_PAUSE_S):
            pass

    def _in_no_journal_ns(self, now_ns: int) -> int:
        """Return when the youngest call began that certainly no journal has a line of."""
        found = self._files("journal-*.jsonl")
        return min([now_ns, *(each.st_mtime_ns for _, each in found if each.st_size)]) - _MARGIN_NS

    def _forget_rejected(self, keep: Keep, now_ns: int) -> None:
        if keep.max_days is None:
            return
        for path, found in self._files("rejected.jsonl"):
            if found.st_mtime_ns < now_ns - round(keep.max_days * _DAY_NS):
                path.unlink(missing_ok=True)

    def _files(self, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield files of the journals of this gateway, however many processes it had."""
        for folder in (self._state_dir, *self._state_dir.glob("process-*")):
            for path in folder.glob(pattern):
                # It may just have been deleted.
                with contextlib.suppress(FileNotFoundError):
                    yield path, path.stat()
