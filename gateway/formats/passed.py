"""Pass a provider's own bytes to a caller of its dialect; write them anew where the other framing was asked for.

Mixed into the decoder of the dialect, which reads what passes and counts it.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping

from gateway.formats.chat import AnswerWriter, Ending
from gateway.formats.events import EventsDecoder
from gateway.formats.malformed import UNREADABLE
from gateway.formats.sse import Splitter, data_of


class _Unwritten:
    """The writer of an answer that passes as it is."""

    def start(self, answer_id: str, model: str) -> bytes:  # noqa: ARG002 - these are the protocol's signatures
        return b""

    def text(self, text: str) -> bytes:  # noqa: ARG002
        return b""

    reasoning = refusal = text

    def tool(self, index: int, call_id: str, name: str) -> bytes:  # noqa: ARG002
        return b""

    def arguments(self, index: int, fragment: str) -> bytes:  # noqa: ARG002
        return b""

    def end(self, ending: Ending) -> bytes:  # noqa: ARG002
        return b""


UNWRITTEN: AnswerWriter = _Unwritten()


class Passing(EventsDecoder):
    """Passes what comes in the framing that the caller asked for, and what does not in that one."""

    known: Mapping[bytes, Callable[[bytes], list[str]]]
    """What stands before the data of an event that only adds text -> what reads an array of such data."""
    _framing: Splitter
    _passes = True
    _is_steady = False
    """What comes now begins an event, and may be one that only adds text."""
    _in_one_go = False
    """Some text was counted without a look at each event."""
    sent_events = 0
    """See ``GatewayError.sent_events``."""

    @abstractmethod
    def _put_together(self) -> bytes:
        """Return the whole answer of a stream that has been read."""

    @abstractmethod
    def _apart(self, body: bytes) -> bytes:
        """Write a whole answer, which has been read, as the stream that it would have been."""

    @abstractmethod
    def _last(self, rest: bytes) -> bytes:
        """Return what ends a stream of which the rest has been read: its end marker, or the rest as an event."""

    def feed(self, chunk: bytes) -> bytes:
        """See ``Decoder.feed``: the same object where no event is left out."""
        if self._is_steady and self._count(chunk):
            return chunk
        if not self._size and (first := chunk.lstrip()[:1]):
            self._passes = (first in self._framing.whole) == self._assembled
        if self._assembled or not self._passes:
            return super().feed(chunk)
        if self._failure is not None:
            raise self._failure
        self._size += len(chunk)
        held = self._framing.held_bytes
        passed = self._pass(self._framing.feed(chunk))
        self._is_steady = self._may_count() and not self._framing.held_bytes
        return chunk if not held and len(passed) == len(chunk) else passed

    def finish(self) -> bytes:
        """See ``Decoder.finish``. The end is ours where the provider has only said why it ends."""
        if self._assembled or not self._passes:
            super().finish()
            if self._object is None:
                return self._put_together()
            return bytes(self._object) if self._passes else self._apart(bytes(self._object))
        passed = self._pass(self._framing.finish())
        if self._failure is None and not self.complete:
            rest = self._framing.rest
            passed += self._take(self.read_end, [rest or b"\n"]) + self._last(rest)
        if self._failure is not None:
            raise self._failure
        return passed

    def _may_count(self) -> bool:
        """Whether an event that only adds text is known to be no more than that: behind content, with none dropped."""
        return bool(self.content_events) and not (self.complete or self.dropped_events or self._failure)

    def _count(self, chunk: bytes) -> bool:
        """Count whole events that are all of one known kind, read in one go; False: they are not, and none was."""
        prefix = chunk[: chunk.find(b"{")]
        read = self.known.get(prefix)
        if read is None or not chunk.endswith(b"\n\n") or b"\r" in chunk:
            return False
        inner = chunk[len(prefix) : -2].replace(b"\n\n" + prefix, b",")
        try:
            texts = read(b"[%b]" % inner)
        except UNREADABLE:
            return False
        number = len(texts)
        if b"\n" in inner or number * len(prefix) + len(inner) + number + 1 != len(chunk):
            return False
        text, self._in_one_go = "".join(texts), True
        self.sent_events += number
        self.content_events += number - texts.count("")
        self.content_bytes += len(text) if text.isascii() else len(text.encode())
        return True

    def _pass(self, events: list[bytes]) -> bytes:
        """Read events, and return those that can be read, up to the end of the answer."""
        passed: list[bytes] = []
        before, position, unknown = self.content_events, 0, 0
        while position < len(events) and not self.complete:
            if position >= unknown and self._may_count():
                unknown = self._end_of_run(events, position)
                if unknown > position and self._count(b"".join(events[position:unknown])):
                    passed += events[position:unknown]
                    position = unknown
                    continue
            event, dropped = events[position], self.dropped_events
            position += 1
            data = data_of(event)
            if data is not None:
                self._attempt(self.read_event, data)
            if self._failure is not None:
                if self.content_events == before:
                    raise self._failure
                break
            if self.dropped_events == dropped:
                passed.append(event)
                self.sent_events += data is not None
        return b"".join(passed)

    def _end_of_run(self, events: list[bytes], start: int) -> int:
        """Return the index behind the events in a row that may be read in one go; ``start``: there is none."""
        prefix = events[start][: events[start].find(b"{")]
        if prefix not in self.known:
            return start
        end = start + 1
        while end < len(events) and events[end].startswith(prefix):
            end += 1
        return end
