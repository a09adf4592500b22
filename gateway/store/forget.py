"""Deletes old rows, a few at a time, and adds them to sums, so that no total changes.

Each verb is one transaction, short enough that the ledger, which waits for its end, is hardly late. Deleted rows leave
their room in the file to new ones; the file itself does not shrink (``VACUUM`` does that, with the gateway stopped).
Which rows are old is decided in ``accounting.retention``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Table, Text, cast, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.engine import Database
from gateway.store.tables import REFUSED, SUM_KEYS, SUMMED, attempts, calls, refusals, sums

_DAY_NS = 86_400_000_000_000
_SAMPLE_ROWS = 200
_ROW_OVERHEAD_BYTES = 60
"""Headers of a row and its entries in the indexes, about."""


class RowForgetter:
    """Deletes rows of one database. Blocking, so never on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._refused = REFUSED[database.engine.dialect.name]

    def forget_calls(self, before_ns: int, limit: int) -> int:
        """Delete the calls of up to ``limit`` of the oldest attempts from before then; return how many attempts went.

        What they were together is added to the sums of their day, key, model and target.
        """
        with self._database.writing() as connection:
            oldest = (
                select(attempts.c.call_id)
                .where(attempts.c.started_at_ns < before_ns)
                .order_by(attempts.c.started_at_ns)
                .limit(limit)
            )
            call_ids = set(connection.execute(oldest).scalars())
            if not call_ids:
                return 0
            # Only what this transaction deletes is added, whatever other processes delete at the same time.
            these = delete(attempts).where(attempts.c.call_id.in_(call_ids)).returning(*attempts.columns)
            gone = connection.execute(these).mappings().all()
            by_time = sorted(gone, key=lambda row: (row["started_at_ns"], row["attempt_id"]))
            _add(connection, sums, SUM_KEYS, SUMMED, _summed(by_time))
            connection.execute(delete(calls).where(calls.c.call_id.in_(call_ids)))
        return len(gone)

    def forget_refusals(self, before_ns: int, limit: int) -> int:
        """Delete up to ``limit`` of the oldest records of refused calls from before then; return how many went.

        They stay counted, by day, key, kind and status.
        """
        with self._database.writing() as connection:
            oldest = (
                select(calls.c.call_id)
                .where(self._refused, calls.c.received_at_ns < before_ns)
                .order_by(calls.c.received_at_ns)
                .limit(limit)
            )
            named = (calls.c.received_at_ns, calls.c.key_id, calls.c.error_kind, calls.c.status)
            these = delete(calls).where(calls.c.call_id.in_(oldest)).returning(*named)
            gone = connection.execute(these).mappings().all()
            _count(connection, ((row["received_at_ns"], row, 1) for row in gone))
        return len(gone)

    def sum_up_refusals(self, before_ns: int, limit: int) -> int:
        """Turn up to ``limit`` counts of minutes before then into counts of days; return how many went."""
        with self._database.writing() as connection:
            minutes = select(refusals.c.refused_id).where(
                refusals.c.refused_id.not_like("[%"), refusals.c.since_ns < before_ns
            )
            these = delete(refusals).where(refusals.c.refused_id.in_(minutes.limit(limit)))
            gone = connection.execute(these.returning(*refusals.columns)).mappings().all()
            _count(connection, ((row["since_ns"], row, row["calls"]) for row in gone))
        return len(gone)

    def refusal_bytes(self) -> int:
        """Return about how many bytes the records of refused calls take, from the latest of them and their number."""
        with self._database.reading() as connection:
            number = connection.execute(select(func.count()).select_from(calls).where(self._refused)).scalar_one()
            # As text, so that JSON has the length at which it is stored.
            columns = [cast(column, Text) for column in calls.columns]
            latest = select(*columns).where(self._refused).order_by(calls.c.received_at_ns.desc()).limit(_SAMPLE_ROWS)
            sample = connection.execute(latest).all()
        if not sample:
            return 0
        # The id is in its index too.
        size = sum(_ROW_OVERHEAD_BYTES + len(row[0]) + sum(map(_bytes, row)) for row in sample)
        return int(number) * size // len(sample)

    def used_bytes(self) -> int:
        """Return the size of the database without the room that deleted rows have left. For SQLite."""
        with self._database.reading() as connection:
            pages, free, page_bytes = (
                int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * page_bytes


def _summed(rows: Iterable[RowMapping]) -> Mapping[tuple[Any, ...], Counter[str]]:
    """Add up attempts, given by time; a call is counted with the last of its attempts."""
    added: dict[tuple[Any, ...], Counter[str]] = {}
    last_of_call: dict[str, tuple[Any, ...]] = {}
    for row in rows:
        day_ns = row["started_at_ns"] // _DAY_NS * _DAY_NS
        key = (day_ns, row["key_id"], row["team_id"] or "", *(row[name] for name in SUM_KEYS[3:]))
        numbers = added.setdefault(key, Counter())
        numbers["attempts"] += 1
        for name in SUMMED[2:]:
            numbers[name] += row[name]
        last_of_call[row["call_id"]] = key
    for key in last_of_call.values():
        added[key]["calls"] += 1
    return added


def _count(connection: Connection, counted: Iterable[tuple[int, RowMapping, int]]) -> None:
    """Add refused calls to the counts of their days."""
    days: dict[tuple[Any, ...], Counter[str]] = {}
    for at_ns, row, number in counted:
        parts = (at_ns // _DAY_NS * _DAY_NS, row["key_id"], row["error_kind"], row["status"])
        key = (msgspec.json.encode(parts).decode(), *parts)
        days.setdefault(key, Counter())["calls"] += number
    _add(connection, refusals, ("refused_id", "since_ns", "key_id", "error_kind", "status"), ("calls",), days)


def _add(
    connection: Connection,
    table: Table,
    keys: tuple[str, ...],
    numbers: tuple[str, ...],
    added: Mapping[tuple[Any, ...], Counter[str]],
) -> None:
    """Add numbers to the rows with these keys, which are made where there are none."""
    if not added:
        return
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    insert = make(table)
    more = {name: table.c[name] + insert.excluded[name] for name in numbers}
    statement = insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=more)
    rows = [
        {**dict(zip(keys, key, strict=True)), **{name: counts[name] for name in numbers}}
        for key, counts in added.items()
    ]
    connection.execute(statement, rows)


def _bytes(value: str | None) -> int:
    return 1 if value is None else len(value)
