"""How one answer leaves and one body arrives; the connection behind it is recorded rather than real."""

import asyncio
import tracemalloc
from collections.abc import Callable

import pytest

from gateway.errors import ErrorKind, GatewayError
from gateway.routes.http1_exchange import Exchange

TYPE = (b"content-type", b"text/plain")


class Recorder:
    """A ``Line`` that keeps what is written."""

    full = False

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.reading = True
        self.discarded_bytes = 0
        self.turns = 0
        self.ids = str

    def write(self, data: bytes, /) -> None:
        self.writes.append(data)

    async def drained(self) -> None:
        raise AssertionError("it is never full")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def wait_turn(self) -> None:
        self.turns += 1

    def discard(self, size_bytes: int) -> None:
        self.discarded_bytes += size_bytes

    def date(self) -> bytes:
        return b"date: now\r\n"


@pytest.fixture
def line() -> Recorder:
    return Recorder()


def _exchange(line: Recorder, method: bytes = b"POST", *, modern: bool = True, **headers: str) -> Exchange:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Exchange(line, method, b"/", fields, modern=modern, persistent=modern)


async def test_an_answer_of_known_length_leaves_in_one_write(line: Recorder) -> None:
    exchange = _exchange(line)
    exchange.complete()
    await exchange.start(200, [TYPE, (b"content-length", b"2")])
    exchange.write(b"ok")
    exchange.end()
    assert line.writes == [
        b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok",
    ]
    assert exchange.answered


async def test_a_stream_is_chunked_and_its_head_leaves_with_its_first_bytes(line: Recorder) -> None:
    exchange = _exchange(line)
    exchange.complete()
    await exchange.start(200, [TYPE])
    assert line.writes == []
    exchange.write(b"")
    exchange.write(b"a" * 17)
    exchange.write(b"b")
    exchange.end()
    head = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
    assert line.writes == [head + b"11\r\n" + b"a" * 17 + b"\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"]


@pytest.mark.parametrize("tidying", [False, True])
async def test_the_last_bytes_of_a_stream_leave_together_with_its_end(tidying: bool, line: Recorder) -> None:
    """Unless that takes longer: then they do not wait for it."""
    exchange = _exchange(line)
    exchange.complete()
    await exchange.start(200, [TYPE])
    exchange.write(b"a")
    exchange.write(b"b", last=True)
    if tidying:
        await asyncio.sleep(0)
    exchange.end()
    await asyncio.sleep(0)
    assert line.writes[1:] == ([b"1\r\nb\r\n", b"0\r\n\r\n"] if tidying else [b"1\r\nb\r\n0\r\n\r\n"])


async def test_an_answer_to_http_1_0_ends_with_the_connection(line: Recorder) -> None:
    """HTTP/1.0 knows no chunks."""
    exchange = _exchange(line, modern=False)
    exchange.complete()
    await exchange.start(200, [TYPE])
    exchange.write(b"a")
    exchange.write(b"b")
    exchange.end()
    head = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    assert line.writes == [head + b"a", b"b"]


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_an_answer_that_may_have_no_body_has_none(method: bytes, status: int, line: Recorder) -> None:
    exchange = _exchange(line, method)
    exchange.complete()
    await exchange.start(status, [(b"content-length", b"2")] if method == b"HEAD" else [])
    exchange.write(b"ok")
    exchange.end()
    assert len(line.writes) == 1
    assert line.writes[0].endswith(b"\r\n\r\n")
    assert b"transfer-encoding" not in line.writes[0]
    assert exchange.answered


@pytest.mark.parametrize("body", [b"", b"o", b"okay"])
async def test_an_answer_of_another_length_than_its_head_says_is_none(body: bytes, line: Recorder) -> None:
    exchange = _exchange(line)
    exchange.complete()
    await exchange.start(200, [(b"content-length", b"2")])
    exchange.write(body)
    exchange.end()
    assert not exchange.answered


def test_a_body_that_is_there_is_read_without_waiting(line: Recorder) -> None:
    """No turn of the event loop, which here there is none of."""
    exchange = _exchange(line, content_length="4")
    exchange.take(b"bo")
    exchange.take(b"dy")
    exchange.complete()
    with pytest.raises(StopIteration) as read:
        exchange.read_body(4, 1.0).send(None)
    assert read.value.value == b"body"


async def test_a_body_is_not_kept_beyond_a_bound_before_it_is_asked_for(line: Recorder) -> None:
    exchange = _exchange(line)
    for _ in range(65):
        assert line.reading
        exchange.take(b"x" * 1024)
    assert not line.reading
    reading = asyncio.create_task(exchange.read_body(100_000, 1.0))
    await asyncio.sleep(0)
    assert line.reading
    exchange.take(b"x" * 1024)
    exchange.complete()
    assert len(await reading) == 66 * 1024


async def test_a_body_without_a_length_is_refused_once_it_is_too_large(line: Recorder) -> None:
    """And nothing of it is kept."""
    exchange = _exchange(line, transfer_encoding="chunked")
    reading = asyncio.create_task(exchange.read_body(10, 1.0))
    await asyncio.sleep(0)
    exchange.take(b"x" * 11)
    exchange.take(b"x")
    with pytest.raises(GatewayError) as refused:
        await reading
    assert refused.value.kind is ErrorKind.BODY_TOO_LARGE
    assert exchange._body is None
    assert line.reading


async def _refused(exchange: Exchange, hold: Callable[[int], None]) -> ErrorKind:
    with pytest.raises(GatewayError) as refused:
        await exchange.read_body(1_000_000_000, 1.0, hold)
    return refused.value.kind


def _no_room(_size_bytes: int) -> None:
    raise GatewayError(ErrorKind.BODY_MEMORY_FULL, "No room.")


async def test_body_of_a_known_length_is_counted_before_it_is_read(line: Recorder) -> None:
    """At once and whole; without room for it nothing more of it is asked for or kept."""
    counted: list[int] = []
    exchange = _exchange(line, content_length="300000")
    reading = asyncio.create_task(exchange.read_body(1_000_000, 1.0, counted.append))
    await asyncio.sleep(0)
    assert counted == [300_000]
    exchange.take(b"x" * 300_000)
    exchange.complete()
    assert len(await reading) == 300_000
    assert counted == [300_000]
    refused = _exchange(line, content_length="300000", expect="100-continue")
    refused.take(b"x" * 60_000)
    assert await _refused(refused, _no_room) is ErrorKind.BODY_MEMORY_FULL
    assert line.writes == []
    assert refused._body is None


async def test_body_of_an_unknown_length_is_counted_as_it_grows(line: Recorder) -> None:
    """In steps, so that the count is never below what is kept, and the limit is the last step."""
    counted: list[int] = []
    exchange = _exchange(line, transfer_encoding="chunked")
    reading = asyncio.create_task(exchange.read_body(2_500_000, 1.0, counted.append))
    await asyncio.sleep(0)
    for size in range(50_000, 2_500_001, 50_000):
        exchange.take(b"x" * 50_000)
        assert size <= max(counted, default=1 << 16) <= 2_500_000
    exchange.complete()
    assert len(await reading) == 2_500_000
    assert len(counted) <= 4


async def test_growing_body_without_room_is_refused_and_not_kept(line: Recorder) -> None:
    exchange = _exchange(line, transfer_encoding="chunked")
    reading = asyncio.create_task(_refused(exchange, _no_room))
    await asyncio.sleep(0)
    exchange.take(b"x" * 65_537)
    exchange.take(b"x" * 1_000)
    assert await reading is ErrorKind.BODY_MEMORY_FULL
    assert exchange._body is None
    assert line.discarded_bytes == 1_000


async def test_large_body_that_came_in_one_piece_is_counted(line: Recorder) -> None:
    """A socket's buffer may hold more than what is taken ahead; a small body costs no count."""
    counted: list[int] = []
    for size in (65_536, 200_000):
        exchange = _exchange(line, content_length=str(size))
        exchange.take(b"x" * size)
        exchange.complete()
        assert len(await exchange.read_body(1_000_000, 1.0, counted.append)) == size
    assert counted == [200_000]


async def test_only_a_body_that_is_wanted_is_called_for(line: Recorder) -> None:
    """``Expect: 100-continue``: the caller sends no body before the interim answer, so a refused one never travels."""
    refused = _exchange(line, expect="100-continue", content_length="4")
    await refused.start(401, [])
    refused.write(b"no")
    refused.end()
    assert b"connection: close" in line.writes.pop(0), "nobody knows whether the body will still come"
    assert b"100" not in b"".join(line.writes)
    line.writes.clear()
    wanted = _exchange(line, expect="100-continue", content_length="4")
    reading = asyncio.create_task(wanted.read_body(4, 1.0))
    await asyncio.sleep(0)
    assert line.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    wanted.take(b"body")
    wanted.complete()
    assert await reading == b"body"


@pytest.mark.asyncio(loop_factories=["uvloop"])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("piece_bytes", [2, 10_000])
async def test_body_in_pieces_takes_no_more_memory_than_its_bytes(
    piece_bytes: int, known: bool, line: Recorder
) -> None:
    """A caller chooses how his chunks are cut: kept as they are, those of two bytes would take thirty times as much.

    Nor is the whole ever copied.
    """
    sent = bytes(range(1, 129)) * 2000
    exchange = _exchange(line, **({"content_length": str(len(sent))} if known else {}))
    tracemalloc.start()
    try:
        reading = asyncio.create_task(exchange.read_body(len(sent), 1.0))
        await asyncio.sleep(0)
        for start in range(0, len(sent), piece_bytes):
            exchange.take(sent[start : start + piece_bytes])
        exchange.complete()
        body = await reading
        assert tracemalloc.get_traced_memory()[1] < 1.3 * len(sent)
    finally:
        tracemalloc.stop()
    assert body == sent


async def test_large_body_is_read_in_turn_with_others(line: Recorder) -> None:
    """But for its first quarter of a megabyte: a small one is there at once."""
    exchange = _exchange(line, content_length="3000000")
    read = asyncio.create_task(exchange.read_body(3_000_000, 5.0))
    await asyncio.sleep(0)
    waited = []
    for _ in range(12):
        exchange.take(b"x" * 250_000)
        waited.append(line.turns)
    exchange.complete()
    assert len(await read) == 3_000_000
    assert waited == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
