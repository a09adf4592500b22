"""uvicorn's HTTP/1.1 protocol with the limits that must hold before any ASGI code runs.

uvicorn waits for headers for ever, takes headers of any size, and accepts ``Content-Length`` beside
``Transfer-Encoding``, which RFC 9112 (6.1) calls a likely request-smuggling attack. Here each is refused, in the same
JSON error shape as everything else, and the connection is closed.

Nor does it end a connection whose caller neither goes on nor leaves: one who stops reading an answer, or trickles a
body that was refused already. Of requests sent behind one another (pipelined) only the last would learn that the
caller has left, and what is wrong with it would be told in the middle of the answer before it. Fields behind a chunked
body would count as headers, without end. And the body behind an offer to speak another protocol, such as Java's client
makes with every request (``Upgrade: h2c``), would be lost. Each of these is mended here.
"""

import asyncio
import re
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import ErrorKind, GatewayError
from gateway.wire.errors import render

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

HEADER_TIMEOUT_S = 10.0
READER_TIMEOUT_S = 60.0
"""For so long a caller may take nothing of an answer that waits for him."""
MAX_HEADER_BYTES = 32 * 1024
_UPGRADE = re.compile(rb"(?<=\r\n)upgrade(?=:)", re.IGNORECASE)
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class _RefusedHeadError(Exception):
    """Stops the parser; what to answer is in ``GuardedProtocol._refusal``."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection from a caller."""

    _reading_head = True
    _loose_bytes = 0
    """Received since the last piece of a body, or since a head began: a head, or what surrounds a chunked body."""
    _head_timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None
    _refusal: tuple[int, str] | None = None
    _running: "RequestResponseCycle | None" = None
    """The request that is being answered; ``cycle`` is the one that was read last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the base class
        """Begin to wait for the first request's head."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell the request that is being answered: uvicorn tells the one that was read last."""
        self._disarm()
        self.resume_writing()
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless a head or what surrounds a body has grown too large."""
        self._loose_bytes += len(data)
        if self.cycle is None or not self.cycle.more_body or self.cycle.response_complete:
            data = _without_upgrade(data)  # it is, or begins with, a head
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._loose_bytes > MAX_HEADER_BYTES:
            self._refusal = (431, _too_large())
            self.send_400_response("")
        elif self._head_timer is None and self.cycle is not None and self.cycle.response_complete:
            self._arm()  # the rest of a body that was refused, or nothing at all: no reason to stay

    def on_message_begin(self) -> None:
        """Begin a request's head."""
        super().on_message_begin()
        if not self._reading_head:
            self._reading_head = True
            self._loose_bytes = 0
            self._arm()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head; one behind a chunked body must not count as such (RFC 9110, 6.5.1)."""
        if self._reading_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._loose_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Check the head, then let the request begin."""
        self._disarm()
        self._reading_head = False
        names = [name for name, _ in self.headers]
        if sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEADER_BYTES:
            self._refusal = (431, _too_large())
            raise _RefusedHeadError
        if b"transfer-encoding" in names and b"content-length" in names:
            self._refusal = (400, "Send either Content-Length or Transfer-Encoding, not both.")
            raise _RefusedHeadError
        super().on_headers_complete()

        if len(self.pipeline) == 1:
            self.flow.resume_reading()  # uvicorn stops here, and would not notice that the caller leaves

    def pause_writing(self) -> None:
        """Begin to wait until the caller reads on."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """Go on: the caller has read."""
        super().resume_writing()
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer with the refusal in place, or with uvicorn's own sentence, and close."""
        running = self._running
        if running is None or running.response_complete or (running.more_body and not running.response_started):
            status, sentence = self._refusal or (400, msg)
            body = render("openai", GatewayError(ErrorKind.INVALID_REQUEST, sentence), "")
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
                % (status, _REASONS[status], len(body), body)
            )
        # Otherwise the answer to an earlier request is under way, and no place for this.
        self.transport.close()

    def _start_asgi_task(self, cycle: "RequestResponseCycle", app: "ASGI3Application") -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _await_reader(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._reader_timer = self.loop.call_later(READER_TIMEOUT_S, self._check_reader, waiting)

    def _check_reader(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() < waited:
            self._await_reader()
        else:
            self.transport.abort()

    def _arm(self) -> None:
        self._disarm()
        self._head_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if not self._reading_head:
            self.transport.close()
        elif not self.transport.is_closing():
            self._refusal = (408, f"The request's head did not arrive within {HEADER_TIMEOUT_S:g} seconds.")
            self.send_400_response("")


def _without_upgrade(data: bytes) -> bytes:
    """Rename an offer of another protocol: we may pass over it (RFC 9110, 7.8), but the parser would stop there."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"x-offer", head) + end + rest if _UPGRADE.search(head) else data


def _too_large() -> str:
    return f"The request's headers are larger than {MAX_HEADER_BYTES} bytes; send fewer or shorter ones."
