"""How the database is opened: which settings make a commit durable, and whether its schema is ours."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, make_url, select

from gateway.store.tables import SCHEMA_VERSION, metadata, schema_version


class SchemaMismatch(RuntimeError):  # noqa: N818 - names the state, as the message does
    """The database was written by another version of the gateway. The message says which."""


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{path}"


def make_engine(url: str, *, busy_timeout_s: float) -> Engine:
    """Make an engine; connects to nothing yet."""
    on_sqlite = make_url(url).get_backend_name() == "sqlite"
    engine = create_engine(
        url,
        # Parameters by position, so that a row is a tuple.
        paramstyle="qmark" if on_sqlite else "format",
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )
    if on_sqlite:

        def configure(connection: Any, _record: object) -> None:
            connection.execute(f"PRAGMA busy_timeout={round(busy_timeout_s * 1000)}")
            # Readers and the one writer do not block each other.
            _use_wal(connection, busy_timeout_s)
            # A commit must be on the disk when it returns, for then the journal forgets the lines. WAL's usual
            # NORMAL would lose the last commits in a power cut.
            connection.execute("PRAGMA synchronous=FULL")
            # The driver begins no transactions of its own; see ``writing``.
            connection.isolation_level = None

        event.listen(engine, "connect", configure)
    return engine


def _use_wal(connection: sqlite3.Connection, busy_timeout_s: float) -> None:
    """Change the file's mode. Of several processes that do so at once on a new file, SQLite refuses all but one."""
    give_up_at_s = time.monotonic() + busy_timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= give_up_at_s:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open one transaction that writes; it is committed, durably, when the context is left without an error.

    On SQLite it has the write lock from its beginning, so it waits its turn among other processes (``busy_timeout_s``)
    and cannot fail half-way because another wrote in between.
    """
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection


def prepare_schema(engine: Engine) -> None:
    """Create the tables in an empty database, or check that they are this version's. Raises SchemaMismatch."""
    with writing(engine) as connection:
        if not inspect(connection).has_table(schema_version.name):
            metadata.create_all(connection)
            connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
        found = connection.execute(select(schema_version.c.version)).scalar_one_or_none()
    if found != SCHEMA_VERSION:
        msg = (
            f"the ledger's database has schema version {found}, this gateway needs {SCHEMA_VERSION}; "
            "use the gateway that wrote it, or another database"
        )
        raise SchemaMismatch(msg)
