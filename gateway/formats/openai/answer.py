"""Reads of OpenAI's answers what accounting needs, and puts one whole answer together from a stream.

Decides where a report of usage may stand, which chunk bears content, and how pieces join (OpenAI, "Chat", "The chat
completion chunk object"; vLLM 0.32, ``vllm/entrypoints/openai``, for the members it adds). Whether an error is the
caller's fault is left to the adapters.
"""

import json
from typing import Any, cast

import msgspec
from msgspec import Struct

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.malformed import UNREADABLE
from gateway.formats.splice import members_of, splice
from gateway.formats.usage import NO_RATES, merged, tier_of, usage_of
from gateway.tariff import Rates, Usage
from gateway.types import Operation

DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"

_Object = dict[str, Any]
_NOTHING: _Object = {}
_PADDING = frozenset(("obfuscation", "p"))
"""Random text with which OpenAI and Mistral hide the lengths of a stream's tokens; no part of a plain answer."""
_FAILED = (
    *("error", "abort"),  # Mistral's API reference and OpenRouter's; vLLM and SGLang
    "insufficient_system_resource",  # api-docs.deepseek.com/api/create-chat-completion
    "network_error",  # docs.z.ai/api-reference/llm/chat-completion
    "function_call_filter: MALFORMED_FUNCTION_CALL",  # Gemini's OpenAI endpoint, mostly with nothing beside it
)
"""Finish reasons of what is no answer."""


class Delta(Struct):
    """The content-bearing members of a delta or message; untyped, for a provider's oddity must not end a stream."""

    content: Any = None
    tool_calls: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    function_call: Any = None
    audio: Any = None


class Choice(Struct):
    """What accounting reads of a choice."""

    delta: Delta | None = None
    message: Delta | None = None
    text: Any = None
    finish_reason: Any = None
    index: Any = 0
    error: Any = None
    usage: Any = None


class _Report(Struct):
    """What says, in the place of an answer or beside it, that something failed."""

    error: Any = None
    object: Any = None
    detail: Any = None
    message: Any = None
    msg: Any = None
    errors: Any = None
    code: Any = None

    def is_error(self, *, beside: bool) -> bool:
        """Return whether it does. ``beside``: it came with a part of an answer, whose own members the others may be."""
        if beside or self.code == 0:  # some providers write "code": 0, "message": "Success" into every chunk
            # An empty error beside an answer is none.
            return _says(self.error) or self.object == "error"
        says = (self.error, self.detail, self.message, self.msg, self.errors, self.code)
        return self.object == "error" or any(each is not None for each in says)


class Chunk(_Report):
    """What accounting reads of a chunk, or of a whole answer."""

    choices: list[Choice] | None = None
    usage: Any = None
    service_tier: Any = None
    x_groq: Any = None
    """Groq's own, with the usage of a stream."""


class Embeddings(_Report):
    """What accounting reads of an answer to embeddings. The vectors are checked and skipped at C speed, not decoded."""

    data: list[msgspec.Raw] | None = None
    usage: Any = None


_decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode_embeddings = msgspec.json.Decoder(Embeddings).decode


class Tap:
    """Read of each chunk what accounting needs, and what proves that it is whole. One per answer.

    The names are those of ``Decoder``. ``has_calls`` says that a tool call has begun, ``has_failed`` that a choice has;
    ``_ended`` are the choices with a reason to be at their end. ``rates`` are what the target is charged at, for counts
    that leave more than one reading open.
    """

    service_tier: str | None = None

    def __init__(self, rates: Rates = NO_RATES) -> None:
        self._rates = rates
        self.reported: dict[str, Any] | None = None
        """What the upstream has counted so far, in its own words."""
        self.content_events = self.content_bytes = self.dropped_events = 0
        self.shows_reasoning = self.has_calls = self.has_failed = self.complete = False
        self.finish_reason: str | None = None
        self._ended: set[int] = set()

    def has_ended(self, choices: int) -> bool:
        """Return whether each of so many choices has a finish reason: behind that, a stream needs no end marker."""
        return len(self._ended) >= choices

    @property
    def usage(self) -> Usage | None:
        """The same in disjoint classes."""
        return usage_of(self.reported, self._rates, (self.content_events, self.content_bytes))

    def read(self, data: bytes) -> Chunk:
        """Take the data of one event, or a whole answer. Raises UpstreamError (UPSTREAM_PROTOCOL)."""
        try:
            chunk = _decode_chunk(data)
        except UNREADABLE:
            # Half a surrogate pair is legal in a stream that cuts text anywhere; only the standard library takes it.
            return self.read_object(parse(data))
        self._see(chunk)
        return chunk

    def read_object(self, value: _Object) -> Chunk:
        """Take what ``parse`` has made of the data of one event. Raises UpstreamError (UPSTREAM_PROTOCOL)."""
        try:
            chunk = msgspec.convert(value, Chunk)
        except ValueError:  # not of the expected shape, or half a surrogate
            raise _nonsense() from None
        self._see(chunk)
        return chunk

    def read_embeddings(self, data: bytes) -> Embeddings:
        """Take a whole answer to embeddings. Raises UpstreamError (UPSTREAM_PROTOCOL)."""
        try:
            answer = _decode_embeddings(data)
        except UNREADABLE:
            raise _nonsense() from None
        self.reported = merged(None, answer.usage)
        return answer

    def _see(self, chunk: Chunk) -> None:
        size = 0
        for choice in chunk.choices or ():
            delta = choice.delta or choice.message
            if delta is not None:
                size += _delta_bytes(delta)
                if delta.reasoning or delta.reasoning_content:
                    self.shows_reasoning = True
                if delta.tool_calls or delta.function_call:
                    self.has_calls = True
            if choice.text:
                size += _text_bytes(choice.text)
            if choice.finish_reason:  # some write an empty one into every chunk
                self.finish_reason = choice.finish_reason
                self._ended.add(choice.index if type(choice.index) is int else 0)
                self.has_failed |= choice.finish_reason in _FAILED
            if choice.error is not None:
                self.has_failed |= _says(choice.error)
        if size:
            self.content_events += 1
            self.content_bytes += size
        if chunk.usage or chunk.x_groq or self.finish_reason:
            self._note_usage(chunk)

    def _note_usage(self, chunk: Chunk) -> None:
        """Take the reports of a chunk: at the top; in a choice at its end, as Moonshot does; in Groq's own member."""
        groq = chunk.x_groq.get("usage") if isinstance(chunk.x_groq, dict) else None
        for report in (chunk.usage, groq, *(choice.usage for choice in chunk.choices or ())):
            self.reported = merged(self.reported, report)
        if chunk.service_tier is not None:
            self.service_tier = tier_of(chunk.service_tier) or self.service_tier


def parse(data: bytes) -> _Object:
    """Parse the JSON object of an upstream. Raises UpstreamError (UPSTREAM_PROTOCOL) when it is none."""
    try:
        value = msgspec.json.decode(data)
    except UNREADABLE:
        try:
            # By itself ``loads`` would take UTF-16 too, which no caller expects (RFC 8259, 8.1).
            value = json.loads(data.decode("utf-8-sig", "surrogatepass"))
        except (ValueError, RecursionError):
            raise _nonsense() from None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and "error" in value[0]:
        value = value[0]  # Gemini's OpenAI endpoint lists its one error
    if not isinstance(value, dict):
        raise _nonsense()
    return cast("_Object", value)


def without_usage(data: bytes) -> bytes:
    """Take the usage out of a chunk that holds more; every other byte stays where it can."""
    try:
        return splice(data, members_of(data), {"usage": None})
    except ValueError:
        # Half a surrogate pair, or a member twice: good enough to be read, so it must not end the stream here.
        return json.dumps({name: value for name, value in parse(data).items() if name != "usage"}).encode()


def as_events(answer: _Object, *, keeps_usage: bool) -> bytes:
    """Write a whole answer as the stream that it would have been: an event for each choice, usage, end marker."""
    chat = answer.get("object") != "text_completion"
    top = {name: value for name, value in answer.items() if name not in {"choices", "usage"}}
    top |= {"object": "chat.completion.chunk"} if chat else {}
    chunks = []
    for choice in answer["choices"]:
        rest = {name: value for name, value in choice.items() if name != "message"}
        if isinstance(message := choice.get("message"), dict):
            calls = message.get("tool_calls")
            if isinstance(calls, list) and all(isinstance(call, dict) for call in calls):
                message = message | {"tool_calls": [{"index": at} | call for at, call in enumerate(calls)]}
            rest["delta"] = message
        elif chat:
            rest["delta"] = {}  # SDKs look into it
        chunks.append(top | {"choices": [rest]})
    if keeps_usage and answer.get("usage"):
        chunks.append(top | {"choices": [], "usage": answer["usage"]})
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks) + DONE_EVENT


def _says(error: Any) -> bool:
    """Whether an error says anything."""
    return any(error.values()) if isinstance(error, dict) else bool(error)


def _nonsense() -> UpstreamError:
    return UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent something that is not an OpenAI answer.")


def _text_bytes(value: Any) -> int:
    if type(value) is str:
        return len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
    if type(value) is list:
        # Mistral's reasoning models: a list of parts with `text`, or with `thinking`, itself a list of parts.
        return sum(_text_bytes(part.get("text") or part.get("thinking")) for part in value if type(part) is dict)
    return 0


def _delta_bytes(delta: Delta) -> int:
    size = _text_bytes(delta.content) if delta.content else 0
    if reasoning := delta.reasoning or delta.reasoning_content:  # some send both, the same
        size += _text_bytes(reasoning)
    if delta.refusal:
        size += _text_bytes(delta.refusal)
    if type(delta.tool_calls) is list:
        for call in delta.tool_calls:
            if type(call) is dict:
                size += _call_bytes(call.get("function")) + _call_bytes(call.get("custom"))
    size += _call_bytes(delta.function_call)
    if type(delta.audio) is dict:
        size += _text_bytes(delta.audio.get("transcript"))
    return size


def _call_bytes(call: Any) -> int:
    if type(call) is not dict:
        return 0
    return _text_bytes(call.get("name")) + _text_bytes(call.get("arguments")) + _text_bytes(call.get("input"))


class PlainShape(Struct, frozen=True, kw_only=True):
    """How the plain answers of a provider differ from the sum of its chunks."""

    message: _Object = {}
    """Members of every plain message that no chunk holds, with the values that say nothing."""
    as_streamed: bool = False
    """Tool calls keep their ``index``, and an empty text beside them stays one. Most have no index and null."""


class Assembler:
    """Put the whole answer together from the chunks of a stream, with every member that the chunks hold.

    Text is joined, lists of a delta and of log-probabilities are appended to, tool calls are joined by their index and
    id; of any other member the last value that is not null wins. Padding is left out. The parts of a content in
    Mistral's shape become text and ``reasoning_content``, as OpenAI's types have them.
    """

    __slots__ = ("_chat", "_choices", "_shape", "_top")

    def __init__(self, operation: Operation, shape: PlainShape | None = None) -> None:
        self._chat = operation == "chat"
        self._shape = shape or PlainShape()
        self._top: _Object = {}
        self._choices: dict[int, _Pieces] = {}

    def add(self, chunk: _Object) -> None:
        """Take one parsed chunk, in order. Raises UpstreamError (UPSTREAM_PROTOCOL) for another shape than OpenAI's."""
        try:
            self._add(chunk)
        except (AttributeError, TypeError, ValueError):
            raise _nonsense() from None

    def finish(self, usage: _Object | None = None) -> bytes:
        """Write the answer, with the usage that all chunks together report.

        Raises UpstreamError (UPSTREAM_PROTOCOL) when there never was a choice.
        """
        if not self._choices:
            raise _nonsense()
        if usage is not None:
            self._top["usage"] = usage
        answer = {
            "id": "",
            "object": "",
            "created": 0,
            "model": "",
            "choices": [self._choice(index) for index in sorted(self._choices)],
        }
        answer |= self._top
        answer["object"] = "chat.completion" if self._chat else "text_completion"
        try:
            return msgspec.json.encode(answer)
        except UnicodeEncodeError:
            # Two halves of a pair came in two chunks; written as escapes they are one character again.
            return json.dumps(answer).encode()

    def _add(self, chunk: _Object) -> None:
        for name, value in chunk.items():
            if name == "choices":
                for choice in value or ():
                    self._add_choice(choice)
            elif name in _PADDING:
                continue
            elif value is not None and not (name in {"id", "created", "model"} and self._top.get(name)):
                self._top[name] = value
            else:
                self._top.setdefault(name, None)

    def _add_choice(self, choice: _Object) -> None:
        index = choice.get("index") or 0
        if type(index) is not int:
            raise TypeError(index)
        pieces = self._choices.setdefault(index, _Pieces())
        for name, value in choice.items():
            if name == "delta":
                pieces.inner("message").add_delta(value or _NOTHING)
            elif name == "text":
                pieces.text(name, value)
            elif name == "logprobs" and value is not None:
                pieces.inner(name).add_lists(value)
            elif name == "token_ids" and value is not None:
                pieces.extend(name, value)
            else:
                pieces.put(name, (value or None) if name == "finish_reason" else value)

    def _choice(self, index: int) -> _Object:
        choice: _Object = {"index": index, "finish_reason": None} | self._choices[index].whole()
        if not self._chat:
            return {"text": ""} | choice
        message = {"role": "assistant", "content": None} | self._shape.message | choice.pop("message", _NOTHING)
        calls = message.get("tool_calls")
        if self._shape.as_streamed:
            if calls:
                message["tool_calls"] = [{"index": at} | call for at, call in enumerate(calls)]
        elif message["content"] == "" and (calls or message.get("function_call")):
            message["content"] = None
        return {"message": message} | choice


class _Pieces:
    """An object that arrives in parts; its members stay in the order in which they were first seen."""

    __slots__ = ("_call_at", "_calls", "_inner", "_members", "_texts")

    def __init__(self) -> None:
        self._members: _Object = {}
        self._call_at: dict[int | None, int] = {}
        """Index of a tool call in the stream -> which of ``_calls`` its next piece belongs to."""
        self._texts: dict[str, list[str]] = {}
        self._inner: dict[str, _Pieces] = {}
        self._calls: dict[int, _Pieces] = {}

    def put(self, name: str, value: Any) -> None:
        if value is not None:
            self._members[name] = value
        else:
            self._members.setdefault(name, None)

    def text(self, name: str, value: Any) -> None:
        if isinstance(value, str):
            self._members.setdefault(name, None)
            # Joined once at the end: adding strings up would copy the whole answer for each of its tokens.
            self._texts.setdefault(name, []).append(value)
        elif isinstance(value, list):
            for part in value:
                self._part(name, part)
        else:
            self.put(name, value)

    def _part(self, name: str, part: Any) -> None:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in {"text", "thinking"}:
            self.text(name if kind == "text" else "reasoning_content", part.get(kind))
        else:
            self.extend(name, [part])

    def extend(self, name: str, values: Any) -> None:
        if isinstance(values, list) and isinstance(present := self._members.get(name), list):
            present.extend(values)
        else:
            self.put(name, values)

    def inner(self, name: str) -> "_Pieces":
        self._members.setdefault(name, None)
        return self._inner.setdefault(name, _Pieces())

    def add_lists(self, lists: _Object) -> None:
        for name, values in lists.items():
            self.extend(name, values)

    def add_delta(self, delta: _Object) -> None:
        for name, value in delta.items():
            if name in {"content", "refusal", "reasoning", "reasoning_content"}:
                self.text(name, value)
            elif name == "tool_calls" and value is not None:
                self._members.setdefault(name, None)
                for call in value:
                    self._call(call).add_call(call)
            elif name == "function_call" and value is not None:
                self.inner(name).add_call(value)
            else:
                self.extend(name, value)

    def add_call(self, call: _Object) -> None:
        for name, value in call.items():
            if name in {"function", "custom"} and value is not None:
                self.inner(name).add_call(value)
            elif name in {"arguments", "input"}:
                self.text(name, value)
            elif name == "name" and value:
                # Sent once by most, by some in pieces, by some again with every piece.
                present = self._members.get(name) or ""
                self._members[name] = value if present == value else present + value
            elif name != "index" and not (name == "id" and self._members.get(name)):
                self.put(name, value or None)

    def whole(self) -> _Object:
        members = self._members
        for name, texts in self._texts.items():
            text, parts = "".join(texts), members[name]
            members[name] = [*parts, {"type": "text", "text": text}] if isinstance(parts, list) else text
        for name, inner in self._inner.items():
            members[name] = inner.whole()
        if self._calls:
            members["tool_calls"] = [self._calls[index].whole_call() for index in sorted(self._calls)]
        return members

    def whole_call(self) -> _Object:
        call = self.whole()
        kind, argument = ("custom", "input") if "custom" in call else ("function", "arguments")
        inner = {"name": "", argument: ""} | {name: value for name, value in (call.get(kind) or {}).items() if value}
        return {"id": "", "type": kind} | {name: value for name, value in call.items() if value} | {kind: inner}

    def _call(self, call: _Object) -> "_Pieces":
        """Return the call that a piece belongs to: a name with a new id begins a new one, whatever its index.

        Without a name it goes on with the last one of its index: some engines write a new id on every piece of a call.
        """
        index = call.get("index")
        if index is not None and type(index) is not int:
            raise TypeError(index)
        last = max(self._calls, default=0)
        at = self._call_at.get(index, last if index is None else index)
        known = self._calls[at]._members.get("id") if at in self._calls else None  # noqa: SLF001
        inner = call.get("function") or call.get("custom")
        begins = not isinstance(inner, dict) or inner.get("name")
        if known and begins and call.get("id") not in {None, "", known}:
            at = last + 1
        self._call_at[index] = at
        return self._calls.setdefault(at, _Pieces())
