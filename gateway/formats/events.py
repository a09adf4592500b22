"""Decode answers that come as events of a provider's own: cut them, and feed a writer what they say.

Decides when a failure reaches the caller, and counts what passes. What an event means, and where an answer is whole, is
a format's to say, which writes the three verbs.
"""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import check_size
from gateway.formats.chat import AnswerWriter
from gateway.formats.classify import Facts
from gateway.formats.framing import Framing
from gateway.formats.openai.answer import parse
from gateway.formats.openai.failure import failure_in_stream
from gateway.formats.sse import data_of
from gateway.tariff import Rates


class StreamError(Exception):
    """The stream holds an error; what its JSON means is left to those who classify errors."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


def raise_if_cut(error: Exception) -> None:
    """Raise UpstreamError (UPSTREAM_CUT) when a whole answer could not be read because it ends too early."""
    if "truncated" in str(error):
        raise UpstreamError(ErrorKind.UPSTREAM_CUT, "The upstream's answer ended in the middle.") from None


class EventsDecoder:
    """Reads a stream of events or one whole object, for a caller who streams or for one who does not."""

    facts: Facts
    """What the provider's errors mean."""

    def __init__(self, writer: AnswerWriter, rates: Rates, framing: Framing, *, is_streamed: bool) -> None:
        self._writer = writer
        self._rates = rates
        self.content_events = self.content_bytes = self.dropped_events = 0
        self.shows_reasoning = False
        self.complete = False
        self._assembled = not is_streamed
        self.content_type = "application/json" if self._assembled else "text/event-stream; charset=utf-8"
        self._written = b""
        self._size = 0
        self._framing = framing
        self._object: bytearray | None = None
        """The answer, when it is no stream."""
        self._failure: UpstreamError | None = None

    @abstractmethod
    def read_event(self, data: bytes) -> bytes:
        """Take the data of one event. Raises StreamError, and UpstreamError (UPSTREAM_PROTOCOL) for nonsense."""

    @abstractmethod
    def read_whole(self, body: bytes) -> bytes:
        """Take a whole answer. Raises UpstreamError: UPSTREAM_CUT without its end, UPSTREAM_PROTOCOL for nonsense."""

    @abstractmethod
    def read_end(self, rest: bytes) -> bytes:
        """Take the end of a stream, and what stands behind its last event. Raises UpstreamError."""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes in any chunking; see ``Decoder.feed``.

        An error behind content in the same chunk is raised by the next call, so that what the caller gets does not
        depend on how the network cut the stream.
        """
        if self._failure is not None:
            raise self._failure
        if not self._size and chunk.lstrip()[:1] in self._framing.whole:
            self._object = bytearray()
        self._size += len(chunk.lstrip()) if not self._size else len(chunk)
        if self._assembled or self._object is not None:
            check_size(0 if self.complete else self._size)
        if self._object is not None:
            self._object += chunk
            return b""
        return self._take(self.read_event, map(self._framing.data, self._framing.feed(chunk)))

    def finish(self) -> bytes:
        """Return the assembled body, or what a last event at the very end gives; see ``Decoder.finish``."""
        if self._failure is not None:
            raise self._failure
        if self._object is not None:
            last = self._take(self.read_whole, [bytes(self._object)])
        else:
            last = self._take(self.read_event, map(self._framing.data, self._framing.finish()))
            last += self._take(self.read_end, [self._framing.rest or b"\n"])
        if self._failure is not None:
            raise self._failure
        return self._written if self._assembled else last

    def _take(self, read: Callable[[bytes], bytes], pieces: Iterable[bytes | None]) -> bytes:
        before = self.content_events
        written: list[bytes] = []
        for data in filter(None, pieces):
            written.append(self._attempt(read, data))
            if self._failure is not None:
                break
        if self._failure is not None and (self._assembled or self.content_events == before):
            raise self._failure
        output = b"".join(written)
        if self._assembled:
            self._written += output
            return b""
        return output

    def _attempt(self, read: Callable[[bytes], bytes], data: bytes) -> bytes:
        """Read a piece; what it raises is kept, so that what came before it goes on."""
        try:
            return read(data)
        except StreamError as error:
            self._failure = failure_in_stream(parse(error.data), self.facts)
        except UpstreamError as error:
            self._failure = error
        return b""

    def _read_last(self, rest: bytes) -> bytes:
        """Read a last event without its blank line; what is no whole event is passed over."""
        data = None if self.complete else data_of(rest)
        if data is not None:
            with contextlib.suppress(UpstreamError):
                return self.read_event(data)
        return b""

    def _text(self, text: str) -> bytes:
        if not text:
            return b""
        self._saw(text)
        return self._writer.text(text)

    def _reasoning(self, text: str) -> bytes:
        if not text:
            return b""
        self._saw(text)
        self.shows_reasoning = True
        return self._writer.reasoning(text)

    def _saw(self, text: str) -> None:
        self.content_events += 1
        self.content_bytes += len(text) if text.isascii() else len(text.encode())
