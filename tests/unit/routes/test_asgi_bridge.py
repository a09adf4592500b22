"""An ASGI application behind the HTTP server: what it receives of a request, and what becomes of its answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.snapshot import Current, Server, Snapshot
from gateway.routes.asgi_bridge import AsgiBridge
from gateway.types import Timeouts
from tests.ground.http_server import serving
from tests.ground.waiting import SOON_S

SNAPSHOT = Snapshot(
    version="",
    server=Server(host="127.0.0.1", port=0, max_body_bytes=1_000_000, body_timeout_s=60, drain_s=1),
    targets={},
    routes={},
    wildcards=(),
    keys={},
    timeouts=Timeouts(),
    state_dir="",
)


@asynccontextmanager
async def bridged(app: ASGIApp) -> AsyncIterator[str]:
    async with serving(AsgiBridge(app, Current(SNAPSHOT))) as served:
        yield served.url


async def test_the_application_sees_the_request_as_it_was_sent() -> None:
    """Method, path, query, headers and body; the path decoded."""
    app = FastAPI()

    @app.put("/show/{name:path}")
    async def show(name: str, request: Request) -> dict[str, object]:
        body = await request.body()
        return {"name": name, "query": dict(request.query_params), "x": request.headers["X-Some"], "bytes": len(body)}

    async with bridged(app) as url, aiohttp.ClientSession() as client:
        address = f"{url}/show/a%20b/%C3%A9?q=1%262"
        async with client.put(address, data=b"x" * 500_000, headers={"x-some": "v"}) as answer:
            assert await answer.json() == {"name": "a b/é", "query": {"q": "1&2"}, "x": "v", "bytes": 500_000}


async def test_an_answer_in_pieces_arrives_whole() -> None:
    app = FastAPI()

    @app.get("/")
    async def pieces() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(100):
                yield b"%d," % number
                await asyncio.sleep(0)

        return StreamingResponse(parts())

    async with bridged(app) as url, aiohttp.ClientSession() as client, client.get(url) as answer:
        assert await answer.read() == b"".join(b"%d," % number for number in range(100))


async def test_head_is_answered_without_a_body() -> None:
    """And the connection can be used again."""
    app = FastAPI()

    @app.api_route("/page", methods=["GET", "HEAD"])
    async def page() -> str:
        return "page"

    async with bridged(app) as url, aiohttp.ClientSession() as client:
        for _ in range(2):
            async with client.head(f"{url}/page") as answer:
                assert answer.headers["content-length"] == "6"
                assert await answer.read() == b""
            async with client.get(f"{url}/page") as answer:
                assert await answer.json() == "page"


async def test_an_application_that_raises_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """With Starlette's own answer or, where it gives none, with ours; and it is logged."""
    app = FastAPI()

    @app.get("/")
    async def fail() -> None:
        raise ValueError("a defect")

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("a bare defect")

    for application in (app, bare):
        async with bridged(application) as url, aiohttp.ClientSession() as client, client.get(url) as answer:
            assert answer.status == 500
            assert "defect" not in await answer.text()
    assert "a defect" in caplog.text
    assert "a bare defect" in caplog.text


async def test_an_application_that_does_not_end_its_answer_is_not_taken_for_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async with bridged(half) as url, aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientError):
            async with client.get(url) as answer:
                await answer.read()
    assert "did not end its answer" in caplog.text


async def test_a_body_that_is_too_large_is_the_applications_to_refuse() -> None:
    """``receive`` raises what the model routes answer with a 413."""
    told: list[str] = []

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at below
            told.append(str(error))
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body"})
        assert await receive() == {"type": "http.disconnect"}, "the answer is complete"

    async with bridged(read) as url, aiohttp.ClientSession() as client:
        async with client.post(url, data=b"x" * 1_000_001) as answer:
            assert answer.status == 413
            assert await answer.read() == b""
    assert "1000000" in told[0]


async def test_an_application_whose_caller_leaves_is_cancelled() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        began.set()
        try:
            await receive()
        finally:
            ended.set()

    async with bridged(wait) as url, aiohttp.ClientSession() as client:
        calling = asyncio.create_task(client.get(url))
        await began.wait()
        calling.cancel()
        await asyncio.wait_for(ended.wait(), SOON_S)
        await asyncio.wait({calling})
