"""What is given up as the disk fills, in which order, and that all comes back with the room."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.accounting.disk import Disk, Room
from gateway.config.snapshot import Storage
from gateway.errors import ErrorKind, GatewayError, StateUnusableError
from tests.ground.waiting import until
from tests.unit.accounting.ledgers import build_dispatch, build_record, make_call, running_ledger

MB = 1_000_000


class FileSystem:
    """Says how much is free."""

    free_mb = 1000.0

    def statvfs(self, _path: object) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=int(self.free_mb * MB / 4096), f_frsize=4096)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FileSystem:
    found = FileSystem()
    monkeypatch.setattr(os, "statvfs", found.statvfs)
    return found


@pytest.mark.parametrize(
    ("free_mb", "room", "sentence"),
    [
        (257.0, Room.ALL, None),
        (255.0, Room.NO_REFUSALS, "only 255 MB are free .*: refused calls are counted and have no record any more"),
        (129.0, Room.NO_REFUSALS, "only 129 MB are free"),
        (127.0, Room.UNREADY, r"only 127 MB are free .*: calls are refused when .* less than 64 MB \(storage.min_free"),
        (63.0, Room.NO_CALLS, r"only 63 MB are free .*: calls are refused until there are more than 64 MB"),
        (0.0, Room.NO_CALLS, "only 0 MB are free"),
    ],
)
def test_level_of_the_disk_depends_on_what_is_free(
    disk: FileSystem, free_mb: float, room: Room, sentence: str | None
) -> None:
    """Refusals' records first, then readiness and the log, then calls; the alarm says how much is left."""
    alarms: list[str] = []
    watched = Disk(Path("/"), lambda: 64 * MB, alarms.append)
    disk.free_mb = free_mb
    for _ in range(3):
        watched.check()
    assert (watched.room, watched.full) == (room, room is Room.NO_CALLS)
    assert (watched.failure() is None) == (room < Room.UNREADY)
    assert len(alarms) == (sentence is not None)
    if sentence is not None:
        assert re.search(sentence, alarms[0])


def test_alternating_room_is_reported_once(disk: FileSystem) -> None:
    """A little above a bound is not yet above it; a tenth is."""
    alarms: list[str] = []
    watched = Disk(Path("/"), lambda: 64 * MB, alarms.append)
    for free_mb in (63, 65, 63, 66, 63):
        disk.free_mb = free_mb
        watched.check()
        assert watched.full
    assert len(alarms) == 1
    disk.free_mb = 71
    watched.check()
    assert not watched.full
    disk.free_mb = 1000
    watched.check()
    assert (watched.room, watched.failure()) == (Room.ALL, None)


def test_disk_without_a_bound_gives_nothing_up(disk: FileSystem) -> None:
    watched = Disk(Path("/"), lambda: 0, pytest.fail)
    disk.free_mb = 0
    watched.check()
    assert watched.room is Room.ALL


async def test_ledger_gives_up_refusals_then_readiness_then_calls(tmp_path: Path, disk: FileSystem) -> None:
    """And takes them all again, without a hand, when there is room."""
    alarms: list[str] = []

    async def shrink_to(free_mb: float, room: Room) -> None:
        disk.free_mb = free_mb
        await until(lambda: ledger._disk.room is room)

    async with running_ledger(tmp_path, fsync_interval_s=0.01, alarm=alarms.append, storage=Storage) as ledger:
        refusal = {"outcome": "refused", "status": 429, "target_id": None}
        ledger.record(build_record("req_1", **refusal))
        assert await ledger.find("req_1") is not None
        await shrink_to(200, Room.NO_REFUSALS)
        ledger.record(build_record("req_2", **refusal))
        make_call(ledger, 3)
        assert await ledger.find("req_2") is None
        assert await ledger.find("req_3") is not None
        assert ledger.healthy() is None
        await shrink_to(100, Room.UNREADY)
        make_call(ledger, 4)
        assert await ledger.find("req_4") is not None
        assert "only 100 MB are free" in (ledger.healthy() or "")
        ledger.dispatch(build_dispatch("att_5", "req_5"))
        await shrink_to(10, Room.NO_CALLS)
        with pytest.raises(GatewayError) as refused:
            make_call(ledger, 6)
        assert (refused.value.kind, refused.value.status) == (ErrorKind.STORAGE_UNAVAILABLE, 503)
        ledger.record(build_record("req_5", "att_5"))  # what runs is still settled
        assert await ledger.find("req_5") is not None
        await shrink_to(1000, Room.ALL)
        make_call(ledger, 7)
        assert await ledger.find("req_7") is not None
        assert ledger.healthy() is None
    assert [alarm.split(":")[0].split(" are free")[0] for alarm in alarms] == [
        "only 200 MB",
        "only 100 MB",
        "only 10 MB",
    ]


async def test_ledger_does_not_start_on_a_full_disk(tmp_path: Path, disk: FileSystem) -> None:
    """One sentence, before anything is written; the directory is free again."""
    disk.free_mb = 10
    with pytest.raises(StateUnusableError, match="only 10 MB are free"):
        async with running_ledger(tmp_path):
            pass
    disk.free_mb = 1000
    async with running_ledger(tmp_path) as ledger:
        make_call(ledger, 1)
