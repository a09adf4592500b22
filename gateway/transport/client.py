"""The network transport: HTTP/1.1 by aiohttp.

It decides how a connection is opened, reused, retried and closed, and which kind of error each way of failing is. How
long to wait for an answer, and where a request goes next, is left to the caller. aiohttp sits behind this one file; a
client of our own may take its place when it is faster and passes ``tests/unit/transport/test_contract.py``.

Four things aiohttp does not do for us, and why there are two small subclasses here:

* It closes a connection after flushing what is still to be sent. To an upstream that has stopped reading, that is
  never, and the upstream goes on generating. Here a connection that is left is dropped at once.
* It retries a pooled connection that had gone stale for idempotent methods only. A ``POST`` is as safe to repeat when
  not a byte of an answer came, on a connection that had been used before (RFC 9112, section 9.3.1), but only the
  connection itself knows whether that is so.
* A body without a length ends where the connection ends (RFC 9112, section 6.3), and aiohttp takes a reset for such
  an end. A reset is a cut.
* When a chunked body breaks its framing, aiohttp closes the connection but leaves whoever reads waiting for ever
  (3.14.5). Here a body that is not at its end when the connection is lost is always cut.

aiohttp's own exceptions hold URLs and headers, credentials included. None of them leaves this file, not even as a
cause.
"""

import asyncio
import errno
import functools
import io
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, cast

import aiohttp
import yarl
from aiohttp.client_proto import ResponseHandler

from gateway.errors import ErrorKind, UpstreamError
from gateway.types import UpstreamRequest

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

_X509_NAME_MISMATCH = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH, whose own message holds the upstream's address."""
_BAD_URL = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)
_BODILESS = frozenset({204, 304})
_WHOLE_WRITE_LIMIT_BYTES = 1 << 20
"""A larger request body is written in pieces, so that it does not hold up the event loop."""


class HttpTransport:
    """Implement ``gateway.transport.base.Transport`` over the network.

    ``connection_limit`` bounds the open connections over all upstreams, 0 for no bound: limits belong to admission.
    Waiting for a free one counts as connecting. ``header_limit_bytes`` bounds the status line and each header of an
    answer; there may be 128 of them. ``ssl_context`` replaces the system's trust store.
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
        self._ssl_context = ssl_context
        self._pool: aiohttp.ClientSession | None = None
        self._unpooled: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make the pool; must run inside the event loop that will use it."""
        tls = True if self._ssl_context is None else self._ssl_context
        self._pool = self._session(
            _Connector(ssl=tls, limit=self._connection_limit, keepalive_timeout=self._keepalive_s)
        )
        self._unpooled = self._session(_Connector(ssl=tls, limit=self._connection_limit, force_close=True))

    async def stop(self) -> None:
        """Close every connection; whoever still reads from one gets UPSTREAM_CUT."""
        for session in (self._pool, self._unpooled):
            if session is not None:
                await session.close()
        self._pool = self._unpooled = None
        await asyncio.sleep(0)  # a dropped connection's socket is closed in the loop's next turn

    @asynccontextmanager
    async def send(self, request: UpstreamRequest, *, connect_timeout_s: float) -> AsyncIterator["_Answer"]:
        """Send and wait for the status line and headers: see ``Transport.send``."""
        if self._pool is None or self._unpooled is None:
            raise RuntimeError("HttpTransport.send needs start() first")
        answer = await _open(self._pool, request, connect_timeout_s)
        if answer is None:
            answer = await _open(self._unpooled, request, connect_timeout_s)
        if answer is None:
            raise _cut("before it answered")
        try:
            yield answer
        finally:
            answer.close()

    def _session(self, connector: "_Connector") -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            headers={"accept-encoding": "identity", "user-agent": "tollway"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            max_line_size=self._header_limit_bytes,
            max_field_size=self._header_limit_bytes,
        )


class _Answer:
    """An answer whose headers have arrived. Implements ``UpstreamStream``."""

    __slots__ = ("_connection", "_content", "_ends_with_connection", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, connection: "_PooledConnection") -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = _lower_case(response.headers)
        self._response = response
        self._content = response.content
        self._connection = connection
        self._ends_with_connection = (
            "content-length" not in self.headers
            and "transfer-encoding" not in self.headers
            and self.status not in _BODILESS
        )

    async def read(self) -> bytes:
        """Return all that has arrived since the last call: see ``UpstreamStream.read``."""
        content = self._content
        try:
            data = await content.readany()
        except (aiohttp.ClientError, OSError, RuntimeError):  # RuntimeError: the transport was stopped meanwhile
            # aiohttp prefers the error to what had arrived before it; the caller gets both, in their order.
            if content._buffer:  # noqa: SLF001 - read_nowait() raises the error too
                return content._read_nowait(-1)  # noqa: SLF001
            raise _cut("in the middle of its answer") from None
        if not data and self._ends_with_connection and self._connection.was_reset:
            raise _cut("in the middle of its answer")
        return data

    def close(self) -> None:
        """Drop the connection, unless the body's end has already given it back to the pool."""
        self._response.close()


class _PooledConnection(ResponseHandler):
    """A connection that remembers how often it was used, whether an answer began, and how it ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.requests_sent = 0
        self.answer_began = False
        self.was_reset = False

    def begin(self) -> None:
        """Note that one more request is about to be sent."""
        self.requests_sent += 1
        self.answer_began = False

    def data_received(self, data: bytes) -> None:
        self.answer_began = True
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.was_reset = exc is not None
        body = self._payload
        super().connection_lost(exc)
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError())

    def close(self) -> None:
        self.abort()


_connection_used: ContextVar[_PooledConnection | None] = ContextVar("_connection_used", default=None)
"""The connection that the current task's request went out on: aiohttp tells nobody when that request fails."""


class _Connector(aiohttp.TCPConnector):
    """A connector that makes such connections and says which one it chose."""

    def __init__(
        self,
        *,
        ssl: "ssl.SSLContext | bool",
        limit: int,
        keepalive_timeout: float | None = None,
        force_close: bool = False,
    ) -> None:
        if force_close:
            super().__init__(ssl=ssl, limit=limit, force_close=True)
        else:
            super().__init__(ssl=ssl, limit=limit, keepalive_timeout=keepalive_timeout)
        self._factory = functools.partial(_PooledConnection, loop=self._loop)  # type: ignore[assignment] # a subclass

    async def connect(
        self,
        req: "ClientRequest",
        traces: list["Trace"],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own signature
    ) -> "Connection":
        connection = await super().connect(req, traces, timeout)
        protocol = cast("_PooledConnection", connection.protocol)  # what our factory made
        protocol.begin()
        _connection_used.set(protocol)
        return connection


async def _open(session: aiohttp.ClientSession, request: UpstreamRequest, connect_timeout_s: float) -> _Answer | None:
    """Send and wait for the headers. None: the pooled connection was stale, and the request may be sent once more."""
    _connection_used.set(None)
    try:
        response = await session.request(
            request.method,
            yarl.URL(request.url, encoded=True),  # as the adapter wrote it: a provider may sign it
            headers=request.headers,
            data=io.BytesIO(request.body) if len(request.body) > _WHOLE_WRITE_LIMIT_BYTES else request.body or None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_s),
        )
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, *_BAD_URL) as error:
        raise UpstreamError(ErrorKind.UPSTREAM_CONNECT, _connect_sentence(error)) from None
    except aiohttp.ClientResponseError:
        raise _not_http() from None
    except (aiohttp.ClientError, OSError) as error:
        connection = _connection_used.get()
        if connection is None:
            raise UpstreamError(ErrorKind.UPSTREAM_CONNECT, _connect_sentence(error)) from None
        if connection.requests_sent > 1 and not connection.answer_began:
            return None
        raise _cut("before it answered") from None
    answer = _Answer(response, cast("_PooledConnection", _connection_used.get()))
    if answer.status == 101:  # nothing we send asks for another protocol
        answer.close()
        raise _not_http()
    return answer


def _lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    """Of repeated headers the first."""
    lowered: dict[str, str] = {}
    for name, value in headers.items():
        lowered.setdefault(name.lower(), value)
    return lowered


def _cut(when: str) -> UpstreamError:
    return UpstreamError(ErrorKind.UPSTREAM_CUT, f"The upstream broke the connection {when}.")


def _not_http() -> UpstreamError:
    return UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream's answer is not HTTP that can be understood.")


def _connect_sentence(error: Exception) -> str:  # noqa: PLR0911 - a table of causes
    """Say why there is no connection, without the address, which aiohttp's and OpenSSL's own messages hold."""
    if isinstance(error, TimeoutError):
        return "The upstream did not accept a connection in time."
    if isinstance(error, _BAD_URL):
        return "The upstream's address is not a valid URL."
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"The upstream's TLS certificate was not accepted: {_certificate_cause(error.certificate_error)}."
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "The TLS handshake with the upstream failed."
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "The upstream's host name does not resolve."
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return f"The upstream could not be reached: {os.strerror(error.errno).lower()}."
    return "The upstream could not be reached."


def _certificate_cause(error: Exception) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return "it is not valid"
    if error.verify_code in _X509_NAME_MISMATCH:
        return "it was issued for another name"
    return error.verify_message
