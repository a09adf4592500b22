"""Rows are deleted, and what they came to stays."""

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from gateway.store.database_file import sqlite_url
from gateway.store.queries import Store
from gateway.tariff import Amounts, Usage
from gateway.types import CallRecord, LedgerEntry, RefusedCalls
from tests.ground.totals import Totals, totals_of
from tests.unit.accounting.ledgers import STARTED_AT_NS, build_entry, build_record

DAY_NS = 86_400_000_000_000
TODAY_NS = STARTED_AT_NS // DAY_NS * DAY_NS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Open an empty database."""
    with closing(Store(sqlite_url(tmp_path / "ledger.sqlite3"), busy_timeout_s=0.01)) as store:
        store.open()
        yield store


def rows(store: Store, query: str) -> list[tuple[Any, ...]]:
    with store._database.engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def fill(store: Store, calls: int) -> None:
    """Write calls of ten days, of one to three attempts each, over keys, teams, routes, targets and outcomes."""
    choose = random.Random(5)
    entries, records = [], []
    for number in range(calls):
        began_ns = TODAY_NS - choose.randrange(10 * DAY_NS)
        ids = [f"att_{number}_{n}" for n in range(choose.randint(1, 3))]
        entries += [
            build_entry(
                attempt_id,
                f"req_{number}",
                started_at_ns=began_ns + n,
                key_id=choose.choice(["one", "two"]),
                team_id=choose.choice([None, "blue"]),
                route=choose.choice(["auto", "fast"]),
                target_id=choose.choice(["small", "big"]),
                outcome=choose.choice(["ok", "cut"]),
                usage=Usage(**{name: choose.randrange(1000) for name in Amounts.__struct_fields__}),
                cost_nano_usd=choose.randrange(10**12),
            )
            for n, attempt_id in enumerate(ids)
        ]
        records.append(build_record(f"req_{number}", *ids, received_at_ns=began_ns))
    store.insert_batch(entries, records)


def forget(store: Store, before_ns: int, limit: int = 7) -> int:
    gone = 0
    while step := store.forgetter.forget_calls(before_ns, limit):
        gone += step
    return gone


@pytest.mark.parametrize("days", [0, 1, 5, 9, 11])
def test_totals_stay_whatever_is_deleted(store: Store, days: int) -> None:
    """By target and outcome, in all and since any day; and the rows that were to go are gone."""
    fill(store, 300)
    since = [0, *(TODAY_NS - n * DAY_NS for n in range(12))]

    def totals() -> list[list[Totals]]:
        return [totals_of(store, each) for each in since]

    before, attempts = totals(), rows(store, "SELECT count(*) FROM attempts")[0][0]
    calls = rows(store, "SELECT count(*) FROM calls")[0][0]
    gone = forget(store, TODAY_NS - days * DAY_NS)
    assert totals() == before
    assert rows(store, "SELECT count(*) FROM attempts") == [(attempts - gone,)]
    left = f"SELECT count(*) FROM attempts WHERE started_at_ns < {TODAY_NS - days * DAY_NS}"  # noqa: S608 - our own
    assert rows(store, left) == [(0,)]
    ((counted, tried),) = rows(store, "SELECT coalesce(sum(calls), 0), coalesce(sum(attempts), 0) FROM sums")
    assert (rows(store, "SELECT count(*) FROM calls")[0][0] + counted, tried) == (calls, gone)


def test_sums_are_by_day_key_team_route_target_model_and_outcome(store: Store) -> None:
    """Two calls of a day in one row; a call of two attempts is counted with the last of them."""
    day_ns = TODAY_NS - DAY_NS
    one = build_entry("att_1", "req_1", started_at_ns=day_ns, cost_nano_usd=1)
    two = build_entry("att_2", "req_2", started_at_ns=day_ns + 5, outcome="cut", cost_nano_usd=10)
    three = build_entry("att_3", "req_2", started_at_ns=day_ns + DAY_NS - 1, cost_nano_usd=100)
    other = build_entry("att_4", "req_3", started_at_ns=day_ns - 1, team_id="blue", cost_nano_usd=1000)
    records = [build_record("req_1", "att_1"), build_record("req_2", "att_2", "att_3"), build_record("req_3", "att_4")]
    store.insert_batch([three, two, one, other], records)
    assert forget(store, TODAY_NS) == 4
    name = ("demo", "", "auto", "small", "small-1")
    query = (
        "SELECT day_ns, key_id, team_id, route, target_id, upstream_model, outcome, calls, attempts, output_tokens, "
        "cost_nano_usd FROM sums ORDER BY day_ns, outcome"
    )
    assert rows(store, query) == [
        (day_ns - DAY_NS, "demo", "blue", *name[2:], "ok", 1, 1, 5, 1000),
        (day_ns, *name, "cut", 0, 1, 5, 10),
        (day_ns, *name, "ok", 2, 2, 10, 101),
    ]


def test_deleted_in_steps_or_at_once_is_the_same(store: Store, tmp_path: Path) -> None:
    sums = []
    for limit in (1, 10_000):
        with closing(Store(sqlite_url(tmp_path / f"{limit}.sqlite3"))) as each:
            each.open()
            fill(each, 100)
            forget(each, TODAY_NS, limit)
            sums.append(sorted(rows(each, "SELECT * FROM sums")))
    assert sums[0] == sums[1]
    assert len(sums[0]) > 50


def test_deletion_that_fails_changes_nothing(store: Store) -> None:
    """Sums and rows go in one transaction."""
    fill(store, 20)
    before = totals_of(store)

    def die(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("DELETE FROM calls"):
            raise ConnectionResetError

    event.listen(store._database.engine, "before_cursor_execute", die)
    with pytest.raises(ConnectionResetError):
        forget(store, TODAY_NS)
    assert totals_of(store) == before
    assert rows(store, "SELECT count(*) FROM sums") == [(0,)]


def refuse(store: Store, number: int, *, at_ns: int, key_id: str | None = None, status: int = 401) -> None:
    record = build_record(
        f"req_{number}", received_at_ns=at_ns, key_id=key_id, outcome="refused", status=status, error_kind="some"
    )
    store.insert_batch([], [record])


def test_refused_calls_are_deleted_and_stay_counted_by_day(store: Store) -> None:
    """The oldest first, whatever their number; a call that was tried is not one of them."""
    for number in range(30):
        refuse(store, number, at_ns=TODAY_NS - number * DAY_NS // 10, key_id="one" if number % 2 else None)
    store.insert_batch([build_entry("att_1", "req_old", started_at_ns=1)], [build_record("req_old", "att_1")])
    assert store.forgetter.forget_refusals(TODAY_NS - DAY_NS, 5) == 5
    assert store.find_call("req_29") is None
    assert store.find_call("req_24") is not None
    while store.forgetter.forget_refusals(TODAY_NS - DAY_NS, 4):
        pass
    assert store.find_call("req_11") is None
    assert store.find_call("req_10") is not None
    assert store.find_call("req_old") is not None
    query = "SELECT since_ns, key_id, error_kind, status, calls FROM refusals ORDER BY since_ns, key_id"
    assert rows(store, query) == [
        (TODAY_NS - 3 * DAY_NS, None, "some", 401, 4),
        (TODAY_NS - 3 * DAY_NS, "one", "some", 401, 5),
        (TODAY_NS - 2 * DAY_NS, None, "some", 401, 5),
        (TODAY_NS - 2 * DAY_NS, "one", "some", 401, 5),
    ]


def test_counts_of_minutes_become_counts_of_days(store: Store) -> None:
    """The number of refused calls stays; a count that is of a day already is left as it is."""
    minutes = [
        RefusedCalls(
            refused_id=f"ref_{number}",
            since_ns=TODAY_NS - 2 * DAY_NS + number * 60_000_000_000,
            key_id=None,
            error_kind="authentication",
            status=401,
            calls=number,
        )
        for number in range(1440 + 10)
    ]
    store.insert_batch([], [], minutes)
    refuse(store, 1, at_ns=TODAY_NS - 2 * DAY_NS)
    store.forgetter.forget_refusals(TODAY_NS, 10)
    while store.forgetter.sum_up_refusals(TODAY_NS - DAY_NS, 100):
        pass
    counts = Counter(dict(rows(store, "SELECT since_ns, sum(calls) FROM refusals GROUP BY since_ns")))
    assert counts[TODAY_NS - 2 * DAY_NS] == sum(range(1440)) + 1
    assert len(counts) == 1 + 10
    assert counts.total() == sum(range(1450)) + 1


def test_size_of_refusals_is_about_what_they_take(store: Store) -> None:
    """Compared with what the file has grown by, within a third."""
    empty = store.forgetter.used_bytes()
    assert store.forgetter.refusal_bytes() == 0
    records = [
        build_record(f"req_{number:032}", outcome="refused", status=401, error_kind="authentication", target_id=None)
        for number in range(5000)
    ]
    store.insert_batch([], records)
    taken = store.forgetter.used_bytes() - empty
    assert 0.67 * taken < store.forgetter.refusal_bytes() < 1.5 * taken


def test_room_of_deleted_rows_is_used_again(store: Store, tmp_path: Path) -> None:
    """The file does not grow while as much is deleted as comes: it has its size after three rounds, and keeps it."""

    def size() -> int:
        with store._database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return (tmp_path / "ledger.sqlite3").stat().st_size

    sizes = []
    for _ in range(7):
        fill(store, 400)
        sizes.append(size())
        used = store.forgetter.used_bytes()
        forget(store, TODAY_NS, 100)
        assert store.forgetter.used_bytes() < used / 2
    assert set(sizes[3:]) == {sizes[3]}
    assert sizes[3] < 1.2 * sizes[0]


def test_oldest_rows_are_found_by_an_index(store: Store) -> None:
    """However long the ledger is, a step is short: no table is read from end to end."""
    fill(store, 5)
    refuse(store, 100, at_ns=1)
    asked: list[tuple[str, Any]] = []
    event.listen(store._database.engine, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
    store.forgetter.forget_calls(TODAY_NS, 3)
    store.forgetter.forget_refusals(TODAY_NS, 3)
    store.forgetter.refusal_bytes()
    statements = [(sql, values) for sql, values in asked if sql.startswith(("SELECT", "DELETE"))]
    assert len(statements) == 6
    with store._database.engine.connect() as connection:
        for sql, values in statements:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
            assert all("USING" in step for step in plan if step.startswith(("SCAN", "SEARCH"))), (sql, plan)


WRITER = """
import sys
from gateway.store.queries import Store
from tests.unit.store.test_forget import written
store = Store(sys.argv[1])
store.open()
for batch in range(30):
    store.insert_batch(*written(sys.argv[2], batch))
"""
FORGETTER = """
import select, sys
from gateway.store.queries import Store
from tests.unit.store.test_forget import TODAY_NS
store = Store(sys.argv[1])
store.open()
while not select.select([sys.stdin], [], [], 0.001)[0]:
    store.forgetter.forget_calls(TODAY_NS, 20)
"""


def written(writer: str, batch: int) -> tuple[list[LedgerEntry], list[CallRecord]]:
    """Make what a writer writes in one batch: 20 calls of three days, keys and targets, half of them old enough."""
    choose = random.Random(f"{writer} {batch}")
    entries = [
        build_entry(
            f"att_{writer}_{batch}_{number}",
            f"req_{writer}_{batch}_{number}",
            started_at_ns=TODAY_NS + (number % 2 - 1) * DAY_NS - choose.randrange(3) * DAY_NS + number,
            key_id=choose.choice(["one", "two"]),
            target_id=choose.choice(["small", "big"]),
            usage=Usage(input_tokens=choose.randrange(1000), output_tokens=choose.randrange(1000)),
            cost_nano_usd=choose.randrange(10**12),
        )
        for number in range(20)
    ]
    return entries, [build_record(each.call_id, each.attempt_id) for each in entries]


@pytest.mark.slow
def test_totals_stay_while_processes_write_and_delete(tmp_path: Path) -> None:
    """Two write and two delete at once in one database: sums and rows left are together what was written."""
    url = sqlite_url(tmp_path / "shared.sqlite3")
    with closing(Store(url)) as store:
        store.open()
        run = partial(subprocess.Popen, stdin=subprocess.PIPE)
        with (
            run([sys.executable, "-c", FORGETTER, url]) as this,
            run([sys.executable, "-c", FORGETTER, url]) as that,
            run([sys.executable, "-c", WRITER, url, "a"]) as one,
            run([sys.executable, "-c", WRITER, url, "b"]) as two,
        ):
            assert (one.wait(), two.wait()) == (0, 0)
            for process in (this, that):
                process.communicate(b"\n")
            assert (this.returncode, that.returncode) == (0, 0)
        names = "key_id, target_id"
        added = ("calls", "input_tokens", "output_tokens", "cost_nano_usd")
        day = f"started_at_ns / {DAY_NS} * {DAY_NS}"
        kept = (
            f"SELECT {day}, {names}, count(*), sum(input_tokens), sum(output_tokens), sum(cost_nano_usd) "  # noqa: S608
            f"FROM attempts GROUP BY {day}, {names}"
        )
        gone = f"SELECT day_ns, {names}, {', '.join(added)} FROM sums"  # noqa: S608 - our own names
        assert rows(store, gone)
        found: dict[tuple[Any, ...], Counter[str]] = {}
        for *key, calls, tokens_in, tokens_out, cost in rows(store, kept) + rows(store, gone):
            found.setdefault(tuple(key), Counter()).update(
                dict(zip(added, (calls, tokens_in, tokens_out, cost), strict=True))
            )
        expected: dict[tuple[Any, ...], Counter[str]] = {}
        for each in (entry for writer in "ab" for batch in range(30) for entry in written(writer, batch)[0]):
            numbers = (1, each.usage.input_tokens, each.usage.output_tokens, each.cost_nano_usd)
            key = (each.started_at_ns // DAY_NS * DAY_NS, each.key_id, each.target_id)
            expected.setdefault(key, Counter()).update(dict(zip(added, numbers, strict=True)))
        assert found == expected
        assert rows(store, "SELECT (SELECT count(*) FROM attempts) - (SELECT count(*) FROM calls)") == [(0,)]
