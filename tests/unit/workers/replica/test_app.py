"""A replica on its own port: the limit, the token, the load's lines, and how it drains."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.ground.waiting import until
from workers.config.spec import ModelSpec
from workers.engine import OpenEngine
from workers.replica.app import STOP_FILE, ReplicaAddress, ReplicaApp
from workers.replica.asgi import carries
from workers.synthetic.server import open_synthetic

STREAM = {"model": "m", "prompt": "on", "stream": True, "ignore_eos": True}
WHOLE = {**STREAM, "stream": False}
SPEC = {"source": "-", "engine": "synthetic", "max_ongoing_requests": 1, "max_queued_requests": 1, "drain_s": 20}


class Replica:
    """A replica whose lifespan a test ends. ``url`` is its own port; ``withdrawn`` when it is no longer announced."""

    def __init__(self, host: str = "127.0.0.1", **spec: object) -> None:
        self.url = ""
        self.withdrawn = False
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        place = ReplicaAddress("r1", host, self._announced)
        self.app = ReplicaApp("m", "", ModelSpec.model_validate({**SPEC, **spec}), lambda: place)
        self.running = asyncio.create_task(self.app({"type": "lifespan"}, self._inbox.get, self.sent.put))

    async def start(self) -> str:
        await self._inbox.put({"type": "lifespan.startup"})
        return str((await self.sent.get())["type"])

    def stop(self) -> None:
        self._inbox.put_nowait({"type": "lifespan.shutdown"})

    @asynccontextmanager
    async def _announced(self, url: str) -> AsyncIterator[None]:
        self.url = url
        yield
        self.withdrawn = True


@asynccontextmanager
async def replica(**spec: object) -> AsyncIterator[tuple[Replica, httpx2.AsyncClient]]:
    made = Replica(**spec)
    assert await made.start() == "lifespan.startup.complete"
    async with httpx2.AsyncClient(base_url=made.url, timeout=20) as client:
        yield made, client
        made.stop()
        await made.running


async def stream(client: httpx2.AsyncClient, tokens: int) -> str:
    return (await client.post("/v1/completions", json={**STREAM, "max_tokens": tokens})).text


def in_flight(made: Replica, count: int) -> Callable[[], bool]:
    return lambda: made.app._load is not None and made.app._load.in_flight == count


async def test_request_above_the_limit_is_refused_with_retry_after() -> None:
    async with replica() as (made, client):
        open_ = [asyncio.create_task(stream(client, 50)) for _ in range(2)]
        await until(in_flight(made, 2))
        refused = await client.post("/v1/completions", json={**STREAM, "max_tokens": 1})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "ServiceUnavailableError"
        # What is no work of the engine's is answered all the same.
        assert (await client.get("/v1/models")).status_code == 200
        assert all("[DONE]" in text for text in await asyncio.gather(*open_))


@pytest.mark.slow
async def test_load_is_reported_at_each_change_and_four_times_a_second() -> None:
    async with replica() as (made, client):
        begun = asyncio.get_running_loop().time()
        async with client.stream("GET", "/tollway/load") as lines:
            said = lines.aiter_lines()
            assert [json.loads(await anext(said))["in_flight"] for _ in range(3)] == [0, 0, 0]
            assert asyncio.get_running_loop().time() - begun > 0.45
            going = asyncio.create_task(stream(client, 20))
            await until(in_flight(made, 1))
            while (line := json.loads(await anext(said)))["in_flight"] == 0:
                continue
            assert (line["id"], line["model"], line["state"], line["limit"]) == ("r1", "m", "ready", 2)
            assert "[DONE]" in await going
            while (line := json.loads(await anext(said)))["in_flight"] == 1:
                continue
            assert line["total"]["output_tokens"] == 20


@pytest.mark.slow
async def test_a_draining_replica_says_so_serves_what_still_comes_and_ends_after_its_streams() -> None:
    async with replica() as (made, client), client.stream("GET", "/tollway/load") as lines:
        said = lines.aiter_lines()
        running = asyncio.create_task(stream(client, 800))
        await until(in_flight(made, 1))
        made.stop()
        while json.loads(await anext(said))["state"] == "ready":
            continue
        late = await stream(client, 3)
        assert not made.withdrawn
        assert late.count('"text"') == 4
        assert (await running).count('"text"') == 801
        await made.running
        assert made.withdrawn
        with pytest.raises(httpx2.ConnectError):
            await client.get("/health")


@pytest.mark.slow
async def test_a_drain_ends_after_its_time_and_cuts_what_is_left() -> None:
    """Who has seen nothing of an answer is told 503, by which a gateway tries another replica."""
    async with replica(drain_s=0.2) as (made, client):
        running = asyncio.create_task(stream(client, 100_000))
        whole = asyncio.create_task(client.post("/v1/completions", json={**WHOLE, "max_tokens": 100_000}))
        await until(in_flight(made, 2))
        made.stop()
        with pytest.raises(httpx2.RemoteProtocolError):
            await running
        refused = await whole
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "ServiceUnavailableError")
        assert "retry-after" not in refused.headers  # a gateway would close the whole target for so long


@pytest.mark.slow
async def test_end_of_a_drain_is_reported_before_the_port_closes_and_late_requests_are_served() -> None:
    """What a gateway has sent before it hears the end is on its way."""
    async with replica() as (made, client):
        async with client.stream("GET", "/tollway/load") as lines:
            made.stop()
            async for line in lines.aiter_lines():
                last = json.loads(line)
        assert (last["state"], made.withdrawn) == ("draining", False)
        late = asyncio.create_task(stream(client, 700))  # 3.5 s: a port that closes leaves its streams one
        assert (await client.get("/tollway/load")).status_code == 503
        assert (await late).count('"text"') == 701


async def test_replica_is_gone_at_once_when_its_engine_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing more, its port closes and its streams break, so no gateway sends anything more.

    Serve sees it at its next look.
    """
    alive = True

    async def check_health() -> None:
        if not alive:
            raise RuntimeError("the engine's process has ended")

    @asynccontextmanager
    async def mortal(name: str, _model: str, spec: ModelSpec) -> AsyncIterator[OpenEngine]:
        async with open_synthetic(name, spec.synthetic) as engine:
            yield replace(engine, check_health=check_health)

    monkeypatch.setattr("workers.replica.app._open", mortal)
    async with replica(synthetic={"tpot_ms": 50}) as (made, client), client.stream("GET", "/tollway/load") as lines:
        streaming = asyncio.create_task(stream(client, 1000))
        whole = asyncio.create_task(client.post("/v1/completions", json={**WHOLE, "max_tokens": 1000}))
        await until(in_flight(made, 2))
        alive = False
        with pytest.raises(httpx2.RemoteProtocolError):
            await streaming
        assert (await whole).status_code == 503
        await lines.aread()  # to its end: it was not cut
        with pytest.raises(RuntimeError, match="port has closed"):
            while True:
                made.app._started(made.app._port).check()
                await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_long_streams_are_cut_when_everything_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STOP_FILE, str(tmp_path / "stopping"))
    async with replica(drain_s=600) as (made, client):
        running = asyncio.create_task(stream(client, 100_000))
        await until(in_flight(made, 1))
        (tmp_path / "stopping").touch()
        made.stop()
        async with asyncio.timeout(30):
            with pytest.raises(httpx2.RemoteProtocolError):
                await running


async def test_replica_with_a_token_asks_for_it_on_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLWAY_REPLICA_TOKEN", "s3cret")
    async with replica() as (_, client):
        for path in ("/tollway/load", "/metrics", "/v1/models", "/health"):
            for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "s3cret"}):
                refused = await client.get(path, headers=headers)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
        assert (await client.get("/v1/models", headers={"authorization": "Bearer s3cret"})).status_code == 200


def test_a_header_that_is_not_ascii_is_only_a_wrong_token() -> None:
    assert not carries({"headers": [(b"authorization", b"Bearer \xff\xfe")]}, "s3cret")


async def test_an_address_that_others_reach_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLWAY_REPLICA_TOKEN", raising=False)
    made = Replica(host="0.0.0.0")
    assert await made.start() == "lifespan.startup.failed"
    with pytest.raises(RuntimeError, match="TOLLWAY_REPLICA_TOKEN"):
        await made.running
