"""Cuts server-sent events out of a byte stream in any chunking, and leaves their bytes as they are.

Decides where an event ends and what its fields hold (WHATWG HTML, section 9.2.6 "Interpreting an event stream"). What
the data means is left to the dialects.
"""

import re

from gateway.errors import ErrorKind, UpstreamError

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""No provider's chunk comes near; a stream that passes it holds no events and would fill the memory."""

COMMENT = b": keep-alive\n\n"
"""Says nothing (section 9.2.6): it keeps a connection that nothing is sent on from being cut (section 9.2.7)."""
_BOM = b"\xef\xbb\xbf"
# Atomic, so that backtracking cannot take one CRLF for two line ends.
_BLANK_LINE = re.compile(rb"(?>\r\n?|\n)(?>\r\n?|\n)")
_LINE_END = re.compile(rb"\r\n?|\n")


class Splitter:
    """The ``Framing``, with raw events: joining all of them and ``rest`` gives the stream."""

    __slots__ = ("_buffer", "_limit", "_scanned")
    whole = frozenset((b"{", b"[", b"<"))

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._scanned = 0

    @property
    def rest(self) -> bytes:
        """The bytes behind the last complete event. Never empty while the upstream is in the middle of one."""
        return bytes(self._buffer)

    @property
    def held_bytes(self) -> int:
        """How many bytes ``rest`` has, without copying them."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that are complete now, each with its blank line; the same bytes object where possible.

        An event that ends in CR waits for the next byte, which may be the LF of the same line end. Raises
        UpstreamError (UPSTREAM_PROTOCOL) when one event is longer than the limit.
        """
        if self.plain(chunk):
            # To search for one byte is far faster than for two.
            if chunk.endswith(b"\n\n") and chunk.find(b"\n") == len(chunk) - 2:
                return [chunk]
            end = chunk.find(b"\n\n") + 2
            if end == len(chunk) and end > 1:
                return [chunk]
            if end > 1:
                *events, rest = chunk.split(b"\n\n")
                self._keep(rest)
                return [event + b"\n\n" for event in events]
        self._buffer += chunk
        return self._cut()

    def plain(self, chunk: bytes) -> bool:
        """Whether events may be cut off this chunk at each ``LF LF``, with nothing held before it."""
        return not self._buffer and b"\r" not in chunk and len(chunk) <= self._limit

    def finish(self) -> list[bytes]:
        """Return the event that had only been waiting for the LF of its last line end, if there is one."""
        match = _BLANK_LINE.search(self._buffer)
        if match is None or match.end() != len(self._buffer):
            return []
        event = bytes(self._buffer)
        self._keep(b"")
        return [event]

    def data(self, event: bytes) -> bytes | None:
        """See ``Framing.data``."""
        return data_of(event)

    def _keep(self, rest: bytes) -> None:
        self._buffer[:] = rest
        self._scanned = len(rest)

    def _cut(self) -> list[bytes]:
        buffer = self._buffer
        events: list[bytes] = []
        start = 0
        # A blank line has at most four bytes, so at most three of them were seen before.
        match = _BLANK_LINE.search(buffer, max(0, self._scanned - 3))
        while match is not None:
            end = match.end()
            if end == len(buffer) and buffer[-1:] == b"\r":
                break
            self._check(end - start)
            events.append(bytes(buffer[start:end]))
            start = end
            match = _BLANK_LINE.search(buffer, end)
        if start:
            del buffer[:start]
        self._scanned = len(buffer)
        self._check(len(buffer))
        return events

    def _check(self, length: int) -> None:
        if length > self._limit:
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, f"The upstream sent an event of over {self._limit} bytes.")


def data_of(event: bytes) -> bytes | None:
    """Return the data of a raw event, its lines joined by LF; None for comments and events without data."""
    # A name before it, as Anthropic's events have, is of no account.
    line = event[event.find(b"\n") + 1 :] if event.startswith(b"event: ") else event
    if line.startswith(b"data: ") and line.find(b"\n") == len(line) - 2 and b"\r" not in event:
        return line[6:-2]
    values = _data_lines(event)
    return b"\n".join(values) if values else None


def _data_lines(event: bytes) -> list[bytes]:
    values = []
    event = event.removeprefix(_BOM)
    for line in _LINE_END.split(event) if b"\r" in event else event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value.removeprefix(b" "))
    return values
