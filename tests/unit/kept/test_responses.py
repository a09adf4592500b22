"""Kept responses: found by the key that made them for as long as they are kept, and readable by nothing else."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from gateway.config.snapshot import KeptResponses
from gateway.errors import ErrorKind, GatewayError
from gateway.kept.responses import FILE, KEY_FILE, Kept, ResponseStore
from gateway.types import Secret

TEXT = b"the secret of the house"
KEPT = Kept(Raw(b'["%b"]' % TEXT), Raw(b'{"id":"resp_1"}'))
SETTINGS = KeptResponses(min_free_bytes=0)


class Wall:
    """A clock on the wall that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000

    def __call__(self) -> int:
        return self.now_s * 10**9


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Callable[..., ResponseStore]]:
    """Return what opens stores of one state directory, each as another process would."""
    stores: list[ResponseStore] = []

    def open_store(wall: Wall | None = None, **settings: Any) -> ResponseStore:
        in_force = replace(SETTINGS, **settings)
        stores.append(ResponseStore(tmp_path, lambda: in_force, wall or Wall()))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.stop()


async def test_response_is_found_by_its_key_alone_and_by_every_process(opened: Any) -> None:
    one, other = opened(), opened()
    assert await one.keep("a", "resp_1", KEPT)
    assert await other.find("a", "resp_1") == KEPT
    assert [await other.find(*who) for who in (("b", "resp_1"), ("a", "resp_2"), ("a\0resp_1", ""))] == [None] * 3
    assert not await other.forget("b", "resp_1")
    assert await other.forget("a", "resp_1")
    assert (await one.find("a", "resp_1"), await one.forget("a", "resp_1")) == (None, False)


async def test_content_and_ids_are_on_the_disk_in_no_file(opened: Any, tmp_path: Path) -> None:
    """And all files are their owner's alone."""
    store = opened()
    await store.keep("key-of-a-team", "resp_1", KEPT)
    files = list(tmp_path.iterdir())
    assert {FILE, KEY_FILE} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        assert not [each for each in (TEXT, b"resp_1", b"key-of-a-team") if each in content]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_response_is_kept_for_its_time_and_then_deleted(opened: Any, tmp_path: Path) -> None:
    wall = Wall()
    store = opened(wall, keep_s=3600)
    await store.keep("a", "resp_1", KEPT)
    wall.now_s += 3600
    assert await store.find("a", "resp_1") == KEPT
    wall.now_s += 1
    assert (await store.find("a", "resp_1"), await store.forget("a", "resp_1")) == (None, False)
    await store.start()
    await asyncio.sleep(0)  # the sweep is given to the store's thread
    await store.find("a", "resp_1")  # and this behind it
    with sqlite3.connect(tmp_path / FILE) as database:
        assert database.execute("SELECT (SELECT count(*) FROM kept), bytes FROM total").fetchone() == (0, 0)


async def test_oldest_go_first_where_all_would_be_too_much(opened: Any) -> None:
    store = opened(max_bytes=20_000)
    large = Kept(Raw(b'"%b"' % os.urandom(2000).hex().encode()), Raw(b"{}"))
    for number in range(30):
        assert await store.keep("a", str(number), large)
    kept = [number for number in range(30) if await store.find("a", str(number))]
    assert kept
    assert kept == list(range(kept[0], 30))
    assert kept[0] > 0
    too_large = Kept(Raw(b'"%b"' % os.urandom(20_000).hex().encode()), Raw(b"{}"))
    assert not await store.keep("a", "large", too_large)


@pytest.mark.parametrize("damage", ["a bit", "cut", "another's place", "another key"])
async def test_row_that_is_not_whole_and_ours_is_not_believed(opened: Any, tmp_path: Path, damage: str) -> None:
    store = opened()
    await store.keep("a", "resp_1", KEPT)
    await store.keep("a", "resp_2", replace(KEPT, response=Raw(b"{}")))
    with sqlite3.connect(tmp_path / FILE) as database:
        ((sealed,), (other,)) = database.execute("SELECT sealed FROM kept ORDER BY id").fetchall()
        changed = {"a bit": sealed[:-1] + bytes([sealed[-1] ^ 1]), "cut": sealed[:-20], "another's place": other}
        if damage in changed:
            database.execute("UPDATE kept SET sealed = ? WHERE id = 1", (changed[damage],))
    reader = opened(secret=Secret(32 * "k")) if damage == "another key" else store
    assert await reader.find("a", "resp_1") is None


async def test_configured_key_makes_none_in_the_state_directory(opened: Any, tmp_path: Path) -> None:
    store = opened(secret=Secret(32 * "k"))
    await store.keep("a", "resp_1", KEPT)
    assert await store.find("a", "resp_1") == KEPT
    assert not (tmp_path / KEY_FILE).exists()


@pytest.mark.parametrize("fault", ["short key", "no database", "full disk"])
async def test_state_that_cannot_be_used_keeps_nothing_and_says_so_once(
    opened: Any, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    if "key" in fault:
        (tmp_path / KEY_FILE).write_bytes(b"k" * 5)
    if fault == "no database":
        (tmp_path / FILE).write_bytes(b"no database at all, but long enough" * 100)
    store = opened(min_free_bytes=2**62 if fault == "full disk" else 0)
    assert [await store.keep("a", "resp_1", KEPT) for _ in range(2)] == [False, False]
    assert len(caplog.records) == 1
    if fault != "full disk":
        with pytest.raises(GatewayError) as caught:
            await store.find("a", "resp_1")
        assert caught.value.kind is ErrorKind.STORAGE_UNAVAILABLE


WRITER = """
import asyncio, sys
from pathlib import Path
from msgspec import Raw
from gateway.config.snapshot import KeptResponses
from gateway.kept.responses import Kept, ResponseStore
async def main():
    store = ResponseStore(Path(sys.argv[1]), lambda: KeptResponses(min_free_bytes=0), lambda: 1_800_000_000 * 10**9)
    for number in range(10**6):
        assert await store.keep("a", str(number), Kept(Raw(b'"%b"' % (b"x" * 50_000)), Raw(b"{}")))
        print(number, flush=True)
asyncio.run(main())
"""


async def test_kill_leaves_whole_responses_alone(opened: Any, tmp_path: Path) -> None:
    """What was said to be kept is, though its writer was killed within the next one; and no half one is found."""
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(tmp_path), stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert writer.stdout is not None
    for _ in range(20):
        last = int(await writer.stdout.readline())
    writer.kill()
    await writer.wait()
    store = opened()
    found = [await store.find("a", str(number)) for number in range(last + 3)]
    assert all(found[: last + 1])
    assert all(each is None or len(each.input) == 50_002 for each in found)
