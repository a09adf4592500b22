"""The journal's files: torn and damaged lines, rotation, a disk that refuses, the directory's lock."""

import io
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.accounting.journal import Journal
from gateway.accounting.lines import Line, Settled, read_frames
from gateway.errors import StateUnusableError
from tests.ground.limits import no_descriptor_left
from tests.unit.accounting.ledgers import build_entry, segments


@contextmanager
def opened(state_dir: Path, alarms: list[str] | None = None, segment_bytes: int = 1 << 20) -> Iterator[Journal]:
    """Open a journal and close it again, leaving its segments."""
    journal = Journal(state_dir, segment_bytes=segment_bytes, alarm=(alarms if alarms is not None else []).append)
    journal.acquire()
    journal.open()
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond that: writes end short, then fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def settled(number: int) -> Settled:
    """Make a line."""
    return Settled(build_entry(f"att_{number}"))


def lines_of(journal: Journal, number: int) -> list[Line | None]:
    """Read a whole segment."""
    return [frame.line for frame in read_frames(journal._path(number), 0, 20_000)]


def test_appended_lines_are_read_back(tmp_path: Path) -> None:
    """Lines come back equal and in order, from several segments."""
    with opened(tmp_path, segment_bytes=1000) as journal:
        for number in range(10):
            journal.append(settled(number))
        numbers = journal.segments()
        assert len(numbers) > 2
        assert [line for number in numbers for line in lines_of(journal, number)] == [settled(n) for n in range(10)]


def test_a_line_torn_anywhere_is_not_believed_and_spoils_no_other(tmp_path: Path) -> None:
    """Cut at many places in the last line: those before it are read, it is torn, and nothing else is made of it."""
    with opened(tmp_path) as journal:
        journal.append(settled(1))
        start = journal.end()[1]
        journal.append(settled(2))
        whole = segments(tmp_path)[0].read_bytes()
        for cut in (*range(start + 1, start + 30), *range(start + 30, len(whole), 11), len(whole) - 1):
            segments(tmp_path)[0].write_bytes(whole[:cut])
            first, last = read_frames(segments(tmp_path)[0], 0, 10)
            assert first.line == settled(1)
            assert (last.line, last.torn) == (None, True)


class GrowingFile(io.RawIOBase):
    """A file whose end is reached in the middle of a line, which its writer finishes before the next read."""

    def __init__(self, first: bytes, then: bytes) -> None:
        self.reads = [first, b"", then, b""]

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, _whence: int = 0) -> int:
        """Be there."""
        return offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Give the next piece."""
        piece = self.reads.pop(0)
        buffer[: len(piece)] = piece
        return len(piece)


def test_line_finished_while_it_is_read_is_not_read_in_two_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write shows page by page: the half that is read first ends the reading, and the line comes whole next time."""
    with opened(tmp_path) as journal:
        journal.append(settled(1))
        start = journal.end()[1]
        journal.append(settled(2))
    whole = segments(tmp_path)[0].read_bytes()
    growing = GrowingFile(whole[: start + 14], whole[start + 14 :])
    monkeypatch.setattr(Path, "open", lambda *_, **__: io.BufferedReader(growing))
    first, half = read_frames(tmp_path / "journal-000001.jsonl", 0, 10)
    assert (first.line, first.end) == (settled(1), start)
    assert not half.whole


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    """A line whose bytes have changed on the disk, checksum included, is not believed though it has its newline."""
    with opened(tmp_path) as journal:
        journal.append(settled(1))
        whole = segments(tmp_path)[0].read_bytes()
        for position in range(0, len(whole) - 1, 7):
            changed = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
            segments(tmp_path)[0].write_bytes(changed)
            assert all(frame.line is None for frame in read_frames(segments(tmp_path)[0], 0, 10)), position


def test_a_full_disk_refuses_dispatches_and_keeps_the_rest_in_order(tmp_path: Path) -> None:
    """Append raises, keep does not; the fragment is cut off again, and when there is room all is written in order."""
    alarms: list[str] = []
    with opened(tmp_path, alarms) as journal:
        journal.append(settled(0))
        size = journal.end()[1]
        with file_size_limit(size + 10):
            with pytest.raises(OSError, match="No space left"):
                journal.append(settled(99))
            journal.keep(settled(1))
            journal.keep(settled(2))
            with pytest.raises(OSError, match="No space left"):
                journal.append(settled(98))
            assert not journal.retry_kept()
            assert journal.failure() == alarms[0]
            assert segments(tmp_path)[0].stat().st_size == size
        journal.append(settled(3))
        assert journal.failure() is None
        assert lines_of(journal, 1) == [settled(number) for number in range(4)]
    assert len(alarms) == 1


def test_records_that_cost_nothing_alone_are_dropped_and_reported(tmp_path: Path) -> None:
    """With the disk full, refused calls beyond a bound are counted and told of; what was spent is always kept."""
    alarms: list[str] = []
    with opened(tmp_path, alarms, segment_bytes=1 << 30) as journal:
        with file_size_limit(0):
            for _ in range(10_005):
                journal.keep(settled(0), expendable=True)
            journal.keep(settled(1))
        assert journal.retry_kept()
        lines = lines_of(journal, 1)
        assert (len(lines), lines[-1]) == (10_001, settled(1))
    assert alarms[1] == "5 records of refused calls were lost while the journal was unwritable"


def test_lines_never_written_are_reported_at_the_end(tmp_path: Path) -> None:
    """Closing with lines still in memory is an alarm, not silence."""
    alarms: list[str] = []
    with opened(tmp_path, alarms) as journal, file_size_limit(0):
        journal.keep(settled(1))
        journal.close()
    assert "1 lines of the journal were never written and are lost" in alarms


def test_a_second_gateway_on_a_state_directory_is_one_clear_error(tmp_path: Path) -> None:
    """Another process that holds the directory is named; when it is gone, the directory is free."""
    code = f"""
import sys; from pathlib import Path; from gateway.accounting.journal import Journal
Journal(Path({str(tmp_path)!r}), segment_bytes=1, alarm=print).acquire()
print("held", flush=True); sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StateUnusableError, match=f"process {other.pid}.*{tmp_path}.*state_dir"), opened(tmp_path):
            pass
        other.kill()
    with opened(tmp_path):
        pass


def test_the_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Who called what is nobody else's business."""
    with opened(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "state").iterdir())


def test_directory_that_goes_while_the_journal_is_restored_refuses_no_dispatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed when the lock was found, and the segment not yet looked for: both are written anew at once."""
    with opened(tmp_path / "state") as journal:
        journal.append(settled(1))
        acquire = journal.acquire

        def acquire_and_lose_the_directory() -> None:
            acquire()
            monkeypatch.undo()
            (tmp_path / "state").rename(tmp_path / "away")

        monkeypatch.setattr(journal, "acquire", acquire_and_lose_the_directory)
        (tmp_path / "state" / "lock").unlink()
        journal.restore()
        journal.append(settled(2))
        assert lines_of(journal, 1) == [settled(1), settled(2)]
        assert (tmp_path / "state" / "lock").exists()


def test_sync_without_a_free_descriptor_is_reported_and_made_up_for(tmp_path: Path) -> None:
    """Nothing counts as synced that was not, and the descriptor of the segment before is not lost."""
    alarms: list[str] = []
    with opened(tmp_path, alarms) as journal:
        open_before = len(list(Path("/dev/fd").iterdir()))
        journal.append(settled(1))
        journal.rotate()
        with no_descriptor_left():
            for _try in range(2):
                with pytest.raises(OSError, match="Too many open files"):
                    journal.sync()
            assert journal.failure() == "the journal cannot be synced: Too many open files"
        journal.sync()
        assert journal.failure() is None
        assert len(alarms) == 1
        assert len(list(Path("/dev/fd").iterdir())) == open_before
