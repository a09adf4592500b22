"""Translate a chat request from OpenAI's dialect into Anthropic's Messages API, or name what cannot be said there.

Decides how each member of the body is written for Anthropic, which defaults need no word, and which members make
the request impossible. Nothing is dropped silently, with these exceptions, each without effect on the answer: what is
empty, texts of white space alone (Anthropic refuses them), ``name`` of a tool message (its call's id says it), what
earlier answers say beside their text and calls (``_BESIDE``; Anthropic takes reasoning back only with a signature that
this dialect has no room for), ``metadata``, prompt-cache hints, and the name of a JSON schema. Later system messages
move to the front, as in Anthropic's own OpenAI compatibility layer. What one model refuses is left to the provider.

Sources: platform.claude.com/docs: api/messages, build-with-claude/{vision,prompt-caching,effort,structured-outputs},
agents-and-tools/tool-use, api/openai-sdk; shapes checked against the types of the ``anthropic`` SDK 2.12.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from gateway.formats.splice import asks_nothing

DEFAULT_MAX_TOKENS = 4096
"""Anthropic requires an output limit; used when neither the caller nor the target's configuration gives one."""


class UntranslatableError(Exception):
    """The request has no equivalent. ``str()`` is a sentence that begins with the offending member in quotes."""


class _Text(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: str
    cache_control: Raw | UnsetType = UNSET


class _ImageUrl(Struct, forbid_unknown_fields=True):
    url: str
    detail: Literal["auto", "high"] | None = None
    """Anthropic always looks at the whole image, so ``low`` cannot be had."""


class _Image(Struct, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    image_url: _ImageUrl
    cache_control: Raw | UnsetType = UNSET


class _Thinking(Struct, tag_field="type", tag="thinking"):
    """Mistral's, in an earlier answer."""


class _Refusal(Struct, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    refusal: str


class _Function(Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class _ToolCall(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    id: str
    function: _Function
    index: int | None = None
    """Left in by clients that collect a stream and send it back."""


class _System(Struct, tag_field="role", tag="system", forbid_unknown_fields=True):
    content: str | list[_Text]
    name: None = None


class _Developer(_System, tag="developer"):
    pass


class _User(Struct, tag_field="role", tag="user", forbid_unknown_fields=True):
    content: str | list[_Text | _Image]
    name: None = None


class _Assistant(Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    content: str | list[_Text | _Refusal | _Thinking] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    name: None = None
    audio: None = None
    function_call: None = None


class _Tool(Struct, tag_field="role", tag="tool", forbid_unknown_fields=True):
    tool_call_id: str
    content: str | list[_Text | _Image] | None = None
    name: str | None = None


class _FunctionDefinition(Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: Raw = Raw(b"null")
    strict: bool | None = None


class _ToolDefinition(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    function: _FunctionDefinition
    cache_control: Raw | UnsetType = UNSET


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


class _SchemaFormat(Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    json_schema: _JsonSchema


_Message = _System | _Developer | _User | _Assistant | _Tool
_Block = dict[str, Any]
_Turn = tuple[str, list[_Block]]

_EFFORT = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "messages": msgspec.json.Decoder(list[_Message]),
    "tools": msgspec.json.Decoder(list[_ToolDefinition]),
    "tool_choice": msgspec.json.Decoder(Literal["auto", "none", "required"] | _NamedTool),
    "parallel_tool_calls": msgspec.json.Decoder(bool),
    "stop": msgspec.json.Decoder(str | list[str]),
    "temperature": msgspec.json.Decoder(float),
    "top_p": msgspec.json.Decoder(float),
    "top_k": msgspec.json.Decoder(int),
    "user": msgspec.json.Decoder(str),
    "safety_identifier": msgspec.json.Decoder(str),
    "reasoning_effort": msgspec.json.Decoder(_EFFORT),
    "response_format": msgspec.json.Decoder(_TextFormat | _SchemaFormat),
    "service_tier": msgspec.json.Decoder(Literal["auto", "default"]),
}

_ELSEWHERE = frozenset({"model", "max_tokens", "max_completion_tokens", "stream", "stream_options"})
"""Members that the gateway has read already."""

_BESIDE = frozenset(
    (
        *("reasoning", "reasoning_content", "reasoning_details", "thinking_blocks", "annotations", "channel"),
        *("executed_tools", "provider_specific_fields", "provider_metadata", "extra_content"),
    )
)
"""Members of earlier answers: vLLM, DeepSeek, OpenRouter, Groq, Vercel, LiteLLM, Gemini's OpenAI endpoint."""
_LARGE = frozenset({"messages", "tools"})
_SMALL_BYTES = 1 << 12
"""What is larger is read only for a target that is tried."""

_HARMLESS = frozenset({"metadata", "prompt_cache_key", "prompt_cache_retention"})
"""Labels and hints: the answer is the same without them."""

_ONLY_DEFAULT: dict[str, tuple[object, ...]] = {
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
"""Members that Anthropic does not have: fine with the value that stands for their absence."""


def translate(members: Mapping[str, bytes]) -> bytes:
    """Write the body of ``POST /v1/messages`` from behind the model, the limit and ``stream``: ``"messages":[...]}``.

    ``members`` are the raw top-level members of a validated chat completion body. Tool arguments and JSON schemas
    arrive byte for byte as the caller wrote them. Raises UntranslatableError.
    """
    known = read_members(members)
    system, turns = _turns(known["messages"])
    if not turns:
        raise UntranslatableError("'messages' holds no user or assistant message with content; Anthropic needs one.")
    body: dict[str, Any] = {"messages": [{"role": role, "content": blocks} for role, blocks in turns]}
    if system:
        body["system"] = system
    _write_sampling(known, body)
    _write_tools(known, body)
    _write_output(known, body)
    if user := known.get("safety_identifier") or known.get("user"):
        body["metadata"] = {"user_id": user}
    # OpenAI's "default" is the plain service; Anthropic's default may draw on bought priority.
    if known.get("service_tier") == "default":
        body["service_tier"] = "standard_only"
    return msgspec.json.encode(body)[1:]


def read_members(members: Mapping[str, bytes], *, small: bool = False) -> dict[str, Any]:
    """Read what a body says, or of that only what is ``small``. Raises UntranslatableError."""
    known: dict[str, Any] = {}
    for name in members:
        if name in _ELSEWHERE or name in _HARMLESS or (small and name in _LARGE):
            continue
        raw, decoder = members[name], _DECODERS.get(name)
        is_empty = asks_nothing(raw) and (decoder is None or raw[:1] in b"[{") and name != "web_search_options"
        if is_empty or raw == b"null" or (small and len(raw) > _SMALL_BYTES):
            continue
        if name in _ONLY_DEFAULT:
            if msgspec.json.decode(raw) not in _ONLY_DEFAULT[name]:
                raise UntranslatableError(f"'{name}' has no equivalent at Anthropic.")
            continue
        if decoder is None:
            raise UntranslatableError(f"'{name}' has no equivalent at Anthropic.")
        try:
            known[name] = _decode(name, decoder, raw)
        except msgspec.ValidationError as error:
            raise UntranslatableError(_explain(name, str(error))) from None
    if not 0 <= known.get("temperature", 1.0) <= 1:
        raise UntranslatableError("'temperature' must be between 0 and 1 for Anthropic.")
    return known


def _decode(name: str, decoder: msgspec.json.Decoder[Any], raw: bytes) -> Any:
    """Decode a member; of messages that hold what has no equivalent, leave out what says nothing."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        if name != "messages":  # in a schema, an empty value says something
            raise
        return decoder.decode(msgspec.json.encode(_without_nothing(msgspec.json.decode(raw))))


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


def _explain(name: str, reason: str) -> str:
    """Turn msgspec's ``Invalid value 'file' - at `$[0].type``` into a sentence that begins with the member."""
    reason, _, path = reason.partition(" - at `$")
    reason = reason[:200]
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", reason):
        return f"'{name}{path.removesuffix('`')}.{unknown[1]}' has no equivalent at Anthropic."
    return f"'{name}{path.removesuffix('`')}' has no equivalent at Anthropic: {reason[:1].lower()}{reason[1:]}."


def _turns(messages: list[_Message]) -> tuple[list[_Block], list[_Turn]]:
    """Split into system blocks and alternating turns; of neighbours with one role a single turn is made."""
    system: list[_Block] = []
    turns: list[_Turn] = []
    for number, message in enumerate(messages):
        if isinstance(message, _System):
            system += _content(message.content, "messages")
            continue
        if isinstance(message, _Assistant):
            role, blocks = "assistant", _assistant(message, number)
        elif isinstance(message, _Tool):
            role, blocks = "user", [_tool_result(message, number)]
        else:
            role, blocks = "user", _content(message.content, f"messages[{number}]")
        if not blocks:
            continue
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return system, turns


def _content(content: str | list[Any] | None, where: str) -> list[_Block]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content and not content.isspace() else []
    blocks: list[_Block] = []
    for number, part in enumerate(content or ()):
        if isinstance(part, _Image):
            block: _Block = {"type": "image", "source": _image_source(part.image_url.url, f"{where}.content[{number}]")}
        elif isinstance(part, _Thinking):
            continue
        else:
            text = part.refusal if isinstance(part, _Refusal) else part.text
            if not text or text.isspace():
                continue
            block = {"type": "text", "text": text}
        cache_control = getattr(part, "cache_control", UNSET)
        if cache_control is not UNSET:
            block["cache_control"] = cache_control
        blocks.append(block)
    return blocks


_DATA_URL_HEAD = re.compile(r"data:image/(?:x-)?(jpe?g|pjpeg|png|gif|webp)(?:;[^;,]+)*;base64", re.IGNORECASE)
_JPEG = ("jpg", "pjpeg")
"""Spellings of ``jpeg``."""


def _image_source(url: str, where: str) -> _Block:
    if url[:8].lower().startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    head, _, data = url.partition(",")
    match = _DATA_URL_HEAD.fullmatch(head)
    if match is None:
        raise UntranslatableError(
            f"'{where}.image_url.url' must be an http(s) URL, or a base64 data URL of a JPEG, PNG, GIF or WebP image, "
            "for Anthropic."
        )
    kind = match[1].lower()
    return {"type": "base64", "media_type": f"image/{'jpeg' if kind in _JPEG else kind}", "data": data}


def _assistant(message: _Assistant, number: int) -> list[_Block]:
    blocks = _content(message.content, f"messages[{number}]") or _content(message.refusal, f"messages[{number}]")
    for position, call in enumerate(message.tool_calls or ()):
        where = f"messages[{number}].tool_calls[{position}].function.arguments"
        arguments = _arguments(call.function.arguments, where)
        blocks.append({"type": "tool_use", "id": _tool_id(call.id), "name": call.function.name, "input": arguments})
    return blocks


def _arguments(arguments: str, where: str) -> Raw:
    """Carry the arguments over as they are: to decode and encode them would change numbers and white space."""
    if not arguments or arguments.isspace():
        return Raw(b"{}")
    try:
        msgspec.json.decode(arguments, type=dict[str, Raw])
    except msgspec.DecodeError:
        raise UntranslatableError(f"'{where}' is not a JSON object, as Anthropic needs it.") from None
    return Raw(arguments.encode())


def _tool_result(message: _Tool, number: int) -> _Block:
    block: _Block = {"type": "tool_result", "tool_use_id": _tool_id(message.tool_call_id)}
    if content := _content(message.content, f"messages[{number}]"):
        block["content"] = content
    return block


_TOOL_ID_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")


def _tool_id(given: str) -> str:
    """Write an id as Anthropic takes it: other engines make ids with dots and colons. Same in, same out."""
    return _TOOL_ID_FORBIDDEN.sub(lambda match: f"_{ord(match[0]):x}_", given)


def _write_sampling(known: dict[str, Any], body: dict[str, Any]) -> None:
    """Leave out what says no more than the default: newer models refuse these members altogether."""
    if known.get("temperature", 1.0) != 1:
        body["temperature"] = known["temperature"]
    if known.get("top_p", 1.0) != 1:
        body["top_p"] = known["top_p"]
    if "top_k" in known:
        body["top_k"] = known["top_k"]
    if "stop" in known:
        stop = known["stop"]
        body["stop_sequences"] = [stop] if isinstance(stop, str) else stop


def _write_tools(known: dict[str, Any], body: dict[str, Any]) -> None:
    tools: list[_ToolDefinition] = known.get("tools", [])
    if tools:
        body["tools"] = [_tool_definition(tool) for tool in tools]
    asked = known.get("tool_choice")
    choice: _Block = {}
    if isinstance(asked, _NamedTool):
        choice = {"type": "tool", "name": asked.function.name}
    elif asked == "required":
        choice = {"type": "any"}
    elif asked == "none" and tools:
        choice = {"type": "none"}
    elif asked == "auto" and tools:
        choice = {"type": "auto"}
    if known.get("parallel_tool_calls") is False and tools and asked != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    if choice:
        body["tool_choice"] = choice


def _tool_definition(tool: _ToolDefinition) -> _Block:
    function = tool.function
    written: _Block = {"name": function.name}
    if function.description:
        written["description"] = function.description
    no_parameters = bytes(function.parameters) == b"null"
    written["input_schema"] = {"type": "object", "properties": {}} if no_parameters else function.parameters
    if function.strict:
        written["strict"] = True
    if tool.cache_control is not UNSET:
        written["cache_control"] = tool.cache_control
    return written


def _write_output(known: dict[str, Any], body: dict[str, Any]) -> None:
    config: dict[str, Any] = {}
    effort = known.get("reasoning_effort")
    if effort == "none":
        body["thinking"] = {"type": "disabled"}
    elif effort is not None:
        config["effort"] = "low" if effort == "minimal" else effort
    wanted = known.get("response_format")
    if isinstance(wanted, _SchemaFormat):
        schema: dict[str, Any] = dict(wanted.json_schema.schema)
        if wanted.json_schema.description is not None:
            schema.setdefault("description", wanted.json_schema.description)
        config["format"] = {"type": "json_schema", "schema": schema}
    if config:
        body["output_config"] = config
