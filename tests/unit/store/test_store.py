"""The rows in SQL: each once, whole, and summed."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex

from gateway.errors import StateUnusableError
from gateway.store.database_file import sqlite_url
from gateway.store.queries import Store, insert_once
from gateway.store.tables import attempts, calls
from gateway.tariff import Amounts, Usage
from gateway.types import Considered, Dropped, Prediction, Quantiles
from tests.ground.totals import totals_of
from tests.unit.accounting.ledgers import STARTED_AT_NS, build_entry, build_record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Open an empty database."""
    with closing(Store(sqlite_url(tmp_path / "ledger.sqlite3"), busy_timeout_s=0.01)) as store:
        store.open()
        yield store


def test_a_call_comes_back_as_it_went_in(store: Store) -> None:
    """Every field of the record, its plan and its attempts, these by time."""
    quantiles = Quantiles(1.0, 2.5, 3.0, 4.0)
    prediction = Prediction(output_tokens=quantiles, ttft_ms=quantiles, tpot_ms=None, cost_nano_usd=quantiles)
    record = build_record(
        "req_1",
        "att_b",
        "att_a",
        considered=(Considered(target_id="small", prediction=prediction, within_ceilings=True, probe=True),),
        dropped=(Dropped(target_id="big", filter="context", reason="4096 tokens are too few"),),
    )
    usage = Usage(
        input_tokens=1,
        cached_input_tokens=2,
        cache_write_tokens=3,
        output_tokens=4,
        reasoning_tokens=5,
        origin="engine",
    )
    first = build_entry("att_b", usage=usage, trace_id="trace", team_id="team", status=None, error_kind="upstream_cut")
    second = build_entry("att_a", started_at_ns=STARTED_AT_NS + 1, cost_nano_usd=2**62)
    store.insert_batch([second, first], [record])
    assert store.find_call("req_1") == (record, (first, second))
    assert store.find_call("req_2") is None


def test_the_first_row_of_an_id_stays(store: Store) -> None:
    """Inserting again, in the same batch or a later one, changes nothing."""
    store.insert_batch([build_entry(), build_entry(cost_nano_usd=1)], [build_record(), build_record(reason="other")])
    store.insert_batch([build_entry(outcome="interrupted")], [build_record(outcome="interrupted")])
    assert store.find_call("req_1") == (build_record(), (build_entry(),))


def test_attempts_are_found_without_a_record(store: Store) -> None:
    """Recovery asks for them to write the record."""
    store.insert_batch([build_entry()], [])
    assert store.find_call("req_1") is None
    assert store.attempts_of("req_1") == (build_entry(),)


def test_totals_sum_each_class_by_target_and_outcome(store: Store) -> None:
    """Only attempts since then; tokens by class and nano-dollars, exactly."""
    old = build_entry("att_0", started_at_ns=STARTED_AT_NS - 1)
    numbers = dict(zip(Amounts.__struct_fields__, range(1, 99), strict=False))
    one = build_entry("att_1", usage=Usage(**numbers))
    two = build_entry("att_2", usage=Usage(**dict.fromkeys(numbers, 10)), cost_nano_usd=1)
    cut = build_entry("att_3", outcome="cut", target_id="big")
    store.insert_batch([old, one, two, cut], [])
    big, small = totals_of(store, since_ns=STARTED_AT_NS)
    assert (big.target_id, big.outcome, big.attempts) == ("big", "cut", 1)
    assert (small.attempts, small.cost_nano_usd) == (2, 20_001)
    assert {name: getattr(small, name) - 10 for name in numbers} == numbers


def test_a_trace_sums_up_the_calls_of_a_key(store: Store) -> None:
    """Their attempts by class, whole though the list is cut; a call without a record is not over, and waits."""
    many = range(1001)
    entries = [build_entry(f"att_{n}", f"req_{n}", trace_id="t", started_at_ns=STARTED_AT_NS + n) for n in many]
    records = [build_record(f"req_{n}", f"att_{n}", received_at_ns=STARTED_AT_NS - n) for n in many]
    again = build_entry("att_again", "req_0", trace_id="t", usage=Usage(reasoning_tokens=7), cost_nano_usd=1)
    others = [
        build_entry("att_other", "req_0", trace_id="u"),
        build_entry("att_key", "req_0", trace_id="t", key_id="x"),
        build_entry("att_open", "req_open", trace_id="t"),
    ]
    store.insert_batch([*entries, again, *others], records)
    trace = store.find_trace("t", "demo")
    assert trace is not None
    assert (trace.call_count, len(trace.calls)) == (1001, 1000)
    assert [trace.calls[0].call_id, trace.calls[-1].call_id] == ["req_1000", "req_1"]
    assert (trace.total.cost_nano_usd, trace.total.output_tokens) == (1001 * 20_000 + 1, 1001 * 5)
    assert trace.total.reasoning_tokens == 7
    assert store.find_trace("u", "nobody") is None


def test_a_trace_is_found_by_an_index_that_holds_no_other_calls(store: Store) -> None:
    """However long the ledger is; and a call of no trace pays nothing for it."""
    asked: list[tuple[str, Any]] = []
    event.listen(store._database.engine, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
    store.insert_batch([build_entry(trace_id="t")], [build_record()])
    store.find_trace("t", "demo")
    queries = [(sql, values) for sql, values in asked if sql.startswith("SELECT")]
    assert len(queries) == 2
    with store._database.engine.connect() as connection:
        for sql, values in queries:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).all()
            assert any("attempts_by_trace" in row[3] for row in plan), plan
            assert not any(row[3].startswith("SCAN") for row in plan), plan
    for dialect in (sqlite.dialect(), postgresql.psycopg.dialect()):
        [index] = [each for each in attempts.indexes if each.name == "attempts_by_trace"]
        assert str(CreateIndex(index).compile(dialect=dialect)).endswith("WHERE trace_id IS NOT NULL")


def test_a_row_that_cannot_be_stored_takes_the_batch_back(store: Store) -> None:
    """ValueError, which names no content; none of the batch is stored, so that the caller can find the bad one."""
    with pytest.raises(ValueError, match=r"^the database refuses a row: OverflowError$"):
        store.insert_batch([build_entry("att_1"), build_entry("att_2", cost_nano_usd=2**63)], [])
    with pytest.raises(ValueError, match=r"^the database refuses a row: IntegrityError$"):
        store.insert_batch([build_entry("att_1"), build_entry("att_2", duration_ms=float("nan"))], [])
    assert store.attempts_of("req_1") == ()


def test_a_locked_database_is_an_outage_and_not_a_bad_row(store: Store, tmp_path: Path) -> None:
    """Anything but ValueError: the ledger tries again instead of putting rows aside."""
    other = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Exception, match="locked") as outage:
        store.insert_batch([build_entry()], [])
    assert not isinstance(outage.value, ValueError)
    other.close()


def test_a_commit_is_durable_and_readers_are_not_blocked(store: Store, tmp_path: Path) -> None:
    """WAL with synchronous=FULL on every connection: the journal forgets what a commit has returned for."""
    with store._database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    assert (tmp_path / "ledger.sqlite3-wal").exists()


WRITER = """
import sys
from gateway.store.queries import Store
from tests.unit.accounting.ledgers import build_entry, build_record
store = Store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.open()
for batch in range(40):
    names = [f"{sys.argv[2]}_{batch}_{n}" for n in range(20)]
    entries = [build_entry(f"att_{name}", f"req_{name}") for name in names]
    store.insert_batch([*entries, build_entry("att_shared")], [build_record(f"req_{name}") for name in names])
"""


@pytest.mark.slow
def test_processes_that_share_a_database_lose_nothing(tmp_path: Path) -> None:
    """Two begin at once on an empty file and write batch after batch: every row is there, the shared one once."""
    url = sqlite_url(tmp_path / "shared.sqlite3")
    command = [sys.executable, "-c", WRITER, url]
    with (
        subprocess.Popen([*command, "one"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one,
        subprocess.Popen([*command, "two"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as two,
    ):
        for process in (one, two):
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert (one.wait(), two.wait()) == (0, 0)
    store = Store(url)
    store.open()
    (total,) = totals_of(store)
    assert total.attempts == 2 * 40 * 20 + 1
    for name in ("one", "two"):
        assert all(store.find_call(f"req_{name}_{batch}_19") is not None for batch in range(40))


def test_only_the_first_process_makes_the_file(tmp_path: Path) -> None:
    """One that is started again beside others waits for a file that was moved away: it may come back."""
    url = sqlite_url(tmp_path / "ledger.sqlite3")
    with closing(Store(url, first=False)) as later, closing(Store(url)) as first:
        with pytest.raises(StateUnusableError, match="is gone: put it back"):
            later.open()
        with pytest.raises(StateUnusableError):
            totals_of(later)
        assert not (tmp_path / "ledger.sqlite3").exists()
        assert (first.open(), later.open()) == (True, True)
        assert (first.open(), later.open()) == (False, False)


def test_postgres_takes_the_same_tuples() -> None:
    """By position, all columns in the table's order, and a row whose id is there already is left alone."""
    for table in (attempts, calls):
        statement = insert_once(table, postgresql.psycopg.dialect(paramstyle="format"))
        columns = ", ".join(table.columns.keys())
        assert f" {table.name} ({columns}) VALUES (%s" in statement
        assert statement.count("%s") == len(table.columns)
        assert statement.endswith(" ON CONFLICT DO NOTHING")
