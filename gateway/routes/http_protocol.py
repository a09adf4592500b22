"""uvicorn's HTTP/1.1 protocol with the limits that must hold before any ASGI code runs.

uvicorn waits for headers for ever, takes headers of any size, and accepts ``Content-Length`` beside
``Transfer-Encoding``, which RFC 9112 (6.1) calls a likely request-smuggling attack. Here each is refused, in the same
JSON error shape as everything else, and the connection is closed.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import ErrorKind, GatewayError
from gateway.wire.errors import render

HEADER_TIMEOUT_S = 10.0
MAX_HEADER_BYTES = 32 * 1024
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class _RefusedHeadError(Exception):
    """Stops the parser; what to answer is in ``GuardedProtocol._refusal``."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection from a caller."""

    _reading_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _refusal: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the base class
        """Begin to wait for the first request's head."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the head has grown too large."""
        if self._reading_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._reading_head and self._head_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refusal = (431, _too_large())
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Begin a request's head."""
        super().on_message_begin()
        if not self._reading_head:
            self._reading_head = True
            self._head_bytes = 0
            self._arm()

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

    def send_400_response(self, msg: str) -> None:
        """Answer with the refusal in place, or with uvicorn's own sentence, and close."""
        status, sentence = self._refusal or (400, msg)
        body = render("openai", GatewayError(ErrorKind.INVALID_REQUEST, sentence), "")
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, _REASONS[status], len(body), body)
        )
        self.transport.close()

    def _arm(self) -> None:
        self._disarm()
        self._head_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._refusal = (408, f"The request's head did not arrive within {HEADER_TIMEOUT_S:g} seconds.")
            self.send_400_response("")


def _too_large() -> str:
    return f"The request's headers are larger than {MAX_HEADER_BYTES} bytes; send fewer or shorter ones."
