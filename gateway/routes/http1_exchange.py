"""One request of a caller and its answer: HTTP/1.1's framing of both bodies.

Which bytes belong to the request is the parser's business (``http1_connection``), what to answer a handler's. Here: a
body is kept until it is asked for, within bounds, and an answer leaves in as few writes as it can.
"""

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from io import BytesIO
from typing import Protocol

from gateway.clock import Ids
from gateway.errors import ErrorKind, GatewayError
from gateway.routes.http1_head import written

_AHEAD_BYTES = 1 << 16
"""So much of a body is taken before a handler reads it, and so little of one is not counted."""
_STEP_BYTES = 1 << 20
"""By so much the count of a body without a length grows."""
_AT_ONCE_BYTES = 1 << 18
"""So much of a body is read as it comes, which is one read of the loop; the rest in turn with other bodies."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STATUS_LINES = {int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_FIELD = b"%b: %b\r\n"


class ClientConnection(Protocol):
    """What an exchange needs of its connection."""

    full: bool
    """What was written waits for the caller to read on."""
    ids: Ids
    """Name refusals."""

    def write(self, data: bytes, /) -> None:
        """Send bytes."""

    async def drained(self) -> None:
        """Wait until it is no longer full."""

    def pause_reading(self) -> None:
        """Let the caller wait."""

    def resume_reading(self) -> None:
        """Let the caller go on."""

    def wait_turn(self) -> None:
        """Let others send before the caller goes on."""

    def discard(self, size_bytes: int) -> None:
        """Note that bytes of a body came that will not be read."""

    def date(self) -> bytes:
        """Return the header with the time of now."""

    def refused(self, error: GatewayError, status: int, /) -> None:
        """Note a refusal of what never became a call."""


Fields = dict[str, str]
"""See ``Inbound.headers``."""


class Exchange:
    """A request whose head is there, and the ``Sink`` of its answer. ``end`` follows the answer's last bytes."""

    __slots__ = (
        "_allowed_bytes", "_body", "_bodyless", "_chunked", "_client", "_head", "_hold", "_limit_bytes", "_owed_bytes",
        "_size_bytes", "_waiter", "answered", "further", "headers", "left", "method", "modern", "persistent",
        "received", "started", "target",
    )  # fmt: skip

    def __init__(
        self, client: ClientConnection, method: bytes, target: bytes, headers: Fields, *, modern: bool, persistent: bool
    ) -> None:
        self.method = method
        self.target = target
        """As sent: mostly a path and a query."""
        self.headers = headers
        self.modern = modern
        """HTTP/1.1, which knows chunks; the end of an answer of unknown length to HTTP/1.0 is the connection's."""
        self.persistent = persistent
        """Another request may follow on the connection."""
        self.received = False
        """The whole body has come."""
        self.started = self.answered = False
        self.left = False
        """The caller has gone, and the handler's task was cancelled because of it."""
        self.further = b""
        """Lines that the answer's head is to have besides the handler's, each with its end."""
        self._client = client
        self._body: bytes | BytesIO | None = b""
        self._size_bytes = 0
        self._allowed_bytes = self._limit_bytes = _AHEAD_BYTES
        self._hold: Callable[[int], None] = _hold_any
        self._waiter: asyncio.Future[None] | None = None
        self._head = b""
        self._chunked = self._bodyless = False
        self._owed_bytes: int | None = None

    def has_left(self) -> bool:
        """See ``Inbound.caller_left``."""
        return self.left

    async def read_body(self, limit_bytes: int, timeout_s: float, hold: Callable[[int], None] | None = None) -> bytes:
        """Return the whole body, once. Raises GatewayError: BODY_TOO_LARGE, BODY_TIMEOUT, and what ``hold`` raises.

        ``hold`` is called with how many bytes are to be kept, before they are; not for a small body.
        """
        if not self.received or self._size_bytes > limit_bytes or self._size_bytes > _AHEAD_BYTES:
            await self._receive(limit_bytes, timeout_s, hold or _hold_any)
        body, self._body = self._body or b"", None
        return body if isinstance(body, bytes) else body.getvalue()

    async def _receive(self, limit_bytes: int, timeout_s: float, hold: Callable[[int], None]) -> None:
        """Make room for the body and wait until it has come."""
        self._limit_bytes, self._hold = limit_bytes, hold
        self._allowed_bytes = min(self._allowed_bytes, limit_bytes)
        try:
            # The parser has seen to its being a number.
            self._allow(max(self._size_bytes, int(self.headers.get("content-length", "0"))))
            if not self.received:
                await self._wait(timeout_s)
        except GatewayError:
            self._body = None  # it will not be read
            raise
        finally:
            self._hold = _hold_any

    def _allow(self, size_bytes: int) -> None:
        """See that there is room for a body of this size. Raises GatewayError."""
        if size_bytes > self._limit_bytes:
            raise _too_large(self._limit_bytes)
        if size_bytes > _AHEAD_BYTES:
            self._hold(size_bytes)
            self._allowed_bytes = size_bytes

    async def _wait(self, timeout_s: float) -> None:
        self._client.resume_reading()
        if self.modern and self.headers.get("expect", "").lower() == "100-continue":
            self._client.write(_CONTINUE)
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(timeout_s, _give_up, waiter, timeout_s)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def take(self, data: bytes) -> None:
        """Keep a piece of the body, unless it is one too many or no longer to be read."""
        if self._body is None:
            self._client.discard(len(data))
            return
        if not self._size_bytes:
            self._body = data
        else:
            self._append(self._body, data)
        self._size_bytes += len(data)
        if self._size_bytes > self._allowed_bytes:
            self._outgrown()

    def _append(self, body: bytes | BytesIO, piece: bytes) -> None:
        """Take one more piece of a body, of which the whole is never copied."""
        if isinstance(body, bytes):
            length = int(self.headers.get("content-length", "0"))
            self._body = BytesIO(bytes(min(length, self._allowed_bytes)))  # zeros not touched are no memory yet
            self._body.write(body)
            body = self._body
        body.write(piece)
        if self._size_bytes > _AT_ONCE_BYTES:
            self._client.wait_turn()

    def _outgrown(self) -> None:
        """Make room for more of a body without a length, or take no more of it."""
        waiter = self._waiter
        if waiter is None:
            self._client.pause_reading()
            return
        try:
            self._allow(max(self._size_bytes, min(self._size_bytes + _STEP_BYTES, self._limit_bytes)))
        except GatewayError as error:
            self._body = None
            if not waiter.done():
                waiter.set_exception(error)

    def complete(self) -> None:
        """Note that the whole body has come."""
        self.received = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Make the answer's head; it leaves together with the first bytes of the body, or at the end."""
        self.started = True
        if not self.received and "expect" in self.headers:
            self.persistent = False  # it is not known whether the body will still come
        lines = [STATUS_LINES.get(status) or unregistered(status), self._client.date(), self.further]
        lines += map(_FIELD.__mod__, headers)
        length = dict(headers).get(b"content-length")
        if self.method == b"HEAD" or status in (204, 304):
            self._bodyless = True
        elif length is not None:
            self._owed_bytes = int(length)
        elif self.modern:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n" if self.persistent else b"connection: close\r\n\r\n")
        self._head = b"".join(lines)

    def write(self, data: bytes, *, last: bool = False) -> bool:
        """See ``Sink.write``."""
        client = self._client
        if not data or self.left or self._bodyless:
            return True
        head, self._head = self._head, b""
        if self._chunked:
            data = b"%b%x\r\n%b\r\n" % (head, len(data), data)
        else:
            if self._owed_bytes is not None:
                self._owed_bytes -= len(data)
            data = head + data
        if last:
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)  # unless the end comes first, and they leave as one
        else:
            client.write(data)
        return not client.full

    async def drained(self) -> None:
        """See ``Sink.drained``."""
        if self._client.full and not self.left:
            await self._client.drained()

    def end(self) -> None:
        """End the answer; one that is shorter or longer than its head says stays unanswered."""
        if self.answered or self.left:
            return
        if not self.started:
            raise RuntimeError("the handler gave no answer")
        if self._chunked:
            self._head += b"0\r\n\r\n"
        self._flush()
        self._body = None
        self.answered = not self._owed_bytes

    async def refuse(self, error: GatewayError, *headers: tuple[bytes, bytes], body: bytes | None = None) -> None:
        """Answer with an error, and these further headers; this is no call, so nothing else says that it failed.

        ``body``: an endpoint's words, with its id among the headers.
        """
        self._client.refused(error, error.status)
        kind = [(b"content-type", b"application/json")]
        if body is None:
            body, kind = written(error, self.target, self.headers, self._client.ids)
        await self.start(error.status, [*kind, (b"content-length", b"%d" % len(body)), *headers])
        self.write(body)
        self.end()

    def _flush(self) -> None:
        if self._head and not self.left:
            self._client.write(self._head)
        self._head = b""


Handler = Callable[[Exchange], Awaitable[None]]
"""Answers a request. What it raises is a 500, or an answer that breaks off."""


Refused = Callable[[GatewayError, int], None]
"""Is called with each refusal of what never became a call, and with its HTTP status."""


class Date:
    """Returns the header ``Date`` when called: HTTP wants it of every server with a clock (RFC 9110, 6.6.1)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._time = loop.time
        self._line = b""
        self._until_s = 0.0

    def __call__(self) -> bytes:
        """Return it for now."""
        now_s = self._time()
        if now_s >= self._until_s:
            self._until_s = now_s + 1
            self._line = b"date: %b\r\n" % formatdate(usegmt=True).encode()
        return self._line


def unregistered(status: int) -> bytes:
    """Return the first line of an answer whose status has no phrase, as an upstream's may not."""
    return b"HTTP/1.1 %d \r\n" % status


def _hold_any(_size_bytes: int) -> None:
    """Keep what comes."""


def _give_up(waiter: "asyncio.Future[None]", timeout_s: float) -> None:
    if not waiter.done():
        sentence = f"The body did not arrive within {timeout_s:g} seconds; send it faster."
        waiter.set_exception(GatewayError(ErrorKind.BODY_TIMEOUT, sentence))


def _too_large(limit_bytes: int) -> GatewayError:
    return GatewayError(
        ErrorKind.BODY_TOO_LARGE,
        f"The body is larger than the {limit_bytes} bytes that this gateway accepts; send a smaller one, "
        "or have the operator raise server.max_body_mb.",
    )
