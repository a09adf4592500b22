"""The file of a database is the same, another, or gone."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gateway.store.database_file import DatabaseFile, FileState


def vacuum(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM rows")
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def write_over(path: Path) -> None:
    path.write_bytes(b"hello\n")


def put_another_there(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize(
    ("change", "state"),
    [(vacuum, "same"), (cut, "other"), (write_over, "other"), (put_another_there, "other"), (os.unlink, "gone")],
)
def test_database_file_is_distinguished_from_another(
    change: Callable[[Path], None], state: FileState, tmp_path: Path
) -> None:
    """One that VACUUM made shorter stays the same: its log must not be taken from under the other processes."""
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE rows (value)")
        database.execute("INSERT INTO rows VALUES (randomblob(1000000))")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file = DatabaseFile(path)
    file.hold()
    try:
        before = path.stat().st_size
        change(path)
        assert state == "gone" or path.stat().st_size <= before
        assert file.state() == state
    finally:
        file.release()
