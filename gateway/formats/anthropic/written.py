"""Write an answer of another dialect as one of Anthropic's Messages: as a stream of events, or whole.

Decides how pieces become blocks: one after another, each opened, added to and closed. Thinking that comes without a
provider's signature gets ours, ``UNSIGNED``, by which it is known and left out when it is sent back.

Grammar: platform.claude.com/docs/en/build-with-claude/streaming; shapes: the types of the ``anthropic`` SDK 2.12.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from msgspec import Raw

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.chat import Ending, Finish
from gateway.formats.one_by_one import OneByOne, encode, event_of, is_object
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
_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
"""Of a usage, those that are always there."""
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_DELTAS = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}
"""Kind of a block -> type of its deltas, and the member that holds the text."""
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
        super().__init__()
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
        return self._add("text", text)

    def reasoning(self, text: str) -> bytes:
        """Add readable thinking."""
        return self._add("thinking", text)

    def refusal(self, text: str) -> bytes:
        """Add an explanation of why the model declined, which ends in the stop reason ``refusal``."""
        self._refused = True
        return self.text(text)

    def tool(self, index: int, call_id: str, name: str) -> bytes:
        """Begin a tool call."""
        self._tools += 1
        known = tool_id(call_id) if call_id else f"toolu_{tool_id(self._message_id)}_{index}"
        return self._begin_tool(index, "tool_use", known, name)

    def _ends_in(self, ending: Ending, *, is_cut: bool = False) -> dict[str, str | None]:
        """Name the reason. Some engines say ``stop`` behind a call, and some ``tool_calls`` behind none.

        ``is_cut``: see ``_is_cut``; the call is not to be run.
        """
        named = STOP_REASONS[ending.reason]
        if ending.reason in {"stop", "tool_calls"}:
            named = "refusal" if self._refused else "tool_use" if self._tools and not is_cut else "end_turn"
        if named != "end_turn" or ending.stop_sequence is None:
            return {"stop_reason": named, "stop_sequence": None}
        return {"stop_reason": "stop_sequence", "stop_sequence": ending.stop_sequence}

    @abstractmethod
    def _begin(self, message: dict[str, Any]) -> bytes: ...

    @abstractmethod
    def _add(self, kind: str, text: str) -> bytes: ...

    @abstractmethod
    def _begin_tool(self, index: int, kind: str, call_id: str, name: str) -> bytes: ...


class Events(OneByOne, _Blocks):
    """Writes each piece at once, unless it comes within the arguments of a call: then behind their end."""

    def __init__(self) -> None:
        super().__init__()
        self._index = -1
        self._head = self._tail = b""
        """What stands around the text of a piece of the block that is open."""

    def end(self, ending: Ending) -> bytes:
        """Close the blocks, and write the reason, the usage and the end."""
        held = self._say_held()
        is_cut = self._open_tool is not None and _is_cut(ending, self._arguments)
        members = {"delta": self._ends_in(ending, is_cut=is_cut), "usage": anthropic_usage(ending.usage)}
        return held + self._close() + event_of("message_delta", members) + MESSAGE_STOP

    def _begin(self, message: dict[str, Any]) -> bytes:
        rest: dict[str, Any] = {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": anthropic_usage(None),
        }
        return event_of("message_start", {"message": message | rest}) + _PING

    def _begun(self, kind: str, tool: tuple[str, str]) -> bytes:
        self._index += 1
        delta, name = _DELTAS[kind]
        self._head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self._index, delta, name)
        )
        self._tail = b"}}\n\n"
        block = _block(kind, tool) | ({"signature": ""} if kind == "thinking" else {})
        return event_of("content_block_start", {"index": self._index, "content_block": block})

    def _added(self, text: str) -> bytes:
        return self._head + encode(text) + self._tail

    def _ended(self) -> bytes:
        signed = b""
        if self._open == "thinking":
            delta = {"type": "signature_delta", "signature": UNSIGNED}
            signed = event_of("content_block_delta", {"index": self._index, "delta": delta})
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

    def end(self, ending: Ending) -> bytes:
        """Write the whole message. Raises UpstreamError when the arguments of a call are no JSON object.

        Those in which the answer was cut become ``{}``: the stop reason says that no tool is to be run by them.
        """
        last = self._content[-1][2] if self._content and self._content[-1][0]["type"] == "tool_use" else []
        is_cut = _is_cut(ending, last)
        was_cut = ending.reason in {"length", "content_filter"} or is_cut
        content = [
            block | {name: self._joined(block, pieces, was_cut=was_cut)} for block, name, pieces in self._content
        ]
        rest = {"usage": anthropic_usage(ending.usage), **self._ends_in(ending, is_cut=is_cut)}
        return encode(self._message | {"content": content} | rest)

    def _begin(self, message: dict[str, Any]) -> bytes:
        self._message = message
        return b""

    def _add(self, kind: str, text: str) -> bytes:
        if not text:
            return b""
        if not self._content or self._content[-1][0]["type"] != kind:
            beside = {"signature": UNSIGNED} if kind == "thinking" else {"citations": None}
            self._content.append((_block(kind) | beside, kind, []))
        self._content[-1][2].append(text)
        return b""

    def _begin_tool(self, index: int, kind: str, call_id: str, name: str) -> bytes:
        self._calls[index] = []
        self._content.append((_block(kind, (call_id, name)), "input", self._calls[index]))
        return b""

    def _joined(self, block: dict[str, Any], pieces: list[str], *, was_cut: bool) -> Any:
        text = "".join(pieces)
        if block["type"] != "tool_use":
            return text
        if is_object(text):
            return Raw(text.encode())
        if text.strip() and not was_cut:
            raise UpstreamError(
                ErrorKind.UPSTREAM_PROTOCOL, "The upstream's arguments of a tool call are not a JSON object."
            )
        return {}


def _block(kind: str, tool: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """Return an empty block. ``tool``: of a call, its id and its name."""
    if kind == "tool_use":
        return {"type": kind, "id": tool[0], "name": tool[1], "input": {}}
    return {"type": kind, kind: ""}


def _is_cut(ending: Ending, arguments: Sequence[str]) -> bool:
    """Whether a stop sequence ended the answer within these arguments of its last call."""
    return ending.stop_sequence is not None and (text := "".join(arguments)).strip() != "" and not is_object(text)


def anthropic_usage(usage: Usage | None) -> dict[str, Any]:
    """Write Anthropic's usage object, in which ``input_tokens`` leaves out what was read from a cache or written to it.

    None: nothing has been counted yet, as at the beginning of a stream.
    """
    if usage is None:
        return dict.fromkeys(_COUNTS, 0)
    written = usage.cache_write_tokens + usage.cache_write_1h_tokens
    cached = usage.cached_input_tokens + usage.cached_audio_tokens + usage.cached_image_tokens
    counts = (usage.read_tokens - cached - written, written, cached, usage.written_tokens)
    told: dict[str, Any] = dict(zip(_COUNTS, counts, strict=True))
    if usage.reasoning_tokens:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.web_searches:
        told["server_tool_use"] = {"web_search_requests": usage.web_searches, "web_fetch_requests": 0}
    return told
