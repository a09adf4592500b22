"""What a flood of refused calls leaves in the ledger: some records and a count of the others."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.config.snapshot import Storage
from gateway.types import CallRecord
from tests.unit.accounting.ledgers import STARTED_AT_NS, build_record, make_call, running_ledger

MINUTE_NS = 60_000_000_000
BEGAN_NS = STARTED_AT_NS // MINUTE_NS * MINUTE_NS


class StoodClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_ns = BEGAN_NS

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


def refused(number: int, key_id: str | None = None, status: int = 401, kind: str = "authentication") -> CallRecord:
    return build_record(
        f"req_{number}", key_id=key_id, outcome="refused", status=status, error_kind=kind, target_id=None
    )


def rows(state_dir: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(state_dir / "ledger.sqlite3")) as database:
        return database.execute(query).fetchall()


COUNTED = "SELECT since_ns, key_id, error_kind, status, calls FROM refusals ORDER BY since_ns, key_id, status"


def limited(per_minute: int = 3) -> dict[str, Any]:
    return {"storage": lambda: Storage(refusals_per_minute=per_minute), "clock": StoodClock()}


async def test_refusals_beyond_the_minutes_bound_are_counted(tmp_path: Path) -> None:
    """Three records of each key and of those without one; the rest a row for each kind, however many they were."""
    async with running_ledger(tmp_path, **limited()) as ledger:
        for number in range(1000):
            ledger.record(refused(number))
        for number in range(1000, 1010):
            ledger.record(refused(number, "demo", 429, "rate_limited"))
        ledger.record(refused(2000, "demo", 400, "invalid_request"))
        make_call(ledger, 3000)
        await ledger.flush()
        assert await ledger.find("req_2") is not None
        assert await ledger.find("req_3") is None
        assert await ledger.find("req_1002") is not None
        assert await ledger.find("req_3000") is not None
    assert rows(tmp_path, "SELECT count(*) FROM calls") == [(3 + 3 + 1,)]
    assert rows(tmp_path, COUNTED) == [
        (BEGAN_NS, None, "authentication", 401, 997),
        (BEGAN_NS, "demo", "invalid_request", 400, 1),
        (BEGAN_NS, "demo", "rate_limited", 429, 7),
    ]


async def test_each_minute_has_its_own_records_and_count(tmp_path: Path) -> None:
    """The count of a minute is written when it is over, whether or not another refusal comes."""
    options = limited()
    clock = options["clock"]
    async with running_ledger(tmp_path, fsync_interval_s=3600, **options) as ledger:
        for number in range(10):
            ledger.record(refused(number))
        ledger._write_refused()
        await ledger.flush()
        assert rows(tmp_path, COUNTED) == []
        clock.now_ns += MINUTE_NS
        ledger._write_refused()
        await ledger.flush()
        assert rows(tmp_path, COUNTED) == [(BEGAN_NS, None, "authentication", 401, 7)]
        for number in range(10, 14):
            ledger.record(refused(number))
        clock.now_ns += 3 * MINUTE_NS
        ledger.record(refused(20))
    assert rows(tmp_path, COUNTED) == [
        (BEGAN_NS, None, "authentication", 401, 7),
        (BEGAN_NS + MINUTE_NS, None, "authentication", 401, 1),
    ]
    assert rows(tmp_path, "SELECT count(*) FROM calls") == [(3 + 3 + 1,)]


async def test_call_that_was_tried_always_has_its_record(tmp_path: Path) -> None:
    """Only what went nowhere is bounded: whatever cost something is kept, and what was answered."""
    async with running_ledger(tmp_path, **limited(0)) as ledger:
        for number in range(20):
            make_call(ledger, number)
        ledger.record(refused(100))
        await ledger.flush()
    assert rows(tmp_path, "SELECT count(*) FROM calls") == [(20,)]
    assert rows(tmp_path, COUNTED) == [(BEGAN_NS, None, "authentication", 401, 1)]


@pytest.mark.parametrize("times", [1, 2])
async def test_count_of_refusals_is_recovered_once(times: int, tmp_path: Path) -> None:
    """A death after the count was written and before it is in SQL: the next start has it, and so has a third."""
    async with running_ledger(tmp_path, apply_interval_s=3600, **limited(0)) as ledger:
        ledger.record(refused(1))
        ledger._write_refused(all_of_it=True)
        journal = next(tmp_path.glob("journal-*.jsonl"))
        left = journal.read_bytes()
    for _ in range(times):
        journal.write_bytes(left)
        async with running_ledger(tmp_path):
            pass
    assert rows(tmp_path, COUNTED) == [(BEGAN_NS, None, "authentication", 401, 1)]
