"""Pass the provider's own bytes to a caller who speaks Messages, or the same in the framing that was asked for.

Blocks that are not known here count as content then.
"""

from gateway.formats.anthropic.answer import Block, Delta, MessageDecoder, kind_of, nonsense
from gateway.formats.anthropic.reframed import Message, as_events
from gateway.formats.anthropic.written import MESSAGE_STOP
from gateway.formats.chat import Finish
from gateway.formats.sse import Splitter, data_of
from gateway.tariff import Rates, Usage


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
        """See ``EventsDecoder.read_event``."""
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
