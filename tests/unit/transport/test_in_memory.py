"""What only the in-memory transport has: handlers, virtual time, and no network at all."""

import asyncio
import math

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.simulation.virtual_time import run_virtual
from tests.ground.builders import build_upstream_request
from tests.ground.in_memory import Exchange, Handler, InMemoryTransport

URL = "http://upstream.test"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def fetch(transport: InMemoryTransport, url: str = URL) -> bytes:
    """Read an answer's first bytes."""
    async with transport.send(build_upstream_request(url), connect_timeout_s=2.0) as answer:
        return await answer.read()


async def failure(handler: Handler, url: str = URL) -> tuple[ErrorKind, float]:
    """Send a request that must fail, and tell how and when."""
    transport = InMemoryTransport({URL: handler})
    with pytest.raises(UpstreamError) as caught:
        await fetch(transport, url)
    await transport.stop()
    return caught.value.kind, asyncio.get_running_loop().time()


async def answer_well(exchange: Exchange) -> None:
    """Answer at once."""
    await exchange.write(ANSWER)


async def test_other_origins_cannot_be_reached() -> None:
    """A test cannot reach the network by mistake."""
    kind, _time = await failure(answer_well, "http://elsewhere.test")
    assert kind is ErrorKind.UPSTREAM_CONNECT


async def test_handler_sees_whether_the_connection_was_used_before() -> None:
    """A connection is used again after a complete answer."""
    reused = []

    async def note(exchange: Exchange) -> None:
        reused.append(exchange.reused)
        await exchange.write(ANSWER)

    transport = InMemoryTransport({URL: note})
    assert [await fetch(transport), await fetch(transport)] == [b"ok", b"ok"]
    assert reused == [False, True]


async def test_handler_that_returns_early_has_cut_the_answer() -> None:
    """The connection ends with its handler."""

    async def begin(exchange: Exchange) -> None:
        await exchange.write(ANSWER[:-1])

    transport = InMemoryTransport({URL: begin})
    async with transport.send(build_upstream_request(URL), connect_timeout_s=2.0) as answer:
        assert await answer.read() == b"o"
        with pytest.raises(UpstreamError) as caught:
            await answer.read()
    assert caught.value.kind is ErrorKind.UPSTREAM_CUT


async def test_handler_that_fails_is_not_swallowed() -> None:
    """A mistake in a test's own handler is a cut to the gateway and an error of the test."""

    async def fail(_exchange: Exchange) -> None:
        raise ZeroDivisionError

    transport = InMemoryTransport({URL: fail})
    with pytest.raises(UpstreamError):
        await fetch(transport)
    with pytest.raises(ExceptionGroup) as caught:
        await transport.stop()
    assert caught.group_contains(ZeroDivisionError)


async def test_stop_ends_handlers_that_still_run() -> None:
    """Nothing is left behind on the loop."""
    before = asyncio.all_tasks()

    async def never_answer(_exchange: Exchange) -> None:
        await asyncio.Event().wait()

    transport = InMemoryTransport({URL: never_answer})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await fetch(transport)
    await transport.stop()
    assert asyncio.all_tasks() == before


def test_host_that_does_not_reply_takes_the_connect_timeout() -> None:
    """A black hole costs the whole connect timeout, in virtual time."""

    async def ignore(exchange: Exchange) -> None:
        exchange.refuse(after_s=math.inf)

    assert run_virtual(failure(ignore)) == (ErrorKind.UPSTREAM_CONNECT, 2.0)


def test_refusal_is_immediate() -> None:
    """A closed port answers at once."""

    async def refuse(exchange: Exchange) -> None:
        exchange.refuse()

    assert run_virtual(failure(refuse)) == (ErrorKind.UPSTREAM_CONNECT, 0.0)
