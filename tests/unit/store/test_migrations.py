"""A database of an earlier release becomes this one's and keeps its figures; a later one's is refused."""

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import gateway.store
from gateway.accounting.lines import decode_ending
from gateway.errors import StateUnusableError
from gateway.store.database_file import sqlite_url
from gateway.store.queries import Store
from gateway.store.tables import REVISION, calls, metadata
from gateway.tariff import Amounts, Usage
from gateway.types import Considered, Dropped, Prediction, Quantiles
from tests.ground.totals import totals_of
from tests.unit.accounting.ledgers import STARTED_AT_NS, build_entry, build_record

VERSION_5 = Path(__file__).with_name("version_5.sql").read_text("utf-8")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Write a database as the release before migrations did."""
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(VERSION_5)
    return path


@pytest.fixture
def opened(old: Path) -> Iterator[Store]:
    """Open it with this release."""
    with closing(Store(sqlite_url(old), busy_timeout_s=0.01)) as store:
        store.open()
        yield store


def test_ledger_of_version_5_reads_the_same_rows(opened: Store) -> None:
    """Every call and attempt comes back as it was written, and the new columns are empty."""
    quantiles = Quantiles(1.0, 2.5, 3.0, 4.0)
    prediction = Prediction(output_tokens=quantiles, ttft_ms=quantiles, tpot_ms=None, cost_nano_usd=quantiles)
    first = build_entry("att_1", "req_1")
    usage = Usage(
        input_tokens=1,
        cached_input_tokens=2,
        cache_write_tokens=3,
        output_tokens=4,
        reasoning_tokens=5,
        audio_ms=6,
        origin="estimated",
    )
    cut = build_entry(
        "att_2",
        "req_2",
        outcome="cut",
        status=502,
        error_kind="upstream_cut",
        started_at_ns=STARTED_AT_NS + 1,
        usage=usage,
        cost_nano_usd=7,
        cost_origin="estimated",
    )
    last = build_entry(
        "att_3",
        "req_2",
        target_id="big",
        upstream_model="big-1",
        team_id="blue",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        started_at_ns=STARTED_AT_NS + 2,
        cost_nano_usd=2**62,
    )
    second = build_record(
        "req_2",
        "att_2",
        "att_3",
        considered=(Considered(target_id="small", prediction=prediction, within_ceilings=True, probe=True),),
        dropped=(Dropped(target_id="tiny", filter="context", reason="4096 tokens are too few"),),
        cost_nano_usd=2**62 + 7,
        bridged_for="own",
    )
    assert opened.find_call("req_1") == (build_record("req_1", "att_1"), (first,))
    assert opened.find_call("req_2") == (second, (cut, last))


def test_ledger_of_version_5_keeps_its_sums(opened: Store) -> None:
    sums = [(row.target_id, row.outcome, row.attempts, row.cost_nano_usd) for row in totals_of(opened)]
    assert sums == [("big", "ok", 1, 2**62), ("small", "cut", 1, 7), ("small", "ok", 1, 20_000)]


SUMS_OF_DELETED = """INSERT INTO sums VALUES
    (0, 'demo', '', 'auto', 'small', 'small-1', 'ok', 1, 2, 3, 4, 5, 6, 7, 8, 9)"""


def test_every_revision_keeps_the_figures(old: Path) -> None:
    """Step by step, with sums of deleted rows as soon as there are some: no figure moves, new classes are zero."""
    engine, script = create_engine(sqlite_url(old)), Config()
    script.set_main_option("script_location", str(Path(gateway.store.__file__).with_name("migrations")))
    seen = []
    for revision in reversed([each.revision for each in ScriptDirectory.from_config(script).walk_revisions()]):
        with engine.begin() as connection:
            script.attributes["connection"] = connection
            (command.stamp if revision == "0005" else command.upgrade)(script, revision)
            if revision == "0007":
                connection.exec_driver_sql(SUMS_OF_DELETED)
        seen.append(revision)
    engine.dispose()
    assert seen[:3] == ["0005", "0006", "0007"]
    assert seen[-1] == REVISION
    with closing(Store(sqlite_url(old), busy_timeout_s=0.01)) as store:
        store.open()
        small = totals_of(store)[-1]
        assert (small.target_id, small.outcome, small.attempts) == ("small", "ok", 3)
        (entry,) = store.attempts_of("req_1")
    known = {name: getattr(small, name) - getattr(entry.usage, name) for name in Amounts.__struct_fields__}
    new = {name: number for name, number in known.items() if number}
    assert list(new.values()) == [3, 4, 5, 6, 7, 8]
    assert small.cost_nano_usd - entry.cost_nano_usd == 9


def test_migrated_ledger_takes_new_rows(opened: Store) -> None:
    entry, record = build_entry("att_9", "req_9", cause="dns"), build_record("req_9", "att_9", cause="dns")
    opened.insert_batch([entry], [record])
    assert opened.find_call("req_9") == (record, (entry,))


@pytest.mark.parametrize("origin", ["empty", "version 5"])
def test_migrations_end_at_the_declared_tables(origin: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A field without a revision, or a revision without a field, is found here."""
    path = tmp_path / "ledger.sqlite" if origin == "empty" else request.getfixturevalue("old")
    with closing(Store(sqlite_url(path))) as store:
        store.open()
        with store._database.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_newest_revision_is_the_declared_one() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(gateway.store.__file__).with_name("migrations")))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_line_of_a_journal_before_the_new_fields_is_read() -> None:
    """The release before may leave a journal as well as a database."""
    line = b"""{"type":"settled","entry":{"attempt_id":"att_1","call_id":"req_1","key_id":"demo","team_id":null,
        "route":"auto","target_id":"small","upstream_model":"small-1","started_at_ns":1795000000000000000,
        "duration_ms":12.5,"ttft_ms":3.5,"tpot_ms":null,"usage":{"input_tokens":10,"cached_input_tokens":0,
        "cache_write_tokens":0,"output_tokens":5,"reasoning_tokens":0,"audio_ms":0,"origin":"provider"},
        "cost_nano_usd":20000,"cost_origin":"provider","price_version":"test","outcome":"ok","status":200,
        "error_kind":null,"trace_id":null}}"""
    assert decode_ending(line).entry == build_entry("att_1", "req_1")  # type: ignore[union-attr]


def test_json_columns_are_those_that_the_journal_passes_on_unread() -> None:
    unread = decode_ending.__self__.type.__args__[1].__annotations__["record"]  # type: ignore[attr-defined]
    assert [column.name for column in calls.columns if str(column.type) == "JSON"] == list(unread.__annotations__)


@pytest.mark.parametrize(
    ("statement", "version"),
    [
        ("UPDATE schema_version SET version = 4", "0004"),
        ("UPDATE schema_version SET version = 99", "0099"),
        ("CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('0999')", "0999"),
    ],
)
def test_ledger_of_an_unknown_version_is_refused_and_left_alone(statement: str, version: str, old: Path) -> None:
    """Older than the first revision, or newer than this release: the sentence names both, and what to do."""
    with closing(sqlite3.connect(old)) as database:
        database.executescript(statement)
        before = list(database.iterdump())
    sentence = rf"schema version {version}, this gateway knows 0005 to {REVISION}; use the gateway that wrote it"
    with closing(Store(sqlite_url(old))) as store, pytest.raises(StateUnusableError, match=sentence):
        store.open()
    with closing(sqlite3.connect(old)) as database:
        assert list(database.iterdump()) == before


def test_release_before_migrations_refuses_a_migrated_ledger(opened: Store) -> None:
    """It asks for version 5 and would leave out the new columns: it is to say so instead."""
    with opened._database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version FROM schema_version").scalar_one() == 6


OPENER = """
import logging, sys
from gateway.store.queries import Store
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
logging.getLogger("alembic").setLevel(logging.WARNING)
store = Store(sys.argv[1], busy_timeout_s=60.0)
print("ready", flush=True)
sys.stdin.readline()
store.open()
"""


@pytest.mark.slow
def test_processes_that_start_at_once_migrate_once(old: Path) -> None:
    """All four open it without an error, and one of them says that it has migrated."""
    command = [sys.executable, "-c", OPENER, sqlite_url(old)]
    open_one = partial(subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with ExitStack() as stack:
        openers = [stack.enter_context(open_one()) for _ in range(4)]
        for each in openers:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        said = [each.communicate("\n")[0] for each in openers]
    assert [each.returncode for each in openers] == [0] * 4
    assert re.findall("migrated.*", "".join(said)) == [f"migrated from schema version 0005 to {REVISION}"]


def test_migration_that_fails_leaves_the_ledger_as_it_was(old: Path) -> None:
    """Here a table stands in its way; with that gone, the next start migrates."""
    with closing(sqlite3.connect(old)) as database:
        database.executescript("ALTER TABLE calls ADD COLUMN cause INTEGER")
        before = list(database.iterdump())
    with closing(Store(sqlite_url(old))) as store:
        with pytest.raises(Exception, match="duplicate column"):
            store.open()
        with closing(sqlite3.connect(old)) as database:
            assert list(database.iterdump()) == before
            database.executescript("ALTER TABLE calls DROP COLUMN cause")
        store.open()
        assert len(totals_of(store)) == 3
