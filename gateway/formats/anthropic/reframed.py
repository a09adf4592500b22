"""Write an answer of Anthropic's in its other framing: a message as events, or events as a message.

Decides which members of a block stand in its deltas; whatever has none, known or not, stays as it is where it is.

Grammar: platform.claude.com/docs/en/build-with-claude/streaming; the ``anthropic`` SDK 2.12, ``lib/streaming``.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from gateway.formats.anthropic.answer import nonsense
from gateway.formats.anthropic.written import MESSAGE_STOP
from gateway.formats.malformed import UNREADABLE
from gateway.formats.one_by_one import event_of

_Members = dict[str, Raw]
_NULL = Raw(b"null")
_DELTAS = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}
_ENDS = ("stop_reason", "stop_sequence", "stop_details", "container")
"""Members of a message that a stream knows at its end."""
_BESIDE = ("usage", "context_management")
"""And those that come beside them."""
_members = msgspec.json.Decoder(_Members).decode
_blocks = msgspec.json.Decoder(list[_Members]).decode
_citations = msgspec.json.Decoder(list[Raw] | None).decode


def as_events(body: bytes) -> bytes:
    """Write a whole message, which has been read before, as the stream that it would have been."""
    message = _members(body.translate(None, b"\r\n"))  # an event has one line
    content = _blocks(message.get("content", b"[]"))
    begun = message | {"content": Raw(b"[]"), "stop_reason": _NULL, "stop_sequence": _NULL}
    written = event_of("message_start", {"message": begun})
    for index, block in enumerate(content):
        start, deltas = _apart(block)
        written += event_of("content_block_start", {"index": index, "content_block": start})
        written += b"".join(event_of("content_block_delta", {"index": index, "delta": delta}) for delta in deltas)
        written += event_of("content_block_stop", {"index": index})
    end = {"delta": {name: message[name] for name in _ENDS if name in message}}
    beside = {name: message[name] for name in _BESIDE if name in message}
    return written + event_of("message_delta", end | beside) + MESSAGE_STOP


def _apart(block: _Members) -> tuple[_Members, list[dict[str, Any]]]:
    """Return a block as it begins, and its deltas."""
    start, deltas = dict(block), list[dict[str, Any]]()
    if bytes(block["type"]) in {b'"text"', b'"thinking"'}:
        for name, kind in _DELTAS.items():
            if name in block:
                start[name] = Raw(b'""')
                deltas.append({"type": kind, name: block[name]})
        if cited := _citations(block.get("citations", b"null")):
            start["citations"] = Raw(b"[]")
            deltas += [{"type": "citations_delta", "citation": each} for each in cited]
    elif "input" in block:
        start["input"] = Raw(b"{}")
        deltas.append({"type": "input_json_delta", "partial_json": bytes(block["input"]).decode(errors="replace")})
    return start, deltas


class _Event(Struct):
    type: str
    index: Any = None
    message: Any = None
    content_block: Any = None
    delta: Any = None
    usage: Any = None
    context_management: Any = None


_FAULTS = (*UNREADABLE, UnicodeEncodeError, AttributeError, KeyError, TypeError)
_event = msgspec.json.Decoder(_Event).decode


class Message:
    """One message, put together from its events."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._content: dict[Any, tuple[dict[str, Any], dict[str, list[str]]]] = {}
        """Of each block what it began with, and the pieces of its members."""

    def add(self, data: bytes) -> None:
        """Take the data of an event. Raises UpstreamError (UPSTREAM_PROTOCOL) for one without its place."""
        try:
            event = _event(data)
            if event.type == "message_start":
                self._message = event.message
            elif event.type == "content_block_start":
                self._content[event.index] = (event.content_block, {})
            elif event.type == "content_block_delta":
                self._add(*self._content[event.index], event.delta)
            elif event.type == "message_delta":
                self._end(event)
        except _FAULTS:
            raise nonsense() from None

    def finish(self) -> bytes:
        """Write the message. Raises UpstreamError (UPSTREAM_PROTOCOL) when a call's input is no object."""
        try:
            content = [self._joined(block, pieces) for block, pieces in self._content.values()]
            return msgspec.json.encode(self._message | {"content": content})
        except _FAULTS:
            raise nonsense() from None

    def _add(self, block: dict[str, Any], pieces: dict[str, list[str]], delta: dict[str, Any]) -> None:
        for name, value in delta.items():
            if name == "citation":
                block["citations"] = [*(block.get("citations") or ()), value]
            elif name != "type" and isinstance(value, str):
                pieces.setdefault(name, []).append(value)
            elif name != "type":
                block[name] = value

    def _end(self, event: _Event) -> None:
        counted = {name: value for name, value in (event.usage or {}).items() if value is not None}
        self._message |= event.delta | {"usage": (self._message.get("usage") or {}) | counted}
        if event.context_management is not None:
            self._message["context_management"] = event.context_management

    def _joined(self, block: dict[str, Any], pieces: dict[str, list[str]]) -> dict[str, Any]:
        joined = {name: "".join(each) for name, each in pieces.items()}
        given = joined.pop("partial_json", "").strip()
        whole = block | {name: (block.get(name) or "") + text for name, text in joined.items()}
        if given:
            whole["input"] = self._input(given)
        return whole

    def _input(self, given: str) -> Any:
        """Return an input as it came; ``{}`` for one in which the answer was cut."""
        try:
            _members(given)
        except UNREADABLE:
            if self._message.get("stop_reason") == "tool_use":
                raise nonsense() from None
            return {}
        return Raw(given.encode())
