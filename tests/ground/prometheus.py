"""A real Prometheus that scrapes one gateway, and its answers."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml

from tests.ground.ports import own_port
from tests.ground.processes import Program, program

SCRAPE_INTERVAL_S = 0.5
_PATIENCE_S = 30.0


def executable(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``; fails with the command that installs them."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing; make test installs it as root, otherwise: sudo apt-get install prometheus")
    return found


class Prometheus:
    """A running Prometheus."""

    def __init__(self, process: Program, url: str, session: aiohttp.ClientSession) -> None:
        self._process = process
        self._url = url
        self._session = session

    async def query(self, expression: str, at_s: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Evaluate an expression now or at that time, and return each series' labels and value."""
        params = {"query": expression} | ({} if at_s is None else {"time": f"{at_s:.3f}"})
        async with self._session.get(f"{self._url}/api/v1/query", params=params) as answer:
            answer.raise_for_status()
            result = (await answer.json())["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    async def scraped(self) -> float:
        """Wait for a scrape that began after this call, and return its time; a later one that fails ends all series."""
        now_s = time.time()
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                self._process.check()
                try:
                    # Of a plain selector alone is this the sample's time; of any expression it is that of the query.
                    at = await self.query('timestamp(up{job="tollway"})')
                    if at and at[0][1] > now_s and (await self.query('up{job="tollway"}', at[0][1]))[0][1] == 1:
                        return at[0][1]
                except aiohttp.ClientError:  # not listening yet, or 503 while it starts
                    pass
                await asyncio.sleep(SCRAPE_INTERVAL_S / 5)


@asynccontextmanager
async def running_prometheus(gateway_url: str, path: Path) -> AsyncIterator[Prometheus]:
    """Run Prometheus on a free port against the gateway's ``/metrics``, until the context is left."""
    config = path / "prometheus.yml"
    target = gateway_url.removeprefix("http://")
    document = {
        "global": {"scrape_interval": f"{SCRAPE_INTERVAL_S * 1000:.0f}ms"},
        "scrape_configs": [{"job_name": "tollway", "static_configs": [{"targets": [target]}]}],
    }
    config.write_text(yaml.safe_dump(document))
    port = own_port()
    command = (
        executable("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    async with program(*command, log=path / "prometheus.log") as process, aiohttp.ClientSession() as session:
        prometheus = Prometheus(process, f"http://127.0.0.1:{port}", session)
        await prometheus.scraped()
        yield prometheus
