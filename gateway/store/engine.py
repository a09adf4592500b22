"""Opens the database: with settings that make a commit durable, and with checks for a file that has gone bad."""

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import NoneType
from typing import Any
from urllib.parse import quote

import msgspec
from sqlalchemy import Connection, create_engine, delete, event, false, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DataError, IntegrityError

from gateway.errors import StateUnusableError
from gateway.store.database_file import DatabaseFile
from gateway.store.failures import DAMAGED, GONE, explain
from gateway.store.tables import refusals

_LONGEST_POLL_S = 0.01
_CHECKED_BYTES = 64_000_000
"""Up to this size a database is read from end to end before it is used: a tenth of a second."""


class Database:
    """One database by URL; what goes wrong with it is a StateUnusableError whose text is for the operator.

    Errors of a single row (DataError, IntegrityError, OverflowError) stay what they are.
    """

    def __init__(self, url: str, *, busy_timeout_s: float, first: bool) -> None:
        """Remember where it is; connects to nothing yet."""
        parsed = make_url(url)
        on_sqlite = parsed.get_backend_name() == "sqlite"
        self._busy_timeout_s = busy_timeout_s
        self._first = first
        self._opened = False
        self.file = DatabaseFile(Path(parsed.database or "")) if on_sqlite else None
        self.engine = create_engine(
            url,
            # Parameters by position, so that a row is a tuple.
            paramstyle="qmark" if on_sqlite else "format",
            json_serializer=lambda value: msgspec.json.encode(value).decode(),
            json_deserializer=msgspec.json.decode,
        )
        event.listen(self.engine, "handle_error", self._explain, retval=True)
        if self.file is not None:
            # For what it knows no adapter of, the driver looks in three places, each time: a sixth of a row.
            sqlite3.register_adapter(NoneType, dict[None, None]().get)  # None for None, without a frame of Python
            sqlite3.register_adapter(bool, int)
            event.listen(self.engine, "do_connect", _open_and_make_none)
            event.listen(self.engine, "connect", self._configure)

    def open(self, prepare: Callable[["Database"], None]) -> bool:
        """Open it, unless it is open; True: it is the first, or another than before. Raises StateUnusableError.

        ``prepare`` is called with what is new. A file is made only by the first process, and only at its start: one
        that vanishes from a running gateway may be put back.
        """
        file = self.file
        if file is None:
            if self._opened:
                return False
        elif self._opened or not self._first:
            if file.held and file.state() == "same":
                return False
            self._let_go(file)
        else:
            _make(file)
        try:
            prepare(self)
            if file is not None:
                self._require_sound(file)
                file.hold()
        except BaseException:
            # Nothing that is bad stays open: the next try may find another file.
            self.engine.dispose()
            raise
        self._opened = True
        return True

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        if self.file is not None:
            self.file.release()
        self._opened = False

    def reading(self) -> AbstractContextManager[Connection]:
        """Open a connection for questions."""
        return self.engine.connect()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open one transaction that writes; it is committed, durably, when the context is left without an error.

        On SQLite it has the write lock from its beginning, so it waits its turn among other processes
        (``busy_timeout_s``) and cannot fail half-way because another wrote in between.
        """
        with self.engine.connect() as connection:
            with connection.begin():
                if self.file is not None:
                    self._take_write_lock(connection, self.file)
                yield connection
            if self.file is not None:
                _require_in_place(self.file)

    def _take_write_lock(self, connection: Connection, file: DatabaseFile) -> None:
        """Begin a transaction that may write, once no other process does.

        SQLite itself waits for up to 100 ms between two looks: a process that writes batch after batch has the lock at
        nearly all of these moments, and another starves for many seconds. So it is looked often, and not in step.
        """
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA busy_timeout=0")
        try:
            _execute_once_free(driver, "BEGIN IMMEDIATE", self._busy_timeout_s)
        except sqlite3.Error as error:
            raise StateUnusableError(explain(error, file.path)) from error
        finally:
            driver.execute(f"PRAGMA busy_timeout={round(self._busy_timeout_s * 1000)}")

    def _let_go(self, file: DatabaseFile) -> None:
        """Close the file that is not at its path any more. Raises StateUnusableError where there is none."""
        if file.held:
            # What its log has belongs into it, wherever it is now.
            with suppress(StateUnusableError), self.reading() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        if not file.path.exists():
            raise StateUnusableError(f"the ledger's database {file.path} {GONE}")
        if file.held:
            file.drop_log()
            self.engine.dispose()
            file.release()

    def _require_sound(self, file: DatabaseFile) -> None:
        """Raise StateUnusableError when it cannot be written, or is small enough to be read whole and is damaged."""
        with self.writing() as connection:
            # SQLite opens what may only be read, too, and says so at the first statement that writes.
            connection.execute(delete(refusals).where(false()))
            if self._first and file.path.stat().st_size <= _CHECKED_BYTES:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
                if found != "ok":
                    raise StateUnusableError(f"the ledger's database {file.path} {DAMAGED}")

    def _explain(self, context: ExceptionContext) -> StateUnusableError | None:
        if context.sqlalchemy_exception is None or isinstance(context.sqlalchemy_exception, DataError | IntegrityError):
            return None
        return StateUnusableError(explain(context.original_exception, self.file.path if self.file else None))

    def _configure(self, connection: sqlite3.Connection, _record: object) -> None:
        if self.file is not None and self.file.held:
            _require_in_place(self.file)
        connection.execute(f"PRAGMA busy_timeout={round(self._busy_timeout_s * 1000)}")
        # Readers and the one writer do not block each other. Of several processes that change a new file's mode at
        # once, SQLite refuses all but one.
        _execute_once_free(connection, "PRAGMA journal_mode=WAL", self._busy_timeout_s)
        # A commit must be on the disk when it returns, for then the journal forgets the lines. WAL's usual NORMAL would
        # lose the last commits in a power cut.
        connection.execute("PRAGMA synchronous=FULL")
        # The driver begins no transactions of its own; see ``writing``.
        connection.isolation_level = None


def _open_and_make_none(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> None:
    """Have the driver open a file that is there, and make none."""
    arguments[0] = f"file:{quote(arguments[0])}?mode=rw"
    options["uri"] = True


def _make(file: DatabaseFile) -> None:
    try:
        file.make()
    except OSError as error:
        msg = f"the ledger's database {file.path} cannot be made: {error.strerror}"
        raise StateUnusableError(msg) from error


def _require_in_place(file: DatabaseFile) -> None:
    if file.held and file.state() != "same":
        raise StateUnusableError(f"the ledger's database {file.path} was removed, replaced or written over")


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _execute_once_free(connection: sqlite3.Connection, statement: str, timeout_s: float) -> None:
    """Try a statement until no other process is in its way. Raises sqlite3.Error, also when one is after that time."""
    give_up_at_s = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute(statement)
        except sqlite3.Error as error:
            if not _is_busy(error) or time.monotonic() >= give_up_at_s:
                raise
            time.sleep(random.uniform(0, _LONGEST_POLL_S))  # noqa: S311 - spreads tries, guards nothing
        else:
            return
