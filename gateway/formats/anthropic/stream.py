"""Read a stream of Messages events or one Messages body, for a caller who streams or for one who does not.

A caller of another dialect gets what a writer makes of it; one who speaks Messages the provider's own bytes, or the
same in the framing that was asked for; blocks that are not known here count as content then.
"""

from collections.abc import Callable, Iterable

from gateway.errors import UpstreamError
from gateway.formats.anthropic.answer import Answer, Block, Delta, StreamError, kind_of, nonsense
from gateway.formats.anthropic.reframed import Message, as_events
from gateway.formats.anthropic.written import MESSAGE_STOP
from gateway.formats.base import check_size
from gateway.formats.chat import AnswerWriter, Finish
from gateway.formats.classify import ANTHROPIC
from gateway.formats.framing import Framing
from gateway.formats.openai.answer import parse
from gateway.formats.openai.failure import failure_in_stream
from gateway.formats.sse import Splitter, data_of
from gateway.tariff import Rates, Usage


class MessageDecoder(Answer):
    """Reads a stream of Messages events or one Messages body, for a caller who streams or for one who does not."""

    def __init__(self, writer: AnswerWriter, rates: Rates, framing: Framing, *, is_streamed: bool) -> None:
        super().__init__(writer, rates)
        self._assembled = not is_streamed
        self.content_type = "application/json" if self._assembled else "text/event-stream; charset=utf-8"
        self._written = b""
        self._size = 0
        self._framing = framing
        self._object: bytearray | None = None
        """The answer, when it is no stream."""
        self._failure: UpstreamError | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes in any chunking; see ``Decoder.feed``.

        An ``error`` event behind content in the same chunk is raised by the next call, so that what the caller gets
        does not depend on how the network cut the stream.
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
            last = self._take(self.read_message, [bytes(self._object)])
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
            self._failure = failure_in_stream(parse(error.data), ANTHROPIC)
        except UpstreamError as error:
            self._failure = error
        return b""


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

    def end(self, reason: Finish, usage: Usage | None, stop_sequence: str | None = None) -> bytes:  # noqa: ARG002
        return b""


class PassedDecoder(MessageDecoder):
    """Passes what comes in the framing that the caller asked for, and what does not in that one."""

    def __init__(self, rates: Rates, *, is_streamed: bool) -> None:
        self._splitter = Splitter()
        super().__init__(_Unwritten(), rates, self._splitter, is_streamed=is_streamed)
        self._passes = True
        self._message = Message()
        """What the caller who does not stream gets of a stream."""
        self._begun = 0
        """The index behind the last block that has begun."""

    def feed(self, chunk: bytes) -> bytes:
        """See ``Decoder.feed``: the same object where no event is left out."""
        if not self._size and (first := chunk.lstrip()[:1]):
            self._passes = (first in self._framing.whole) == self._assembled
        if self._assembled or not self._passes:
            return super().feed(chunk)
        if self._failure is not None:
            raise self._failure
        self._size += len(chunk)
        held = self._splitter.held_bytes
        passed = self._pass(self._splitter.feed(chunk))
        return chunk if not held and len(passed) == len(chunk) else passed

    def finish(self) -> bytes:
        """See ``Decoder.finish``. The end is ours where the provider has only said why it ends."""
        if self._assembled or not self._passes:
            super().finish()
            if self._object is None:
                return self._message.finish()
            return bytes(self._object) if self._passes else as_events(bytes(self._object))
        passed = self._pass(self._splitter.finish())
        if self._failure is None and not self.complete:
            passed += self._take(self.read_end, [self._splitter.rest or b"\n"]) + MESSAGE_STOP
        if self._failure is not None:
            raise self._failure
        return passed

    def read_event(self, data: bytes) -> bytes:
        """See ``Answer.read_event``."""
        before = self.complete, self.dropped_events
        written = super().read_event(data)
        if self._assembled and before == (False, self.dropped_events):
            self._message.add(data)
        return written

    def _pass(self, events: list[bytes]) -> bytes:
        """Read events, and return those that can be read, up to the end of the answer."""
        passed: list[bytes] = []
        before = self.content_events
        for event in events:
            if self.complete:
                break
            dropped = self.dropped_events
            self._read(event)
            if self._failure is not None:
                if self.content_events == before:
                    raise self._failure
                break
            if self.dropped_events == dropped:
                passed.append(event)
        return b"".join(passed)

    def _read(self, event: bytes) -> None:
        data = data_of(event)
        if data is not None:
            self._attempt(super().read_event, data)

    def _forgive(self, data: bytes, error: Exception) -> None:
        """Pass an event of a known kind behind content: the caller's client may read what we cannot."""
        kind = kind_of(data)
        if kind not in self._HANDLERS or not self.content_events:
            super()._forgive(data, error)
        self._begun += kind == "content_block_start"

    def _block(self, index: int, block: Block) -> bytes:
        self._begun = index + 1
        before = self.content_events
        written = super()._block(index, block)
        if self.content_events == before and block.type not in {"text", "thinking"}:
            self.content_events += 1
        return written

    def _delta(self, index: int, delta: Delta) -> bytes:
        self._require_begun(index)
        before = self.content_events
        written = super()._delta(index, delta)
        if self.content_events == before and delta.partial_json:
            self._saw(delta.partial_json)
        return written

    def _flush_input(self, index: int) -> bytes:
        self._require_begun(index)
        return super()._flush_input(index)

    def _require_begun(self, index: int) -> None:
        """Raise UpstreamError when the event that was dropped may have begun this block."""
        if self.dropped_events and index >= self._begun:
            raise nonsense()
