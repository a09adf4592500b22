"""The HTTP server over real sockets: order, leaving, patience, and an orderly end."""

import asyncio
import re
import time

import pytest

from gateway.routes import http1_connection
from gateway.routes.http1_exchange import Exchange
from gateway.transport.http1_fields import read_fields
from tests.ground.http_server import Held, read_answer, serving
from tests.ground.waiting import SOON_S

GET = b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n"


async def test_requests_behind_one_another_are_answered_in_order() -> None:
    """However they are cut into packets; one that takes long is not overtaken."""
    held = Held()
    async with serving(slow=held) as served, served.connected() as (reader, writer):
        body = b"POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody"
        writer.write(
            GET % b"/slow" + body + b"POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nch"
        )
        await held.until(lambda: held.begun == [b"/slow"])
        writer.write(b"\r\n0\r\nx-behind: it\r\n\r\n" + GET % b"/d")
        held.let_go.set()
        assert [await read_answer(reader) for _ in range(4)] == [b"/slow ", b"/b body", b"/c ch", b"/d "]


@pytest.mark.parametrize("how", ["half-close", "reset", "close"])
async def test_leaving_ends_the_running_request_and_those_behind_it_never_begin(how: str) -> None:
    """One who has only closed his sending side cannot be told from one who has gone."""
    held = Held()
    async with serving(held) as served, served.connected() as (_, writer):
        writer.write(GET % b"/1" + GET % b"/2" + GET % b"/3")
        await held.until(lambda: bool(held.begun))
        if how == "half-close":
            writer.write_eof()
        elif how == "reset":
            writer.transport.abort()
        else:
            writer.close()
        await held.until(lambda: bool(held.cancelled))
        assert (held.begun, held.cancelled) == ([b"/1"], [b"/1"])


async def test_leaving_in_the_middle_of_a_body_ends_the_request() -> None:
    ended = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        try:
            await exchange.read_body(10, 5.0)
        finally:
            assert exchange.has_left()
            ended.set()

    async with serving(handle) as served:
        async with served.connected() as (_, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbo")
            await writer.drain()
        await asyncio.wait_for(ended.wait(), SOON_S)


async def test_a_caller_far_ahead_of_the_answers_is_held_back() -> None:
    """What waits behind a request is bounded, and all of it is answered in the end."""
    held, many = Held(), 100
    request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4000\r\n\r\n" + b"x" * 4000
    async with serving(held) as served, served.connected() as (reader, writer):
        for _ in range(many):
            writer.write(request)
            await asyncio.sleep(0)
        await held.until(lambda: bool(held.begun))
        connection = served.only()
        async with asyncio.timeout(SOON_S):
            while not connection._paused:
                await asyncio.sleep(0)
        assert len(connection._waiting) < many
        held.let_go.set()
        for _ in range(many):
            assert await read_answer(reader) == b"/ " + b"x" * 4000
        assert not connection._paused


async def test_a_request_that_arrives_while_the_one_before_tidies_up_is_answered() -> None:
    """Its answer was complete; that its handler has yet to end is nobody's concern."""
    tidy = asyncio.Event()

    async def dawdle(exchange: Exchange) -> None:
        await exchange.start(200, [(b"content-length", b"2")])
        exchange.write(b"ok")
        exchange.end()
        await tidy.wait()

    async with serving(dawdle=dawdle) as served, served.connected() as (reader, writer):
        writer.write(GET % b"/dawdle")
        assert await read_answer(reader) == b"ok"
        writer.write(GET % b"/next")
        async with asyncio.timeout(SOON_S):
            while not served.only()._waiting:
                await asyncio.sleep(0)
        tidy.set()
        assert await read_answer(reader) == b"/next "


async def test_a_flood_of_requests_ends_the_connection() -> None:
    """Behind the answers to those that still found a place."""
    held = Held()
    async with serving(held) as served:
        async with served.connected() as (reader, writer):
            writer.write(GET % b"/" * 1000)
            await held.until(lambda: bool(held.begun))
            held.let_go.set()
            got = await asyncio.wait_for(reader.read(-1), SOON_S)
    assert got.count(b"HTTP/1.1 200 OK\r\n") == len(held.begun) < 300
    assert got.count(b"HTTP/1.1 400 Bad Request\r\n") == 1
    assert b"HTTP/1.1 400" in got[-400:]


async def test_a_caller_who_reads_slowly_is_waited_for() -> None:
    """Not more than the connection's buffers are written ahead of him, and nothing is lost."""
    written = 0

    async def handle(exchange: Exchange) -> None:
        nonlocal written
        await exchange.start(200, [])
        for _ in range(400):
            exchange.write(b"x" * 100_000)
            await exchange.drained()
            written += 1

    async with serving(handle) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served._port, limit=1 << 16)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(SOON_S):
            while not served.only().full:
                await asyncio.sleep(0)
        assert written < 200
        assert len(await reader.read(-1)) == 40_000_000
        writer.close()


async def test_a_caller_who_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1_connection, "READER_TIMEOUT_S", 0.2)
    left = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        await exchange.start(200, [])
        try:
            while True:
                exchange.write(b"x" * 100_000)
                await exchange.drained()
        finally:
            left.set()

    async with serving(handle) as served, served.connected() as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined] # or the stream would read ahead
        writer.write(GET % b"/")
        await asyncio.wait_for(left.wait(), SOON_S)


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nx: "], ids=["nothing", "blanks", "half a head"]
)
@pytest.mark.slow
async def test_a_head_has_its_time(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one who has begun to ask is told so."""
    monkeypatch.setattr(http1_connection, "HEADER_TIMEOUT_S", 1)
    async with serving() as served:
        got = await served.send(sent)
    assert (b" 408 " in got) == sent.startswith(b"GET")


@pytest.mark.slow
async def test_an_idle_connection_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a head may take."""
    monkeypatch.setattr(http1_connection, "HEADER_TIMEOUT_S", 1)
    monkeypatch.setattr(http1_connection, "KEEP_ALIVE_S", 1.5)
    async with serving() as served, served.connected() as (reader, writer):
        asked_at_s = asyncio.get_running_loop().time()
        writer.write(GET % b"/1")
        await read_answer(reader)
        assert await asyncio.wait_for(reader.read(-1), SOON_S) == b""
        assert asyncio.get_running_loop().time() - asked_at_s > 1.4


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 2\r\n\r\nab",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\nhost: a\n\n",
        b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nxx\r\n",
    ],
)
async def test_ambiguous_request_is_refused(sent: bytes) -> None:
    """400 in the shape of every other error, and no request begins that a client could have hidden."""
    async with serving() as served:
        got = await served.send(sent + GET % b"/hidden")
    assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert got.count(b"\r\ndate: ") == 1
    assert b'"invalid_request_error"' in got


@pytest.mark.parametrize("head_bytes", [31_000, 34_000])
async def test_only_the_head_counts_for_its_size(head_bytes: int) -> None:
    """A large body in the same packet does not."""
    # No larger than one packet: what the server has not read when it closes takes its answer back.
    async with serving() as served:
        filler = b"x-filler: " + b"a" * (head_bytes - 60) + b"\r\n"
        head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 20000\r\n" + filler
        got = await served.send(head + b"\r\n" + b"x" * 20_000)
    assert (b" 200 OK" in got) == (head_bytes < 32_768)
    assert (b" 431 " in got) == (head_bytes > 32_768)


async def test_offer_of_another_protocol_cut_anywhere_is_passed_over() -> None:
    """The body behind it counts, and so does the next request."""
    head = b"POST /a?b HTTP/1.1\r\nhost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\n"
    offer = head + b"body" + GET % b"/next"
    async with serving() as served, served.connected() as (reader, writer):
        for cut in (0, 30, 50, 70, len(offer) - 60):
            writer.write(offer[:cut])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(offer[cut:])
            assert await read_answer(reader) == b"/a?b body"
            assert await read_answer(reader) == b"/next "


async def test_a_refusal_reaches_a_caller_who_still_sends() -> None:
    """Although the connection ends with it: closing at once would make the system take it back."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.start(401, [(b"content-length", b"2")])
        exchange.write(b"no")

    async with serving(refuse) as served:
        head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 8000000\r\n\r\n"
        got = await served.send(head + b"x" * 8_000_000)
    assert got.startswith(b"HTTP/1.1 401 ")
    assert got.endswith(b"no")


async def test_a_large_head_behind_another_request_is_no_smaller() -> None:
    """The first one's answer arrives whole, and the refusal behind it."""
    async with serving() as served:
        first = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody"
        got = await served.send(first + b"GET /large HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 34_000 + b"\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"431"]
    assert b"\r\n\r\n/ body" in got


async def test_bytes_behind_the_last_request_are_no_request() -> None:
    """``Connection: close`` made it the last, and it is answered all the same."""
    async with serving() as served:
        got = await served.send(
            b"GET /1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n\r\n" + GET % b"/2" + b"nonsense"
        )
    assert got.count(b"HTTP/1.1 200 OK") == 1
    assert got.endswith(b"/1 ")


@pytest.mark.slow
async def test_unread_answer_holds_no_connection_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although its handler is done, and the connection is only being closed."""
    monkeypatch.setattr(http1_connection, "HEADER_TIMEOUT_S", 1)
    monkeypatch.setattr(http1_connection, "READER_TIMEOUT_S", 0.2)

    async def handle(exchange: Exchange) -> None:
        served.only()._transport.set_write_buffer_limits(1 << 25)
        await exchange.start(200, [])
        exchange.write(b"x" * 20_000_000)
        await exchange.drained()

    async with serving(handle) as served, served.connected() as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined] # or the stream would read ahead
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await writer.drain()
        async with asyncio.timeout(SOON_S):
            while not served.server._connections:
                await asyncio.sleep(0)
            while served.server._connections:
                await asyncio.sleep(0.01)


async def test_a_request_behind_a_refused_body_is_answered() -> None:
    """The rest of the body is skipped, not taken for a request."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.start(401, [(b"content-length", b"2")])
        exchange.write(b"no")

    async with serving(refuse=refuse) as served, served.connected() as (reader, writer):
        writer.write(b"POST /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
        assert await read_answer(reader) == b"no"
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".ljust(1000, b"x") + GET % b"/next")
        assert await read_answer(reader) == b"/next "


@pytest.mark.parametrize("target", [b"/a", b"/a?x=1", b"/%61", b"http://b:1/a", b"https://b/a?x"])
async def test_a_route_is_found_by_its_path_however_it_is_written(target: bytes) -> None:
    async def found(exchange: Exchange) -> None:
        await exchange.start(204, [])

    async with serving(a=found) as served:
        assert b" 204 " in await served.send(b"GET %b HTTP/1.0\r\n\r\n" % target)


@pytest.mark.parametrize("target", [b"/", b"/a/", b"/A", b"http://b/c", b"http://b", b"//a", b"/%zz%ff"])
async def test_other_targets_go_to_the_application(target: bytes) -> None:
    async with serving(a=Held()) as served:
        assert (await served.send(b"OPTIONS %b HTTP/1.0\r\n\r\n" % target)).endswith(b"\r\n\r\n%b " % target)


async def test_first_of_repeated_headers_counts() -> None:
    async def show(exchange: Exchange) -> None:
        await exchange.start(200, [])
        exchange.write(exchange.headers["authorization"].encode())

    async with serving(show) as served:
        keys = b"Authorization: one\r\nauthorization: two\r\nAuthorization: 3\r\n"
        got = await served.send(b"GET / HTTP/1.0\r\n" + keys + b"\r\n")
    assert got.endswith(b"\r\n\r\none")


@pytest.mark.parametrize("after", ["nothing", "the head", "half of the body"])
async def test_a_handler_that_fails_is_a_500_or_an_answer_that_breaks_off(
    after: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Never one that looks whole."""

    async def fail(exchange: Exchange) -> None:
        if after != "nothing":
            await exchange.start(200, [])
        if after == "half of the body":
            exchange.write(b"half")
        raise ValueError("a defect")

    async with serving(fail) as served:
        try:
            got = await served.send(GET % b"/")
        except ConnectionResetError:
            got = b""
    assert (b" 500 " in got and b'"internal_error"' in got) == (after == "nothing")
    assert not got.endswith(b"0\r\n\r\n")
    assert "a defect" in caplog.text


OFFER = b"connection: upgrade\r\nupgrade: h2c\r\n"


@pytest.mark.parametrize("offer", [b"", OFFER], ids=["plain", "with an offer"])
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n", 400),
        (b"GET / HTTP/1.0\r\nhost: a\r\nhost: a\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost:\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a b\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: u@a\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a:b\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a/b\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a, b\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: [::1\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: \xe9\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 33_000 + b"\r\n", 431),
        (b"GET / HTTP/2.0\r\nhost: a\r\n", 505),
        (b"GET / HTTP/2\r\nhost: a\r\n", 505),
        (b"GET / HTTP/0.9\r\nhost: a\r\n", 505),
        (b"GET / HTTP/1.2\r\nhost: a\r\n", 505),
    ],
)
async def test_a_refused_head_keeps_its_cause_whatever_else_it_offers(head: bytes, status: int, offer: bytes) -> None:
    async with serving() as served:
        got = await served.send(head + offer + b"\r\n" + GET % b"/next")
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"%d" % status]
    assert b'"invalid_request_error"' in got


@pytest.mark.parametrize("host", [b"a", b"A.b-c_d:1", b"1.2.3.4:80", b"[::1]", b"[::1]:8080", b"a:", b"a. \t"])
async def test_a_host_is_a_name_or_an_address_with_or_without_a_port(host: bytes) -> None:
    async with serving() as served, served.connected() as (reader, writer):
        for _ in range(2):
            writer.write(b"GET /a HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
            assert await read_answer(reader) == b"/a "


async def test_blanks_behind_a_value_are_no_part_of_it() -> None:
    async def show(exchange: Exchange) -> None:
        await exchange.start(200, [])
        exchange.write(repr(exchange.headers).encode())

    async with serving(show) as served:
        got = await served.send(b"GET / HTTP/1.0\r\nA: b \t \r\nC:\t d e\t\r\nF: \r\n\r\n")
    assert got.endswith(b"\r\n\r\n{'f': '', 'c': 'd e', 'a': 'b'}")


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ((b"anthropic-beta: one,two", b"Anthropic-Beta: three"), "one,two, three"),
        ((b"anthropic-beta: ", b"anthropic-beta: one", b"anthropic-beta: two"), "one, two"),
        ((b"accept-encoding: gzip", b"accept-encoding: br"), "gzip, br"),
        ((b"tracestate: a=1", b"tracestate: b=2"), "a=1, b=2"),
        ((b"x-api-key: one", b"x-api-key: two"), "one"),
        ((b"authorization: Bearer one", b"authorization: Bearer two"), "Bearer one"),
    ],
)
async def test_header_lines_of_one_name_are_joined_to_a_list(lines: tuple[bytes, ...], value: str) -> None:
    async def show(exchange: Exchange) -> None:
        await exchange.start(200, [])
        exchange.write(exchange.headers[lines[0].decode().lower().partition(":")[0]].encode())

    async with serving(show) as served:
        got = await served.send(b"GET / HTTP/1.0\r\nA: b\r\n" + b"\r\nC: d\r\n".join(lines) + b"\r\n\r\n")
    assert got.endswith(b"\r\n\r\n" + value.encode())


def test_blanks_within_a_value_are_read_in_one_pass() -> None:
    """They need no key: a pattern that began anew at each of 30 KB held the loop for two seconds."""

    def cost_s(size: int) -> float:
        begun_s = time.process_time()
        read_fields([b"a", b"d"], [b"b" + b" \t" * (size // 2) + b"c", b"e "])
        return time.process_time() - begun_s

    short_s, long_s = (min(cost_s(size) for _ in range(5)) for size in (8_000, 32_000))
    assert long_s < 10 * short_s


async def test_a_broken_body_is_refused_in_its_turn_and_cancels_only_its_own_request() -> None:
    held = Held()
    broken = b"POST /broken HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nno size"
    async with serving(held=held) as served, served.connected() as (reader, writer):
        writer.write(GET % b"/held" + GET % b"/next" + broken)
        await held.until(lambda: bool(held.begun))
        writer.write(b"more of it" * 100_000)
        await writer.drain()
        held.let_go.set()
        got = await asyncio.wait_for(reader.read(-1), SOON_S)
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"200", b"400"]
    assert held.cancelled == []


async def test_a_request_with_a_broken_body_is_answered_once() -> None:
    """With the refusal, unless it had its answer before the body broke."""

    async def early(exchange: Exchange) -> None:
        await exchange.start(401, [(b"content-length", b"2")])
        exchange.write(b"no")

    head = b"POST /%b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    async with serving(early=early) as served, served.connected() as (reader, writer):
        assert re.findall(rb"HTTP/1.1 (\d+)", await served.send(head % b"late" + b"no size")) == [b"400"]
        writer.write(head % b"early")
        assert await read_answer(reader) == b"no"
        writer.write(b"no size")
        assert await asyncio.wait_for(reader.read(-1), SOON_S) == b""


@pytest.mark.parametrize("status", [299, 418, 499, 599, 799])
async def test_a_status_without_a_registered_phrase_is_sent(status: int) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.start(status, [(b"content-length", b"2")])
        exchange.write(b"ok")

    async with serving(answer) as served:
        got = await served.send(b"GET / HTTP/1.0\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 %d " % status)
    assert got.endswith(b"\r\n\r\nok")


async def test_failure_of_a_head_request_has_no_body() -> None:
    async def fail(exchange: Exchange) -> None:
        raise ValueError

    async with serving(fail) as served:
        got = await served.send(b"HEAD /page HTTP/1.1\r\nhost: a\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 500 ")
        assert got.endswith(b"\r\n\r\n")
        assert (await served.send(b"HEAD /page HTTP/1.1\r\n\r\n")).endswith(b"connection: close\r\n\r\n")
