"""Read a chat completion's body as a ``Conversation``.

Decides which members ask for nothing (a default that is spelled out, a label, what is empty), and names by its position
what no conversation has. Not carried over, for the answer is the same without: texts of white space alone, ``name`` of
a tool message, what earlier answers say beside their text and calls (``_BESIDE``; no provider takes reasoning back
without its signature, for which this dialect has no room), labels, hints for a prompt cache, and the name of a JSON
schema. Later system messages move to the front.

Shapes: platform.openai.com/docs/api-reference/chat; what vLLM adds to its answers is legal history.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from gateway.formats.chat import (
    Audio,
    Conversation,
    Document,
    Image,
    Names,
    Part,
    Refused,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    UntranslatableError,
    untranslatable,
)
from gateway.formats.reading import arguments_of, data_of_url
from gateway.formats.splice import asks_nothing

_NULL = Raw(b"null")
_NAMES = Names("messages", "max_tokens", "reasoning_effort", "reasoning_effort", "user")
_NEWER_NAMES = replace(_NAMES, limit="max_completion_tokens")


class _Cache(Struct, forbid_unknown_fields=True):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class _Cached(Struct, forbid_unknown_fields=True, kw_only=True):
    cache_control: _Cache | None = None

    @property
    def cache_s(self) -> int | None:
        return None if self.cache_control is None else 3600 if self.cache_control.ttl == "1h" else 300


class _Text(_Cached, tag_field="type", tag="text"):
    text: Raw


class _ImageUrl(Struct, forbid_unknown_fields=True):
    url: Raw
    detail: Literal["auto", "high"] | None = None
    """A conversation's images are looked at whole, so ``low`` cannot be had."""


class _Image(_Cached, tag_field="type", tag="image_url"):
    image_url: _ImageUrl


class _Sound(Struct, forbid_unknown_fields=True):
    data: Raw
    format: str


class _Audio(_Cached, tag_field="type", tag="input_audio"):
    input_audio: _Sound


class _FileData(Struct, forbid_unknown_fields=True):
    file_data: Raw
    filename: str | None = None


class _File(_Cached, tag_field="type", tag="file"):
    file: _FileData


class _Thinking(Struct, tag_field="type", tag="thinking"):
    """Mistral's, in an earlier answer."""


class _Refusal(_Cached, tag_field="type", tag="refusal"):
    refusal: Raw


class _Function(Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class _ToolCall(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    id: str
    function: _Function
    index: int | None = None
    """Left in by clients that collect a stream and send it back."""


class _System(Struct, tag_field="role", tag="system", forbid_unknown_fields=True):
    content: Raw
    name: None = None


class _Developer(_System, tag="developer"):
    pass


class _User(_System, tag="user"):
    pass


class _Assistant(Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    content: Raw = _NULL
    refusal: Raw = _NULL
    tool_calls: list[_ToolCall] | None = None
    name: None = None
    audio: None = None
    function_call: None = None


class _Tool(Struct, tag_field="role", tag="tool", forbid_unknown_fields=True):
    tool_call_id: str
    content: Raw = Raw(b'""')
    name: str | None = None


class _FunctionDefinition(Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: Raw = _NULL
    strict: bool | None = None


class _ToolDefinition(_Cached, tag_field="type", tag="function"):
    function: _FunctionDefinition


class _FunctionName(Struct, forbid_unknown_fields=True):
    name: str


class _NamedTool(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    function: _FunctionName


class _JsonSchema(Struct, forbid_unknown_fields=True):
    name: str
    schema: dict[str, Raw]
    description: str | None = None
    strict: bool | None = None


class _TextFormat(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    pass


class _ObjectFormat(Struct, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    pass


class _SchemaFormat(Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    json_schema: _JsonSchema


_decode_texts = msgspec.json.Decoder(list[_Text])
_decode_seen = msgspec.json.Decoder(list[_Text | _Image | _Audio | _File])
_decode_said = msgspec.json.Decoder(list[_Text | _Refusal | _Thinking])
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "messages": msgspec.json.Decoder(list[_System | _Developer | _User | _Assistant | _Tool]),
    "tools": msgspec.json.Decoder(list[_ToolDefinition]),
    "tool_choice": msgspec.json.Decoder(Literal["auto", "none", "required"] | _NamedTool),
    "parallel_tool_calls": msgspec.json.Decoder(bool),
    "stop": msgspec.json.Decoder(str | list[str]),
    "temperature": msgspec.json.Decoder(float),
    "top_p": msgspec.json.Decoder(float),
    "top_k": msgspec.json.Decoder(int),
    "user": msgspec.json.Decoder(str),
    "safety_identifier": msgspec.json.Decoder(str),
    "reasoning_effort": msgspec.json.Decoder(str),
    "response_format": msgspec.json.Decoder(_TextFormat | _SchemaFormat | _ObjectFormat),
    "service_tier": msgspec.json.Decoder(str),
}
_READ_BEFORE = frozenset({"model", "max_tokens", "max_completion_tokens", "stream", "stream_options"})
_HARMLESS = frozenset({"metadata", "prompt_cache_key", "prompt_cache_retention"})
"""Labels and hints: the answer is the same without them."""
_PLAIN_TIERS = (None, "auto", "default")
_LARGE = frozenset({"messages", "tools"})
_SMALL_BYTES = 1 << 12
_ABSENT: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "store": (False,),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "functions": ([],),
}
"""Values that stand for the absence of a member."""
_BESIDE = frozenset(
    (
        *("reasoning", "reasoning_content", "reasoning_details", "thinking_blocks", "annotations", "channel"),
        *("executed_tools", "provider_specific_fields", "provider_metadata", "extra_content"),
    )
)
"""Members of earlier answers: vLLM, DeepSeek, OpenRouter, Groq, Vercel, LiteLLM, Gemini's OpenAI endpoint."""


def read_conversation(members: Mapping[str, bytes], *, small: bool = False) -> Conversation:
    """Read the raw members of a validated body, or of these only what is ``small``. Raises UntranslatableError."""
    known: dict[str, Any] = {}
    rest: dict[str, bytes] = {}
    for name in members:
        if name in _READ_BEFORE or name in _HARMLESS or (small and name in _LARGE):
            continue
        raw, decoder = members[name], _DECODERS.get(name)
        is_empty = asks_nothing(raw) and (decoder is None or raw[:1] in b"[{") and name != "web_search_options"
        if is_empty or raw == b"null" or (small and len(raw) > _SMALL_BYTES):
            continue
        if decoder is not None:
            known[name] = _typed(name, decoder, raw)
        elif name not in _ABSENT or msgspec.json.decode(raw) not in _ABSENT[name]:
            rest[name] = raw
    system, turns = _turns(known.get("messages", []))
    choice, stop, wanted = known.get("tool_choice"), known.get("stop", []), known.get("response_format")
    if known.get("service_tier") not in _PLAIN_TIERS:
        rest["service_tier"] = members["service_tier"]
    return Conversation(
        system=system,
        turns=turns,
        tools=[_tool(each) for each in known.get("tools", [])],
        tool_choice=None if isinstance(choice, _NamedTool) else choice,
        named_tool=choice.function.name if isinstance(choice, _NamedTool) else None,
        parallel_tools=known.get("parallel_tool_calls", True),
        temperature=known.get("temperature"),
        top_p=known.get("top_p"),
        top_k=known.get("top_k"),
        stop=[stop] if isinstance(stop, str) else stop,
        schema=_schema(wanted.json_schema) if isinstance(wanted, _SchemaFormat) else None,
        any_json=isinstance(wanted, _ObjectFormat),
        effort=known.get("reasoning_effort"),
        user=known.get("safety_identifier") or known.get("user"),
        standard_service=known.get("service_tier") == "default",
        names=_NAMES if members.get("max_completion_tokens", b"null") == b"null" else _NEWER_NAMES,
        rest=rest,
    )


def _typed(place: str, decoder: msgspec.json.Decoder[Any], raw: bytes) -> Any:
    try:
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError:
            if not place.startswith("messages"):  # in a schema, an empty value says something
                raise
            return decoder.decode(msgspec.json.encode(_without_nothing(msgspec.json.decode(raw))))
    except msgspec.ValidationError as error:
        raise untranslatable(place, error) from None


def _without_nothing(value: Any) -> Any:
    """Leave out of objects what is empty, and what stands beside an earlier answer."""
    if isinstance(value, list):
        return [_without_nothing(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _without_nothing(each)
        for name, each in value.items()
        if name == "content" or not (name in _BESIDE or each is None or each is False or each in ([], {}))
    }


def _turns(messages: list[Any]) -> tuple[list[Text], list[Turn]]:
    system: list[Text] = []
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if isinstance(message, _User):
            turns.append(Turn("user", _parts(message.content, place, _decode_seen)))
        elif isinstance(message, _System):
            system += _parts(message.content, place, _decode_texts)  # type: ignore[arg-type] # it decodes texts only
        elif isinstance(message, _Assistant):
            parts = _parts(message.content, place, _decode_said)
            if not parts and not _is_blank(message.refusal):
                parts.append(Refused(message.refusal))
            for call in message.tool_calls or ():
                parts.append(ToolCall(call.id, call.function.name, arguments_of(call.function.arguments)))
            turns.append(Turn("assistant", parts))
        else:
            parts = _parts(message.content, place, _decode_seen)
            turns.append(Turn("user", [ToolResult(message.tool_call_id, parts)]))
    return system, turns


def _parts(content: Raw, message: str, decoder: msgspec.json.Decoder[Any]) -> list[Part]:
    raw = bytes(content)
    if not raw.startswith(b"["):
        if not raw.startswith(b'"') and not (raw == b"null" and decoder is not _decode_texts):
            raise UntranslatableError(f"{message}.content", "it is neither a text nor a list of parts")
        return [] if _is_blank(content) else [Text(content)]
    parts: list[Part] = []
    for number, part in enumerate(_typed(f"{message}.content", decoder, raw)):
        place = f"{message}.content[{number}]"
        if isinstance(part, _Image):
            parts.append(_image(part, f"{place}.image_url.url"))
        elif isinstance(part, _File):
            parts.append(_document(part, f"{place}.file.file_data"))
        elif isinstance(part, _Audio):
            parts.append(Audio(part.input_audio.data, part.input_audio.format, f"{place}.type"))
        elif isinstance(part, _Refusal):
            parts += [] if _is_blank(part.refusal) else [Refused(part.refusal)]
        elif isinstance(part, _Text) and not _is_blank(part.text):
            parts.append(Text(part.text, part.cache_s))
    return parts


_BLANK = re.compile(rb'null|"(?:[ \t]|\\[nrtf]|\\u00(?:20|09|0[aAdD])|\xc2\xa0|\xe2\x80[\x80-\x8a])*+"')


def _is_blank(text: Raw) -> bool:
    """Whether a JSON string holds nothing but white space."""
    return _BLANK.fullmatch(text) is not None


def _image(part: _Image, place: str) -> Image:
    source, media_type = data_of_url(part.image_url.url)
    return Image(source, media_type, part.cache_s, place)


def _document(part: _File, place: str) -> Document:
    source, media_type = data_of_url(part.file.file_data)
    if media_type is None:
        raise UntranslatableError(place, "it is no 'data:' URL in Base64")
    return Document(source, media_type, part.cache_s, place)


def _tool(tool: _ToolDefinition) -> Tool:
    function = tool.function
    schema = None if bytes(function.parameters) == b"null" else function.parameters
    return Tool(function.name, function.description, schema, bool(function.strict), tool.cache_s)


def _schema(wanted: _JsonSchema) -> dict[str, Raw]:
    described = {} if wanted.description is None else {"description": Raw(msgspec.json.encode(wanted.description))}
    return described | wanted.schema
