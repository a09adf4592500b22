"""The process that writes the ledger's database, as it lives and dies with a gateway of one process and of several."""

import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest

from tests.flow.test_state_goes_bad import call, count
from tests.ground.configs import one_model
from tests.ground.gateway import write_config
from tests.ground.processes import Program, gateway_process, lives
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SIZE_MB = 64
"""What an applier may take, of which some 13 MB are files that other processes share."""
FOREIGN = (b"fastapi", b"uvloop", b"genai_prices", b"pydantic", b"httpx")


@asynccontextmanager
async def running(tmp_path: Path, workers: int) -> AsyncIterator[Program]:
    """Run a gateway of so many processes that has made twenty calls."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url) | {"server": {"workers": workers}}
        async with gateway_process(write_config(tmp_path, config)) as gateway:
            await call(gateway.url, 20)
            yield gateway


def all_ended(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(map(lives, pids))


@pytest.mark.parametrize("workers", [1, 2])
async def test_killed_gateway_leaves_no_process(workers: int, tmp_path: Path) -> None:
    """Nor rows behind: the next start has them all."""
    async with running(tmp_path, workers) as gateway:
        assert len(gateway.appliers()) == workers
        started = gateway.descendants()
        await gateway.kill()
        await until(all_ended(started))
    async with running(tmp_path, workers):
        await until(lambda: count(tmp_path / "state" / "ledger.sqlite") == (40, 40))


@pytest.mark.parametrize("workers", [1, 2])
async def test_killed_applier_is_started_again(workers: int, tmp_path: Path) -> None:
    """Under load, several times; every call is answered and has its row, and the gateway stays ready."""
    async with running(tmp_path, workers) as gateway, aiohttp.ClientSession() as client:
        for _ in range(3):
            await until(lambda: len(gateway.appliers()) == workers)
            for pid in gateway.appliers():
                os.kill(pid, signal.SIGKILL)
            await call(gateway.url, 20)
            async with client.get(f"{gateway.url}/readyz") as answer:
                assert answer.status == 200
        await until(lambda: count(tmp_path / "state" / "ledger.sqlite") == (80, 80))
        assert "has ended (exit code -9)" in gateway.log.read_text()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_to_all_processes_ends_all_in_order(number: signal.Signals, workers: int, tmp_path: Path) -> None:
    """As a service manager or a terminal sends it: what was answered is in the database, which is closed."""
    async with running(tmp_path, workers) as gateway:
        started = gateway.descendants()
        for pid in [*started, gateway.pid]:
            os.kill(pid, number)
        assert await gateway.ended() == 0
        await until(all_ended(started))
        state = tmp_path / "state"
        assert count(state / "ledger.sqlite") == (20, 20)
        assert not list(state.glob("**/journal-*.jsonl"))
        with closing(sqlite3.connect(f"file:{state / 'ledger.sqlite'}?immutable=1", uri=True)) as connection:
            assert connection.execute("SELECT count(*) FROM calls").fetchone() == (20,)


async def test_applier_is_small(tmp_path: Path) -> None:
    """It holds SQL and nothing that serves; at a start that finds its tables and nothing to recover."""
    async with running(tmp_path, 1):
        pass
    async with running(tmp_path, 1) as gateway:
        (pid,) = gateway.appliers()
        assert int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") < SIZE_MB * 1e6
        maps = Path(f"/proc/{pid}/maps").read_bytes()
        assert not [name for name in FOREIGN if name in maps]
