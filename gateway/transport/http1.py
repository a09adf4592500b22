"""The network transport: HTTP/1.1 of our own on httptools (``docs/adr/0003-upstream-client.md`` says why).

It decides how a connection is opened, reused, retried and closed, and which kind of error each way of failing is. How
long to wait for an answer, and where a request goes next, is left to the caller. There are no proxies, no cookies, no
redirects and no compression. Exceptions of the system and of OpenSSL hold addresses; none of them leaves this file.
"""

import asyncio
import functools
import ssl
from collections import defaultdict
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from gateway.errors import ErrorKind, UpstreamError
from gateway.transport.base import STALE_SHOWS_WITHIN_S, UpstreamStream
from gateway.transport.http1_connect import connect, connect_error, default_tls
from gateway.transport.http1_connection import Answer, Connection, failed
from gateway.transport.http1_request import Address, Origin, address_of, head_of
from gateway.types import UpstreamRequest

_ADDRESSES_REMEMBERED = 1024


class HttpTransport:
    """Implement ``gateway.transport.base.Transport`` over the network.

    ``connection_limit`` bounds the open connections over all upstreams, 0 for no bound: limits belong to admission.
    Waiting for a free one counts as connecting. ``header_limit_bytes`` bounds each header of an answer; there may be
    128 of them. ``ssl_context`` replaces the system's trust store.
    """

    def __init__(
        self,
        *,
        connection_limit: int = 0,
        keepalive_s: float = 15.0,
        header_limit_bytes: int = 8190,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._connection_limit = connection_limit
        self._keepalive_s = keepalive_s
        self._header_limit_bytes = header_limit_bytes
        self._tls = ssl_context
        self._address_of = functools.lru_cache(_ADDRESSES_REMEMBERED)(address_of)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[Connection] = set()
        self._idle: defaultdict[Origin, list[Connection]] = defaultdict(list)
        """The longest idle first; the last is taken first, so that what is not needed grows old."""
        self._slots: asyncio.Semaphore | None = asyncio.Semaphore(connection_limit) if connection_limit else None
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Read the trust store; must run inside the event loop that will be used."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(default_tls)
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Close every connection; whoever still reads from one gets UPSTREAM_CUT."""
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

    def send(
        self, request: UpstreamRequest, *, connect_timeout_s: float
    ) -> AbstractAsyncContextManager[UpstreamStream]:
        """Send and wait for the status line and headers: see ``Transport.send``."""
        return _Exchange(self, request, connect_timeout_s)

    async def open(self, request: UpstreamRequest, connect_timeout_s: float) -> tuple[Connection, Answer]:
        """Send on a pooled connection or a fresh one; whoever gets the answer must ``close`` its connection."""
        if self._loop is None:
            raise RuntimeError("HttpTransport.send needs start() first")
        address = self._address_of(request.url)
        head = head_of(request, address)
        give_up_at_s = self._loop.time() + connect_timeout_s
        if self._slots is not None:
            await self._wait_for_slot(self._slots, give_up_at_s)
        try:
            connection = self._take_idle(address.origin)
            if connection is not None:
                answer = await self._answer(connection, head, request.body)
                if answer is not None:
                    return connection, answer
                give_up_at_s = self._loop.time() + connect_timeout_s
            try:
                fresh = await self._connect(address, give_up_at_s)
            except UpstreamError:
                if connection is None:
                    raise
                raise failed(ErrorKind.UPSTREAM_CUT, "before it answered") from None  # it may have had the request
            answer = await self._answer(fresh, head, request.body)
            assert answer is not None  # noqa: S101 - a fresh connection is never stale
        except BaseException:
            self._free_slot()
            raise
        return fresh, answer

    def close(self, url: str, connection: Connection) -> None:
        """Pool the connection, or drop it if its answer has not come to its end."""
        self._free_slot()
        if self._loop is None:
            connection.drop()
        elif connection.release(self._loop.time()):
            self._idle[self._address_of(url).origin].append(connection)
            if self._sweep is None:
                self._sweep = self._loop.call_later(self._keepalive_s, self._drop_expired)

    async def _answer(self, connection: Connection, head: bytes, body: bytes) -> Answer | None:
        """Send and wait for the headers. None: the connection was stale, and the request may be sent once more."""
        loop = asyncio.get_running_loop()
        sent_at_s = loop.time()
        answer = connection.exchange(head, body)
        try:
            await answer.wait_for_head()
            if answer.has_head:
                return answer
        except BaseException:
            connection.drop()
            raise
        connection.drop()
        soon = loop.time() - sent_at_s < STALE_SHOWS_WITHIN_S
        stopped = self._loop is None  # it was stop that broke it
        if connection.used and not answer.began and soon and not stopped:
            return None
        assert answer.failure is not None  # noqa: S101 - what wait_for_head waits for
        raise failed(answer.failure, "before it answered")

    def _take_idle(self, origin: Origin) -> Connection | None:
        """Take the connection that was used last, if it is neither closed nor too old."""
        idle = self._idle.get(origin)
        if not idle or self._loop is None:
            return None
        oldest_s = self._loop.time() - self._keepalive_s
        while idle:
            connection = idle.pop()
            if connection.open and connection.idle_since_s >= oldest_s:
                return connection
            connection.drop()
        return None

    async def _connect(self, address: Address, give_up_at_s: float) -> Connection:
        tls = self._tls if address.origin.tls else None
        if self._connection_limit and len(self._open) >= self._connection_limit:
            self._drop_longest_idle()
        try:
            async with asyncio.timeout_at(give_up_at_s):
                connection = await connect(
                    address.origin, tls, lambda: Connection(self._header_limit_bytes, self._open.discard)
                )
        except (OSError, UnicodeError) as error:
            raise connect_error(error) from None
        self._open.add(connection)
        if self._loop is None or not connection.open:
            connection.drop()
            raise connect_error(ConnectionError()) from None
        return connection

    async def _wait_for_slot(self, slots: asyncio.Semaphore, give_up_at_s: float) -> None:
        try:
            async with asyncio.timeout_at(give_up_at_s):
                await slots.acquire()
        except TimeoutError as error:
            raise connect_error(error) from None

    def _free_slot(self) -> None:
        if self._slots is not None:
            self._slots.release()

    def _drop_longest_idle(self) -> None:
        """Make room: whoever has a slot may connect, so one that is idle stands in the way."""
        longest = min((idle for idle in self._idle.values() if idle), key=lambda idle: idle[0].idle_since_s, default=[])
        if longest:
            longest.pop(0).drop()

    def _drop_expired(self) -> None:
        """Close what nobody has asked for in time, and look again while anything is idle."""
        self._sweep = None
        if self._loop is None:
            return
        oldest_s = self._loop.time() - self._keepalive_s
        for origin, idle in list(self._idle.items()):
            kept = [one for one in idle if one.open and one.idle_since_s > oldest_s]
            for connection in idle:
                if connection not in kept:
                    connection.drop()
            self._idle[origin] = kept
            if not kept:
                del self._idle[origin]
        if self._idle:
            first_s = min(idle[0].idle_since_s for idle in self._idle.values())
            self._sweep = self._loop.call_at(first_s + self._keepalive_s, self._drop_expired)


class _Exchange:
    """The context in which an answer can be read. A class: a generator's context costs a third of a short exchange."""

    __slots__ = ("_connect_timeout_s", "_connection", "_request", "_transport", "_url")

    def __init__(self, transport: HttpTransport, request: UpstreamRequest, connect_timeout_s: float) -> None:
        self._transport = transport
        self._request: UpstreamRequest | None = request
        self._url = request.url
        self._connect_timeout_s = connect_timeout_s
        self._connection: Connection | None = None

    async def __aenter__(self) -> Answer:
        request, self._request = self._request, None  # an answer may take long, and the body be large
        assert request is not None  # noqa: S101 - a context is entered once
        opening = self._transport.open(request, self._connect_timeout_s)
        del request
        self._connection, answer = await opening
        return answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._transport.close(self._url, self._connection)
