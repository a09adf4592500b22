"""Upstreams that keep to the letter of no standard, and callers who would make us do the same."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from gateway.errors import ErrorKind, UpstreamError
from gateway.transport.http1 import HttpTransport
from gateway.transport.http1_connect import default_tls
from tests.ground.builders import build_upstream_request
from tests.ground.script import Answer, json_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S, until

CERTIFICATE = Path(__file__).with_name("upstream_test.pem")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTHLESS = b"HTTP/1.1 200 OK\r\n\r\n"
Turn = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawUpstream:
    """Plays one turn per request head that comes, over any connection, and then keeps the connection open."""

    def __init__(self) -> None:
        self.turns: list[Turn | bytes] = []
        self.connections = 0
        self.connections_open = 0
        self.requests: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.connections_open += 1
        with suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                turn = self.turns.pop(0) if self.turns else OK
                if isinstance(turn, bytes):
                    await reader.readexactly(2)
                    writer.write(turn)
                    await writer.drain()
                else:
                    await turn(reader, writer)
        writer.transport.abort()
        self.connections_open -= 1


@pytest_asyncio.fixture
async def ground() -> AsyncIterator[tuple[HttpTransport, RawUpstream]]:
    """Start a transport and a raw upstream."""
    upstream = RawUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    transport = HttpTransport()
    await transport.start()
    yield transport, upstream
    await transport.stop()
    server.close()
    await until(lambda: not upstream.connections_open)
    await asyncio.sleep(0)


Ground = tuple[HttpTransport, RawUpstream]


async def fetch(transport: HttpTransport, url: str, body: bytes = b"{}", **overrides: Any) -> bytes:
    """Read one answer to its end."""
    received = bytearray()
    request = build_upstream_request(url, body=body, **overrides)
    async with asyncio.timeout(SOON_S), transport.send(request, connect_timeout_s=SOON_S) as answer:
        while data := await answer.read():
            received += data
    return bytes(received)


async def failure(transport: HttpTransport, url: str, **overrides: Any) -> ErrorKind:
    """Send a request that must fail."""
    with pytest.raises(UpstreamError) as caught:
        await fetch(transport, url, **overrides)
    return caught.value.kind


def half_close(sent: bytes) -> Turn:
    """Send, end what is sent, and go on listening."""

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.write_eof()
        await reader.read()

    return turn


def endless(head: bytes, more: bytes) -> Turn:
    """Send without end."""

    async def turn(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(more)
            await writer.drain()

    return turn


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nx: y", CHUNKED + b"5\r\nab", OK[:-1]])
async def test_half_closed_connection_is_a_cut(ground: Ground, sent: bytes) -> None:
    """An upstream that has said its last is not waited for, though it still listens."""
    transport, upstream = ground
    upstream.turns.append(half_close(sent))
    assert await failure(transport, upstream.url) is ErrorKind.UPSTREAM_CUT


async def test_half_closing_ends_a_body_without_length(ground: Ground) -> None:
    transport, upstream = ground
    upstream.turns.append(half_close(LENGTHLESS + b"all"))
    assert await fetch(transport, upstream.url) == b"all"
    assert await fetch(transport, upstream.url) == b"ok"
    assert upstream.connections == 2


@pytest.mark.parametrize("surplus", [b"garbage", OK, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nforged"])
@pytest.mark.parametrize("answer", [OK, CHUNKED + b"2\r\nok\r\n0\r\n\r\n"], ids=["length", "chunked"])
async def test_bytes_behind_an_answer_reach_no_caller(ground: Ground, answer: bytes, surplus: bytes) -> None:
    """They neither spoil the answer nor become the next one's: their connection is not used again."""
    transport, upstream = ground
    upstream.turns.append(answer + surplus)
    assert await fetch(transport, upstream.url) == b"ok"
    upstream.turns.append(OK.replace(b"ok", b"my"))
    assert await fetch(transport, upstream.url) == b"my"
    assert upstream.connections == 2


@pytest.mark.parametrize("closes", [False, True])
async def test_idle_connection_that_speaks_or_ends_is_not_used_again(ground: Ground, closes: bool) -> None:
    transport, upstream = ground
    go_on, done = asyncio.Event(), asyncio.Event()

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await go_on.wait()
        if closes:
            writer.write_eof()
        else:
            writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        done.set()

    upstream.turns.append(turn)
    assert await fetch(transport, upstream.url) == b"ok"
    go_on.set()
    async with asyncio.timeout(SOON_S):  # at once, and not by growing old
        await done.wait()
    assert await fetch(transport, upstream.url) == b"ok"
    assert (upstream.connections, len(upstream.requests)) == (2, 2)


@pytest.mark.parametrize(
    "body",
    [b"2;a=b;c\r\nok\r\n0;last\r\n\r\n", b"2\r\nok\r\n0\r\nx-sum: 1\r\nstatus: 500\r\n\r\n"],
    ids=["extension", "trailer"],
)
async def test_extensions_and_trailers_are_passed_over(ground: Ground, body: bytes) -> None:
    transport, upstream = ground
    upstream.turns.append(CHUNKED + body)
    assert await fetch(transport, upstream.url) == b"ok"
    assert await fetch(transport, upstream.url) == b"ok"
    assert upstream.connections == 1


@pytest.mark.parametrize(
    ("head", "more", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"a" * 4096, ErrorKind.UPSTREAM_PROTOCOL),
        (b"HTTP/1.1 200 ", b"a" * 4096, ErrorKind.UPSTREAM_PROTOCOL),
        (b"", b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 20, ErrorKind.UPSTREAM_PROTOCOL),
        (CHUNKED + b"2;", b"a" * 4096, ErrorKind.UPSTREAM_CUT),
        (CHUNKED + b"2\r\nok\r\n0\r\nx: ", b"a" * 4096, ErrorKind.UPSTREAM_CUT),
        (CHUNKED + b"2\r\nok\r\n0\r\n", b"x: y\r\n" * 500, ErrorKind.UPSTREAM_CUT),
    ],
    ids=["header", "status line", "interim", "extension", "trailer", "trailers"],
)
async def test_endless_answer_is_given_up(ground: Ground, head: bytes, more: bytes, kind: ErrorKind) -> None:
    """Bytes without end that are no body fill no memory and hold nobody."""
    transport, upstream = ground
    upstream.turns.append(endless(head, more))
    async with asyncio.timeout(SOON_S):
        assert await failure(transport, upstream.url) is kind


@pytest.mark.parametrize(("name_bytes", "value_bytes"), [(1, 8_189), (8_189, 1), (4_095, 4_095)])
@pytest.mark.parametrize("over_bytes", [0, 1])
async def test_header_is_limited_by_its_name_and_value_together(
    ground: Ground, name_bytes: int, value_bytes: int, over_bytes: int
) -> None:
    transport, upstream = ground
    field = b"n" * (name_bytes + over_bytes) + b": " + b"v" * value_bytes
    upstream.turns.append(OK.replace(b"\r\n", b"\r\n" + field + b"\r\n", 1))
    if over_bytes:
        assert await failure(transport, upstream.url) is ErrorKind.UPSTREAM_PROTOCOL
    else:
        assert await fetch(transport, upstream.url) == b"ok"


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 2\r\ncontent-length: 3\r\n",
        b"content-length: -2\r\n",
        b"transfer-encoding: gzip\r\n",
    ],
)
async def test_doubtful_framing_is_a_protocol_error(ground: Ground, head: bytes) -> None:
    """Who reads a body's length in another way than the upstream reads another's answer."""
    transport, upstream = ground
    upstream.turns.append(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nok")
    assert await failure(transport, upstream.url) is ErrorKind.UPSTREAM_PROTOCOL


async def test_interim_answer_with_a_body_is_a_protocol_error(ground: Ground) -> None:
    """Its bytes are nobody's answer. Of the known ones (100, 103) the parser takes them for the next answer's head."""
    transport, upstream = ground
    upstream.turns.append(b"HTTP/1.1 199 Unknown\r\ncontent-length: 2\r\n\r\nno" + OK)
    assert await failure(transport, upstream.url) is ErrorKind.UPSTREAM_PROTOCOL


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified\r\ncontent-length: 7"])
async def test_answer_without_a_body_gives_the_connection_back(ground: Ground, status: bytes) -> None:
    transport, upstream = ground
    upstream.turns.append(b"HTTP/1.1 " + status + b"\r\n\r\n")
    assert await fetch(transport, upstream.url) == b""
    assert await fetch(transport, upstream.url) == b"ok"
    assert upstream.connections == 1


async def test_offer_of_another_protocol_is_passed_over(ground: Ground) -> None:
    transport, upstream = ground
    upstream.turns.append(OK.replace(b"\r\n", b"\r\nupgrade: h2c\r\nconnection: upgrade\r\n", 1))
    assert await fetch(transport, upstream.url) == b"ok"


@pytest.mark.parametrize(
    ("name", "value"), [("x", "a\r\nevil: 1"), ("x", "a\nb"), ("x", "a\0"), ("x\r\nevil", "1"), ("x y", "1"), ("", "1")]
)
async def test_no_header_smuggles_another(ground: Ground, name: str, value: str) -> None:
    """What would not be one header is not sent, and the sentence does not hold it."""
    transport, upstream = ground
    with pytest.raises(UpstreamError) as caught:
        await fetch(transport, upstream.url, headers=((name, value),))
    assert caught.value.kind is ErrorKind.UPSTREAM_PROTOCOL
    assert "evil" not in str(caught.value)
    assert not upstream.connections


@pytest.mark.parametrize("rest", ["/\r\nevil: 1", "/ HTTP/1.1", "/\t", "/\x7f", ":99999/", "@other/"])
async def test_no_url_smuggles_a_header(ground: Ground, rest: str) -> None:
    transport, upstream = ground
    assert await failure(transport, upstream.url.removesuffix("/v1") + rest) is ErrorKind.UPSTREAM_CONNECT
    assert not upstream.connections


async def test_framing_is_written_once(ground: Ground) -> None:
    """Headers that say where a body ends are ours alone; the host is named with its port."""
    transport, upstream = ground
    headers = (("Content-Length", "1"), ("transfer-encoding", "chunked"), ("Accept-Encoding", "gzip"))
    await fetch(transport, upstream.url, headers=headers)
    lines = upstream.requests[0].lower().split(b"\r\n")
    assert [line for line in lines if b"length" in line or b"encoding" in line] == [
        b"content-length: 2",
        b"accept-encoding: identity",
    ]
    assert b"host: " + upstream.url.split("/")[2].encode() in lines


async def test_upload_goes_on_behind_an_early_answer(ground: Ground) -> None:
    """An upstream may begin to answer before it has read the request, and still wants the rest of it."""
    transport, upstream = ground
    body = b"x" * 20_000_000

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        await writer.drain()
        assert await reader.readexactly(len(body)) == body
        writer.write(b"ok")

    upstream.turns.append(turn)
    assert await fetch(transport, upstream.url, body=body) == b"ok"
    assert await fetch(transport, upstream.url) == b"ok"
    assert upstream.connections == 1


@pytest.mark.parametrize("forged", [OK, b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n", b"H"])
async def test_answer_on_a_kept_connection_must_not_begin_before_its_request_is_written(
    ground: Ground, forged: bytes
) -> None:
    """It may be another request's; the request is not taken for sent, and on a fresh connection it is read."""
    transport, upstream = ground
    assert await fetch(transport, upstream.url) == b"ok"

    over = asyncio.Event()

    def answer_unread(answer: bytes) -> Turn:
        async def turn(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await over.wait()
            raise ConnectionResetError

        return turn

    upstream.turns += [answer_unread(forged), answer_unread(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")]
    request = build_upstream_request(upstream.url, body=b"x" * 20_000_000)
    sending = transport.send(request, connect_timeout_s=SOON_S)
    with pytest.raises(UpstreamError) as caught:
        await sending.__aenter__()
    assert caught.value.kind is ErrorKind.STALE_CONNECTION
    assert not sending.sent
    async with transport.send(request, connect_timeout_s=SOON_S, fresh=True) as answer:
        assert (answer.status, await answer.read()) == (413, b"no")
    assert upstream.connections == 2
    over.set()


@pytest.mark.parametrize("waiting", [OK.replace(b"ok", b"no"), b"x"])
async def test_bytes_that_wait_on_a_kept_connection_cost_it(ground: Ground, waiting: bytes) -> None:
    """Not even the event loop has seen them when the request is about to be written; it goes out on another one."""
    transport, upstream = ground
    descriptors: list[int] = []

    async def turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        descriptors.append(writer.get_extra_info("socket").fileno())
        writer.write(OK)

    upstream.turns.append(turn)
    assert await fetch(transport, upstream.url) == b"ok"
    os.write(descriptors[0], waiting)
    upstream.turns.append(OK.replace(b"ok", b"my"))
    assert await fetch(transport, upstream.url) == b"my"
    assert (upstream.connections, len(upstream.requests)) == (2, 2)


async def test_tiny_chunks_hold_the_upstream_back_sooner(ground: Ground) -> None:
    """What keeping a chunk costs beside its bytes counts too."""
    transport, upstream = ground
    sent = 0

    async def turn(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(CHUNKED)
        while True:
            writer.write(b"1\r\na\r\n" * 1000)
            await writer.drain()
            sent += 1000

    upstream.turns.append(turn)
    async with transport.send(build_upstream_request(upstream.url, body=b"{}"), connect_timeout_s=SOON_S) as answer:
        before = -1
        while sent != before:  # until every buffer on the way is full
            before = sent
            await asyncio.sleep(0.05)
        assert len(await answer.read()) < 80_000


async def test_answer_that_has_come_whole_may_be_left_unread(ground: Ground) -> None:
    """Who stops reading at the protocol's own end mark does not cost the connection."""
    transport, upstream = ground
    async with transport.send(build_upstream_request(upstream.url, body=b"{}"), connect_timeout_s=SOON_S) as answer:
        assert await answer.read() == b"ok"
    assert await fetch(transport, upstream.url) == b"ok"
    assert upstream.connections == 1


async def test_idle_connections_are_closed_in_time(upstream: ScriptedUpstream) -> None:
    """A connection nobody wants is given up before the upstream does it."""
    transport = HttpTransport(keepalive_s=0.05)
    await transport.start()
    await asyncio.gather(*(fetch(transport, upstream.url) for _request in range(3)))
    await until(lambda: not upstream.connections_open)
    await transport.stop()


@pytest.mark.parametrize("farewell", [False, True])
async def test_end_over_tls_without_farewell_is_a_cut(farewell: bool) -> None:
    """Anybody on the way can end a connection; only the upstream can say that nothing more comes.

    On uvloop, which the gateway serves on: asyncio's own TLS does not tell its protocol which end it was.
    """
    async with AsyncExitStack() as cleanup:
        server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_tls.load_cert_chain(CERTIFICATE)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(LENGTHLESS + b"some")
            await writer.drain()
            if farewell:
                writer.close()
            else:
                writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls)
        cleanup.callback(server.close)
        context = default_tls()
        context.load_verify_locations(CERTIFICATE)
        context.check_hostname = False
        transport = HttpTransport(ssl_context=context)
        await transport.start()
        cleanup.push_async_callback(transport.stop)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        if farewell or not isinstance(asyncio.get_running_loop(), uvloop.Loop):
            assert await fetch(transport, url) == b"some"
        else:
            assert await failure(transport, url) is ErrorKind.UPSTREAM_CUT


async def test_name_with_two_addresses_is_reached_by_the_one_that_listens(upstream: ScriptedUpstream) -> None:
    """``localhost`` is ``::1`` too on most machines, and nobody listens there."""
    transport = HttpTransport()
    await transport.start()
    upstream.then(Answer(chunks=(b"one",)), json_answer({}))
    assert await fetch(transport, upstream.url.replace("127.0.0.1", "localhost")) == b"one"
    await transport.stop()
