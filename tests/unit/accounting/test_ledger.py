"""The ledger's promises: what is written is found, what was left behind is recovered, outages lose nothing."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.accounting.apply import JournalReader
from gateway.accounting.ledger import JournalLedger
from gateway.accounting.recovery import recover
from gateway.accounting.rejected import Rejected
from gateway.errors import ErrorKind, GatewayError, StateUnusableError
from gateway.store.queries import Store
from gateway.tariff import Rates, Usage
from gateway.types import CallRecord, LedgerEntry, Outcome, RefusedCalls
from tests.ground.waiting import until
from tests.unit.accounting.ledgers import (
    STARTED_AT_NS,
    applier_pid,
    build_dispatch,
    build_entry,
    build_record,
    make_call,
    running_ledger,
    segments,
    stop_applier,
    stored_totals,
)
from tests.unit.accounting.test_journal import file_size_limit


async def test_a_call_is_found_as_soon_as_it_is_recorded(tmp_path: Path) -> None:
    """Record, then find: the call and its attempts, equal to what was handed in; an unknown id is None."""
    async with running_ledger(tmp_path) as ledger:
        make_call(ledger, 1)
        found = await ledger.find("req_1")
        assert found == (build_record("req_1", "att_1"), (build_entry("att_1", "req_1"),))
        assert await ledger.find("req_2") is None


async def test_a_refused_call_has_a_record_and_no_attempt(tmp_path: Path) -> None:
    """A call that was never sent is found too."""
    async with running_ledger(tmp_path) as ledger:
        refused = build_record("req_1", outcome="refused", status=429, error_kind="rate_limited", target_id=None)
        ledger.record(refused)
        assert await ledger.find("req_1") == (refused, ())


async def test_a_clean_stop_leaves_no_journal(tmp_path: Path) -> None:
    """With every call over and in SQL there is nothing to recover, and the directory is free."""
    async with running_ledger(tmp_path) as ledger:
        make_call(ledger, 1)
    assert not segments(tmp_path)
    async with running_ledger(tmp_path) as ledger:
        assert await ledger.find("req_1") is not None


async def test_an_unsettled_attempt_is_interrupted_and_costs_what_was_relayed(tmp_path: Path) -> None:
    """Recovery writes the presumed row with the highest bound of its output, priced, and a record of the call."""
    async with running_ledger(tmp_path) as ledger:
        ledger.dispatch(build_dispatch())
        ledger.progress("att_1", 8)
        ledger.progress("att_1", 64)
    async with running_ledger(tmp_path) as ledger:
        found = await ledger.find("req_1")
    assert found is not None
    record, (entry,) = found
    assert entry.outcome == "interrupted"
    assert entry.usage == Usage(input_tokens=10, output_tokens=64, origin="estimated")
    assert (entry.cost_nano_usd, entry.cost_origin) == (10_000 + 64 * 2_000, "estimated")
    assert (record.outcome, record.operation, record.stream) == ("interrupted", "completions", True)
    assert (record.attempt_ids, record.cost_nano_usd, record.output_tokens) == (("att_1",), entry.cost_nano_usd, 64)


async def test_an_interrupted_call_on_own_hardware_costs_the_time_it_was_seen(tmp_path: Path) -> None:
    """From its start to its last progress, the whole replica: who ran beside it is not known any more."""
    rates = Rates(hardware_nano_usd_per_hour=3_600_000_000)
    async with running_ledger(tmp_path) as ledger:
        dispatch = build_dispatch(rates=rates)
        started_at_ns = ledger._clock.wall_ns() - 2_000_000_000
        ledger.dispatch(replace(dispatch, entry=replace(dispatch.entry, started_at_ns=started_at_ns, cost_nano_usd=0)))
        ledger.progress("att_1", 8)
    async with running_ledger(tmp_path) as ledger:
        found = await ledger.find("req_1")
    assert found is not None
    (entry,) = found[1]
    assert entry.duration_ms >= 2000
    assert abs(entry.cost_nano_usd - entry.duration_ms * 1e6 / 1e3) <= 1


@pytest.mark.parametrize(("last", "outcome"), [("ok", "ok"), ("cut", "interrupted")])
async def test_a_call_whose_record_was_never_written_gets_one(last: Outcome, outcome: Outcome, tmp_path: Path) -> None:
    """Two attempts settled, then death: the record has both and their cost; it was answered if an attempt was whole."""
    async with running_ledger(tmp_path) as ledger:
        attempts: tuple[tuple[str, int, Outcome], ...] = (("att_1", 0, "cut"), ("att_2", 5_000_000, last))
        for attempt_id, started, ended in attempts:
            ledger.dispatch(build_dispatch(attempt_id))
            ledger.settle(build_entry(attempt_id, started_at_ns=STARTED_AT_NS + started, outcome=ended))
    async with running_ledger(tmp_path) as ledger:
        found = await ledger.find("req_1")
    assert found is not None
    record, entries = found
    assert [entry.outcome for entry in entries] == ["cut", last]
    assert (record.outcome, record.attempt_ids, record.cost_nano_usd) == (outcome, ("att_1", "att_2"), 40_000)
    assert record.duration_ms == pytest.approx(17.5)


async def test_an_attempt_that_outlives_its_calls_record_is_settled_once(tmp_path: Path) -> None:
    """A hedge that lost may end after the record: its row is its own, and the record stays as it was."""
    async with running_ledger(tmp_path) as ledger:
        ledger.dispatch(build_dispatch("att_1"))
        ledger.dispatch(build_dispatch("att_2"))
        ledger.settle(build_entry("att_1"))
        ledger.record(build_record("req_1", "att_1", "att_2"))
        ledger.settle(build_entry("att_2", outcome="cancelled"))
        found = await ledger.find("req_1")
        assert found is not None
        assert {entry.attempt_id: entry.outcome for entry in found[1]} == {"att_1": "ok", "att_2": "cancelled"}
    assert not segments(tmp_path)


async def test_an_attempt_that_outlives_its_calls_record_is_carried_along(tmp_path: Path) -> None:
    """Its dispatch's segment is forgotten, its call is recorded: a death still finds it, and the record stays."""
    async with running_ledger(tmp_path, segment_bytes=4000) as ledger:
        ledger.dispatch(build_dispatch("att_won", "req_hedged"))
        ledger.dispatch(build_dispatch("att_lost", "req_hedged"))
        ledger.settle(build_entry("att_won", "req_hedged"))
        record = build_record("req_hedged", "att_won", "att_lost")
        ledger.record(record)
        for number in range(20):
            make_call(ledger, number)
        await ledger.flush()
        await until(lambda: segments(tmp_path)[0].name != "journal-000001.jsonl")
    async with running_ledger(tmp_path) as ledger:
        found = await ledger.find("req_hedged")
    assert found is not None
    assert found[0] == record
    assert {entry.attempt_id: entry.outcome for entry in found[1]} == {"att_won": "ok", "att_lost": "interrupted"}


async def test_segments_are_forgotten_while_a_long_call_is_carried_along(tmp_path: Path) -> None:
    """One stream through hundreds of calls pins no disk, and nothing of it is forgotten: bound, settlement, record."""
    async with running_ledger(tmp_path, segment_bytes=4000) as ledger:
        ledger.dispatch(build_dispatch("att_first", "req_long"))
        ledger.settle(build_entry("att_first", "req_long"))
        ledger.dispatch(build_dispatch("att_long", "req_long"))
        ledger.progress("att_long", 32)
        for number in range(200):
            make_call(ledger, number)
        await ledger.flush()
        await until(lambda: len(segments(tmp_path)) <= 2)
        assert int(segments(tmp_path)[-1].stem.removeprefix("journal-")) > 50
    async with running_ledger(tmp_path) as ledger:
        found = await ledger.find("req_long")
    assert found is not None
    record, entries = found
    outcomes = {entry.attempt_id: (entry.outcome, entry.usage.output_tokens) for entry in entries}
    assert outcomes == {"att_first": ("ok", 5), "att_long": ("interrupted", 32)}
    assert record.operation == "completions"


async def test_recovery_may_be_repeated(tmp_path: Path) -> None:
    """The same segments recovered again, as after a death before they were deleted: not a row changes."""
    async with running_ledger(tmp_path) as ledger:
        make_call(ledger, 1)
        ledger.dispatch(build_dispatch("att_2", "req_2"))
        ledger.progress("att_2", 9)
    shutil.copytree(tmp_path, tmp_path / "before")
    async with running_ledger(tmp_path):
        pass
    rows = stored_totals(tmp_path)
    for segment in segments(tmp_path / "before"):
        shutil.copy(segment, tmp_path)
    async with running_ledger(tmp_path) as ledger:
        assert await ledger.find("req_2") is not None
    assert stored_totals(tmp_path) == rows
    assert [(row.outcome, row.attempts, row.output_tokens) for row in rows] == [("interrupted", 1, 9), ("ok", 1, 5)]


class DyingStore(Store):
    """A database whose process is gone after some transactions."""

    def __init__(self, url: str, transactions: int) -> None:
        super().__init__(url)
        self._left = transactions

    def insert_batch(
        self, entries: Sequence[LedgerEntry], records: Sequence[CallRecord], refused: Sequence[RefusedCalls] = ()
    ) -> None:
        """Insert, or die."""
        if self._left == 0:
            raise ConnectionResetError
        self._left -= 1
        super().insert_batch(entries, records, refused)


async def test_recovery_that_dies_after_any_transaction_is_completed_by_the_next(tmp_path: Path) -> None:
    """However far it came: the journal is still there, and the next start ends with the same rows."""
    async with running_ledger(tmp_path) as ledger:
        make_call(ledger, 1)
        for number in (2, 3):
            ledger.dispatch(build_dispatch(f"att_{number}", f"req_{number}"))
    totals = []
    for transactions in range(4):
        state_dir = shutil.copytree(tmp_path, tmp_path.with_name(f"died-after-{transactions}"))
        (state_dir / "ledger.sqlite3").unlink()
        with closing(DyingStore(f"sqlite:///{state_dir}/ledger.sqlite3", transactions)) as store:
            store.open()
            with pytest.raises(ConnectionResetError):
                recover(state_dir, store, Rejected(state_dir, lambda: None, pytest.fail))
        async with running_ledger(state_dir) as ledger:
            assert [await ledger.find(f"req_{number}") is not None for number in (1, 2, 3)] == [True] * 3
        totals.append(stored_totals(state_dir))
    assert totals[0] == totals[1] == totals[2] == totals[3]
    assert [(row.outcome, row.attempts) for row in totals[0]] == [("interrupted", 2), ("ok", 1)]


class BusyRows:
    """A database during each of whose transactions another call is made."""

    def __init__(self, ledger: JournalLedger) -> None:
        self.entries: list[int] = []
        self._ledger = ledger

    def insert_batch(
        self, entries: Sequence[LedgerEntry], records: Sequence[CallRecord], refused: Sequence[RefusedCalls]
    ) -> None:
        """Count the entries, and have one more call made."""
        assert len(entries) == len(records)
        assert not refused
        self.entries.append(len(entries))
        make_call(self._ledger, len(self.entries))


async def test_reader_leaves_to_the_next_time_what_is_written_meanwhile(tmp_path: Path) -> None:
    """Three calls are a transaction, and not the first of many with one call each for as long as calls are made."""
    async with running_ledger(tmp_path, apply_interval_s=3600.0) as ledger:
        for number in (11, 12, 13):
            make_call(ledger, number)
        rows = BusyRows(ledger)
        reader = JournalReader(tmp_path, rows, Rejected(tmp_path, lambda: None, pytest.fail), pytest.fail)
        while reader.apply_batch():
            pass
        assert rows.entries == [3]
        while reader.apply_batch():
            pass
        assert rows.entries == [3, 1]


async def test_a_torn_last_line_is_passed_over_and_damage_is_put_aside(tmp_path: Path) -> None:
    """The line that death cut is nothing; a damaged one in the middle is kept and told of; all others count."""
    async with running_ledger(tmp_path) as ledger:
        ledger.dispatch(build_dispatch("att_1", "req_1"))
        ledger.dispatch(build_dispatch("att_2", "req_2"))
        ledger.dispatch(build_dispatch("att_3", "req_3"))
    first, second, third = segments(tmp_path)[0].read_bytes().splitlines(keepends=True)
    segments(tmp_path)[0].write_bytes(first + second.replace(b"att_2", b"att_9") + third[:-20])
    alarms: list[str] = []
    async with running_ledger(tmp_path, alarm=alarms.append) as ledger:
        assert [await ledger.find(f"req_{number}") is not None for number in (1, 2, 3)] == [True, False, False]
    assert (tmp_path / "rejected.jsonl").read_bytes().count(b"\n") == 1
    assert len(alarms) == 1


async def test_a_running_ledger_notices_damage_in_lines_that_become_no_row(tmp_path: Path) -> None:
    """A dispatch or progress whose bytes changed is put aside though SQL does not need it; a sound one is passed by."""
    alarms: list[str] = []
    async with running_ledger(tmp_path, alarm=alarms.append) as ledger:
        await stop_applier(ledger)  # it reads the lines only once they are damaged
        make_call(ledger, 1)
        ledger.dispatch(build_dispatch("att_2", "req_2"))
        ledger.progress("att_2", 8)
        whole = segments(tmp_path)[0].read_bytes()
        segments(tmp_path)[0].write_bytes(whole.replace(b'"output_tokens":8', b'"output_tokens":9'))
        os.kill(applier_pid(ledger), signal.SIGCONT)
        await ledger.flush()
        assert [line.startswith(b'{"type":"progress"') for line in _rejected(tmp_path)] == [True]
        assert await ledger.find("req_1")
    assert len(alarms) == 1


def _rejected(state_dir: Path) -> list[bytes]:
    return (state_dir / "rejected.jsonl").read_bytes().splitlines()


async def test_a_row_that_sql_refuses_holds_up_no_other(tmp_path: Path) -> None:
    """A number beyond 64 bits is put aside with an alarm that does not quote it; its neighbours are stored."""
    alarms: list[str] = []
    async with running_ledger(tmp_path, alarm=alarms.append) as ledger:
        make_call(ledger, 1)
        ledger.settle(build_entry("att_bad", "req_bad", cost_nano_usd=2**63))
        make_call(ledger, 2)
        await ledger.flush()
        assert await ledger.find("req_1")
        assert await ledger.find("req_2")
        assert ledger.healthy() is None
    assert b"att_bad" in (tmp_path / "rejected.jsonl").read_bytes()
    assert len(alarms) == 1
    assert "att_bad" not in alarms[0]


@pytest.mark.slow
async def test_a_locked_database_delays_rows_and_loses_none(tmp_path: Path) -> None:
    """While another holds SQLite, requests go on, flush and find give up in time; afterwards every row is there."""
    alarms: list[str] = []
    async with running_ledger(tmp_path, alarm=alarms.append, flush_timeout_s=0.05) as ledger:
        other = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        for number in range(300):
            make_call(ledger, number)
        with pytest.raises(GatewayError) as refused:
            await ledger.flush()
        assert refused.value.kind is ErrorKind.STORAGE_UNAVAILABLE
        with pytest.raises(GatewayError):
            await ledger.find("req_7")
        # Nothing is lost, so nobody is sent away yet.
        assert ledger.healthy() is None
        await until(lambda: bool(alarms))
        other.execute("ROLLBACK")
        other.close()
        ledger._flush_timeout_s = 60.0
        await ledger.flush()
        (totals,) = stored_totals(tmp_path)
        assert (totals.attempts, totals.cost_nano_usd) == (300, 300 * 20_000)
    assert len(alarms) == 1


@pytest.mark.slow
async def test_rows_not_applied_before_the_stop_are_applied_at_the_next_start(tmp_path: Path) -> None:
    """A stop during an outage leaves the journal, however long, and the next start puts all of it into SQL."""
    async with running_ledger(tmp_path, alarm=lambda _: None, flush_timeout_s=0.01) as ledger:
        other = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        for number in range(300):
            make_call(ledger, number)
    other.close()
    async with running_ledger(tmp_path):
        (totals,) = stored_totals(tmp_path)
        assert (totals.outcome, totals.attempts, totals.cost_nano_usd) == ("ok", 300, 300 * 20_000)


async def test_a_full_disk_sends_nothing_unaccounted_and_loses_nothing_spent(tmp_path: Path) -> None:
    """Dispatch refuses with 503, settle and record do not raise, readiness knows; with room again all is there."""
    alarms: list[str] = []
    async with running_ledger(tmp_path, alarm=alarms.append, fsync_interval_s=0.01) as ledger:
        ledger.dispatch(build_dispatch("att_1", "req_1"))
        with file_size_limit(segments(tmp_path)[0].stat().st_size + 50):
            with pytest.raises(GatewayError) as refused:
                ledger.dispatch(build_dispatch("att_2", "req_2"))
            assert refused.value.kind is ErrorKind.STORAGE_UNAVAILABLE
            ledger.progress("att_1", 8)
            ledger.settle(build_entry("att_1", "req_1"))
            ledger.record(build_record("req_1", "att_1"))
            assert ledger.healthy() == "the journal cannot be written: No space left on device"
            with pytest.raises(GatewayError):
                await ledger.flush()
        found = await ledger.find("req_1")
        assert found == (build_record("req_1", "att_1"), (build_entry("att_1", "req_1"),))
        assert await ledger.find("req_2") is None
        assert ledger.healthy() is None
        make_call(ledger, 3)
        assert await ledger.find("req_3")


async def test_health_speaks_before_start_and_after_a_dead_thread(tmp_path: Path) -> None:
    """Readiness learns that accounting has not begun, and that its thread has ended."""
    async with running_ledger(tmp_path) as ledger:
        assert ledger.healthy() is None
        assert ledger._syncing is not None
        ledger._stopping.set()
        ledger._syncing.join()
        assert ledger.healthy() == "a thread of the ledger has died; restart the gateway"
    assert ledger.healthy() == "accounting has not started"


async def test_two_ledgers_on_one_directory_are_refused(tmp_path: Path) -> None:
    """The second start fails and leaves the first one's directory, rows and lock alone."""
    async with running_ledger(tmp_path) as ledger:
        make_call(ledger, 1)
        with pytest.raises(StateUnusableError):
            async with running_ledger(tmp_path):
                pass
        make_call(ledger, 2)
        assert await ledger.find("req_2")
