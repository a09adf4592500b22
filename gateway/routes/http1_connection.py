"""Serves one connection from a caller: requests one after the other, each within limits of time and size.

It parses what comes (httptools, a binding of llhttp, which refuses what smuggles: Content-Length beside
Transfer-Encoding, folded fields, bare line feeds), runs one task per request, one at a time and in order, and passes a
handler the ``Exchange``. What must hold before there is a request is decided here:

- A head has a time and a size within which to arrive; so has what surrounds the pieces of a chunked body, and what
  comes behind a request that was answered before its end. Fields behind a body are never headers.
- A caller who leaves, or closes only his sending side, cancels the task at whatever point it is; those of his requests
  that wait behind it never begin. The connection is read from while a request runs, or leaving would go unnoticed.
- A caller who takes nothing of an answer for a while is let go.
- An offer of another protocol is passed over (RFC 9110, 7.8), as Java's client makes with each request.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from gateway.clock import Ids
from gateway.errors import ErrorKind, GatewayError
from gateway.routes.http1_exchange import STATUS_LINES, Exchange, Handler, Refused
from gateway.routes.http1_head import (
    HTTP_VERSIONS,
    MAX_HEADER_BYTES,
    TOO_LARGE,
    TOO_LONG,
    RefusedHeadError,
    check_head,
    written,
)
from gateway.shortage import own_failure
from gateway.transport.http1_fields import read_fields
from gateway.turns import Turns

HEADER_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 75.0
"""Longer than the 60 s of common load balancers: the side that reuses connections should close them."""
LAST_CALL_S = 1.0
"""With the server about to stop, a request may be under way on a connection that looks idle, or has just been made."""
READER_TIMEOUT_S = 60.0
"""For so long a caller may take nothing of an answer that waits for him."""
_DISCARDED_BYTES = 1 << 19
_DISCARD_PAUSE_S = 0.05
"""After so much that is not read, so long a rest: at 10 MB a second a caller still gets his refusal, and no more."""
_MOST_WAITING = 256
_MOST_WAITING_BYTES = 1 << 16
"""With more than this sent behind the request that runs, a caller is held back, and his leaving noticed later."""

_OTHER_VERSIONS = ("Invalid HTTP version", "Expected dot", "Pause on PRI/Upgrade")
"""What the parser says of HTTP/1.2, of HTTP/2 and of HTTP/2's preface."""


class Http1Connection(asyncio.Protocol):
    """One connection from a caller. Implements ``ClientConnection``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        handler: Handler,
        date: Callable[[], bytes],
        refused: Refused,
        ids: Ids,
        turns: Turns,
        on_made: Callable[["Http1Connection"], None],
        on_lost: Callable[["Http1Connection"], None],
    ) -> None:
        self._loop = loop
        self._handler = handler
        self._turns = turns
        self._on_made = on_made
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self._parser: httptools.HttpRequestParser
        self._current: Exchange | None = None
        """The request that is being answered."""
        self._incoming: Exchange | None = None
        """The one whose body is being received."""
        self._waiting: deque[Exchange] = deque()
        """Those sent behind the current one (pipelined)."""
        self._ahead_bytes = 0
        """Of those that wait, and of those that came behind them."""
        self._target = b""
        self._fields: list[bytes] = []
        """Name, value, name, value of the head that is arriving, as sent."""
        self._host: str | None = "\n"
        """The last Host that was checked; at first one that no request can have."""
        self._fed_bytes = 0
        self._loose_bytes = 0
        """Received since the last piece of a body, or the last request: a head, or what surrounds a chunked body."""
        self._hurried = True
        """Something was received that is no request yet, and the deadline is for that."""
        self._deadline_s = 0.0
        self._task: asyncio.Task[None]
        """That of the current request."""
        self._timer: asyncio.TimerHandle
        self._reader_timer: asyncio.TimerHandle | None = None
        self._lingering = False
        self._deaf = False
        """Nothing more is a request: what comes is thrown away."""
        self._refusal = b""
        """The last answer, to what came behind the requests that run and wait."""
        self._finishing = False
        self._paused = False
        self._waits_turn = False
        self._discarded_bytes = 0
        self.full = False
        self._drain: asyncio.Future[None] | None = None
        self.date = date
        self.refused = refused
        self.ids = ids
        self.write: Callable[[bytes], None]

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request's head."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.write = self._transport.write
        self._parser = self._new_parser()
        self._on_made(self)
        self._deadline_s = self._loop.time() + HEADER_TIMEOUT_S
        self._timer = self._loop.call_later(HEADER_TIMEOUT_S, self._tick)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._deaf:
            return
        self._fed_bytes = len(data)
        self._loose_bytes += len(data)
        offered: int | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            offered = offer.args[0]  # acted on below: an error in here would take the offer for its context
        except httptools.HttpParserError as error:
            self._refuse(*_cause(error))
            return
        if offered is not None:
            self._pass_over(data[offered:])
        elif self._loose_bytes > MAX_HEADER_BYTES:
            self._refuse(*self._too_large())
        elif self._current is None and not self._hurried and self._loose_bytes:
            self._hurried = True
            self._allow(HEADER_TIMEOUT_S)
        elif self._waiting:
            self._ahead_bytes += len(data)
            if self._ahead_bytes > _MOST_WAITING_BYTES:
                self.pause_reading()

    def eof_received(self) -> None:
        """Take the end of what the caller sends for his leaving; the loop closes the connection."""
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's own signature
        """Take the connection's end, whatever caused it; the server forgets it when its request has ended, too."""
        runs = self._current is not None and not self._lingering
        self._leave()
        self._timer.cancel()
        self._read_on()
        del self._parser  # it and this object hold each other, as do its requests
        self._waiting.clear()
        self._current = self._incoming = None
        if runs:
            self._task.add_done_callback(lambda _: self._on_lost(self))
        else:
            self._on_lost(self)

    def pause_writing(self) -> None:
        """Begin to wait until the caller reads on."""
        self.full = True
        self._await_reader()

    def resume_writing(self) -> None:
        """Go on: the caller has read."""
        self.full = False
        self._read_on()
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head, or one that follows a body."""
        self._fields += (name, value)

    def on_url(self, target: bytes) -> None:
        """Take the request's target, or a piece of it."""
        self._target += target

    def on_headers_complete(self) -> None:
        """Check the head, and begin the request or let it wait for its turn."""
        parser, fields = self._parser, self._fields
        if parser.should_upgrade():
            return  # feed_data raises next
        # A body may be a part of this.
        may_be_large = self._loose_bytes > MAX_HEADER_BYTES or self._fed_bytes > MAX_HEADER_BYTES
        if may_be_large and len(self._target) + sum(map(len, fields)) + 2 * len(fields) > MAX_HEADER_BYTES:
            raise RefusedHeadError(*self._too_large())
        version = parser.get_http_version()
        modern = version == "1.1"
        names, headers = read_fields(fields[-2::-2], fields[::-2]) if fields else ([], {})
        is_plain = modern and len(headers) == len(names) and "transfer-encoding" not in headers
        if not is_plain or headers.get("host") != self._host:
            check_head(version, names, headers)
            self._host = headers.get("host")
        exchange = self._incoming = Exchange(
            self,
            parser.get_method(),
            self._target,
            headers,
            modern=modern,
            persistent=modern and parser.should_keep_alive(),
        )
        self._target = b""
        fields.clear()
        if self._current is None:
            self._begin(exchange)
        elif len(self._waiting) < _MOST_WAITING:
            self._waiting.append(exchange)
        else:
            raise RefusedHeadError(400, "Too many requests were sent without waiting for their answers.")

    def on_body(self, data: bytes) -> None:
        """Take a piece of a body."""
        self._loose_bytes = 0
        if self._incoming is not None:
            self._incoming.take(data)

    def on_message_complete(self) -> None:
        """Take the end of a body."""
        incoming = self._incoming
        if incoming is None:
            return  # an offer of another protocol
        self._incoming = None
        self._loose_bytes = 0
        self._fields.clear()  # what came behind the body
        incoming.complete()
        if self._current is None:  # answered long before
            self._rest()
        elif self._lingering:
            self._close()

    # Called by the exchange.

    async def drained(self) -> None:
        """Wait until the caller has read on."""
        self._drain = self._loop.create_future()
        await self._drain

    def pause_reading(self) -> None:
        """Let the caller wait."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let the caller go on."""
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def wait_turn(self) -> None:
        """Read on when others have had their turn."""
        if not self._waits_turn and not self._transport.is_closing():
            self._waits_turn = True
            self._transport.pause_reading()
            self._turns.wait(self._take_turn)

    def _take_turn(self) -> None:
        self._waits_turn = False
        if not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def discard(self, size_bytes: int) -> None:
        """Make a caller wait now and then who sends what is not read: it is work without an admission."""
        self._discarded_bytes += size_bytes
        if self._discarded_bytes >= _DISCARDED_BYTES:
            self._discarded_bytes = 0
            self.pause_reading()
            self._loop.call_later(_DISCARD_PAUSE_S, self.resume_reading)

    # Called by the server.

    def finish(self) -> None:
        """Close as soon as the caller knows of it, or sends nothing for a while: no request of his may be lost."""
        if self._finishing:
            return
        self._finishing = True
        if self._current is not None:
            if not self._current.started:
                self._current.persistent = False
        elif not (self._transport.is_closing() or (self._hurried and self._target)):
            self._rest()  # else the deadline stands, of what still leaves or of a head that is arriving

    def cut(self) -> None:
        """Cancel the request that is being answered, which still may say so, and begin no other."""
        if self._current is None or self._lingering:
            self._close()
        else:
            self._current.persistent = False
            self._cancel()

    def abort(self) -> None:
        """Break the connection."""
        self._transport.abort()

    # The course of a request.

    def _begin(self, exchange: Exchange) -> None:
        if self._finishing:
            exchange.persistent = False
        self._current = exchange
        self._deadline_s = math.inf
        self._task = self._loop.create_task(self._serve(exchange))

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange)
            exchange.end()
        except asyncio.CancelledError:
            if not exchange.left:
                raise
            # No task waits for this one: kept in it, the error would keep the frames, and with them the request.
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            await self._fail(exchange, own_failure(error))
        finally:
            self._served(exchange)

    async def _fail(self, exchange: Exchange, error: GatewayError) -> None:
        """Answer with an error of ours, or note it where an answer has begun and breaks off."""
        if exchange.started or exchange.left:
            self.refused(error, error.status)
        else:
            exchange.persistent = False
            await exchange.refuse(error)
        error.detached()

    def _served(self, exchange: Exchange) -> None:
        self._current = None
        if self._lingering or self._transport.is_closing():
            return
        if not exchange.answered:
            self._transport.abort()  # it must not be taken for a whole one
        elif not exchange.persistent:
            self._close_behind(exchange)
        elif self._waiting:
            self._begin(self._waiting.popleft())
        elif self._refusal:
            self._say_refusal()
        else:
            self._rest()
        if not self._waiting:
            self._ahead_bytes = 0
            self.resume_reading()

    def _close_behind(self, exchange: Exchange) -> None:
        """Close, but not on a caller who is still sending: the reset would take the answer from him."""
        if self._incoming is None:
            self._close()
        else:
            self._current, self._lingering = exchange, True  # nothing else begins
            self._transport.write_eof()
            self._rest()

    def _leave(self) -> None:
        current = self._current
        if current is not None and not current.left:
            current.left = True
            self._cancel()

    def _cancel(self) -> None:
        """Cancel the task behind its first step: without one it would not end the request, and keep it in its error."""
        self._loop.call_soon(self._task.cancel)

    def _pass_over(self, rest: bytes) -> None:
        """Parse a head anew without its offer of another protocol: the parser takes what follows for that one."""
        method, fields = self._parser.get_method(), self._fields
        if method == b"CONNECT":
            self._refuse(400, "This is a gateway to language models, not a proxy.")
            return
        lines = [b"%b %b HTTP/%b" % (method, self._target, self._parser.get_http_version().encode())]
        pairs = zip(fields[::2], fields[1::2], strict=True)
        lines += [b"%b: %b" % (name, value) for name, value in pairs if name.lower() != b"upgrade"]
        self._parser = self._new_parser()
        self._target = b""
        self._loose_bytes = 0
        fields.clear()
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # it is skipped, never parsed
        return parser

    # Patience and its end.

    def _allow(self, seconds: float) -> None:
        self._deadline_s = self._loop.time() + seconds

    def _rest(self) -> None:
        """Wait for the next request, or for the rest of one that is answered: for that no longer than for a head."""
        self._hurried = self._incoming is not None or bool(self._target)
        self._allow(HEADER_TIMEOUT_S if self._hurried else KEEP_ALIVE_S)
        if self._finishing and not self._hurried:
            self._allow(LAST_CALL_S)
            self._timer.cancel()
            self._timer = self._loop.call_later(LAST_CALL_S, self._tick)

    def _tick(self) -> None:
        """See whether a deadline has passed. No deadline is nearer than the next tick, so one timer does for all."""
        left_s = self._deadline_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(min(left_s, HEADER_TIMEOUT_S), self._tick)
        elif self._transport.is_closing():
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(HEADER_TIMEOUT_S, self._tick)
            if self._target:
                self._refuse(408, f"The request's head did not arrive within {HEADER_TIMEOUT_S:g} seconds.")
            else:
                self._close()

    def _await_reader(self) -> None:
        waiting_bytes = self._transport.get_write_buffer_size()
        self._reader_timer = self._loop.call_later(READER_TIMEOUT_S, self._check_reader, waiting_bytes)

    def _check_reader(self, waited_bytes: int) -> None:
        if self._transport.get_write_buffer_size() < waited_bytes:
            self._await_reader()
        else:
            self._transport.abort()

    def _read_on(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _too_large(self) -> tuple[int, str]:
        return (414, TOO_LONG) if len(self._target) > MAX_HEADER_BYTES // 2 else (431, TOO_LARGE)

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer what is no request in its turn, behind what runs and what waits, and listen no more."""
        current, incoming = self._current, self._incoming
        error = GatewayError(ErrorKind.INVALID_REQUEST, sentence)
        self.refused(error, status)
        self._refusal = self._rendered(error, status)
        self._deaf, self._incoming, self._target = True, None, b""
        if incoming is None:
            if current is None:
                self._say_refusal()
        elif incoming is not current:
            if current is None:
                self._close()  # it has been answered already
            else:
                self._waiting.pop()  # the refusal takes its place
        elif current.started:
            self._refusal, current.persistent = b"", False
        else:
            self._leave()  # its body can never be whole
            self._say_refusal()

    def _rendered(self, error: GatewayError, status: int) -> bytes:
        if self._incoming is None:  # its head has not come whole
            target, names = self._target, set(str(b"\n".join(self._fields[::2]), "latin-1").lower().split("\n"))
        else:
            target, names = self._incoming.target, set(self._incoming.headers)
        body, headers = written(error, target, names, self.ids)
        fields = b"".join(b"%b: %b\r\n" % header for header in headers)
        framing = fields + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        if self._parser.get_method() == b"HEAD":
            body = b""
        return STATUS_LINES[status] + self.date() + framing + body

    def _say_refusal(self) -> None:
        """Send it, and close when the caller does: closing on one who still sends would take it from him."""
        self._lingering = True
        self.write(self._refusal)
        self._transport.write_eof()
        self._allow(HEADER_TIMEOUT_S)

    def _close(self) -> None:
        """Close once everything is sent, or READER_TIMEOUT_S later."""
        self._allow(READER_TIMEOUT_S)
        self._transport.close()


def _cause(error: httptools.HttpParserError) -> tuple[int, str]:
    """Return the status and the sentence that a parser's error is answered with."""
    if isinstance(error.__context__, RefusedHeadError):
        return error.__context__.status, error.__context__.sentence
    said = str(error)
    if said in _OTHER_VERSIONS:
        return 505, HTTP_VERSIONS
    return 400, f"This is not HTTP/1.1 that can be understood: {said}."
