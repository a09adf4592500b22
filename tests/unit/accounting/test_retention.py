"""What is deleted when: by the configuration, and never what a journal could bring back."""

import fcntl
import os
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.accounting.retention import Retention
from gateway.clock import SystemClock
from gateway.config.snapshot import Keep, Storage
from gateway.store.queries import Store
from tests.ground.totals import totals_of
from tests.ground.waiting import until
from tests.unit.accounting.ledgers import (
    build_dispatch,
    build_entry,
    build_record,
    open_store,
    running_ledger,
    segments,
    stored_totals,
)

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
NOW_NS = 1_795_000_000_000_000_000


class StoodClock:
    """A clock that stands still."""

    now_ns = NOW_NS

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


def fill(store: Store, ages_days: list[float], *, bytes_each: int = 10) -> None:
    """Write a call and a refused call of each age."""
    entries, records = [], []
    for age in ages_days:
        at_ns = NOW_NS - round(age * DAY_NS)
        entries.append(build_entry(f"att_{age}", f"req_{age}", started_at_ns=at_ns, team_id="x" * bytes_each))
        records.append(build_record(f"req_{age}", f"att_{age}", received_at_ns=at_ns))
        refused = {"outcome": "refused", "status": 401, "reason": "x" * bytes_each}
        records.append(build_record(f"ref_{age}", received_at_ns=at_ns, **refused))
    store.insert_batch(entries, records)


def left(store: Store, prefix: str, ages_days: list[float]) -> list[float]:
    return [age for age in ages_days if store.find_call(f"{prefix}_{age}") is not None]


AGES = [0.1, 0.9, 1.02, 1.1, 2.5, 6.9, 7.1, 30.0]


@pytest.mark.parametrize(
    ("storage", "calls_until", "refusals_until"),
    [
        (Storage(), 99, 7),
        (Storage(refusals=Keep()), 99, 99),
        (Storage(refusals=Keep(max_days=1)), 99, 1),
        (Storage(calls=Keep(max_days=2)), 2, 7),
        # Of the last day and an hour a journal may still have lines.
        (Storage(calls=Keep(max_days=1)), 1.05, 7),
    ],
)
def test_rows_are_kept_for_as_long_as_configured(
    storage: Storage, calls_until: float, refusals_until: float, tmp_path: Path
) -> None:
    with closing(open_store(tmp_path)) as store:
        store.open()
        fill(store, AGES)
        before = totals_of(store)
        Retention(tmp_path, store.forgetter, StoodClock(), lambda: storage).make_round()
        assert left(store, "req", AGES) == [age for age in AGES if age <= calls_until]
        assert left(store, "ref", AGES) == [age for age in AGES if age <= refusals_until]
        assert totals_of(store) == before


def test_rows_beyond_a_size_go_the_oldest_first(tmp_path: Path) -> None:
    """Of refused calls however young they are; of calls only what is older than a day."""
    ages = [0.1, *(n / 10 for n in range(20, 420))]
    storage = Storage(calls=Keep(max_bytes=1_500_000), refusals=Keep(max_bytes=300_000))
    with closing(open_store(tmp_path)) as store:
        store.open()
        fill(store, ages, bytes_each=2000)
        before = totals_of(store)
        Retention(tmp_path, store.forgetter, StoodClock(), lambda: storage).make_round()
        refused, calls = left(store, "ref", ages), left(store, "req", ages)
        assert 0 < len(refused) < len(calls) < len(ages)
        assert refused == ages[: len(refused)]
        assert calls == ages[: len(calls)]
        assert store.forgetter.refusal_bytes() <= 300_000
        assert store.forgetter.used_bytes() <= 1_500_000
        tiny = Storage(calls=Keep(max_bytes=1), refusals=Keep(max_bytes=1))
        Retention(tmp_path, store.forgetter, StoodClock(), lambda: tiny).make_round()
        assert (left(store, "req", ages), left(store, "ref", ages)) == ([0.1], [])
        assert totals_of(store) == before


@pytest.mark.parametrize("folder", [".", "process-3"])
def test_rows_that_a_journal_may_bring_back_stay(folder: str, tmp_path: Path) -> None:
    """A segment that was last written three days ago, by whichever process: what began a day before that may go."""
    segment = tmp_path / folder / "journal-000001.jsonl"
    segment.parent.mkdir(exist_ok=True)
    segment.write_bytes(b"a line\n")
    os.utime(segment, ns=(0, NOW_NS - 3 * DAY_NS))
    storage = Storage(calls=Keep(max_days=1))
    ages = [2.0, 3.5, 4.0, 4.1, 5.0]
    with closing(open_store(tmp_path)) as store:
        store.open()
        fill(store, ages)
        retention = Retention(tmp_path, store.forgetter, StoodClock(), lambda: storage)
        retention.make_round()
        assert left(store, "req", ages) == [2.0, 3.5, 4.0]
        segment.write_bytes(b"")
        os.utime(segment, ns=(0, NOW_NS - 3 * DAY_NS))
        retention.make_round()
        assert left(store, "req", ages) == []


async def test_recovery_after_deletion_doubles_nothing(tmp_path: Path) -> None:
    """The journal still has what is in SQL when it is killed: the row stays until the journal is gone, then it goes."""
    storage = Storage(calls=Keep(max_days=1))
    started_at_ns = SystemClock().wall_ns() - 2 * DAY_NS
    entry = build_entry("att_1", "req_1", started_at_ns=started_at_ns)
    async with running_ledger(tmp_path) as ledger:
        ledger.dispatch(build_dispatch("att_1", "req_1"))
        ledger.settle(entry)
        ledger.record(build_record("req_1", "att_1"))
        await ledger.flush()
        killed = segments(tmp_path)[0].read_bytes()
        with closing(open_store(tmp_path)) as store:
            # Its segment was written to just now, and what began a day and an hour earlier is in no journal; this is.
            os.utime(segments(tmp_path)[0], ns=(0, started_at_ns))
            Retention(tmp_path, store.forgetter, SystemClock(), lambda: storage).make_round()
            assert store.find_call("req_1") is not None
    segments_left = tmp_path / "journal-000001.jsonl"
    segments_left.write_bytes(killed)
    async with running_ledger(tmp_path):
        pass
    with closing(open_store(tmp_path)) as store:
        Retention(tmp_path, store.forgetter, SystemClock(), lambda: storage).make_round()
        assert store.find_call("req_1") is None
    (totals,) = stored_totals(tmp_path)
    assert (totals.attempts, totals.cost_nano_usd) == (1, 20_000)


async def test_segment_with_lines_ends_after_an_hour(tmp_path: Path) -> None:
    """An idle gateway's journal would otherwise hold up the deletion for ever; an empty one stays."""
    clock = StoodClock()
    async with running_ledger(tmp_path, clock=clock, fsync_interval_s=3600) as ledger:
        number = ledger._journal.end()[0]
        ledger._end_old_segment()
        clock.now_ns += 2 * HOUR_NS
        ledger._end_old_segment()
        assert ledger._journal.end() == (number, 0)
        ledger.settle(build_entry("att_1", "req_1"))
        ledger._end_old_segment()
        clock.now_ns += HOUR_NS // 2
        ledger._end_old_segment()
        assert ledger._journal.end()[0] == number
        clock.now_ns += HOUR_NS
        ledger._end_old_segment()
        assert ledger._journal.end() == (number + 1, 0)
        await ledger.flush()
        ledger._forget()
        assert len(segments(tmp_path)) == 1


def test_rejected_lines_go_with_age(tmp_path: Path) -> None:
    """Of all processes: thirty days after the last one came."""
    (tmp_path / "process-1").mkdir()
    for folder, age_days in ((tmp_path, 31), (tmp_path / "process-1", 29)):
        (folder / "rejected.jsonl").write_bytes(b"a line\n")
        os.utime(folder / "rejected.jsonl", ns=(0, NOW_NS - age_days * DAY_NS))
    with closing(open_store(tmp_path)) as store:
        store.open()
        Retention(tmp_path, store.forgetter, StoodClock(), Storage).make_round()
    assert [path.parent.name for path in tmp_path.rglob("rejected.jsonl")] == ["process-1"]


def test_deletion_is_done_by_one_process(tmp_path: Path) -> None:
    """Another that has the lock does it; when it ends, this one takes over, and gives up the lock at its own end."""
    with closing(open_store(tmp_path)) as store, (tmp_path / "retention.lock").open("w") as other:
        retention = Retention(tmp_path, store.forgetter, StoodClock(), Storage)
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not retention._is_ours()
        fcntl.flock(other, fcntl.LOCK_UN)
        assert retention._is_ours()
        assert retention._is_ours()
        ended = threading.Event()
        ended.set()
        retention.run(ended)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_round_that_fails_is_made_again(tmp_path: Path) -> None:
    failures = [OSError("the first round")]
    ended = threading.Event()

    class Rows:
        """Fails once."""

        def forget_refusals(self, _before_ns: int, _limit: int) -> int:
            if failures:
                raise failures.pop()
            ended.set()
            return 0

        def __getattr__(self, _name: str) -> object:
            return lambda *_: 0

    Retention(tmp_path, Rows(), SystemClock(), Storage, interval_s=0.001).run(ended)  # type: ignore[arg-type]
    assert ended.is_set()


async def test_running_ledger_keeps_within_its_bounds(tmp_path: Path) -> None:
    """Also within those of a configuration that was read again."""
    storage = [Storage(refusals=Keep())]
    options: dict[str, Any] = {"storage": lambda: storage[0], "delete_interval_s": 0.01, "fsync_interval_s": 0.01}
    async with running_ledger(tmp_path, **options) as ledger:
        ledger.record(build_record("req_1", outcome="refused", status=429, received_at_ns=1))
        assert await ledger.find("req_1") is not None
        storage[0] = Storage(refusals=Keep(max_days=1))

        async def is_gone() -> bool:
            return await ledger.find("req_1") is None

        await until(is_gone)


async def test_bounds_in_force_at_the_start_delete(tmp_path: Path) -> None:
    options: dict[str, Any] = {"storage": lambda: Storage(refusals=Keep(max_days=1)), "delete_interval_s": 0.01}
    async with running_ledger(tmp_path) as ledger:
        ledger.record(build_record("req_1", outcome="refused", status=429, received_at_ns=1))
    async with running_ledger(tmp_path, **options) as ledger:

        async def is_gone() -> bool:
            return await ledger.find("req_1") is None

        await until(is_gone)
