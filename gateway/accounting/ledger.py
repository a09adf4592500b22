"""The ledger: four verbs for a request, and a thread that carries the journal into SQL.

Decides which calls are still open, when lines are applied, when a segment may be forgotten, and when accounting is too
ill to take requests. How lines survive is told in ``journal``, what a death leaves behind in ``recovery``.

One path: rows reach SQL only by being read back from the journal (it is in the page cache), whether the writer is one
millisecond behind or a day. So an outage of the database costs no memory, only disk, and is recovered from by the same
code that runs all the time.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from gateway.accounting.base import Dispatch, Rows
from gateway.accounting.disk import Disk, Room
from gateway.accounting.ids import random_ids
from gateway.accounting.journal import Journal, Position
from gateway.accounting.lines import Dispatched, Progress, Recorded, Settled, Summed
from gateway.accounting.recovery import BATCH_LINES, apply_lines, believe, recover
from gateway.accounting.refusals import Refusals
from gateway.accounting.rejected import Rejected
from gateway.accounting.retention import Retention
from gateway.clock import Clock, Ids
from gateway.config.snapshot import Storage
from gateway.errors import ErrorKind, GatewayError, StateUnusableError
from gateway.trace import Trace
from gateway.types import CallRecord, LedgerEntry

_Found = TypeVar("_Found")

_log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
SEGMENT_MAX_AGE_S = 3600.0
"""A segment that has lines ends after so long, though it is small: see ``retention``."""
_STORE_GRACE_S = 60.0
"""For so long a database may be away before readiness speaks of it: nothing is lost, only late."""


class _OpenCall(Struct):
    """A call between its first dispatch and the later of its record and its last settlement."""

    segment: int
    """No line of it that is not repeated later lies in an older one."""
    attempts: dict[str, Dispatched]
    """All, by id, with what was relayed."""
    settled: list[LedgerEntry]
    running: int
    """How many of the attempts are not settled."""
    recorded: bool = False


class JournalLedger:
    """Account for attempts and calls in one state directory and one database; see ``base.Ledger`` for the verbs.

    ``storage`` says what may be kept, and may change. ``alarm`` is told once of every new trouble, from any thread; by
    default it is logged as an error.
    """

    def __init__(
        self,
        state_dir: Path,
        rows: Rows,
        clock: Clock,
        *,
        storage: Callable[[], Storage] = Storage,
        retention: Retention | None = None,
        ids: Ids = random_ids,
        alarm: Callable[[str], None] = _log.error,
        apply_interval_s: float = 0.25,
        fsync_interval_s: float = 0.2,
        flush_timeout_s: float = 5.0,
        segment_bytes: int = 8 << 20,
    ) -> None:
        self._journal = Journal(state_dir, segment_bytes=segment_bytes, alarm=alarm)
        self._rejected = Rejected(state_dir, lambda: storage().rejected.max_bytes, alarm)
        self._disk = Disk(state_dir, lambda: storage().min_free_bytes, alarm)
        self._refusals = Refusals(lambda: storage().refusals_per_minute, clock, ids)
        self._retention = retention
        self._rows = rows
        self._clock = clock
        self._alarm = alarm
        self._apply_interval_s = apply_interval_s
        self._fsync_interval_s = fsync_interval_s
        self._flush_timeout_s = flush_timeout_s
        self._lock = self._journal.lock
        # Guarded by the lock, so that what we believe open is always in step with the lines.
        self._open: dict[str, _OpenCall] = {}
        # The calls of running attempts, by the attempt's id.
        self._call_of: dict[str, _OpenCall] = {}
        self._waiters: dict[asyncio.Future[None], Position] = {}
        self._applied: Position = (0, 0)
        self._store_failing_since_ns: int | None = None
        self._store_failure: str | None = None
        self._segment = self._segment_began_ns = 0
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._threads: tuple[threading.Thread, ...] = ()

    # The four verbs

    def dispatch(self, d: Dispatch) -> None:
        """Note an attempt before a byte of it goes upstream. Raises GatewayError STORAGE_UNAVAILABLE."""
        line, entry = Dispatched(d), d.entry
        if self._disk.full:
            raise _unavailable("The gateway's disk is full, and it cannot account for requests at present.")
        with self._lock:
            try:
                segment = self._journal.append(line)
            except OSError as error:
                raise _unavailable("The gateway cannot account for requests at present.") from error
            call = self._open.get(entry.call_id)
            if call is None:
                call = self._open[entry.call_id] = _OpenCall(segment, {entry.attempt_id: line}, [], 1)
            else:
                call.attempts[entry.attempt_id] = line
                call.running += 1
            self._call_of[entry.attempt_id] = call

    def progress(self, attempt_id: str, output_tokens: int) -> None:
        """Raise the bound of the output tokens relayed. Never raises."""
        line = Progress(attempt_id, output_tokens, self._clock.wall_ns())
        with self._lock:
            self._journal.keep(line)
            if (call := self._call_of.get(attempt_id)) is not None:
                known = call.attempts[attempt_id]
                relayed_tokens = max(known.relayed_tokens, output_tokens)
                call.attempts[attempt_id] = Dispatched(known.dispatch, relayed_tokens, line.seen_at_ns)

    def settle(self, entry: LedgerEntry) -> None:
        """End an attempt with the row as billed. Never raises."""
        with self._lock:
            self._journal.keep(Settled(entry))
            if (call := self._call_of.pop(entry.attempt_id, None)) is not None:
                call.settled.append(entry)
                call.running -= 1
                if call.recorded and not call.running:
                    del self._open[entry.call_id]

    def record(self, record: CallRecord) -> None:
        """End a call. Never raises."""
        with self._lock:
            if not record.attempt_ids:
                if self._refusals.gets_record(record, room=self._disk.room is Room.ALL):
                    self._journal.keep(Recorded(record), expendable=True)
                return
            self._journal.keep(Recorded(record))
            if (call := self._open.get(record.call_id)) is not None:
                call.recorded = True
                if not call.running:
                    del self._open[record.call_id]

    def _write_refused(self, *, all_of_it: bool = False) -> None:
        with self._lock:
            for refused in self._refusals.take(all_of_it=all_of_it):
                self._journal.keep(Summed(refused), expendable=True)

    # Reading back

    async def flush(self) -> None:
        """Wait until everything written so far is in SQL. Raises GatewayError STORAGE_UNAVAILABLE after a time-out."""
        if not self._journal.retry_kept():
            raise _unavailable("The gateway's journal cannot be written at present.")
        reached = asyncio.get_running_loop().create_future()
        with self._lock:
            target = self._journal.end()
            if self._applied >= target:
                return
            self._waiters[reached] = target
        self._wake.set()
        try:
            async with asyncio.timeout(self._flush_timeout_s):
                await reached
        except TimeoutError:
            raise _unavailable("The gateway's database cannot be written at present.") from None
        finally:
            with self._lock:
                self._waiters.pop(reached, None)

    async def find(self, call_id: str) -> tuple[CallRecord, tuple[LedgerEntry, ...]] | None:
        """Return a finished call and its attempts by time; None when there is none.

        Raises GatewayError STORAGE_UNAVAILABLE.
        """
        found = await self._query(self._rows.find_call, call_id)
        if found is None:
            await self.flush()
            found = await self._query(self._rows.find_call, call_id)
        return found

    async def find_trace(self, trace_id: str, key_id: str) -> Trace | None:
        """Return the finished calls of a trace by this key. Raises GatewayError STORAGE_UNAVAILABLE."""
        return await self._query(self._rows.find_trace, trace_id, key_id)

    async def _query(self, query: Callable[..., _Found], *arguments: str) -> _Found:
        try:
            return await asyncio.to_thread(query, *arguments)
        except Exception as error:
            # Whatever the driver calls it: a read by an index fails only when the database does.
            raise _unavailable("The gateway's database cannot be read at present.") from error

    def healthy(self) -> str | None:
        """Return None, or one sentence about why accounting does not work at present."""
        if not self._threads:
            return "accounting has not started"
        if not all(thread.is_alive() for thread in self._threads):
            return "a thread of the ledger has died; restart the gateway"
        since_ns = self._store_failing_since_ns
        if since_ns is not None and self._clock.monotonic_ns() - since_ns > _STORE_GRACE_S * 1e9:
            return "the ledger's database has not taken rows for a minute; they wait in the journal, the log says why"
        return self._journal.failure() or self._disk.failure()

    # Life cycle

    async def start(self) -> None:
        """Take the state directory, recover what a dead gateway left behind, and begin."""
        await asyncio.to_thread(self._prepare)
        self._threads = (
            threading.Thread(target=self._keep_applying, name="ledger-apply", daemon=True),
            threading.Thread(target=self._keep_syncing, name="ledger-sync", daemon=True),
        )
        if self._retention is not None:
            keep = threading.Thread(
                target=self._retention.run, args=(self._stopping,), name="ledger-retention", daemon=True
            )
            self._threads += (keep,)
        for thread in self._threads:
            thread.start()

    def _prepare(self) -> None:
        self._journal.acquire()
        try:
            self._disk.check()
            self._disk.require_room()
            self._rows.open()
            recover(self._journal, self._rows, self._rejected)
            self._journal.open()
        except BaseException:
            self._rows.close()
            self._journal.close()
            raise
        self._applied = self._journal.end()

    async def stop(self) -> None:
        """Carry what is left into SQL, as far as that is possible, and let go of the state directory."""
        if not self._threads:
            return
        self._write_refused(all_of_it=True)
        with contextlib.suppress(GatewayError):
            await self.flush()
        self._stopping.set()
        self._wake.set()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        for thread in self._threads:
            thread.join()
        self._threads = ()
        with self._lock:
            nothing_left = self._journal.retry_kept() and not self._open and self._applied >= self._journal.end()
        if nothing_left:
            for number in self._journal.segments():
                self._journal.delete(number)
        self._journal.close()
        self._rows.close()

    # The two threads

    def _keep_syncing(self) -> None:
        while not self._stopping.wait(self._fsync_interval_s):
            self._journal.restore()
            self._journal.retry_kept()
            # The journal remembers and reports it.
            with contextlib.suppress(OSError):
                self._journal.sync()
            self._write_refused()
            self._disk.check()
            self._end_old_segment()

    def _end_old_segment(self) -> None:
        """Begin another segment when the present one is old, or what it says would keep ``retention`` waiting."""
        number, size = self._journal.end()
        now_ns = self._clock.monotonic_ns()
        if number != self._segment or not size:
            self._segment, self._segment_began_ns = number, now_ns
        elif now_ns - self._segment_began_ns > SEGMENT_MAX_AGE_S * 1e9:
            self._segment_began_ns = now_ns
            self._journal.rotate()

    def _keep_applying(self) -> None:
        retry_s = _FIRST_RETRY_S
        while not self._stopping.is_set():
            pause_s = self._apply_interval_s
            try:
                self._open_store()
                while self._apply_batch() and not self._stopping.is_set():
                    self._tell_waiters()
            except Exception as error:  # noqa: BLE001 - whatever it is, the rows are in the journal and the next try may do
                self._note_store_failure(error)
                pause_s, retry_s = retry_s, min(retry_s * 2, _LAST_RETRY_S)
            else:
                if self._store_failure is not None:
                    _log.info("rows reach the database again")
                self._store_failing_since_ns = self._store_failure = None
                retry_s = _FIRST_RETRY_S
            self._tell_waiters()
            if self._wake.wait(pause_s):
                self._wake.clear()

    def _open_store(self) -> None:
        """Look whether the database is still the one that was given rows; another gets all that the journal holds."""
        if self._rows.open():
            self._applied = self._journal.oldest(), 0
            self._alarm("the ledger's database is another than before: it is given all rows that the journal still has")

    def _note_store_failure(self, error: Exception) -> None:
        if self._store_failing_since_ns is None:
            self._store_failing_since_ns = self._clock.monotonic_ns()
        if (failure := _told(error)) != self._store_failure:
            self._store_failure = failure
            self._alarm(f"rows wait in the journal: {failure}")

    def _apply_batch(self) -> bool:
        """Apply the next lines; True when there may be more. Only what is committed counts as applied."""
        number, offset = self._applied
        try:
            stop, sealed = self._journal.extent(number)
        except FileNotFoundError:
            self._alarm(f"segment {number} of the journal was removed: what the database has not of it is lost")
            self._applied = number + 1, 0
            return True
        if frames := self._journal.frames(number, offset, stop, BATCH_LINES):
            apply_lines(self._rows, believe(frames, self._rejected, for_sql=True), self._rejected)
            self._applied = number, frames[-1].end
            return True
        if sealed:
            self._forget(number)
            self._applied = number + 1, 0
        return sealed

    def _forget(self, number: int) -> None:
        """Write anew what open calls have in a segment, then delete it. Raises OSError; repeat it then."""
        with self._lock:
            candidates = [call_id for call_id, call in self._open.items() if call.segment <= number]
        for call_id in candidates:
            # Call by call, so that the event loop never waits long for the lock.
            with self._lock:
                if (call := self._open.get(call_id)) is not None:
                    self._carry(call)
        self._journal.sync()
        self._journal.delete(number)

    def _carry(self, call: _OpenCall) -> None:
        lines: list[Dispatched | Settled] = [*call.attempts.values(), *map(Settled, call.settled)]
        call.segment = min(self._journal.append(line) for line in lines)

    def _tell_waiters(self) -> None:
        with self._lock:
            reached = [future for future, target in self._waiters.items() if self._applied >= target]
            for future in reached:
                del self._waiters[future]
        for future in reached:
            # A closed loop waits for nothing any more.
            with contextlib.suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(_resolve, future)


def _told(error: Exception) -> str:
    """Return what may be said of an error: a text of ours or the system's; a driver's quotes rows and addresses."""
    match error:
        case StateUnusableError():
            return str(error)
        case OSError(strerror=str(cause), filename=name) if name is not None:
            return f"{name}: {cause}"
        case _:
            return f"the ledger's database cannot be used ({type(error).__name__})"


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _unavailable(message: str) -> GatewayError:
    return GatewayError(ErrorKind.STORAGE_UNAVAILABLE, f"{message} Try again shortly.", retry_after_s=5.0)
