"""State that cannot be used is one sentence when the gateway starts: what is wrong with which file, and what to do."""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from gateway import cli
from gateway.store.database_file import sqlite_url
from gateway.store.queries import Store
from tests.ground.configs import one_model
from tests.ground.gateway import write_config
from tests.unit.accounting.ledgers import build_entry, build_record

# Each row starts a process or two.
pytestmark = pytest.mark.slow

PAGE_BYTES = 4096
_CAPABILITIES_3 = 0x20080522
_DROP_FROM_BOUNDING_SET = 24
_OVERRIDES = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what lets root read and write in spite of a file's mode."""


def be_bound_by_modes() -> None:
    """Obey the modes of files from now on, also as root, and in programs that are started (capset(2), prctl(2))."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        assert libc.prctl(_DROP_FROM_BOUNDING_SET, capability) == 0
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for number in range(3):
        sets[number] &= ~_OVERRIDES
    assert libc.capset(header, sets) == 0


def write_no_byte() -> None:
    """Write to no file from now on, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def nothing() -> None:
    pass


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Return what starts processes that have the gateway's modules already: a start is a tenth of what it is else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "gateway.cli"])
    return context


def run_command(before: Callable[[], None], arguments: list[str], stderr: Path) -> None:
    """Be the ``tollway`` command. In a process of its own."""
    os.dup2(os.open(stderr, os.O_WRONLY), 2)
    before()
    sys.exit(cli.main(arguments))


def serve(
    processes: ForkServerContext, config: Path, workers: int, before: Callable[[], None] = nothing
) -> tuple[int | None, str]:
    """Run ``tollway serve`` until it ends, and return the exit code and what it wrote to stderr."""
    # No file, which a full disk would not take.
    stderr = config.with_name("stderr")
    os.mkfifo(stderr)
    reader = os.open(stderr, os.O_RDONLY | os.O_NONBLOCK)
    arguments = ["serve", "--config", str(config), "--port", "0", "--workers", str(workers)]
    process = processes.Process(target=run_command, args=(before, arguments, stderr))
    process.start()
    process.join(240)
    process.terminate()
    process.join()
    with os.fdopen(reader) as said:
        return process.exitcode, said.read()


def fill(state: Path) -> Path:
    """Make a good ledger of some dozen pages, and return its file."""
    state.mkdir()
    database = state / "ledger.sqlite"
    with closing(Store(sqlite_url(database))) as store:
        store.open()
        names = range(200)
        store.insert_batch(
            [build_entry(f"att_{n}", f"req_{n}") for n in names], [build_record(f"req_{n}", f"att_{n}") for n in names]
        )
    return database


def spoil_page(state: Path, kind: str) -> None:
    """Overwrite the pages of a table or an index with what is no page."""
    database = state / "ledger.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE type = ? AND tbl_name = 'attempts' AND rootpage > 0"
        pages = [page for (page,) in connection.execute(query, (kind,))]
    with database.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE_BYTES)
            file.write(b"\xff" * PAGE_BYTES)


def spoil_last_page(state: Path) -> None:
    database = state / "ledger.sqlite"
    with database.open("r+b") as file:
        file.seek(-PAGE_BYTES, os.SEEK_END)
        file.write(os.urandom(PAGE_BYTES))


def be_text(state: Path) -> None:
    (state / "ledger.sqlite").write_text("These are my notes.\n" * 500)


def cut(state: Path) -> None:
    os.truncate(state / "ledger.sqlite", 3 * PAGE_BYTES + 100)


def spoil_header(state: Path) -> None:
    with (state / "ledger.sqlite").open("r+b") as file:
        file.write(os.urandom(100))


def be_directory(state: Path, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        (state / name).unlink()
    (state / name).mkdir()


def be_unreadable(state: Path, name: str = "ledger.sqlite") -> None:
    with (state / name).open("ab") as file:
        file.write(b"a line\n" * name.startswith("journal"))
    (state / name).chmod(0)


def be_read_only(state: Path) -> None:
    (state / "ledger.sqlite").chmod(0o400)


def be_read_only_directory(state: Path) -> None:
    state.chmod(0o500)


def be_a_file(state: Path) -> None:
    shutil.rmtree(state)
    state.touch()


def dangle(state: Path) -> None:
    (state / "ledger.sqlite").unlink()
    (state / "ledger.sqlite").symlink_to(state / "unmounted" / "ledger.sqlite")


def lack_a_table(state: Path) -> None:
    with closing(sqlite3.connect(state / "ledger.sqlite")) as connection:
        connection.execute("DROP TABLE attempts")


def lack_revision(state: Path) -> None:
    with closing(sqlite3.connect(state / "ledger.sqlite")) as connection:
        connection.execute("DELETE FROM alembic_version")
        connection.commit()


def be_another_program_s(state: Path) -> None:
    (state / "ledger.sqlite").unlink()
    with closing(sqlite3.connect(state / "ledger.sqlite")) as connection:
        connection.execute("CREATE TABLE attempts (note TEXT)")


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the database's write lock in this process."""
    with closing(sqlite3.connect(state / "ledger.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


DATABASE = "the ledger's database STATE/ledger.sqlite "
MOVE_AWAY = "move it away, with its -wal and -shm"
BAD_STATE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "database is a text": (be_text, DATABASE + "is not an SQLite database", MOVE_AWAY),
    "database is cut": (cut, DATABASE + "is damaged", "save what can be read of it"),
    "header is no header": (spoil_header, DATABASE + "is not an SQLite database", MOVE_AWAY),
    "page of a table is damaged": (
        partial(spoil_page, kind="table"),
        DATABASE + "is damaged",
        "save what can be read of it",
    ),
    "page of an index is damaged": (
        partial(spoil_page, kind="index"),
        DATABASE + "is damaged",
        "save what can be read of it",
    ),
    "last page is damaged": (spoil_last_page, DATABASE + "is damaged", "save what can be read of it"),
    "database is a directory": (partial(be_directory, name="ledger.sqlite"), DATABASE + "is not a file", MOVE_AWAY),
    "log is a directory": (partial(be_directory, name="ledger.sqlite-wal"), DATABASE + "cannot be opened", "beside it"),
    "database may not be read": (be_unreadable, DATABASE + "may not be opened", "user the right to read"),
    "database may not be written": (be_read_only, DATABASE + "may not be", "user the right to"),
    "database's disk is gone": (dangle, DATABASE + "cannot be made: No such file", "cannot be made"),
    "table is missing": (lack_a_table, "the ledger's database has no table attempts", "put back"),
    "revision is missing": (lack_revision, DATABASE + "has not the tables", MOVE_AWAY),
    "database is another program's": (be_another_program_s, DATABASE + "has not the tables", MOVE_AWAY),
    "directory may not be written": (be_read_only_directory, "cannot use STATE/lock", "Permission denied; give"),
    "directory is a file": (be_a_file, "cannot use STATE in", "move away what is in its place"),
    "segment is a directory": (
        partial(be_directory, name="journal-000001.jsonl"),
        "cannot use STATE/journal-000001.jsonl",
        "Is a directory; ",
    ),
    "segment may not be read": (
        partial(be_unreadable, name="journal-000001.jsonl"),
        "cannot use STATE/journal-000001.jsonl",
        "Permission denied; ",
    ),
    "lock is a directory": (partial(be_directory, name="lock"), "cannot use STATE/lock", "Is a directory; "),
}


SEVERAL_TOO = ("database is a text", "page of an index is damaged", "segment is a directory", "directory is a file")


def read_to_its_end(kind: str, workers: int, tmp_path: Path, processes: ForkServerContext) -> None:
    spoil, what, advice = BAD_STATE[kind]
    state = tmp_path / "state"
    fill(state)
    spoil(state)
    config = write_config(tmp_path, one_model("http://127.0.0.1:1"))
    code, err = serve(processes, config, workers, be_bound_by_modes)
    err = err.replace(str(state), "STATE")
    assert (code, len(err.splitlines())) == (1, 1), err
    assert what in err
    assert advice in err


@pytest.mark.parametrize("kind", BAD_STATE)
def test_bad_state_is_one_sentence_at_start(kind: str, tmp_path: Path, processes: ForkServerContext) -> None:
    """Exit code 1, at once, and nothing but the sentence on stderr."""
    read_to_its_end(kind, 1, tmp_path, processes)


@pytest.mark.parametrize("kind", SEVERAL_TOO)
def test_bad_state_is_one_sentence_of_several_processes(
    kind: str, tmp_path: Path, processes: ForkServerContext
) -> None:
    """The first finds it and starts no other."""
    read_to_its_end(kind, 2, tmp_path, processes)


def test_bad_journal_of_a_process_is_one_sentence(tmp_path: Path, processes: ForkServerContext) -> None:
    """Where its directory should be there is a file."""
    fill(tmp_path / "state")
    (tmp_path / "state" / "process-1").touch()
    code, err = serve(processes, write_config(tmp_path, one_model("http://127.0.0.1:1")), 2)
    assert (code, len(err.splitlines())) == (1, 1), err
    assert "cannot use" in err
    assert "process-1" in err


@pytest.mark.parametrize("workers", [1, 2])
def test_locked_database_is_one_sentence_at_start(workers: int, tmp_path: Path, processes: ForkServerContext) -> None:
    """Another process has it for longer than the gateway waits."""
    fill(tmp_path / "state")
    config = write_config(tmp_path, one_model("http://127.0.0.1:1"))
    with locked(tmp_path / "state"):
        code, err = serve(processes, config, workers)
    assert (code, len(err.splitlines())) == (1, 1), err
    assert "ledger.sqlite is locked by another program" in err


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("with_ledger", [True, False])
def test_full_disk_is_one_sentence_at_start(
    workers: int, tmp_path: Path, processes: ForkServerContext, *, with_ledger: bool
) -> None:
    """Not a byte can be written, and the configuration asks for no room to be left."""
    if with_ledger:
        fill(tmp_path / "state")
    config = write_config(tmp_path, one_model("http://127.0.0.1:1") | {"storage": {"min_free_mb": 0}})
    code, err = serve(processes, config, workers, write_no_byte)
    assert (code, len(err.splitlines())) == (1, 1), err
    assert str(tmp_path / "state") in err
