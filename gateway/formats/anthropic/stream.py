"""Pass the provider's own bytes to a caller who speaks Messages, or the same in the framing that was asked for.

Blocks that are not known here count as content then.
"""

import msgspec
from msgspec import Struct

from gateway.formats.anthropic.answer import Block, Delta, MessageDecoder, nonsense
from gateway.formats.anthropic.reframed import Message, as_events
from gateway.formats.anthropic.written import MESSAGE_STOP
from gateway.formats.passed import UNWRITTEN, Passing
from gateway.formats.splice import kind_of
from gateway.formats.sse import Splitter
from gateway.tariff import Rates


class _TextDelta(Struct, tag_field="type", tag="text_delta"):
    text: str


class _Delta(Struct, tag_field="type", tag="content_block_delta"):
    delta: _TextDelta


_deltas = msgspec.json.Decoder(list[_Delta]).decode


def _texts(data: bytes) -> list[str]:
    return [event.delta.text for event in _deltas(data)]


class PassedDecoder(Passing, MessageDecoder):
    """Reads what passes."""

    known = {b"event: content_block_delta\ndata: ": _texts}  # noqa: RUF012 - typed in the base

    def __init__(self, rates: Rates, *, is_streamed: bool) -> None:
        super().__init__(UNWRITTEN, rates, Splitter(), is_streamed=is_streamed)
        self._message = Message()
        """What the caller who does not stream gets of a stream."""
        self._begun = 0
        """The index behind the last block that has begun."""

    def read_event(self, data: bytes) -> bytes:
        """See ``EventsDecoder.read_event``."""
        before = self.complete, self.dropped_events
        written = super().read_event(data)
        if self._assembled and before == (False, self.dropped_events):
            self._message.add(data)
        return written

    def _put_together(self) -> bytes:
        return self._message.finish()

    def _apart(self, body: bytes) -> bytes:
        return as_events(body)

    def _last(self, _rest: bytes) -> bytes:
        return MESSAGE_STOP

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
