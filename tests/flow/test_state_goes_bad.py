"""A database that goes bad under a running gateway of several processes, as callers and operator see it."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from tests.ground.builders import chat_body
from tests.ground.configs import one_model
from tests.ground.gateway import write_config
from tests.ground.processes import gateway_process
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import until

pytestmark = pytest.mark.slow


async def call(url: str, number: int) -> None:
    """Make so many calls, each on a connection of its own, so that every process gets some; all are answered."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as client:

        async def ask() -> int:
            async with client.post(f"{url}/v1/chat/completions", data=chat_body()) as answer:
                await answer.read()
                return answer.status

        assert await asyncio.gather(*(ask() for _ in range(number))) == [200] * number


def count(database: Path) -> tuple[int, int]:
    """Return how many attempts and calls a database has."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        query = "SELECT (SELECT count(*) FROM attempts), (SELECT count(*) FROM calls)"
        found: tuple[int, int] = connection.execute(query).fetchone()
        return found


WORKERS = 2


async def test_database_that_goes_bad_stops_no_call_and_loses_no_row(tmp_path: Path) -> None:
    """Moved away and back, locked for long, and replaced by a copy of before: every call is in it in the end."""
    database, backup = tmp_path / "state" / "ledger.sqlite", tmp_path / "backup.sqlite"
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["server"] = {"workers": WORKERS}
        async with gateway_process(write_config(tmp_path, config)) as gateway:
            await call(gateway.url, 20)
            await until(lambda: count(database) == (20, 20))
            database.rename(tmp_path / "away")
            await call(gateway.url, 20)
            await until(lambda: gateway.log.read_text().count("is gone: put it back") == WORKERS)
            (tmp_path / "away").rename(database)
            await until(lambda: count(database) == (40, 40))
            with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as copy:
                source.backup(copy)
            with closing(sqlite3.connect(database, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                await call(gateway.url, 20)
                await until(lambda: "is locked by another program" in gateway.log.read_text())
                other.execute("ROLLBACK")
            await until(lambda: count(database) == (60, 60))
            shutil.copy(backup, tmp_path / "copy")
            (tmp_path / "copy").rename(database)
            await until(lambda: gateway.log.read_text().count("is another than before") == WORKERS)
            await call(gateway.url, 20)
            await until(lambda: count(database) == (80, 80))
            database.unlink()
            await call(gateway.url, 20)
            await until(lambda: gateway.log.read_text().count("is gone: put it back") > WORKERS)
        async with gateway_process(tmp_path / "tollway.yaml") as gateway:
            await call(gateway.url, 20)
            await until(lambda: count(database) == (120, 120))
            assert "Traceback" not in gateway.log.read_text()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
