"""A caller that breaks the rules of HTTP costs no other caller anything, and holds no connection for ever."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.routes import http1_connection
from tests.ground.configs import one_model
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import play
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S

CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
ORIGIN = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"


def _request(**members: object) -> bytes:
    body = json.dumps({**CHAT, **members}).encode()
    return ORIGIN + b"content-length: %d\r\n\r\n" % len(body) + body


@asynccontextmanager
async def _connected(running: RunningGateway) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_leaves_behind_a_second_request_frees_the_upstream(stream: bool, tmp_path: Path) -> None:
    """Requests may be sent behind one another; leaving cancels the one that is being answered, too."""
    async with ScriptedUpstream() as upstream:
        upstream.model.tokens, upstream.model.tpot_s = 10_000, 0.01
        async with running_gateway(one_model(upstream.url), tmp_path) as running:
            async with _connected(running) as (_, writer):
                writer.write(_request(stream=stream))
                seen = await upstream.arrived()
                writer.write(_request())
                await asyncio.sleep(0.1)
            await asyncio.wait_for(seen.ended.wait(), SOON_S)
            assert seen.disconnected_at_s is not None
            assert len(upstream.seen) == 1


async def test_garbage_behind_a_request_cancels_no_answer(tmp_path: Path) -> None:
    """A running stream is sent whole; only then comes the refusal of what followed, and the connection ends."""
    async with ScriptedUpstream() as upstream:
        upstream.model.tokens, upstream.model.tpot_s = 20, 0.005
        async with running_gateway(one_model(upstream.url), tmp_path) as running, _connected(running) as caller:
            reader, writer = caller
            writer.write(_request(stream=True))
            received = await reader.readuntil(b"data: ")
            writer.write(b"no HTTP at all\r\n\r\n")
            received += await asyncio.wait_for(reader.read(-1), SOON_S)
            assert upstream.seen[0].completed
            assert [row.outcome for row in await running.totals()] == ["ok"]
    answer, _, refusal = received.partition(b"0\r\n\r\nHTTP/1.1 400 Bad Request\r\n")
    assert b"data: [DONE]\n\n" in answer
    assert b'"invalid_request_error"' in refusal


async def test_a_caller_who_stops_reading_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the request nor its connection waits for ever for somebody who takes nothing."""
    monkeypatch.setattr(http1_connection, "READER_TIMEOUT_S", 0.2)
    text = {"choices": [{"index": 0, "delta": {"content": "x" * 100_000}}]}
    async with ScriptedUpstream().then(play([text] * 200)) as upstream:
        async with running_gateway(one_model(upstream.url), tmp_path) as running:
            with socket.socket() as caller:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                caller.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(caller, ("127.0.0.1", running.port))
                await loop.sock_sendall(caller, _request(stream=True))
                seen = await upstream.arrived()
                await asyncio.wait_for(seen.ended.wait(), SOON_S)
            assert seen.disconnected_at_s is not None
            assert running.gateway.pool.in_flight() == {"scripted": 0}
            assert [row.outcome for row in await running.totals()] == ["cancelled"]


@pytest.mark.parametrize(
    ("sent", "then"),
    [
        (ORIGIN + b"content-length: 1000\r\n\r\n", b"x"),
        (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", b"\r\n"),
    ],
    ids=["the rest of a body that was refused", "blank lines"],
)
async def test_trickling_behind_an_answer_keeps_no_connection(
    sent: bytes, then: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upstream: ScriptedUpstream
) -> None:
    """What comes before the next request's head is not waited for without end."""
    monkeypatch.setattr(http1_connection, "HEADER_TIMEOUT_S", 0.3)
    config = {**one_model(upstream.url), "keys": [{"name": "app", "secret": "env:KEY"}]}
    async with (
        running_gateway(config, tmp_path, environ={"KEY": "sk"}) as running,
        _connected(running) as (
            reader,
            writer,
        ),
    ):
        writer.write(sent)
        await reader.readuntil(b"}")
        writer.write(then)
        rest = await reader.read(-1)
        assert b"HTTP/1.1" not in rest


async def test_a_field_behind_the_body_is_no_header(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """A key in a trailer proves nothing: what checks headers on the way here does not see it."""
    config = {**one_model(upstream.url), "keys": [{"name": "app", "secret": "env:KEY"}]}
    body = json.dumps(CHAT).encode()
    async with (
        running_gateway(config, tmp_path, environ={"KEY": "sk"}) as running,
        _connected(running) as (
            reader,
            writer,
        ),
    ):
        writer.write(ORIGIN + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(body), body))
        writer.write(b"authorization: Bearer sk\r\n\r\n")
        assert b" 401 " in await reader.readline()


@pytest.mark.parametrize("endless", [b"x-more: a\r\n" * 1000, b"a" * 10_000], ids=["fields", "one field"])
async def test_fields_behind_a_body_come_to_an_end(endless: bytes, tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """They are neither kept nor read without limit."""
    async with running_gateway(one_model(upstream.url), tmp_path) as running, _connected(running) as (reader, writer):
        writer.write(ORIGIN + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-first: ")
        for _ in range(20):
            writer.write(endless)
        assert b" 431 " in await reader.readline()


async def test_an_offer_to_speak_another_protocol_is_passed_over(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Java's client makes one with every request, and its body counts all the same; on a used connection, too."""
    offer = b"HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAE\r\n"
    async with running_gateway(one_model(upstream.url), tmp_path) as running, _connected(running) as (reader, writer):
        for _ in range(2):
            writer.write(_request().replace(b"HTTP/1.1\r\n", offer, 1))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.split(b"\r\n")[0]
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
            await reader.readexactly(int(length.removeprefix(b"content-length: ")))


async def test_a_stream_for_http_1_0_ends_with_the_connection(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """HTTP/1.0 knows no chunks: their sizes would be taken for a part of the answer."""
    async with running_gateway(one_model(upstream.url), tmp_path) as running, _connected(running) as (reader, writer):
        writer.write(_request(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = (await asyncio.wait_for(reader.read(-1), SOON_S)).partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert b"transfer-encoding" not in head
    assert all(not line or line.startswith((b"data: ", b": ")) for line in body.split(b"\n"))
    assert b"data: [DONE]" in body


async def test_a_caller_who_closes_only_his_sending_side_has_left(tmp_path: Path) -> None:
    """It cannot be told from leaving altogether, and a model's time is too dear to wait and see."""
    async with ScriptedUpstream() as upstream:
        upstream.model.tokens, upstream.model.tpot_s = 10_000, 0.01
        async with running_gateway(one_model(upstream.url), tmp_path) as running, _connected(running) as (_, writer):
            writer.write(_request(stream=True))
            seen = await upstream.arrived()
            writer.write_eof()
            await asyncio.wait_for(seen.ended.wait(), SOON_S)
            assert seen.disconnected_at_s is not None
            assert [row.outcome for row in await running.totals()] == ["cancelled"]


async def test_a_page_is_answered_on_the_connection_of_a_chat(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """The model routes and the FastAPI application are one server."""
    page = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with running_gateway(one_model(upstream.url), tmp_path) as running, _connected(running) as (reader, writer):
        writer.write(_request() + page + page.replace(b"GET", b"HEAD") + page.replace(b"GET", b"PUT"))
        got = await asyncio.wait_for(reader.readuntil(b'{"status":"ok"}'), SOON_S)
        assert got.count(b"HTTP/1.1 200 OK") == 2
        assert b"HTTP/1.1 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)
        refused = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)
        assert refused.startswith(b"HTTP/1.1 405 "), "the answer to HEAD has no body"
        assert b"\r\nallow: GET, HEAD\r\n" in refused
