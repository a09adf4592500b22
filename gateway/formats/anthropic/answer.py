"""Read Anthropic's answers, streamed or whole.

Decides which blocks the caller sees, what a stop reason is called, and how tokens fall into classes. A stream's events
and a whole message end in the same verbs of a sink (``chat_answer``), so every mode says the same of the same answer.
Unknown events, blocks and deltas are passed over, as Anthropic's versioning policy asks of clients. The request is
written by ``request``.

Sources: platform.claude.com/docs: api/messages, build-with-claude/{streaming,handling-stop-reasons,prompt-caching,
thinking}, api/versioning.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.chat import AnswerWriter, Ending, Finish
from gateway.formats.classify import ANTHROPIC
from gateway.formats.events import EventsDecoder, StreamError, raise_if_cut
from gateway.formats.framing import Framing
from gateway.formats.malformed import UNREADABLE
from gateway.formats.splice import kind_of
from gateway.formats.usage import merged, tier_of, usage_of
from gateway.tariff import Rates, Usage

FINISH_REASONS: dict[str | None, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    # Paused by the provider in the middle of a turn: what the caller holds is not the whole answer.
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Anthropic's ``stop_reason`` -> OpenAI's ``finish_reason``; one that is not here becomes ``stop``."""


class Block(Struct):
    """What is read of a block."""

    type: str
    id: str = ""
    name: str = ""
    text: str = ""
    thinking: str = ""
    input: Raw = Raw(b"{}")


class _StopDetails(Struct):
    explanation: str | None = None


class _Message(Struct):
    id: str
    model: str
    content: list[Block] = []
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None
    usage: Any = None
    """Counts that may be anything: see ``formats.usage``."""


class Delta(Struct):
    """What is read of a delta."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None


class _Event(Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: Any = None


_event_decoder = msgspec.json.Decoder(_Event)
_message_decoder = msgspec.json.Decoder(_Message)


class MessageDecoder(EventsDecoder):
    """One answer on its way from Anthropic to a writer: counts content, tokens and tool calls as they pass."""

    facts = ANTHROPIC

    def __init__(self, writer: AnswerWriter, rates: Rates, framing: Framing, *, is_streamed: bool) -> None:
        super().__init__(writer, rates, framing, is_streamed=is_streamed)
        self._reported: dict[str, Any] | None = None
        self._final = False
        self._tools: dict[int, int] = {}
        """Index of an open tool_use block -> index of the tool call."""
        self._inputs: dict[int, str] = {}
        """Index of a tool_use block of which no fragment has come yet -> the input that it began with."""
        self._tool_count = 0
        self._started = False
        self._stop_reason: str | None = None
        self._explanation: str | None = None

    @property
    def service_tier(self) -> str | None:
        """See ``Decoder.service_tier``."""
        return tier_of((self._reported or {}).get("service_tier"))

    @property
    def usage(self) -> Usage | None:
        """The tokens in disjoint classes; None before Anthropic has said anything about them.

        A stream opens with the input's exact classes and closes with the output's. In between, the output is
        estimated from what has passed (an event holds at least one token, a token seldom more than four bytes) and
        the whole is marked so: a cut stream must not be billed as the one token that ``message_start`` speaks of.
        """
        usage = usage_of(self._reported, self._rates)
        if usage is None or (self._final and (usage.written_tokens or not self.content_events)):
            return usage
        seen = max(self.content_events, self.content_bytes // 4) - usage.written_tokens
        return replace(usage, output_tokens=usage.output_tokens + max(0, seen), origin="estimated")

    def read_event(self, data: bytes) -> bytes:
        """See ``EventsDecoder.read_event``."""
        if self.complete:
            return b""
        try:
            event = _event_decoder.decode(data)
        except UNREADABLE as error:
            self._forgive(data, error)
            return b""
        handler = self._HANDLERS.get(event.type)
        if handler is None:
            if event.type == "error":
                raise StreamError(data)
            return b""
        if self._started == (event.type == "message_start"):
            raise nonsense()
        return handler(self, event)

    def read_whole(self, body: bytes) -> bytes:
        """See ``EventsDecoder.read_whole``."""
        try:
            message = _message_decoder.decode(body)
        except UNREADABLE as error:
            raise_if_cut(error)
            self._forgive(body, error)
            raise nonsense() from None
        written = self._start(message)
        for index, block in enumerate(message.content):
            written += self._block(index, block) + self._flush_input(index)
        self._stop_reason = message.stop_reason
        self._explanation = message.stop_details.explanation if message.stop_details else None
        self._final = True
        return written + self._end()

    def read_end(self, rest: bytes) -> bytes:
        """Take the end of a stream: behind a stop reason it needs no ``message_stop``. Raises UpstreamError."""
        written = self._read_last(rest)
        if self.complete:
            return written
        if self._stop_reason is None or rest.strip():
            raise UpstreamError(ErrorKind.UPSTREAM_CUT, "The upstream's stream ended before its message_stop event.")
        return self._end()

    def _forgive(self, data: bytes, error: Exception) -> None:
        """Pass over an event of a kind that we do not know, and behind text one that cannot be read; see ``_end``."""
        kind = kind_of(data)
        if kind == "error":
            raise StreamError(data) from None
        if not kind or kind in self._HANDLERS:
            if not self.content_events or self._tools:
                raise nonsense() from error
            self.dropped_events += 1

    def _start(self, message: _Message) -> bytes:
        self._started = True
        self._reported = merged(None, message.usage)
        return self._writer.start(message.id, message.model)

    def _end(self) -> bytes:
        """End the answer. What was dropped must not have been its reason to end, or a tool call."""
        lost = self.dropped_events and (self._stop_reason in {None, "tool_use"} and not self._tools)
        if lost or not (self.content_events or self._stop_reason):
            raise nonsense()
        told = self._writer.refusal(self._explanation) if self._explanation else b""
        self.complete = True
        reason = FINISH_REASONS.get(self._stop_reason, "stop")
        return told + self._writer.end(Ending(reason, self.usage, service_tier=self.service_tier))

    def _on_message_start(self, event: _Event) -> bytes:
        if event.message is None:
            raise nonsense()
        return self._start(event.message)

    def _on_block_start(self, event: _Event) -> bytes:
        return self._block(event.index, event.content_block) if event.content_block else b""

    def _on_block_delta(self, event: _Event) -> bytes:
        return self._delta(event.index, event.delta) if event.delta else b""

    def _on_block_stop(self, event: _Event) -> bytes:
        return self._flush_input(event.index)

    def _on_message_delta(self, event: _Event) -> bytes:
        if event.delta is not None:
            self._stop_reason = event.delta.stop_reason or self._stop_reason
            if event.delta.stop_details is not None:
                self._explanation = event.delta.stop_details.explanation
        if event.usage is not None:
            self._reported = merged(self._reported, event.usage)
            count = event.usage.get("output_tokens") if isinstance(event.usage, dict) else None
            self._final = type(count) is int and 0 <= count < 1 << 63  # else the first token's count stands
        return b""

    def _on_message_stop(self, _event: _Event) -> bytes:
        return self._end()

    def _block(self, index: int, block: Block) -> bytes:
        if block.type == "text":
            return self._text(block.text)
        if block.type == "thinking":
            return self._reasoning(block.thinking)
        if block.type == "tool_use":
            number = self._tools[index] = self._tool_count
            self._tool_count += 1
            self._inputs[index] = bytes(block.input).decode(errors="replace")
            self._saw(block.name)
            return self._writer.tool(number, block.id, block.name)
        return b""

    def _delta(self, index: int, delta: Delta) -> bytes:
        if delta.type == "text_delta":
            return self._text(delta.text)
        if delta.type == "thinking_delta":
            return self._reasoning(delta.thinking)
        if delta.type == "input_json_delta" and delta.partial_json and index in self._tools:
            self._inputs.pop(index, None)
            return self._arguments(index, delta.partial_json)
        return b""

    def _flush_input(self, index: int) -> bytes:
        """Send the input that came whole: ``{}`` of a tool without parameters has no fragments."""
        whole = self._inputs.pop(index, None)
        return b"" if whole is None else self._arguments(index, whole)

    def _arguments(self, index: int, fragment: str) -> bytes:
        self._saw(fragment)
        return self._writer.arguments(self._tools[index], fragment)

    _HANDLERS: ClassVar[dict[str, Callable[["MessageDecoder", _Event], bytes]]] = {
        "message_start": _on_message_start,
        "content_block_start": _on_block_start,
        "content_block_delta": _on_block_delta,
        "content_block_stop": _on_block_stop,
        "message_delta": _on_message_delta,
        "message_stop": _on_message_stop,
    }
    """Every event that is read; ``error`` is raised, ``ping`` and events yet to be invented are passed over."""


def nonsense() -> UpstreamError:
    """Make the error of an answer that cannot be read."""
    return UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream's answer is not one of Anthropic's Messages API.")
