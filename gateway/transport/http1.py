"""The HTTP/1.1 client for upstreams, on httptools (``docs/adr/0003-upstream-client.md`` says why it is our own).

It decides how a connection is opened, kept and closed, which request may use it again, and which kind of error each
failure is. How long to wait for an answer, and where a request goes next, is left to the caller. There are no proxies,
no cookies and no redirects. Exceptions of the system and of OpenSSL hold addresses; none of them
leaves this file.
"""

import asyncio
import ssl
from collections import defaultdict
from functools import lru_cache, partial

from gateway.errors import ErrorKind, UpstreamError
from gateway.transport.base import STALE_SHOWS_WITHIN_S, Sending, UpstreamStream
from gateway.transport.coding import decoded
from gateway.transport.http1_connect import connect, connect_error, default_tls
from gateway.transport.http1_connection import UpstreamAnswer, UpstreamConnection, failed
from gateway.transport.http1_request import PoolKey, address_of, head_of
from gateway.transport.resolver import Resolver
from gateway.turns import Turns
from gateway.types import UpstreamRequest

_ADDRESSES_REMEMBERED = 1024


class HttpTransport:
    """Implement ``gateway.transport.base.Transport`` over the network.

    There is no limit on open connections: limits belong to admission. ``ssl_context`` replaces the system's
    trust store, ``resolver`` the one that asks the system for addresses.
    """

    def __init__(
        self,
        *,
        keepalive_s: float = 15.0,
        ssl_context: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._keepalive_s = keepalive_s
        self._tls = ssl_context
        self._resolver = resolver or Resolver()
        self.address_of = lru_cache(_ADDRESSES_REMEMBERED)(address_of)
        self._turns = Turns()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[UpstreamConnection] = set()
        self._idle: defaultdict[PoolKey, list[UpstreamConnection]] = defaultdict(list)
        """The longest idle first; the last is taken first, so that what is not needed grows old."""
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Read the trust store; must run inside the event loop that will be used."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(default_tls)
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Close every connection; an attempt that still reads from one gets UPSTREAM_CUT."""
        self._loop = None
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in list(self._open):
            connection.drop()
        self._idle.clear()
        while self._open:  # noqa: ASYNC110 - a dropped connection's socket is closed in the loop's next turns
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    def send(self, request: UpstreamRequest, *, connect_timeout_s: float, fresh: bool = False) -> Sending:
        """Send and wait for the status line and headers: see ``Transport.send``."""
        return _HttpSending(self, request, connect_timeout_s, fresh=fresh)

    def take_idle(self, pool: PoolKey) -> UpstreamConnection | None:
        """Take the connection that was used last, if it is neither closed nor too old and has kept silent."""
        idle = self._idle.get(pool)
        if not idle or self._loop is None:
            return None
        now_s = self._loop.time()
        while idle:
            connection = idle.pop()
            if connection.since_s >= now_s - self._keepalive_s and connection.is_silent():
                connection.since_s = now_s
                return connection
            connection.drop()
        return None

    async def connect(self, pool: PoolKey, timeout_s: float) -> UpstreamConnection:
        """Open a connection. Raises UpstreamError: UPSTREAM_CONNECT, OWN_SHORTAGE."""
        if self._loop is None:
            raise RuntimeError("HttpTransport.send needs start() first")
        origin, until_s = pool.origin, self._loop.time() + timeout_s
        tls = self._tls if origin.tls else None
        addresses = await self._resolver.addresses(origin.host, timeout_s)
        try:
            async with asyncio.timeout_at(until_s):
                connection = await connect(
                    origin,
                    addresses,
                    tls,
                    partial(UpstreamConnection, pool, self._turns, self._open.discard),
                )
        except (OSError, UnicodeError, MemoryError) as error:
            failure = connect_error(error)
            if failure.kind is ErrorKind.UPSTREAM_CONNECT:
                self._resolver.doubt(origin.host)
            raise failure from None
        self._open.add(connection)
        if self._loop is None or not connection.open:
            connection.drop()
            raise connect_error(ConnectionError()) from None
        return connection

    def close(self, connection: UpstreamConnection) -> None:
        """Keep the connection for its pool's next request, or drop it if its answer has not come to its end."""
        if self._loop is None:
            connection.drop()
        elif connection.release(self._loop.time()):
            self._idle[connection.pool].append(connection)
            if self._sweep is None:
                self._sweep = self._loop.call_later(self._keepalive_s, self._drop_expired)

    def why(self, connection: UpstreamConnection, answer: UpstreamAnswer) -> UpstreamError:
        """Say why there is no answer: the connection broke, was stale, or carried what is no answer to the request."""
        kind = answer.failure
        assert kind is not None  # noqa: S101 - what wait_for_head waits for
        if kind is ErrorKind.UPSTREAM_CUT and connection.used and not answer.began and self._loop is not None:
            soon = self._loop.time() - connection.since_s < STALE_SHOWS_WITHIN_S
            kind = ErrorKind.STALE_CONNECTION if soon else kind
        return failed(kind, "before it answered", answer.cause)

    def _drop_expired(self) -> None:
        """Close connections that were not used again in time, and look again while any is idle."""
        self._sweep = None
        if self._loop is None:
            return
        oldest_s = self._loop.time() - self._keepalive_s
        for pool, idle in list(self._idle.items()):
            kept: list[UpstreamConnection] = []
            for connection in idle:
                if connection.open and connection.since_s > oldest_s:
                    kept.append(connection)
                else:
                    connection.drop()
            self._idle[pool] = kept
            if not kept:
                del self._idle[pool]
        if self._idle:
            first_s = min(idle[0].since_s for idle in self._idle.values())
            self._sweep = self._loop.call_at(first_s + self._keepalive_s, self._drop_expired)


class _HttpSending:
    """One request on its way: see ``Sending``. A generator's context would cost a third of a short exchange."""

    __slots__ = ("_connect_timeout_s", "_connection", "_fresh", "_request", "_transport", "sent")

    def __init__(
        self, transport: HttpTransport, request: UpstreamRequest, connect_timeout_s: float, *, fresh: bool
    ) -> None:
        self.sent = False
        self._transport = transport
        self._request: UpstreamRequest | None = request
        self._connect_timeout_s = connect_timeout_s
        self._fresh = fresh
        self._connection: UpstreamConnection | None = None

    async def __aenter__(self) -> UpstreamStream:
        request, self._request = self._request, None
        assert request is not None  # noqa: S101 - a context is entered once
        transport = self._transport
        address = transport.address_of(request.url)
        head = head_of(request, address)
        pool = PoolKey(address.origin, request.pool)
        connection = None if self._fresh else transport.take_idle(pool)
        if connection is None:
            connection = await transport.connect(pool, self._connect_timeout_s)
        self._connection = connection
        self.sent = True
        answer = connection.exchange(head, request.body)
        del request, head  # an answer may take long, and the body be large
        try:
            await answer.wait_for_head()
        except BaseException:
            self._drop(connection)
            raise
        if not answer.has_head:
            self._drop(connection)
            raise transport.why(connection, answer)
        coding = answer.headers.get("content-encoding")
        return answer if coding is None else self._decoded(answer, coding, connection)

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.close(connection)
            if connection.unsent:
                self.sent = False

    def _decoded(self, answer: UpstreamAnswer, coding: str, connection: UpstreamConnection) -> UpstreamStream:
        try:
            return decoded(answer, coding)
        except UpstreamError:
            self._drop(connection)
            raise

    def _drop(self, connection: UpstreamConnection) -> None:
        connection.drop()
        self.sent = not connection.unsent
