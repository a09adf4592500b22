"""The in-process transport: the network transport's contract without a socket, for simulations and fast tests.

An upstream is an async function that is handed an ``Exchange`` and writes the bytes of an HTTP/1.1 answer to it, well
formed or not; they are parsed here, so an upstream can misbehave at the byte level just as it can over a socket. The
only time is the event loop's, so a loop with virtual time runs an hour of traffic in moments. Not modelled: the time
that sending a request takes, bandwidth, and the kernel's buffers.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from urllib.parse import urlsplit

import httptools

from gateway.errors import Cause, ErrorKind, UpstreamError
from gateway.transport.base import STALE_SHOWS_WITHIN_S, Sending, pour_by_reads
from gateway.types import UpstreamRequest

_HIGH_WATER_BYTES = 65_536
_HEADER_LIMIT_BYTES = 8190
_HEADERS_LIMIT = 128


class Exchange:
    """One request and the connection that it came by, seen from the upstream's side."""

    def __init__(self, request: UpstreamRequest, *, reused: bool) -> None:
        self.request = request
        self.reused = reused
        """The connection has carried a request before, so the gateway takes a silent close for a stale one."""
        self.left = asyncio.Event()
        """Set when the gateway has closed the connection before the answer's end."""
        self.answer = _Answer()

    async def write(self, data: bytes) -> None:
        """Send bytes of the answer, waiting while the gateway lags; raises ConnectionResetError once it has left."""
        if self.left.is_set():
            raise ConnectionResetError("the gateway has left")
        self.answer.feed(data)
        await asyncio.sleep(0)
        await self.answer.wait_until_drained()
        if self.left.is_set():
            raise ConnectionResetError("the gateway has left")

    def close(self) -> None:
        """Close the connection in good order, whether or not the answer was complete."""
        self.answer.end(reset=False)

    def reset(self) -> None:
        """Break the connection."""
        self.answer.end(reset=True)

    def refuse(self, *, after_s: float = 0.0) -> None:
        """Do not accept the connection; ``math.inf`` seconds is a host that does not reply at all."""
        self.answer.refuse(after_s)

    def leave(self) -> None:
        """Close the connection from the gateway's side."""
        self.answer.abandon()
        if not self.answer.complete:
            self.left.set()


Handler = Callable[[Exchange], Awaitable[None]]
"""An upstream. When it returns, a connection whose answer is incomplete is closed."""


class InMemoryTransport:
    """Implement ``gateway.transport.base.Transport`` against handlers, by origin: ``{"http://a.test": handler}``.

    No other origin can be reached. A handler's own exception breaks the connection and is raised again by ``stop``.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)
        self.idle: Counter[tuple[str, str]] = Counter()
        """Connections that wait for a request, by origin and pool."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[Exception] = []

    async def start(self) -> None:
        """Do nothing: there is nothing to open."""

    async def stop(self) -> None:
        """End every handler that still runs. Raises ExceptionGroup of what handlers raised."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.idle.clear()
        if self._errors:
            raise ExceptionGroup("in-process upstreams failed", self._errors)

    def send(self, request: UpstreamRequest, *, connect_timeout_s: float, fresh: bool = False) -> Sending:
        """Hand the request to the handler of its origin: see ``Transport.send``."""
        return _Sending(self, request, connect_timeout_s, fresh=fresh)

    def handle(self, origin: str, exchange: Exchange) -> None:
        """Run the handler of an origin. Raises UpstreamError: UPSTREAM_CONNECT when there is none."""
        handler = self._handlers.get(origin)
        if handler is None:
            raise UpstreamError(ErrorKind.UPSTREAM_CONNECT, "The upstream's host name does not resolve.", cause="dns")
        task = asyncio.get_running_loop().create_task(self._serve(handler, exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, handler: Handler, exchange: Exchange) -> None:
        try:
            await handler(exchange)
        except Exception as error:  # noqa: BLE001 - an upstream's fault must not end the gateway under test
            if not (isinstance(error, ConnectionResetError) and exchange.left.is_set()):
                self._errors.append(error)
        finally:
            if not exchange.answer.complete:
                exchange.close()


class _Sending:
    """One request on its way: see ``transport.base.Sending``."""

    def __init__(
        self, transport: InMemoryTransport, request: UpstreamRequest, connect_timeout_s: float, *, fresh: bool
    ) -> None:
        self._transport = transport
        self._request = request
        self._connect_timeout_s = connect_timeout_s
        url = urlsplit(request.url)
        self._pool = f"{url.scheme}://{url.netloc}", request.pool
        self._fresh = fresh
        self._exchange: Exchange | None = None

    @property
    def sent(self) -> bool:
        return self._exchange is not None and not self._exchange.answer.refused

    async def __aenter__(self) -> "_Answer":
        idle = self._transport.idle
        exchange = Exchange(self._request, reused=not self._fresh and idle[self._pool] > 0)
        self._transport.handle(self._pool[0], exchange)
        self._exchange = exchange
        idle[self._pool] -= exchange.reused
        loop = asyncio.get_running_loop()
        sent_at_s = loop.time()
        try:
            await exchange.answer.wait_for_headers(self._connect_timeout_s)
            stale = exchange.reused and exchange.answer.silent and loop.time() - sent_at_s < STALE_SHOWS_WITHIN_S
            exchange.answer.check_headers(stale=stale)
        except BaseException:
            exchange.leave()
            raise
        return exchange.answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._exchange is not None:
            self._exchange.leave()
            self._transport.idle[self._pool] += self._exchange.answer.reusable


class _Answer:
    """The gateway's side: bytes in, status, headers and body out. Implements ``UpstreamStream``."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.complete = False
        self._began = False
        self._parser = httptools.HttpResponseParser(self)
        self._fields: dict[str, str] = {}
        self._header_bytes = 0
        self._headers_ready = False
        self._failure: ErrorKind | None = None
        self._cause: Cause | None = None
        self._refused_after_s = 0.0
        self._body = bytearray()
        self._keep_alive = False
        self._closed = False
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self.complete and self._keep_alive and not self._closed

    @property
    def refused(self) -> bool:
        """Whether there was no connection, so that nothing was sent."""
        return self._failure is ErrorKind.UPSTREAM_CONNECT

    @property
    def silent(self) -> bool:
        """Whether the connection was closed without a byte of an answer."""
        return self._failure is ErrorKind.UPSTREAM_CUT and not self._began

    async def wait_for_headers(self, connect_timeout_s: float) -> None:
        """Wait until the headers are there, or will never be. A refusal takes as long as the caller allows."""
        while not self._headers_ready and self._failure is None:
            await self._next_change()
        if self.refused:
            await asyncio.sleep(min(self._refused_after_s, connect_timeout_s))

    def check_headers(self, *, stale: bool) -> None:
        """Raise UpstreamError, as ``Transport.send`` says, unless the headers are there."""
        if not self._headers_ready and self._failure is not None:
            raise self._error(ErrorKind.STALE_CONNECTION if stale else self._failure, "before it answered")

    async def read(self) -> bytes:
        """Return all that has arrived since the last call: see ``UpstreamStream.read``."""
        while not self._body:
            if self.complete:
                return b""
            if self._failure is not None:
                raise self._error(ErrorKind.UPSTREAM_CUT, "in the middle of its answer")
            await self._next_change()
        data = bytes(self._body)
        self._body.clear()
        self._drained.set()
        return data

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Hand on what arrives: see ``UpstreamStream.pour``."""
        return await pour_by_reads(self, take)

    async def wait_until_drained(self) -> None:
        """Wait until the gateway has taken what was written, but for a buffer's worth."""
        await self._drained.wait()

    def feed(self, data: bytes) -> None:
        """Take bytes from the upstream."""
        if self.complete or self._failure is not None or self._closed:
            return
        self._began = True
        if not self._headers_ready:
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.complete:  # bytes behind a complete answer are no part of it
                self._failure = self._failure or ErrorKind.UPSTREAM_PROTOCOL
            self._closed = True
        if not self._headers_ready and self._header_bytes > _HEADER_LIMIT_BYTES * _HEADERS_LIMIT:
            self._failure = ErrorKind.UPSTREAM_PROTOCOL
        if len(self._body) > _HIGH_WATER_BYTES:
            self._drained.clear()
        self._changed.set()

    def end(self, *, reset: bool) -> None:
        """Take the connection's end: of a body without a length it is the end too, unless it is a reset."""
        self._closed = True
        lengthless = "content-length" not in self.headers and "transfer-encoding" not in self.headers
        if self._headers_ready and lengthless and not reset and self._failure is None:
            self.complete = True
        elif not self.complete and self._failure is None:
            self._failure, self._cause = ErrorKind.UPSTREAM_CUT, "reset" if reset else "closed"
        self._changed.set()

    def refuse(self, after_s: float) -> None:
        """Take the refusal of the connection."""
        self._refused_after_s = after_s
        self._failure = ErrorKind.UPSTREAM_CONNECT
        self._changed.set()

    def abandon(self) -> None:
        """Free a writer that waits for the gateway to read."""
        self._body.clear()
        self._drained.set()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _error(self, kind: ErrorKind, when: str) -> UpstreamError:
        if kind is ErrorKind.UPSTREAM_CONNECT:
            return UpstreamError(kind, "The upstream could not be reached: connection refused.", cause="refused")
        if kind is ErrorKind.UPSTREAM_PROTOCOL:
            return UpstreamError(kind, "The upstream's answer is not HTTP that can be understood.", cause="not_http")
        if kind is ErrorKind.STALE_CONNECTION:
            return UpstreamError(kind, "A kept connection to the upstream was of no use any more.", cause=self._cause)
        return UpstreamError(kind, f"The upstream broke the connection {when}.", cause=self._cause)

    # What follows is called by the parser.

    def on_message_begin(self) -> None:
        if not self._headers_ready:  # an interim answer (1xx) may have come before
            self._fields = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headers_ready:  # a trailer
            return
        if len(name) + len(value) > _HEADER_LIMIT_BYTES:
            self._failure = ErrorKind.UPSTREAM_PROTOCOL
        self._fields.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101 or len(self._fields) > _HEADERS_LIMIT:
            self._failure = ErrorKind.UPSTREAM_PROTOCOL
        elif status >= 200 and self._failure is None:
            self.status, self.headers = status, self._fields
            self._headers_ready = True

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self._body += body

    def on_message_complete(self) -> None:
        if self._headers_ready:
            self.complete = True
            self._keep_alive = self._parser.should_keep_alive()
