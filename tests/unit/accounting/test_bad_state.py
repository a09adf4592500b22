"""State that goes bad under a running ledger is reported once, loses no row, and is used again once it is repaired."""

import contextlib
import os
import resource
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from gateway.accounting.ledger import JournalLedger
from gateway.errors import GatewayError, StateUnusableError
from tests.ground.waiting import until
from tests.unit.accounting.ledgers import (
    applier_pid,
    build_dispatch,
    build_entry,
    make_call,
    open_store,
    running_ledger,
    segments,
)

NAMES = ("ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm")


class Ground:
    """A ledger that has made a hundred calls, and a sound copy of its database as it was after the first fifty."""

    def __init__(self, ledger: JournalLedger, state: Path, backup: Path) -> None:
        self.ledger = ledger
        self.state = state
        self.backup = backup
        self.alarms: list[str] = []
        self.calls = 0

    @property
    def database(self) -> Path:
        return self.state / NAMES[0]

    @property
    def applier_pid(self) -> int:
        return applier_pid(self.ledger)

    def make_calls(self, number: int) -> None:
        for each in range(self.calls, self.calls + number):
            make_call(self.ledger, each)
        self.calls += number

    def put_back(self) -> None:
        """Have the copy take the database's place."""
        shutil.copy(self.backup, self.backup.with_suffix(".copy"))
        self.backup.with_suffix(".copy").replace(self.database)

    async def told(self, words: str) -> None:
        await until(lambda: any(words in alarm for alarm in self.alarms))

    def check(self) -> None:
        """Check that the file at the path has every call once, and is whole."""
        with closing(sqlite3.connect(self.database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            for table in ("attempts", "calls"):
                count = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - our own
                assert count == (self.calls,)


@asynccontextmanager
async def ground(tmp_path: Path, **options: float) -> AsyncIterator[Ground]:
    state, backup = tmp_path / "state", tmp_path / "backup.sqlite3"
    state.mkdir()
    alarms: list[str] = []
    async with running_ledger(state, fsync_interval_s=0.01, alarm=alarms.append, **options) as ledger:
        here = Ground(ledger, state, backup)
        here.alarms = alarms
        here.make_calls(50)
        await ledger.flush()
        with closing(sqlite3.connect(here.database)) as source, closing(sqlite3.connect(backup)) as copy:
            source.backup(copy)
        here.make_calls(50)
        await ledger.flush()
        yield here


def remove(here: Ground) -> None:
    for name in NAMES:
        (here.state / name).unlink()


def move_away(here: Ground) -> None:
    here.database.rename(here.state.with_name("away"))


def move_back(here: Ground) -> None:
    here.state.with_name("away").rename(here.database)


def replace_by(here: Ground, content: bytes) -> None:
    fresh = here.state.with_name("fresh")
    fresh.write_bytes(content)
    fresh.replace(here.database)


def replace_by_damaged(here: Ground) -> None:
    content = bytearray(here.backup.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    replace_by(here, bytes(content))


def replace_by_directory(here: Ground) -> None:
    remove(here)
    here.database.mkdir()


def remove_directory_of_that_name(here: Ground) -> None:
    here.database.rmdir()
    here.put_back()


def write_over(here: Ground) -> None:
    here.database.write_text("These are my notes.\n" * 50_000)


def cut(here: Ground) -> None:
    os.truncate(here.database, 0)


def let_write_nothing(here: Ground) -> None:
    resource.prlimit(here.applier_pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def let_write(here: Ground) -> None:
    resource.prlimit(here.applier_pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def rename_directory(here: Ground) -> None:
    here.state.rename(here.state.with_name("away"))


def rename_directory_back(here: Ground) -> None:
    while here.state.with_name("away").exists():
        shutil.rmtree(here.state, ignore_errors=True)
        with contextlib.suppress(OSError):  # the journal was written anew in between
            here.state.with_name("away").rename(here.state)


def remove_directory(here: Ground) -> None:
    shutil.rmtree(here.state, ignore_errors=True)  # the journal may be written anew before the last of it is gone


GOES_BAD: dict[str, tuple[Callable[[Ground], None], str, Callable[[Ground], None]]] = {
    "removed": (remove, "is gone: put it back", Ground.put_back),
    "moved away": (move_away, "is gone: put it back", move_back),
    "replaced by a text": (lambda here: replace_by(here, b"notes " * 999), "is not an SQLite", Ground.put_back),
    "replaced by a damaged one": (replace_by_damaged, "is damaged: save what can be read", Ground.put_back),
    "replaced by a directory": (replace_by_directory, "is not a file", remove_directory_of_that_name),
    "full": (let_write_nothing, "its disk is full or fails", let_write),
    "its directory is renamed": (rename_directory, "is gone: put it back", rename_directory_back),
    "its directory is removed": (remove_directory, "is gone: put it back", Ground.put_back),
}


@pytest.mark.parametrize("kind", GOES_BAD)
async def test_bad_database_is_reported_and_loses_no_row(kind: str, tmp_path: Path) -> None:
    """Calls go on meanwhile; when it is good again, or a copy of before is there, every row is in it by itself."""
    harm, words, mend = GOES_BAD[kind]
    async with ground(tmp_path) as here:
        harm(here)
        here.make_calls(100)
        await here.told(words)
        here.make_calls(100)
        assert sum(words in alarm for alarm in here.alarms) == 1
        mend(here)
        await here.ledger.flush()
        here.check()
        here.make_calls(100)
        await here.ledger.flush()
        here.check()
    here.check()


@pytest.mark.parametrize("content", ["copy of before", "nothing"])
async def test_replaced_database_gets_what_the_journal_has(content: str, tmp_path: Path) -> None:
    """Another file under a running ledger: the log of the old one is not read into it, and no row is missing in it."""
    async with ground(tmp_path) as here:
        if content == "nothing":
            here.backup.write_bytes(b"")
        here.put_back()
        here.make_calls(100)
        await here.told("is another than before")
        await here.ledger.flush()
        here.check()
    here.check()
    assert len(here.alarms) == 1 or "was removed, replaced" in here.alarms[0]


async def test_database_cut_to_nothing_is_filled_again(tmp_path: Path) -> None:
    async with ground(tmp_path) as here:
        cut(here)
        await here.told("is another than before")
        here.make_calls(100)
        await here.ledger.flush()
        here.check()


async def test_database_that_is_written_over_is_noticed(tmp_path: Path) -> None:
    """In its place, by a text: it may still be whole in its log; if not, it is told, and a copy of before is filled."""
    async with ground(tmp_path) as here:
        write_over(here)
        here.make_calls(100)
        await until(lambda: bool(here.alarms))
        here.put_back()
        await here.ledger.flush()
        here.check()


async def test_removed_database_is_made_anew_by_the_next_start(tmp_path: Path) -> None:
    """With what the journal has, which is every call here."""
    async with ground(tmp_path) as here:
        remove(here)
        here.make_calls(100)
        await here.told("restart the gateway, which makes a new one")
        here.ledger._flush_timeout_s = 0.01
    async with running_ledger(here.state):
        pass
    here.check()


async def test_removed_database_is_noticed_by_the_stop_at_the_latest(tmp_path: Path) -> None:
    """Nothing was written since, so nobody has looked; the journal is kept, and the next start has every call."""
    async with ground(tmp_path, apply_interval_s=3600.0) as here:
        remove(here)
    async with running_ledger(here.state):
        pass
    here.check()


async def test_rows_in_a_file_that_was_removed_do_not_count(tmp_path: Path) -> None:
    """Removed between one look and the commit: what went into it is written again."""
    async with ground(tmp_path) as here:
        words = "was removed, replaced or written over"
        with closing(open_store(here.state)) as store:
            store.open()
            with pytest.raises(StateUnusableError, match=words), store._database.writing():
                remove(here)
        here.make_calls(100)
        here.put_back()
        await here.ledger.flush()
        here.check()


async def test_journal_that_is_removed_is_written_anew(tmp_path: Path) -> None:
    """The present segment, with a call that is open in it: nothing is lost, and a death after it finds all."""
    async with ground(tmp_path) as here:
        here.ledger.dispatch(build_dispatch("att_open", "req_open"))
        before = segments(here.state)[0].read_bytes()
        for segment in segments(here.state):
            segment.unlink()
        await here.told("was removed and has been written anew")
        assert segments(here.state)[0].read_bytes() == before
        here.make_calls(100)
        await here.ledger.flush()
        here.check()
    async with running_ledger(here.state) as ledger:
        found = await ledger.find("req_open")
    assert found is not None
    assert found[0].outcome == "interrupted"


async def test_lock_that_is_removed_is_taken_again(tmp_path: Path) -> None:
    """So that no other gateway begins in the directory."""
    async with ground(tmp_path) as here:
        (here.state / "lock").unlink()
        await until((here.state / "lock").exists)
        await until(lambda: (here.state / "lock").read_text().strip().isdigit())
        with pytest.raises(Exception, match="another gateway"):
            async with running_ledger(here.state):
                pass


async def test_calls_are_refused_while_there_is_no_journal(tmp_path: Path) -> None:
    """A file is where the directory was: 503, and readiness says why. What ran is written when it can be."""
    async with ground(tmp_path) as here:
        here.ledger.dispatch(build_dispatch("att_100", "req_100"))
        rename_directory(here)
        while not here.state.is_file():
            shutil.rmtree(here.state, ignore_errors=True)
            try:
                here.state.touch(exist_ok=False)
            except FileExistsError:
                continue
        await until(lambda: "cannot be written anew" in (here.ledger.healthy() or ""))
        with pytest.raises(GatewayError) as refused:
            here.make_calls(1)
        assert refused.value.status == 503
        here.ledger.settle(build_entry("att_100", "req_100"))
        here.state.unlink()
        rename_directory_back(here)
        await until(lambda: here.ledger.healthy() is None)
        here.calls = 101
        make_call(here.ledger, 100)
        await here.ledger.flush()
        here.check()


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\x00" * 9000])
async def test_journal_that_is_written_over_takes_the_next_lines(damage: bytes, tmp_path: Path) -> None:
    """What was in SQL stays, and what comes later is not lost with it."""
    async with ground(tmp_path) as here:
        segments(here.state)[0].write_bytes(damage)
        await here.told("was changed: what was cut off it is lost")
        here.make_calls(100)
        await here.ledger.flush()
        here.check()
