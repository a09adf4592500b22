"""The HTTP server's stop over real sockets: no request is lost, and none delays it for ever."""

import asyncio
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, socket

import pytest

from gateway.routes import http1_connection, http1_server
from gateway.routes.http1_exchange import Exchange
from tests.ground.http_server import Held, read_answer, serving
from tests.ground.waiting import SOON_S, until

GET = b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.slow
async def test_stopping_closes_the_idle_and_waits_for_the_running() -> None:
    held = Held()
    async with serving(slow=held) as served, served.connected() as idle, served.connected() as busy:
        idle[1].write(GET % b"/")
        await read_answer(idle[0])
        busy[1].write(GET % b"/slow" + GET % b"/never")
        await held.until(lambda: bool(held.begun))
        stopping = asyncio.create_task(served.server.stop(600))
        assert await asyncio.wait_for(idle[0].read(-1), SOON_S) == b""
        assert not stopping.done()
        with pytest.raises(OSError, match="onnect"):
            await asyncio.open_connection("127.0.0.1", served._port)
        held.let_go.set()
        got = await asyncio.wait_for(busy[0].read(-1), SOON_S)
        assert got.endswith(b"/slow ")
        assert b"connection: close" in got
        await stopping


@pytest.mark.parametrize("state", ["new", "used", "answering", "within a head"])
async def test_a_request_under_way_while_the_server_stops_is_answered(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be sent, and not be here yet, when the server is told; its answer is the first to say that it is the last.

    A caller's connection looks idle then, or has only just been made; or he knows of no end, for the head of an
    earlier answer had left without a word of it.
    """
    monkeypatch.setattr(http1_connection, "LAST_CALL_S", 30)
    held = Held()

    async def in_pieces(exchange: Exchange) -> None:
        await exchange.start(200, [(b"content-length", b"2")])
        exchange.write(b"a")
        await held.let_go.wait()
        exchange.write(b"b")

    async with serving(pieces=in_pieces) as served, served.connected() as (reader, writer):
        request = GET % b"/last"
        if state in ("used", "within a head"):
            writer.write(GET % b"/first")
            await read_answer(reader)
        elif state == "answering":
            writer.write(GET % b"/pieces")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\na"), SOON_S)
        if state == "within a head":
            writer.write(request[:9])
            await until(lambda: bool(served.only()._loose_bytes))
            request = request[9:]
        connection = await served.accepted()
        stopping = asyncio.create_task(served.server.stop(600))
        await until(lambda: connection._finishing)
        if state == "answering":
            held.let_go.set()
            assert await reader.readexactly(1) == b"b"
        writer.write(request)
        got = await asyncio.wait_for(reader.read(-1), SOON_S)
        assert got.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in got
        assert got.endswith(b"/last ")
        await asyncio.wait_for(stopping, SOON_S)


@pytest.mark.parametrize(
    "request_head", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"]
)
async def test_an_answer_that_still_leaves_is_not_shortened_by_a_stop(
    request_head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is all written, and more than the system takes at once: a slow caller has the time that callers have."""
    monkeypatch.setattr(http1_connection, "LAST_CALL_S", 0.05)
    size = 60_000
    answered = asyncio.Event()

    async def large(exchange: Exchange) -> None:
        await exchange.start(200, [(b"content-length", str(size).encode())])
        exchange.write(b"x" * size)
        answered.set()

    async with serving(large) as served:
        with socket() as caller:
            caller.setsockopt(SOL_SOCKET, SO_RCVBUF, 2048)
            caller.setblocking(False)
            loop = asyncio.get_running_loop()
            served.listener.setsockopt(SOL_SOCKET, SO_SNDBUF, 2048)
            await loop.sock_connect(caller, served.listener.getsockname())
            await loop.sock_sendall(caller, request_head)
            await answered.wait()
            await until(lambda: served.only()._current is None)
            assert served.only()._transport.get_write_buffer_size() > 0
            stopping = asyncio.create_task(served.server.stop(600))
            await until(lambda: served.only()._finishing)
            await asyncio.wait([stopping], timeout=0.2)
            got = b""
            while piece := await asyncio.wait_for(loop.sock_recv(caller, 4096), SOON_S):
                got += piece
            assert got.endswith(b"x" * size)
            await asyncio.wait_for(stopping, SOON_S)


@pytest.mark.parametrize("state", ["answered early", "refused"])
async def test_caller_who_still_sends_while_the_server_stops_gets_an_answer(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is closed on him would take it from him again."""
    monkeypatch.setattr(http1_connection, "LAST_CALL_S", 0.05)

    async def early(exchange: Exchange) -> None:
        if state == "refused":
            exchange.persistent = False
        await exchange.start(200, [(b"content-length", b"5")])
        exchange.write(b"early")

    async with serving(early) as served, served.connected() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n")
        connection = await served.accepted()
        await until(lambda: connection._incoming is not None)
        await until(lambda: connection._current is None or connection._lingering)
        stopping = asyncio.create_task(served.server.stop(600))
        for _ in range(4):
            await asyncio.wait([stopping], timeout=0.05)
            writer.write(b"piece")
            await writer.drain()
        assert (await asyncio.wait_for(reader.read(-1), SOON_S)).endswith(b"early")
        await asyncio.wait_for(stopping, SOON_S)


async def test_caller_who_still_sends_is_cut_when_the_drain_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1_server, "_LAST_WORD_S", 60.0)

    async def refuse(exchange: Exchange) -> None:
        exchange.persistent = False
        await exchange.start(413, [(b"content-length", b"0")])

    async with serving(refuse) as served, served.connected() as (_, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n")
        connection = await served.accepted()
        await until(lambda: connection._lingering)
        await asyncio.wait_for(served.server.stop(0), SOON_S)


async def test_half_a_head_behind_an_answer_does_not_delay_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that came while another request ran are no reason to wait as long as for a new head, or an idle caller."""
    monkeypatch.setattr(http1_connection, "LAST_CALL_S", 0.05)
    monkeypatch.setattr(http1_connection, "HEADER_TIMEOUT_S", 600.0)
    held = Held()
    async with serving(held) as served, served.connected() as (reader, writer):
        writer.write(GET % b"/")
        await held.until(lambda: bool(held.begun))
        writer.write(b"\r\n")
        await until(lambda: bool(served.only()._loose_bytes))
        held.let_go.set()
        await read_answer(reader)
        await asyncio.wait_for(served.server.stop(600), SOON_S)


async def test_second_stop_does_not_wait_for_a_stopped_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1_server, "_LAST_WORD_S", 0.05)

    async def endless(exchange: Exchange) -> None:
        await exchange.start(200, [])
        try:
            while True:
                exchange.write(b"x" * 100_000)
                await exchange.drained()
        except asyncio.CancelledError:
            exchange.write(b"stopping")

    async with serving(endless) as served, served.connected() as (_, writer):
        writer.transport.pause_reading()
        writer.write(GET % b"/")
        connection = await served.accepted()
        await until(lambda: connection.full)
        stopping = asyncio.create_task(served.server.stop(600))
        await until(lambda: connection._finishing)
        served.server.cut()
        await asyncio.wait_for(stopping, SOON_S)


async def test_request_cut_before_its_first_step_gets_an_error() -> None:
    """It has begun and its task has not run: cancelled there and then, it would stay for ever."""

    async def never(exchange: Exchange) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await exchange.start(503, [])
            exchange.write(b"stopping")

    async with serving(never) as served, served.connected() as (reader, _):
        connection = await served.accepted()
        connection.data_received(GET % b"/")
        connection.cut()
        assert (await asyncio.wait_for(reader.read(-1), SOON_S)).startswith(b"HTTP/1.1 503 ")


async def test_a_head_that_is_arriving_keeps_its_time_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1_connection, "LAST_CALL_S", 0.01)
    async with serving() as served, served.connected() as (reader, writer):
        writer.write(b"GET /last HT")
        connection = await served.accepted()
        await until(lambda: connection._target)
        stopping = asyncio.create_task(served.server.stop(600))
        await asyncio.wait([stopping], timeout=0.1)
        writer.write(b"TP/1.1\r\nhost: a\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(-1), SOON_S)).endswith(b"/last ")
        await stopping


async def test_connection_that_is_cut_begins_no_request() -> None:
    held = Held()

    async def in_pieces(exchange: Exchange) -> None:
        await exchange.start(200, [])
        exchange.write(b"a")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            exchange.write(b"cut")

    async with serving(held, pieces=in_pieces) as served, served.connected() as (reader, writer):
        writer.write(GET % b"/pieces" + GET % b"/never")
        await asyncio.wait_for(reader.readuntil(b"a\r\n"), SOON_S)
        await asyncio.wait_for(served.server.stop(0), SOON_S)
        assert (await asyncio.wait_for(reader.read(-1), SOON_S)).endswith(b"cut\r\n0\r\n\r\n")
        assert not held.begun


async def test_request_beyond_the_drain_is_cancelled_and_may_say_so() -> None:
    begun = asyncio.Event()

    async def last_word(exchange: Exchange) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert not exchange.has_left()
            await exchange.start(503, [])
            exchange.write(b"stopping")

    async with serving(last_word) as served, served.connected() as (reader, writer):
        writer.write(GET % b"/")
        await begun.wait()
        await served.server.stop(0.01)
        got = await asyncio.wait_for(reader.read(-1), SOON_S)
    assert got.startswith(b"HTTP/1.1 503 ")
    assert got.endswith(b"8\r\nstopping\r\n0\r\n\r\n")


async def test_stop_waits_for_a_request_whose_caller_has_left() -> None:
    """What it cost is still to be written."""
    begun, cancelled, let_go, ended = (asyncio.Event() for _ in range(4))

    async def settle(exchange: Exchange) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert exchange.has_left()
            cancelled.set()
            await let_go.wait()
            ended.set()

    async with serving(settle) as served:
        async with served.connected() as (_, writer):
            writer.write(GET % b"/")
            await begun.wait()
        await cancelled.wait()
        stopping = asyncio.create_task(served.server.stop(600))
        assert not (await asyncio.wait([stopping], timeout=0.05))[0]
        let_go.set()
        await stopping
        assert ended.is_set()
