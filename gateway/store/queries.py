"""The statements that the database is sent: insert a batch once, find a call, sum up.

Blocking, so never on the event loop; any thread may call. When rows are written, and what happens while the database
is away, is the ledger's part.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple
from sqlalchemy import JSON, Connection, Dialect, RowMapping, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError

from gateway.store.engine import Database
from gateway.store.forget import RowForgetter
from gateway.store.schema import prepare_schema
from gateway.store.tables import attempts, calls, refusals
from gateway.tariff import Amounts
from gateway.trace import Sums, Trace, TracedCall
from gateway.types import CallRecord, LedgerEntry, RefusedCalls

_USAGE_COLUMNS = Amounts.__struct_fields__
_USAGE_AT = LedgerEntry.__struct_fields__.index("usage")
_JSON_AT = tuple(index for index, column in enumerate(calls.columns) if isinstance(column.type, JSON))
_json = msgspec.json.Encoder().encode
_CALL_COLUMNS = tuple(name for name in TracedCall.__struct_fields__ if name not in Sums.__struct_fields__)
_MAX_CALLS_OF_A_TRACE = 1000


class Store:
    """The ledger's rows in one database."""

    def __init__(self, url: str, *, busy_timeout_s: float = 5.0, first: bool = True) -> None:
        """Remember where the database is; ``busy_timeout_s``: how long SQLite waits for another writer.

        ``first``: of all that use it; this one makes the file, and looks for damage if it is small enough for that.
        """
        self._database = Database(url, busy_timeout_s=busy_timeout_s, first=first)
        self.forgetter = RowForgetter(self._database)
        """Deletes old rows."""
        dialect = self._database.engine.dialect
        self._insert_attempts = insert_once(attempts, dialect)
        self._insert_calls = insert_once(calls, dialect)
        self._insert_refusals = insert_once(refusals, dialect)

    def open(self) -> bool:
        """Open the database, unless it is open; True: it is the first, or another than before.

        Creates the tables, or migrates an earlier version's. Raises StateUnusableError.
        """
        return self._database.open(prepare_schema)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def insert_batch(
        self, entries: Sequence[LedgerEntry], records: Sequence[CallRecord], refused: Sequence[RefusedCalls] = ()
    ) -> None:
        """Insert all in one durable transaction; a row whose id is there already is left as it is.

        Raises ValueError when a row itself cannot be stored (none of the batch is then), and StateUnusableError when
        the database cannot be written to at present.
        """
        try:
            attempt_rows, call_rows = list(map(_attempt_row, entries)), list(map(_call_row, records))
            with self._database.writing() as connection:
                if attempt_rows:
                    connection.exec_driver_sql(self._insert_attempts, attempt_rows)
                if call_rows:
                    connection.exec_driver_sql(self._insert_calls, call_rows)
                if refused:
                    connection.exec_driver_sql(self._insert_refusals, list(map(astuple, refused)))
        except (DataError, IntegrityError, OverflowError) as error:
            # Only the class: the text would quote the row.
            msg = f"the database refuses a row: {type(error).__name__}"
            raise ValueError(msg) from None

    def attempts_of(self, call_id: str) -> tuple[LedgerEntry, ...]:
        """Return the attempts of a call by time, whether or not the call has a record."""
        with self._database.reading() as connection:
            return _attempts_of(connection, call_id)

    def find_call(self, call_id: str) -> tuple[CallRecord, tuple[LedgerEntry, ...]] | None:
        """Return a call and its attempts by time; None when it has no record."""
        with self._database.reading() as connection:
            row = connection.execute(select(calls).where(calls.c.call_id == call_id)).mappings().first()
            if row is None:
                return None
            return msgspec.convert(_plain(row), CallRecord), _attempts_of(connection, call_id)

    def find_trace(self, trace_id: str, key_id: str) -> Trace | None:
        """Return the calls of a trace by this key and their sums; None when there is none. Lists the first thousand."""
        mine = (attempts.c.trace_id == trace_id, attempts.c.key_id == key_id, attempts.c.call_id == calls.c.call_id)
        summed = [func.sum(attempts.c[name]).label(name) for name in Sums.__struct_fields__]
        totals = select(func.count(attempts.c.call_id.distinct()).label("call_count"), *summed).where(*mine)
        listed = (
            select(*(calls.c[name] for name in _CALL_COLUMNS), *summed)
            .where(*mine)
            .group_by(calls.c.call_id)
            .order_by(calls.c.received_at_ns, calls.c.call_id)
            .limit(_MAX_CALLS_OF_A_TRACE)
        )
        with self._database.reading() as connection:
            total = _plain(connection.execute(totals).mappings().one())
            if not (call_count := total.pop("call_count")):
                return None
            # Not strict, as in ``totals``.
            return Trace(
                trace_id=trace_id,
                calls=tuple(
                    msgspec.convert(_plain(row), TracedCall, strict=False)
                    for row in connection.execute(listed).mappings()
                ),
                call_count=call_count,
                total=msgspec.convert(total, Sums, strict=False),
            )


def insert_once(table: Table, dialect: Dialect) -> str:
    """Return the statement that inserts a row, given as a tuple of all columns, unless its id is there already."""
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    return str(insert(table).on_conflict_do_nothing().compile(dialect=dialect))


def _plain(row: RowMapping) -> dict[str, Any]:
    # SQLAlchemy's names are a subclass of str, which msgspec does not take for keys.
    return {str(name): value for name, value in row.items()}


def _attempt_row(entry: LedgerEntry) -> tuple[Any, ...]:
    row = astuple(entry)
    return *row[:_USAGE_AT], *astuple(entry.usage), *row[_USAGE_AT + 1 :]


def _call_row(record: CallRecord) -> tuple[Any, ...]:
    row = list(astuple(record))
    for index in _JSON_AT:
        row[index] = _json(row[index]).decode()
    return tuple(row)


def _attempts_of(connection: Connection, call_id: str) -> tuple[LedgerEntry, ...]:
    query = (
        select(attempts).where(attempts.c.call_id == call_id).order_by(attempts.c.started_at_ns, attempts.c.attempt_id)
    )
    return tuple(_entry(_plain(row)) for row in connection.execute(query).mappings())


def _entry(row: dict[str, Any]) -> LedgerEntry:
    usage = {name: row.pop(name) for name in _USAGE_COLUMNS}
    usage["origin"] = row.pop("usage_origin")
    return msgspec.convert({**row, "usage": usage}, LedgerEntry)
