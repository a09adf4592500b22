"""Lines that could not be stored: put aside whole, once, and not without end."""

from pathlib import Path

import pytest

from gateway.accounting.rejected import Rejected
from gateway.config.snapshot import Keep, Storage
from tests.unit.accounting.ledgers import build_entry, make_call, running_ledger


def rejected(state_dir: Path, alarms: list[str] | None = None, max_bytes: int | None = 1000) -> Rejected:
    return Rejected(state_dir, lambda: max_bytes, (alarms if alarms is not None else []).append)


def lines(state_dir: Path) -> list[bytes]:
    return (state_dir / "rejected.jsonl").read_bytes().splitlines()


def test_rejected_line_is_put_aside_whole(tmp_path: Path) -> None:
    """It is kept for people to look at, and told of without its content."""
    alarms: list[str] = []
    rejected(tmp_path, alarms).reject(b"nonsense", "its checksum is wrong")
    assert lines(tmp_path) == [b"nonsense"]
    assert "nonsense" not in alarms[0]


def test_rejected_line_that_comes_again_is_not_written_again(tmp_path: Path) -> None:
    """By the same process, and by the next one, which has to read the file for that."""
    alarms: list[str] = []
    for _ in range(2):
        aside = rejected(tmp_path, alarms)
        aside.reject(b"one", "no reason")
        aside.reject(b"one\n", "no reason")
        aside.reject(b"two", "no reason")
    assert lines(tmp_path) == [b"one", b"two"]
    assert len(alarms) == 2


@pytest.mark.parametrize("bound", [100, 150, 1000])
def test_rejected_lines_are_bounded_and_the_oldest_go(bound: int, tmp_path: Path) -> None:
    alarms: list[str] = []
    aside = rejected(tmp_path, alarms, bound)
    for number in range(200):
        aside.reject(b"line %05d" % number, "no reason")
        assert (tmp_path / "rejected.jsonl").stat().st_size <= bound
    kept = lines(tmp_path)
    assert kept == [b"line %05d" % number for number in range(200 - len(kept), 200)]
    assert len(kept) >= bound // 2 // 11 - 1
    assert len(alarms) == 200


def test_rejected_line_beyond_the_bound_is_only_reported(tmp_path: Path) -> None:
    alarms: list[str] = []
    aside = rejected(tmp_path, alarms, 10)
    aside.reject(b"x" * 100, "no reason")
    aside.reject(b"small", "no reason")
    assert lines(tmp_path) == [b"small"]
    assert len(alarms) == 2


async def test_line_that_sql_refuses_is_put_aside_once_over_many_starts(tmp_path: Path) -> None:
    """Recovery meets it again after each death; nothing loops, and its neighbours are stored."""
    alarms: list[str] = []
    async with running_ledger(tmp_path, alarm=alarms.append, apply_interval_s=3600) as ledger:
        make_call(ledger, 1)
        ledger.settle(build_entry("att_bad", "req_bad", cost_nano_usd=2**63))
        make_call(ledger, 2)
        segment = next(tmp_path.glob("journal-*.jsonl"))
        left = segment.read_bytes()
    for _ in range(3):
        segment.write_bytes(left)
        async with running_ledger(tmp_path, alarm=alarms.append) as ledger:
            assert await ledger.find("req_1") is not None
            assert await ledger.find("req_2") is not None
    assert len(lines(tmp_path)) == 1
    assert len(alarms) == 1


async def test_bound_of_rejected_lines_is_the_configurations(tmp_path: Path) -> None:
    storage = Storage(rejected=Keep(max_bytes=2000))
    async with running_ledger(tmp_path, alarm=lambda _: None, storage=lambda: storage) as ledger:
        for number in range(20):
            ledger.settle(build_entry(f"att_{number}", cost_nano_usd=2**63))
        await ledger.flush()
    assert 0 < (tmp_path / "rejected.jsonl").stat().st_size <= 2000
