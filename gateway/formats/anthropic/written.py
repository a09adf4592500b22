"""Write an answer of another dialect as one of Anthropic's Messages: as a stream of events, or whole.

Decides how pieces become blocks: one after another, each opened, added to and closed. Thinking that comes without a
provider's signature gets ours, ``UNSIGNED``, by which it is known and left out when it is sent back.

Grammar: platform.claude.com/docs/en/build-with-claude/streaming; shapes: the types of the ``anthropic`` SDK 2.12.
"""

import re
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Raw

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import check_size
from gateway.formats.chat import Finish
from gateway.formats.malformed import UNREADABLE
from gateway.tariff import Usage

UNSIGNED = "tollway:unsigned"
"""The signature of thinking that no provider has signed: to none of them it proves anything."""
STOP_REASONS: dict[Finish, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_TOOL_ID_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")
_TOOL_ID_WRITTEN = re.compile(r"_([0-9a-f]{2,6})_")


def tool_id(given: str) -> str:
    """Write an id as Anthropic takes it: other engines make ids with dots and colons. Same in, same out."""
    return _TOOL_ID_FORBIDDEN.sub(lambda match: f"_{ord(match[0]):x}_", given)


def engines_tool_id(written: str) -> str:
    """Return the id that ``tool_id`` wrote."""

    def character(match: re.Match[str]) -> str:
        code = int(match[1], 16)
        found = chr(code) if code <= 0x10FFFF else ""
        return found if _TOOL_ID_FORBIDDEN.fullmatch(found) else match[0]

    return _TOOL_ID_WRITTEN.sub(character, written)


class _Blocks:
    """The verbs of ``AnswerWriter``, each as a piece of one block."""

    def __init__(self) -> None:
        self._message_id = ""
        self._tools = 0
        """How many have begun."""
        self._refused = False

    def start(self, answer_id: str, model: str) -> bytes:
        """Begin the message, under the upstream's id."""
        answer_id = answer_id or uuid4().hex  # clients put messages with one id together
        self._message_id = answer_id if answer_id.startswith("msg_") else f"msg_{answer_id}"
        return self._begin({"id": self._message_id, "type": "message", "role": "assistant", "model": model})

    def text(self, text: str) -> bytes:
        """Add visible text."""
        return self._add("text", "text_delta", "text", text)

    def reasoning(self, text: str) -> bytes:
        """Add readable thinking."""
        return self._add("thinking", "thinking_delta", "thinking", text)

    def refusal(self, text: str) -> bytes:
        """Add an explanation of why the model declined, which ends in the stop reason ``refusal``."""
        self._refused = True
        return self.text(text)

    def tool(self, index: int, call_id: str, name: str) -> bytes:
        """Begin a tool call."""
        self._tools += 1
        known = tool_id(call_id) if call_id else f"toolu_{tool_id(self._message_id)}_{index}"
        return self._begin_tool(index, {"type": "tool_use", "id": known, "name": name, "input": {}})

    def _ends_in(self, reason: Finish, stop_sequence: str | None) -> dict[str, str | None]:
        """Name the reason. Some engines say ``stop`` behind a call, and some ``tool_calls`` behind none."""
        named = STOP_REASONS[reason]
        if reason in {"stop", "tool_calls"}:
            named = "refusal" if self._refused else "tool_use" if self._tools else "end_turn"
        if named != "end_turn" or stop_sequence is None:
            return {"stop_reason": named, "stop_sequence": None}
        return {"stop_reason": "stop_sequence", "stop_sequence": stop_sequence}

    @abstractmethod
    def _begin(self, message: dict[str, Any]) -> bytes: ...

    @abstractmethod
    def _add(self, block: str, delta: str, name: str, text: str) -> bytes: ...

    @abstractmethod
    def _begin_tool(self, index: int, block: dict[str, Any]) -> bytes: ...


class Events(_Blocks):
    """Writes each piece at once, unless it comes within the arguments of a call: then behind their end.

    Engines may send the pieces of several calls, or blanks, in any order; of blocks only one is open.
    """

    def __init__(self) -> None:
        super().__init__()
        self._open = ""
        """The type of the block that is open; empty: none is."""
        self._open_tool: int | None = None
        self._arguments: list[str] = []
        """Of the call that is open."""
        self._whole: bool | None = False
        """Whether they are whole; None: it is to be seen."""
        self._held: list[Callable[[], bytes]] = []
        """Pieces of other blocks, in order."""
        self._kept_bytes = 0
        self._index = -1
        self._head = self._tail = b""
        """What stands around the text of a piece of the block that is open."""

    def arguments(self, index: int, fragment: str) -> bytes:
        """Add to the arguments of a call. Raises UpstreamError when they were whole before."""
        if not fragment:
            return b""
        released = b"" if index == self._open_tool else self._release()
        if index == self._open_tool:
            self._count(fragment)
            self._arguments.append(fragment)
            if fragment.strip():
                self._whole = None if fragment.rstrip().endswith("}") else False
            return released + self._head + _encode(fragment) + self._tail
        if not self._held:
            if not fragment.strip():
                return released
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream added to a tool call that was complete.")
        return released + self._hold(partial(self.arguments, index, fragment), fragment)

    def end(self, reason: Finish, usage: Usage | None, stop_sequence: str | None = None) -> bytes:
        """Close the blocks, and write the reason, the usage and the end."""
        written = b""
        while self._held:
            written += self._next()
        members = {"delta": self._ends_in(reason, stop_sequence), "usage": anthropic_usage(usage)}
        return written + self._close() + event_of("message_delta", members) + MESSAGE_STOP

    def _is_within(self) -> bool:
        """Whether a call is open whose arguments are not whole yet."""
        if self._whole is None:
            self._whole = _is_object("".join(self._arguments))
        return self._open_tool is not None and not self._whole

    def _hold(self, verb: Callable[[], bytes], text: str) -> bytes:
        self._count(text)
        self._held.append(verb)
        return b""

    def _count(self, text: str) -> None:
        self._kept_bytes += len(text)
        check_size(self._kept_bytes)

    def _release(self) -> bytes:
        """Write what was held, as far as the calls before it are whole."""
        written = b""
        while self._held and not self._is_within():
            written += self._next()
        return written

    def _next(self) -> bytes:
        """Close the block that is open, and say again what was held: some of it may be held once more."""
        held, self._held = self._held, []
        return self._close() + b"".join([verb() for verb in held])

    def _begin(self, message: dict[str, Any]) -> bytes:
        rest: dict[str, Any] = {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": anthropic_usage(None),
        }
        return event_of("message_start", {"message": message | rest}) + _PING

    def _add(self, block: str, delta: str, name: str, text: str) -> bytes:
        if not text:
            return b""
        opened = b""
        if self._open != block:
            opened = self._release()
            if self._is_within():
                return opened + self._hold(partial(self._add, block, delta, name, text), text)
            signed = {"signature": ""} if block == "thinking" else {}
            opened += self._start(block, {"type": block, name: "", **signed}, delta, name)
        return opened + self._head + _encode(text) + self._tail

    def _begin_tool(self, index: int, block: dict[str, Any]) -> bytes:
        opened = self._release()
        if self._is_within():
            return opened + self._hold(partial(self._begin_tool, index, block), block["name"])
        opened += self._start("tool_use", block, "input_json_delta", "partial_json")
        self._open_tool = index
        return opened

    def _start(self, kind: str, block: dict[str, Any], delta: str, name: str) -> bytes:
        closed = self._close()
        self._open, self._index = kind, self._index + 1
        self._head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self._index, delta.encode(), name.encode())
        )
        self._tail = b"}}\n\n"
        return closed + event_of("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        signed = b""
        if self._open == "thinking":
            delta = {"type": "signature_delta", "signature": UNSIGNED}
            signed = event_of("content_block_delta", {"index": self._index, "delta": delta})
        self._open, self._open_tool, self._arguments, self._whole, self._kept_bytes = "", None, [], False, 0
        return signed + event_of("content_block_stop", {"index": self._index})


class Whole(_Blocks):
    """Collects the pieces and writes one message at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._message: dict[str, Any] = {}
        self._content: list[tuple[dict[str, Any], str, list[str]]] = []
        """Block, the member that its pieces make, and they."""
        self._calls: dict[int, list[str]] = {}

    def arguments(self, index: int, fragment: str) -> bytes:
        """Add to the arguments of a call."""
        self._calls[index].append(fragment)
        return b""

    def end(self, reason: Finish, usage: Usage | None, stop_sequence: str | None = None) -> bytes:
        """Write the whole message. Raises UpstreamError when the arguments of a call are no JSON object.

        Those in which the answer was cut become ``{}``: the stop reason says that no tool is to be run by them.
        """
        was_cut = reason in {"length", "content_filter"}
        content = [
            block | {name: self._joined(block, pieces, was_cut=was_cut)} for block, name, pieces in self._content
        ]
        rest = {"usage": anthropic_usage(usage), **self._ends_in(reason, stop_sequence)}
        return _encode(self._message | {"content": content} | rest)

    def _begin(self, message: dict[str, Any]) -> bytes:
        self._message = message
        return b""

    def _add(self, block: str, delta: str, name: str, text: str) -> bytes:  # noqa: ARG002 - a whole has no deltas
        if not text:
            return b""
        if not self._content or self._content[-1][0]["type"] != block:
            beside = {"signature": UNSIGNED} if block == "thinking" else {"citations": None}
            begun: dict[str, Any] = {"type": block, name: "", **beside}
            self._content.append((begun, name, []))
        self._content[-1][2].append(text)
        return b""

    def _begin_tool(self, index: int, block: dict[str, Any]) -> bytes:
        self._calls[index] = []
        self._content.append((block, "input", self._calls[index]))
        return b""

    def _joined(self, block: dict[str, Any], pieces: list[str], *, was_cut: bool) -> Any:
        text = "".join(pieces)
        if block["type"] != "tool_use":
            return text
        if _is_object(text):
            return Raw(text.encode())
        if text.strip() and not was_cut:
            raise UpstreamError(
                ErrorKind.UPSTREAM_PROTOCOL, "The upstream's arguments of a tool call are not a JSON object."
            )
        return {}


def _is_object(text: str) -> bool:
    try:
        _decode_object(text)
    except UNREADABLE:
        return False
    return True


def event_of(name: str, members: dict[str, Any]) -> bytes:
    """Write one event of a stream."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name} | members))


def anthropic_usage(usage: Usage | None) -> dict[str, Any]:
    """Write Anthropic's usage object, in which ``input_tokens`` leaves out what was read from a cache or written to it.

    None: nothing has been counted yet, as at the beginning of a stream.
    """
    if usage is None:
        counts = (0, 0, 0, 0)
    else:
        written = usage.cache_write_tokens + usage.cache_write_1h_tokens
        cached = usage.cached_input_tokens + usage.cached_audio_tokens + usage.cached_image_tokens
        counts = (usage.read_tokens - cached - written, written, cached, usage.written_tokens)
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    return dict(zip(names, counts, strict=True))
