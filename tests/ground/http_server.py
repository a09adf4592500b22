"""The gateway's HTTP server by itself, on a free port, with handlers that a test provides."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from socket import create_server, socket

from gateway.accounting.ids import random_ids
from gateway.config.snapshot import Current, Server, Snapshot
from gateway.errors import GatewayError
from gateway.routes.front import Front
from gateway.routes.http1_connection import Http1Connection
from gateway.routes.http1_exchange import Exchange
from gateway.routes.http1_server import HttpServer
from gateway.telemetry.failures import FailureLog
from gateway.types import Principal, Timeouts
from tests.ground.waiting import SOON_S, until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(exchange: Exchange) -> None:
    """Answer with the target and the body."""
    body = exchange.target + b" " + await exchange.read_body(1_000_000, 5.0)
    await exchange.start(200, [(b"content-length", str(len(body)).encode())])
    exchange.write(body)


class Served:
    """A running server, and connections to it."""

    def __init__(self, server: HttpServer, listener: socket) -> None:
        self.server = server
        self.listener = listener
        self._port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Streams]:
        """Open a connection, and break it at the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def send(self, data: bytes) -> bytes:
        """Send bytes and return what comes back until the connection ends."""
        async with self.connected() as (reader, writer):
            writer.write(data)
            return await asyncio.wait_for(reader.read(-1), SOON_S)

    async def accepted(self) -> Http1Connection:
        """Wait for a connection, and return the server's end of it."""
        await until(lambda: bool(self.server._connections))
        return self.only()

    def only(self) -> Http1Connection:
        """Return the server's end of the one connection there is."""
        (connection,) = self.server._connections
        return connection


@asynccontextmanager
async def serving(
    rest: Callable[[Exchange], Awaitable[None]] = echo, **routes: Callable[[Exchange], Awaitable[None]]
) -> AsyncIterator[Served]:
    """Serve these handlers by name, and everything else by ``rest``, until the context is left."""
    listener = create_server(("127.0.0.1", 0))
    keyed = Snapshot(
        version="",
        server=Server(host="127.0.0.1", port=0, max_body_bytes=1_000_000, body_timeout_s=60, drain_s=1),
        targets={},
        routes={},
        wildcards=(),
        keys={b"": Principal(key_id="app")},  # so that requests may be for any host
        timeouts=Timeouts(),
        state_dir="",
    )
    front = Front({f"/{path}": handler for path, handler in routes.items()}, rest, Current(keyed))
    failures = FailureLog()

    def refused(error: GatewayError, status: int) -> None:
        failures.note(error, call_id=None, target_id=None, then=f"the caller was told {status}")

    server = HttpServer(front, refused, random_ids)
    await server.start([listener])
    try:
        yield Served(server, listener)
    finally:
        await server.stop(0)
        failures.stop()


class Held:
    """A handler whose requests run until they are let go or cancelled."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.changed = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        self.begun.append(exchange.target)
        self.changed.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            assert exchange.has_left()
            self.cancelled.append(exchange.target)
            raise
        finally:
            self.changed.set()
        await echo(exchange)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds of what was begun and cancelled."""
        async with asyncio.timeout(SOON_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer of known length and return its body."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
    return await asyncio.wait_for(reader.readexactly(int(length.removeprefix(b"content-length: "))), SOON_S)
