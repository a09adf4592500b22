"""What is asked of the database: put a batch in once, find a call, sum up.

Blocking, so never on the event loop; any thread may call. When rows are written, and what happens while the database
is away, is the ledger's part.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, RowMapping, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError

from gateway.store.engine import make_engine, prepare_schema
from gateway.store.tables import attempts, calls
from gateway.types import CallRecord, LedgerEntry, Usage

_USAGE_COLUMNS = tuple(name for name in Usage.__struct_fields__ if name != "origin")


class Totals(Struct, frozen=True, kw_only=True):
    """Sums over the attempts of one target with one outcome."""

    target_id: str
    outcome: str
    attempts: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nano_usd: int


class Store:
    """The ledger's rows in one database."""

    def __init__(self, url: str, *, busy_timeout_s: float = 5.0) -> None:
        """Remember where the database is; ``busy_timeout_s``: how long SQLite waits for another writer."""
        self._engine = make_engine(url, busy_timeout_s=busy_timeout_s)

    def open(self) -> None:
        """Create the tables, or check them. Raises SchemaMismatch."""
        prepare_schema(self._engine)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def insert_batch(self, entries: Sequence[LedgerEntry], records: Sequence[CallRecord]) -> None:
        """Insert all in one durable transaction; a row whose id is there already is left as it is.

        Raises ValueError when a row itself cannot be stored (none of the batch is then); any other exception means
        that the database cannot be written to at present.
        """
        try:
            with self._engine.begin() as connection:
                _insert(connection, attempts, [_attempt_row(entry) for entry in entries])
                _insert(connection, calls, [_shallow(record) for record in records])
        except (DataError, IntegrityError, OverflowError) as error:
            # Only the class: the text would quote the row.
            msg = f"the database refuses a row: {type(error).__name__}"
            raise ValueError(msg) from None

    def attempts_of(self, call_id: str) -> tuple[LedgerEntry, ...]:
        """Return the attempts of a call by time, whether or not the call has a record."""
        with self._engine.connect() as connection:
            return _attempts_of(connection, call_id)

    def find_call(self, call_id: str) -> tuple[CallRecord, tuple[LedgerEntry, ...]] | None:
        """Return a call and its attempts by time; None when it has no record."""
        with self._engine.connect() as connection:
            row = connection.execute(select(calls).where(calls.c.call_id == call_id)).mappings().first()
            if row is None:
                return None
            return msgspec.convert(_plain(row), CallRecord), _attempts_of(connection, call_id)

    def totals(self, since_ns: int = 0) -> list[Totals]:
        """Sum tokens by class and cost over the attempts started since then (wall clock), by target and outcome."""
        summed = [func.sum(attempts.c[name]).label(name) for name in (*_USAGE_COLUMNS, "cost_nano_usd")]
        group = (attempts.c.target_id, attempts.c.outcome)
        query = (
            select(*group, func.count().label("attempts"), *summed)
            .where(attempts.c.started_at_ns >= since_ns)
            .group_by(*group)
            .order_by(*group)
        )
        with self._engine.connect() as connection:
            # Not strict: Postgres sums 64-bit integers into a Decimal.
            return [msgspec.convert(_plain(row), Totals, strict=False) for row in connection.execute(query).mappings()]


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert(table).on_conflict_do_nothing(), rows)


def _plain(row: RowMapping) -> dict[str, Any]:
    # SQLAlchemy's names are a subclass of str, which msgspec does not take for keys.
    return {str(name): value for name, value in row.items()}


def _shallow(row: Struct) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def _attempt_row(entry: LedgerEntry) -> dict[str, Any]:
    row = _shallow(entry)
    usage = row.pop("usage")
    row.update(_shallow(usage))
    row["usage_origin"] = row.pop("origin")
    return row


def _attempts_of(connection: Connection, call_id: str) -> tuple[LedgerEntry, ...]:
    query = (
        select(attempts).where(attempts.c.call_id == call_id).order_by(attempts.c.started_at_ns, attempts.c.attempt_id)
    )
    return tuple(_entry(_plain(row)) for row in connection.execute(query).mappings())


def _entry(row: dict[str, Any]) -> LedgerEntry:
    usage = {name: row.pop(name) for name in _USAGE_COLUMNS}
    usage["origin"] = row.pop("usage_origin")
    return msgspec.convert({**row, "usage": usage}, LedgerEntry)
