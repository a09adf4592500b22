"""How the database is opened: which settings make a commit durable, and whether its schema is ours."""

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url

from gateway.errors import StateUnusableError
from gateway.store.tables import FIRST_REVISION, REVISION

_log = logging.getLogger("tollway.store")


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
    """Bring the database to this version's tables: create them, or migrate an earlier version's.

    Raises StateUnusableError, and leaves the database alone, when another version wrote it that this one cannot read.
    All in one transaction: of several processes that begin at once the first migrates, and the others find it done.
    """
    with engine.connect() as connection:
        if _revision(connection) == REVISION:
            return
    # Only now, since it takes a while; and before the lock is taken, for which others wait.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    known = [each.revision for each in ScriptDirectory.from_config(config).walk_revisions()]
    with writing(engine) as connection:
        found = _revision(connection)
        if found is not None and found not in known:
            msg = (
                f"the ledger's database has schema version {found}, this gateway knows {known[-1]} to {known[0]}; "
                "use the gateway that wrote it, or another database"
            )
            raise StateUnusableError(msg)
        config.attributes["connection"] = connection
        if found == FIRST_REVISION and not inspect(connection).has_table("alembic_version"):
            command.stamp(config, found)
        command.upgrade(config, REVISION)
    if found not in (None, REVISION):
        _log.info("the ledger's database was migrated from schema version %s to %s", found, REVISION)


def _revision(connection: Connection) -> str | None:
    """Return the revision of a database; None: it is empty."""
    tables = inspect(connection)
    query = None
    if tables.has_table("alembic_version"):
        query = "SELECT version_num FROM alembic_version"
    elif tables.has_table("schema_version"):
        # Written before there were migrations.
        query = "SELECT version FROM schema_version"
    return None if query is None else str(connection.exec_driver_sql(query).scalar_one()).zfill(4)
