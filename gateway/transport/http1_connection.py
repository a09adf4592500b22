"""One connection to an upstream, and the one exchange at a time that it carries. Buffers are bounded both ways."""

import asyncio
import contextlib
import select
import ssl
from collections.abc import Callable, Mapping
from operator import add
from typing import cast

import httptools

from gateway.errors import Cause, ErrorKind, UpstreamError
from gateway.transport.http1_fields import read_fields
from gateway.transport.http1_request import PoolKey
from gateway.turns import Turns

_WHOLE_WRITE_LIMIT_BYTES = 1 << 16
"""A larger request is written in pieces, each when there is room for it: it neither holds up the loop nor is copied."""
_PIECE_BYTES = 1 << 18
_BUFFER_LIMIT_BYTES = 1 << 16
"""With more than this unread, the upstream is held back. What one call of the loop brings comes on top, once."""
_CHUNK_COST_BYTES = 64
"""What keeping a chunk costs beside its bytes, so that a buffer of tiny ones stays bounded too."""
_HEADERS_LIMIT = 128
_HEADER_LIMIT_BYTES = 8190
"""Of a name and its value together."""
_BARREN_LIMIT_BYTES = 1 << 16
"""So much may come that is no body: heads, interim answers, chunk extensions, trailers."""


class UpstreamAnswer:
    """What comes back: parsed as it arrives, kept until it is read. Implements ``UpstreamStream``."""

    __slots__ = (
        "_barren_bytes", "_buffered_bytes", "_connection", "_fields", "_parser", "_pieces",
        "_take", "_waiter", "began", "cause", "complete", "failure", "has_head", "headers", "keep_alive", "on_body",
        "on_header", "status",
    )  # fmt: skip

    def __init__(self, connection: "UpstreamConnection") -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.began = self.has_head = self.complete = False
        self.keep_alive = False
        """Whether the connection can carry another request after this answer."""
        self.failure: ErrorKind | None = None
        self.cause: Cause | None = None
        """Of the failure, where the connection's end was it."""
        self._connection = connection
        self._fields: dict[bytes, bytes] = {}
        """The head as it arrives; behind it trailers come in too, and are used for nothing."""
        self.on_header = self._fields.setdefault  # called by the parser, as is ``on_body``, without a Python frame
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._buffered_bytes = self._barren_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None
        """Takes what comes while ``pour`` waits; None once it wants no more."""
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    @property
    def ended(self) -> bool:
        """Whether no more bytes belong to it."""
        return self.complete or self.failure is not None

    async def wait_for_head(self) -> None:
        """Wait until status and headers are there, or never will be."""
        while not self.has_head and self.failure is None:
            await self._change()

    async def read(self) -> bytes:
        """Return all that has arrived since the last call: see ``UpstreamStream.read``."""
        pieces = self._pieces
        while not pieces:
            if self.complete:
                return b""
            if self.failure is not None:
                raise failed(ErrorKind.UPSTREAM_CUT, "in the middle of its answer", self.cause)
            await self._change()
        return self._taken()

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Hand on what arrives: see ``UpstreamStream.pour``."""
        try:
            while data := await self.read():
                self._take = take if take(data) else None
                if self._take is not None and not self.ended:
                    await self._change()
                if self._take is None:
                    return True
        finally:
            self._take = None
        return False

    def _taken(self) -> bytes:
        """Return what has arrived, and make room for as much again."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._buffered_bytes > _BUFFER_LIMIT_BYTES:
            self._connection.resume_reading()
        self._buffered_bytes = 0
        return data

    def feed(self, data: bytes) -> bool:
        """Take bytes from the connection. False: whatever becomes of the answer, the connection has had its day."""
        if self._parser is None:
            return False
        self.began = sound = True
        pieces = len(self._pieces)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            sound = False
        pieces = len(self._pieces) - pieces
        if pieces and self.has_head:
            self._barren_bytes = 0
            self._buffered_bytes += len(data) + pieces * _CHUNK_COST_BYTES
            if self._buffered_bytes > _BUFFER_LIMIT_BYTES:
                self._connection.pause_reading()
        else:
            self._barren_bytes += len(data)
            if self._barren_bytes > _BARREN_LIMIT_BYTES:
                sound = False
        if not sound:
            self.fail(ErrorKind.UPSTREAM_CUT if self.has_head else ErrorKind.UPSTREAM_PROTOCOL, "not_http")
        if self.complete or self.failure is not None:
            self._parser = None  # it and this object hold each other
            self._wake()
        elif self._take is None or not self._hand_over(self._take):
            self._wake()
        return sound

    def _hand_over(self, take: Callable[[bytes], bool]) -> bool:
        """Let ``take`` have what has arrived. False: that is left to the task in ``pour``, or no more is wanted."""
        if not self._pieces:
            return True
        # A heap may be followed by another at once; a task leaves others their turn. One that was cancelled takes none.
        if self._buffered_bytes > _BUFFER_LIMIT_BYTES or self._waiter is None or self._waiter.done():
            return False
        try:
            goes_on = take(self._taken())
        except Exception as error:  # noqa: BLE001 - the task that waits gets it
            self._wake(error)
            goes_on = False
        if not goes_on:
            self._take = None
        return goes_on

    def end(self, cause: Cause | None) -> None:
        """Take the connection's end: of a body without a length it is the end too, if it is an orderly one (closed)."""
        lengthless = "content-length" not in self.headers and "transfer-encoding" not in self.headers
        if self.has_head and lengthless and cause == "closed" and self.failure is None:
            self.complete = True
        self.fail(ErrorKind.UPSTREAM_CUT, cause)
        self._parser = None
        self._wake()

    def fail(self, kind: ErrorKind, cause: Cause | None = None) -> None:
        """Note that the rest will not come, unless it is known already or has come."""
        if not self.ended:
            self.failure, self.cause = kind, cause

    async def _change(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        await waiter

    def _wake(self, error: Exception | None = None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    # What follows is called by the parser, which stops when one of it raises.

    def on_message_begin(self) -> None:
        """Take the start of an answer: an interim one (1xx) may have come before."""
        if self.complete:
            raise ValueError("bytes behind the answer are no part of it")
        connection = self._connection
        # A fresh one has carried no other request: there it may be a refusal of what is still being sent.
        if connection.used and not connection.is_written():
            self.fail(ErrorKind.STALE_CONNECTION)
            raise ValueError("an answer to a request that is still being written may be another request's")
        self._fields.clear()

    def on_headers_complete(self) -> None:
        """Take the status and the headers."""
        assert self._parser is not None  # noqa: S101 - it is what calls
        status = self._parser.get_status_code()
        fields = self._fields
        longest = max(map(add, map(len, fields), map(len, fields.values())), default=0)
        if len(fields) > _HEADERS_LIMIT or longest > _HEADER_LIMIT_BYTES:
            raise ValueError("more headers than an answer needs")
        headers = read_fields(reversed(fields), reversed(fields.values()))[1] if fields else {}
        # Nothing we send asks for another protocol or coding.
        if status == 101 or headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise ValueError("an answer to something else")
        if status >= 200:
            self.status, self.headers = status, headers
            self.has_head = True

    def on_message_complete(self) -> None:
        """Take the end."""
        if self.has_head and self._parser is not None:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()
        elif self._pieces:
            raise ValueError("an interim answer has no body")


class UpstreamConnection(asyncio.Protocol):
    """A connection that knows whether it can carry one more request. ``on_lost`` is called at its very end."""

    def __init__(self, pool: PoolKey, turns: Turns, on_lost: Callable[["UpstreamConnection"], None]) -> None:
        self.pool = pool
        self.used = False
        """It has carried a request before, so the next may find it stale."""
        self.unsent = False
        """It ended while a part of its request was still to be written."""
        self.since_s = 0.0
        """When it was last given back, or taken for its next request."""
        self.open = False
        self._turns = turns
        self._on_lost = on_lost
        self._answer: UpstreamAnswer | None = None
        self._unsent = memoryview(b"")
        self._may_write = True
        self._transport: asyncio.Transport
        self._arrivals: select.poll | None = None

    def exchange(self, head: bytes, body: bytes) -> UpstreamAnswer:
        """Send a request; its answer has yet to arrive."""
        answer = self._answer = UpstreamAnswer(self)
        if len(body) <= _WHOLE_WRITE_LIMIT_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._unsent = memoryview(body)
            self._send_on()
        return answer

    def is_silent(self) -> bool:
        """Whether it is open and nothing has come while it was idle, not even what the loop has yet to hand over."""
        if not self.open:
            return False
        if self._arrivals is None:
            self._arrivals = select.poll()
            self._arrivals.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._arrivals.poll(0)

    def is_written(self) -> bool:
        """Whether all of the request has left this process."""
        return not self._unsent and self._may_write and not self._transport.get_write_buffer_size()

    def release(self, now_s: float) -> bool:
        """End the exchange. True: the connection can carry another; otherwise it is dropped at once."""
        answer, self._answer = self._answer, None
        if self.open and answer is not None and answer.complete and answer.keep_alive and self.is_written():
            self._transport.resume_reading()  # an end that comes while idle must be seen
            self.used, self.since_s = True, now_s
            return True
        if answer is not None:
            answer.end(None)
        self.drop()
        return False

    def drop(self) -> None:
        """Close the connection at once: to an upstream that reads nothing, flushing would take for ever."""
        self._note_what_is_unsent()
        self._transport.abort()
        if self._answer is not None:
            self._answer.end(None)

    def unmake(self) -> None:
        """Let go of a transport that the loop has given up while making it.

        Only under TLS the loop calls ``connection_lost`` of such a one: nothing was sent, which need not be asked then.
        """
        self.open = False
        self.unsent = True
        with contextlib.suppress(AttributeError):
            del self._transport

    def pause_reading(self) -> None:
        """Let the upstream wait."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let the upstream go on when others have had their turn."""
        self._turns.wait(self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _note_what_is_unsent(self) -> None:
        self.unsent = self.unsent or not self.is_written()
        self.open = False
        self._unsent = memoryview(b"")

    def _send_on(self) -> None:
        """Write as much as there is room for. An answer may come meanwhile, and the rest is still sent."""
        while self._unsent and self._may_write and not self._transport.is_closing():
            piece, self._unsent = self._unsent[:_PIECE_BYTES], self._unsent[_PIECE_BYTES:]
            self._transport.write(piece)
        if not self._unsent:
            self._unsent = memoryview(b"")  # an empty piece of a body would keep all of it

    # What follows is called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the way to write."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.open = True

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that belong to no answer end the connection."""
        if self._answer is None or not self._answer.feed(data):
            self.drop()

    def eof_received(self) -> None:
        """Take the orderly end of what the upstream sends. The loop closes the connection: nothing more can come."""
        self.open = False
        if self._answer is not None:
            self._answer.end("closed")

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the connection's end, whatever caused it; an orderly one came before, by eof_received."""
        self._note_what_is_unsent()
        answer, self._answer = self._answer, None  # it and this object hold each other
        if answer is not None:
            answer.end(_cause_of(exc))
        self._on_lost(self)

    def pause_writing(self) -> None:
        """Hold back the rest of a large request."""
        self._may_write = False

    def resume_writing(self) -> None:
        """Go on with it, but not from within the transport's own writing."""
        self._may_write = True
        if self._unsent:
            asyncio.get_running_loop().call_soon(self._send_on)


def _cause_of(error: Exception | None) -> Cause | None:
    """Name what broke a connection; None: this process did."""
    if error is None:
        return None
    return "tls" if isinstance(error, ssl.SSLError) else "reset"


def failed(kind: ErrorKind, when: str, cause: Cause | None) -> UpstreamError:
    """Say what became of an answer."""
    if kind is ErrorKind.UPSTREAM_PROTOCOL:
        return UpstreamError(kind, "The upstream's answer is not HTTP that can be understood.", cause="not_http")
    if kind is ErrorKind.STALE_CONNECTION:
        return UpstreamError(kind, "A kept connection to the upstream was of no use any more.", cause=cause)
    return UpstreamError(kind, f"The upstream broke the connection {when}.", cause=cause)
