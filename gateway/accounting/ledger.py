"""The ledger of a running gateway: writes what happens to attempts and calls to the journal, and has it applied to SQL.

Decides which calls are still open, when a segment may be deleted, and when accounting fails so that the gateway is not
ready. How lines survive a crash is described in ``journal``, how they reach SQL in ``apply``; see also ``recovery``.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from gateway.accounting.applier_process import ApplierProcess
from gateway.accounting.base import Dispatch
from gateway.accounting.disk import Disk, Room
from gateway.accounting.ids import random_ids
from gateway.accounting.journal import Journal, Position, lock_directory
from gateway.accounting.lines import Dispatched, Progress, Recorded, Settled, Summed, segment_numbers, segment_path
from gateway.accounting.messages import NOTHING_APPLIED, Begin, Call, Order, Report
from gateway.accounting.refusals import Refusals
from gateway.clock import Clock, Ids
from gateway.config.snapshot import Storage
from gateway.errors import ErrorKind, GatewayError, StateUnusableError
from gateway.trace import Trace
from gateway.types import CallRecord, LedgerEntry

_log = logging.getLogger(__name__)

SEGMENT_MAX_AGE_S = 3600.0
"""A segment that has lines ends after so long, though it is small: see ``retention``."""
_STORE_GRACE_S = 60.0
"""For so long rows may wait before readiness speaks of it: nothing is lost, only late."""


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
    """Account for attempts and calls in one journal and one database; see ``base.Ledger`` for the verbs.

    ``storage`` says what may be kept, and may change. ``leftovers`` are journals of processes that are gone: the start
    recovers them too. ``alarm`` is called once for every new trouble, from any thread; by default it logs an error.
    """

    def __init__(
        self,
        journal_dir: Path,
        database_url: str,
        clock: Clock,
        *,
        state_dir: Path | None = None,
        makes_database: bool = True,
        leftovers: Callable[[], Iterable[Path]] = tuple,
        storage: Callable[[], Storage] = Storage,
        ids: Ids = random_ids,
        alarm: Callable[[str], None] = _log.error,
        apply_interval_s: float = 0.5,
        delete_interval_s: float = 60.0,
        fsync_interval_s: float = 0.2,
        flush_timeout_s: float = 5.0,
        segment_bytes: int = 8 << 20,
    ) -> None:
        self._journal = Journal(journal_dir, segment_bytes=segment_bytes, alarm=alarm)
        self._disk = Disk(journal_dir, lambda: storage().min_free_bytes, alarm)
        self._carried_segments = 0
        """How many segments the lines of open calls filled when they were last written anew."""
        self._refusals = Refusals(lambda: storage().refusals_per_minute, clock, ids)
        self._begin = Begin(
            state_dir=str(state_dir or journal_dir),
            journal_dir=str(journal_dir),
            database_url=database_url,
            storage=storage(),
            apply_interval_s=apply_interval_s,
            delete_interval_s=delete_interval_s,
        )
        self._makes_database = makes_database
        self._applier = ApplierProcess(lambda: replace(self._begin, storage=storage()), self._take_report)
        self._leftovers = leftovers
        self._storage = storage
        self._clock = clock
        self._alarm = alarm
        self._fsync_interval_s = fsync_interval_s
        self._flush_timeout_s = flush_timeout_s
        self._lock = self._journal.lock
        # Guarded by the lock, so that what we believe open is always in step with the lines.
        self._open: dict[str, _OpenCall] = {}
        # The calls of running attempts, by the attempt's id.
        self._call_of: dict[str, _OpenCall] = {}
        # The event loop's alone, like all that comes from the applier.
        self._waiters: dict[asyncio.Future[None], Position] = {}
        self._applied: Position = (0, 0)
        self._stuck: str | None = None
        self._moved_at_ns = 0
        """When all lines had last been applied, or some more of them."""
        self._segment = self._segment_began_ns = 0
        self._stopping = threading.Event()
        self._syncing: threading.Thread | None = None

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
        target = self._journal.end()
        if self._applied >= target:
            return
        reached = asyncio.get_running_loop().create_future()
        self._waiters[reached] = target
        self._applier.say(Order())
        try:
            async with asyncio.timeout(self._flush_timeout_s):
                await reached
        except TimeoutError:
            raise _unavailable("The gateway's database cannot be written at present.") from None
        finally:
            self._waiters.pop(reached, None)

    async def find(self, call_id: str) -> Call | None:
        """Return a finished call and its attempts by time; None when there is none.

        Raises GatewayError STORAGE_UNAVAILABLE.
        """
        question = Order(call_id=call_id)
        if (found := (await self._ask(question)).call) is None:
            await self.flush()
            found = (await self._ask(question)).call
        return found

    async def find_trace(self, trace_id: str, key_id: str) -> Trace | None:
        """Return the finished calls of a trace by this key. Raises GatewayError STORAGE_UNAVAILABLE."""
        return (await self._ask(Order(trace_of_key=(trace_id, key_id)))).trace

    async def _ask(self, question: Order) -> Report:
        with contextlib.suppress(TimeoutError):
            answer = await self._applier.ask(question, self._flush_timeout_s)
            if not answer.failed:
                return answer
        raise _unavailable("The gateway's database cannot be read at present.")

    def healthy(self) -> str | None:
        """Return None, or one sentence about why accounting does not work at present."""
        if self._syncing is None:
            return "accounting has not started"
        if not self._syncing.is_alive():
            return "a thread of the ledger has died; restart the gateway"
        if self._clock.monotonic_ns() - self._moved_at_ns > _STORE_GRACE_S * 1e9:
            return "the ledger's database has not taken rows for a minute; they wait in the journal, the log says why"
        return self._journal.failure() or self._disk.failure()

    # Life cycle

    async def start(self) -> None:
        """Take the state directory, recover what a dead gateway left behind, and begin."""
        loop = asyncio.get_running_loop()
        self._began = loop.create_future()
        locks: list[int] = []
        try:
            journals = await asyncio.to_thread(self._take_directory, locks)
            recover = tuple(map(str, journals))
            self._applier.start(replace(self._begin, recover=recover, makes_database=self._makes_database))
            _require_begun(await self._began)
            await asyncio.to_thread(self._begin_journal, journals)
        except BaseException:
            await self._applier.stop()
            self._journal.close()
            raise
        finally:
            for lock in locks:
                os.close(lock)
        self._applied, self._moved_at_ns = self._journal.end(), self._clock.monotonic_ns()
        self._applier.say(Order())
        self._syncing = threading.Thread(target=self._keep_syncing, args=(loop,), name="ledger-sync", daemon=True)
        self._syncing.start()

    def _take_directory(self, locks: list[int]) -> list[Path]:
        """Lock our journal, and for a while the leftovers; return all of these."""
        self._journal.acquire()
        self._disk.check()
        self._disk.require_room()
        leftovers = list(self._leftovers())
        for leftover in leftovers:
            locks.append(lock_directory(leftover))  # noqa: PERF401 - those taken before one that fails are let go of
        return [*leftovers, Path(self._begin.journal_dir)]

    def _begin_journal(self, recovered: list[Path]) -> None:
        """Open a new segment behind those that were recovered, and delete these."""
        old = [segment_path(journal, number) for journal in recovered for number in segment_numbers(journal)]
        self._journal.open()
        for path in old:
            path.unlink()

    async def stop(self) -> None:
        """Carry what is left into SQL, as far as that is possible, and let go of the state directory."""
        if self._syncing is None:
            return
        self._write_refused(all_of_it=True)
        with contextlib.suppress(GatewayError):
            await self.flush()
        self._stopping.set()
        await asyncio.to_thread(self._syncing.join)
        self._syncing = None
        await self._applier.stop()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        with self._lock:
            nothing_left = self._journal.retry_kept() and not self._open and self._applied >= self._journal.end()
        if nothing_left:
            for number in self._journal.segments():
                self._journal.delete(number)
        self._journal.close()

    def _take_report(self, report: Report) -> None:
        """Take note of what the applier reports."""
        if not self._began.done() and (report.applied or report.stuck):
            self._began.set_result(report)
        elif report.applied is not None and report.applied > NOTHING_APPLIED:
            if self._stuck is not None:
                _log.info("rows reach the database again")
            self._stuck, self._applied, self._moved_at_ns = None, report.applied, self._clock.monotonic_ns()
            for reached in [each for each, target in self._waiters.items() if self._applied >= target]:
                self._waiters.pop(reached)
                if not reached.done():
                    reached.set_result(None)
        elif report.stuck is not None:
            if report.stuck != self._stuck:
                self._alarm(f"rows wait in the journal: {report.stuck}")
            # Which database it meets afterwards is not known: what counts as applied is what it reports then.
            self._stuck, self._applied = report.stuck, (0, 0)
        elif report.alarm is not None:
            self._alarm(report.alarm)
        elif report.log is not None:
            name, level, text = report.log
            logging.getLogger(name).log(level, "%s", text)

    # The thread

    def _keep_syncing(self, loop: asyncio.AbstractEventLoop) -> None:
        storage = self._begin.storage
        while not self._stopping.wait(self._fsync_interval_s):
            self._journal.restore()
            self._journal.retry_kept()
            # The journal remembers and reports it.
            with contextlib.suppress(OSError):
                self._journal.sync()
                self._forget()
            self._write_refused()
            self._disk.check()
            self._end_old_segment()
            if self._stuck is None and self._applied >= self._journal.end():
                self._moved_at_ns = self._clock.monotonic_ns()
            if storage != (storage := self._storage()):
                loop.call_soon_threadsafe(self._applier.say, Order(storage=storage))

    def _end_old_segment(self) -> None:
        """Begin another segment when the present one is old, or what it says would keep ``retention`` waiting."""
        number, size = self._journal.end()
        now_ns = self._clock.monotonic_ns()
        if number != self._segment or not size:
            self._segment, self._segment_began_ns = number, now_ns
        elif now_ns - self._segment_began_ns > SEGMENT_MAX_AGE_S * 1e9:
            self._segment_began_ns = now_ns
            self._journal.rotate()

    def _forget(self) -> None:
        """Delete the segments that are in SQL; first write anew what open calls have there. Raises OSError."""
        first_needed = self._applied[0]
        done = [number for number in self._journal.segments() if number < first_needed]
        if not done:
            return
        with self._lock:
            candidates = [call_id for call_id, call in self._open.items() if call.segment < first_needed]
        if candidates and len(done) <= self._carried_segments:
            return  # to write them anew would fill as many segments again
        before = self._journal.end()[0]
        for call_id in candidates:
            # Call by call, so that the event loop never waits long for the lock.
            with self._lock:
                if (call := self._open.get(call_id)) is not None:
                    self._carry(call)
        self._carried_segments = self._journal.end()[0] - before
        self._journal.sync()
        for number in done:
            self._journal.delete(number)

    def _carry(self, call: _OpenCall) -> None:
        lines: list[Dispatched | Settled] = [*call.attempts.values(), *map(Settled, call.settled)]
        call.segment = min(self._journal.append(line) for line in lines)


def _require_begun(report: Report) -> None:
    if report.errno is not None:
        raise OSError(report.errno, os.strerror(report.errno), report.path)
    if report.stuck is not None:
        raise StateUnusableError(report.stuck)


def _unavailable(message: str) -> GatewayError:
    return GatewayError(ErrorKind.STORAGE_UNAVAILABLE, f"{message} Try again shortly.", retry_after_s=5.0)
