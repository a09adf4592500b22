"""Keep responses with their input for later calls of the same key: encrypted, for a time, and within a size.

One SQLite file for all processes of a gateway, in a thread of its own. Each response is kept with all the items before
it, so that neither deletion nor age breaks a chain that goes on (docs/adr/0011). What cannot be kept is not: the answer
is given all the same, and says so.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from gateway.config.snapshot import KeptResponses
from gateway.errors import ErrorKind, GatewayError, StateUnusableError
from gateway.kept.seal import KEY_BYTES, Seal, UnsealableError
from gateway.store.secret_file import secret_of

log = logging.getLogger("tollway.kept")

FILE = "responses.sqlite"
KEY_FILE = "responses.key"
SWEEP_S = 300.0
"""How much longer than it should something that is too old may lie on the disk of a gateway that runs."""
_PATIENCE_S = 5.0
"""With other processes that write."""
_AT_ONCE = 32
_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (id INTEGER PRIMARY KEY, place BLOB UNIQUE NOT NULL, at_s REAL NOT NULL,
    bytes INTEGER NOT NULL, sealed BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS kept_at ON kept (at_s);
CREATE TABLE IF NOT EXISTS total (bytes INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);
CREATE TRIGGER IF NOT EXISTS kept_added AFTER INSERT ON kept BEGIN UPDATE total SET bytes = bytes + new.bytes; END;
CREATE TRIGGER IF NOT EXISTS kept_gone AFTER DELETE ON kept BEGIN UPDATE total SET bytes = bytes - old.bytes; END;
"""
_ROW_BYTES = 200
"""What a row takes beside its text, about."""
_FAULTS = (OSError, sqlite3.Error, StateUnusableError)
"""Of the state directory."""
_T = TypeVar("_T")


class Kept(Struct, frozen=True):
    """A response, and all the items that it was the answer to (a JSON array)."""

    input: Raw
    response: Raw


_decode = msgspec.json.Decoder(Kept).decode


class ResponseStore:
    """Keeps responses. ``settings`` are those in force; ``wall_ns``: the time of day."""

    def __init__(self, state_dir: Path, settings: Callable[[], KeptResponses], wall_ns: Callable[[], int]) -> None:
        self._state_dir = state_dir
        self._settings = settings
        self._wall_ns = wall_ns
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kept")
        self._connection: sqlite3.Connection | None = None
        self._sealed_by: tuple[bytes, Seal] | None = None
        self._is_failing = False
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._settings().keep_s > 0

    async def keep(self, key_id: str, response_id: str, kept: Kept) -> bool:
        """Keep a response of a key; return whether it is."""
        try:
            is_kept = await self._run(lambda: self._keep(key_id, response_id, kept))
        except _FAULTS as error:
            self._failed(error)
            return False
        self._is_failing = False
        return is_kept

    async def find(self, key_id: str, response_id: str) -> Kept | None:
        """Return a response of a key; None: there is none, or it is another's. Raises GatewayError."""
        return await self._asked(lambda: self._find(key_id, response_id))

    async def forget(self, key_id: str, response_id: str) -> bool:
        """Delete a response of a key; return whether there was one. Raises GatewayError."""
        return await self._asked(lambda: self._forget(key_id, response_id))

    async def start(self) -> None:
        """Delete what is too old, now and from time to time."""
        self._sweeping = asyncio.create_task(self._sweep_again())

    async def stop(self) -> None:
        """Let the thread end; what it was given is done first."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _sweep_again(self) -> None:
        while True:
            with contextlib.suppress(*_FAULTS):
                await self._run(self._sweep)
            await asyncio.sleep(SWEEP_S)

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _asked(self, work: Callable[[], _T]) -> _T:
        try:
            return await self._run(work)
        except _FAULTS as error:
            self._failed(error)
            sentence = "Kept responses cannot be read now; send the whole conversation as 'input'."
            raise GatewayError(ErrorKind.STORAGE_UNAVAILABLE, sentence) from None

    def _failed(self, error: Exception) -> None:
        """Say in the log, once until it goes well again, why nothing is kept."""
        if not self._is_failing:
            log.error("responses are not kept: %s", error)
        self._is_failing = True

    def _seal(self) -> Seal:
        given = self._settings().secret
        secret = secret_of(self._state_dir / KEY_FILE, KEY_BYTES) if given is None else given.value.encode()
        if self._sealed_by is None or self._sealed_by[0] != secret:
            self._sealed_by = secret, Seal(secret)
        return self._sealed_by[1]

    def _database(self) -> sqlite3.Connection:
        """Return the connection. A file that was removed is made again."""
        path = self._state_dir / FILE
        if self._connection is not None and path.exists():
            return self._connection
        self._close()
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
                connection.execute(f"PRAGMA {pragma}")
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _now_s(self) -> float:
        return self._wall_ns() / 1e9

    def _keep(self, key_id: str, response_id: str, kept: Kept) -> bool:
        settings, seal, database = self._settings(), self._seal(), self._database()
        if shutil.disk_usage(self._state_dir).free < settings.min_free_bytes:
            raise OSError("too little is free on the disk of the state directory (storage.min_free_mb)")
        place = seal.place(key_id, response_id)
        sealed = seal.close(msgspec.json.encode(kept), place)
        size = len(sealed) + _ROW_BYTES
        if size > settings.max_bytes:
            return False
        with _transaction(database):
            database.execute("DELETE FROM kept WHERE at_s < ?", (self._now_s() - settings.keep_s,))
            while _total(database) + size > settings.max_bytes:
                oldest = "SELECT id FROM kept ORDER BY at_s, id LIMIT ?"
                if not database.execute(f"DELETE FROM kept WHERE id IN ({oldest})", (_AT_ONCE,)).rowcount:  # noqa: S608 - ours
                    break
            row = (place, self._now_s(), size, sealed)
            database.execute("INSERT INTO kept (place, at_s, bytes, sealed) VALUES (?, ?, ?, ?)", row)
        return True

    def _find(self, key_id: str, response_id: str) -> Kept | None:
        seal = self._seal()
        place = seal.place(key_id, response_id)
        oldest_s = self._now_s() - self._settings().keep_s
        row = (
            self._database()
            .execute("SELECT sealed FROM kept WHERE place = ? AND at_s >= ?", (place, oldest_s))
            .fetchone()
        )
        try:
            return None if row is None else _decode(seal.open(row[0], place))
        except UnsealableError:
            return None

    def _forget(self, key_id: str, response_id: str) -> bool:
        place = self._seal().place(key_id, response_id)
        oldest_s = self._now_s() - self._settings().keep_s
        found = self._database().execute("DELETE FROM kept WHERE place = ? AND at_s >= ?", (place, oldest_s))
        return found.rowcount > 0

    def _sweep(self) -> None:
        """Delete what is too old; what was written of it beside the file goes too."""
        if not (self._state_dir / FILE).exists():
            return
        database = self._database()
        database.execute("DELETE FROM kept WHERE at_s < ?", (self._now_s() - self._settings().keep_s,))
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection):  # type: ignore[no-untyped-def] # noqa: ANN202
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _total(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT bytes FROM total").fetchone()[0])
