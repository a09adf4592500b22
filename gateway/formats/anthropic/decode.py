"""Reads of a body of Anthropic's Messages what the gateway must know, once it is proved to be one unambiguous object.

Checks the members that routing, limits and accounting depend on. Every other one is the upstream's to judge, or refused
by name where it has to be translated (``conversation``). Messages name the place, never the content.

Shapes: platform.claude.com/docs/en/api/messages and the types of the ``anthropic`` SDK 2.12.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gateway.formats.allowance import anthropic_allowance
from gateway.formats.anthropic.conversation import read_conversation
from gateway.formats.anthropic.written import Events, Whole
from gateway.formats.chat import AnswerWriter, Conversation, UntranslatableError
from gateway.formats.errors import anthropic_error
from gateway.formats.outline import raw_bytes, text_bytes
from gateway.formats.splice import asks_nothing
from gateway.formats.typed import open_body, path_of, read_typed, refuse
from gateway.types import Capability, Envelope, Operation

MAX_OUTPUT_TOKENS = 2**31 - 1
_NULL = Raw(b"null")


class _Message(Struct, gc=False):
    role: str
    content: Raw


class _Counted(Struct, kw_only=True):
    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[_Message], Meta(min_length=1)]
    stream: bool | None = None
    max_tokens: int | None = None


class _Request(_Counted, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_OUTPUT_TOKENS)]
    """0: the prompt is read into the cache, and nothing is written (build-with-claude/prompt-caching)."""


class _Part(Struct, gc=False):
    type: str
    text: Raw | UnsetType = UNSET
    thinking: Raw | UnsetType = UNSET
    input: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET
    source: Raw | UnsetType = UNSET


class _Source(Struct, gc=False):
    type: str = ""
    data: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET


class _Config(Struct):
    format: Raw = _NULL


_decode: Callable[[bytes], _Counted] = msgspec.json.Decoder(_Request).decode
_decode_counted = msgspec.json.Decoder(_Counted).decode
_parts = msgspec.json.Decoder(list[_Part]).decode
_source = msgspec.json.Decoder(_Source).decode
_config = msgspec.json.Decoder(_Config | None).decode

_MUST_BE = {
    "model": "must be a non-empty string that names a model or a route",
    "max_tokens": f"must be an integer from 0 to {MAX_OUTPUT_TOKENS}",
    "messages": "must be a non-empty array of messages",
    "stream": "must be true or false",
}
_ROLES = frozenset({"user", "assistant", "system"})
"""``system`` in mid-conversation (platform.claude.com/docs/en/build-with-claude/mid-conversation-system-messages)."""


class _Seen:
    """What the model will read."""

    def __init__(self) -> None:
        self.content_bytes = self.images = 0

    def content(self, raw: bytes, place: str) -> None:
        """Count a text, or a list of blocks."""
        if raw.startswith(b'"'):
            self.content_bytes += text_bytes(raw)
            return
        if not raw.startswith(b"["):
            if raw == b"null":
                return
            refuse(place, "must be a string or an array of blocks")
        try:
            parts = _parts(raw)
        except msgspec.ValidationError as error:
            refuse(f"{place}{path_of(error).removesuffix('.type')}", "must be an object with a 'type'")
        except UnicodeDecodeError:
            refuse(place, "has a 'type' that is far too long")
        for number, part in enumerate(parts):
            self._part(part, f"{place}[{number}]")

    def _part(self, part: _Part, place: str) -> None:
        for text in (part.text, part.thinking):
            self.content_bytes += 0 if text is UNSET else _text_bytes(bytes(text))
        if part.input is not UNSET:
            self.content_bytes += raw_bytes(bytes(part.input))
        if part.type in {"image", "document"} and part.source is not UNSET:
            self._source(bytes(part.source), f"{place}.source")
        if part.content is not UNSET:
            raw = bytes(part.content)
            # Of results of server tools it is an object, or a list of anything.
            if part.type == "tool_result" or raw.startswith(b'"'):
                self.content(raw, f"{place}.content")
            else:
                self.content_bytes += raw_bytes(raw)

    def _source(self, raw: bytes, place: str) -> None:
        try:
            source = _source(raw)
        except (msgspec.ValidationError, UnicodeDecodeError):
            refuse(place, "must be an object with a 'type'")
        if source.type == "text" and source.data is not UNSET:
            self.content_bytes += _text_bytes(bytes(source.data))
        elif source.type == "content" and source.content is not UNSET:
            self.content(bytes(source.content), f"{place}.content")
        else:
            self.images += 1


class MessagesEndpoint:
    """``POST /v1/messages``."""

    path = "/v1/messages"
    dialect = "anthropic"
    operation: Operation = "chat"
    summary = "Create a message (Anthropic's dialect)"
    has_tokens = True
    id_header = b"request-id"
    keep_alive = b'event: ping\ndata: {"type": "ping"}\n\n'  # Anthropic, "Streaming messages": may come anywhere
    hint_headers = ("anthropic-beta",)
    schema: Mapping[str, Any] = {
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"enum": ["user", "assistant"]}, "content": {"type": ["string", "array"]}},
            },
        },
        "max_tokens": {"type": "integer", "minimum": 0},
        "stream": {"type": "boolean", "default": False},
    }
    error = staticmethod(anthropic_error)
    allowance = staticmethod(anthropic_allowance)
    read = staticmethod(_decode)
    """Reads what is typed."""

    def decode(self, body: bytes) -> Envelope:
        """See ``Endpoint.decode``."""
        outline, members, text, read = open_body(body)
        request = read_typed(self.read, text, outline, _must_be)
        seen = _Seen()
        for number, message in enumerate(request.messages):
            if message.role not in _ROLES:
                refuse(f"messages[{number}].role", "must be 'user' or 'assistant'")
            seen.content(bytes(message.content), f"messages[{number}].content")
        seen.content(read.get("system", b"null"), "system")
        tools = 0 if asks_nothing(read.get("tools", b"null")) else raw_bytes(read["tools"])
        needs = self._needs(read, has_tools=bool(tools), has_images=bool(seen.images))
        return Envelope(
            endpoint=self,
            body=body,
            members=members,
            model=request.model,
            stream=bool(request.stream),
            include_usage=True,
            max_output_tokens=request.max_tokens,
            limit_is_bound=True,
            choices=1,
            streamable=True,
            whole_from="anthropic",
            needs=needs,
            content_bytes=seen.content_bytes + tools,
            image_count=seen.images,
        )

    def conversation(self, envelope: Envelope, *, small: bool = False) -> Conversation:
        """See ``Translatable.conversation``."""
        if envelope.max_output_tokens == 0:
            raise UntranslatableError("max_tokens", "only Anthropic reads a prompt into its cache and writes nothing")
        return read_conversation(envelope.members, small=small)

    def writer(self, envelope: Envelope, _created_s: int) -> AnswerWriter:
        """See ``Translatable.writer``."""
        return Events() if envelope.stream else Whole()

    def _needs(self, read: Mapping[str, bytes], *, has_tools: bool, has_images: bool) -> frozenset[Capability]:
        needs: set[Capability] = {self.operation}
        if has_tools:
            needs.add("tools")
        if has_images:
            needs.add("vision")
        try:
            config = _config(read.get("output_config", b"null"))
        except msgspec.ValidationError:
            refuse("output_config", "must be an object")
        wanted = read.get("output_format", b"null"), b"null" if config is None else bytes(config.format)
        if not all(map(asks_nothing, wanted)):
            needs.add("json_schema")
        return frozenset(needs)


def _text_bytes(raw: bytes) -> int:
    """Return the UTF-8 bytes of a JSON string, 0 for anything else."""
    return text_bytes(raw) if raw.startswith(b'"') else 0


def _must_be(path: str) -> str:
    return _MUST_BE.get(path) or ("must be a string" if path.endswith(".role") else "must be there")


class CountEndpoint(MessagesEndpoint):
    """``POST /v1/messages/count_tokens``, whose bodies are the same without a limit."""

    path = "/v1/messages/count_tokens"
    summary = "Count a message's tokens (Anthropic's dialect)"
    count_is: Mapping[str, str] = {}
    schema: Mapping[str, Any] = {"messages": MessagesEndpoint.schema["messages"]}
    read = staticmethod(_decode_counted)


MESSAGES = MessagesEndpoint()
COUNT_TOKENS = CountEndpoint()
