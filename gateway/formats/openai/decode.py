"""Reads of a caller's body what the gateway must know, once it is proved to be one unambiguous JSON object.

Checks the members that routing, limits and accounting depend on, as OpenAI does: by the types below, so that nothing
else of a body is ever built. Every other member is the upstream's to judge. Messages name the place, never the content.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gateway.formats.allowance import openai_allowance
from gateway.formats.chat import AnswerWriter, Conversation
from gateway.formats.errors import openai_error
from gateway.formats.openai.chat_answer import Assembly, Chunks
from gateway.formats.openai.conversation import read_conversation
from gateway.formats.outline import PROTOCOL_NAMES, Outline, outline_of, raw_bytes, text_bytes
from gateway.formats.splice import asks_nothing, splice
from gateway.formats.sse import COMMENT
from gateway.formats.typed import path_of, read_typed, refuse
from gateway.formats.unambiguous import SHORT_BYTES, SMALL_BYTES, members_of_object
from gateway.types import Capability, Envelope, Operation

# vLLM, vllm/entrypoints/openai: structured output beside response_format (guided_* before 0.12).
_CONSTRAINED = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
# What vLLM 0.32 refuses to stream (beam search, prompt log-probabilities) or leaves out of a stream (the transfer
# parameters of disaggregated serving), speech, which OpenAI streams in another format than it sends at once, and a
# search's citations, which no chunk of its reference holds.
_NOT_STREAMED = (
    *("use_beam_search", "prompt_logprobs", "kv_transfer_params", "ec_transfer_params", "audio", "web_search_options"),
)
_PLAIN = frozenset(
    (
        *("model", "messages", "prompt", "input", "stream", "n", "max_tokens", "max_completion_tokens", "temperature"),
        *("top_p", "stop", "seed", "user", "presence_penalty", "frequency_penalty"),
    )
)
"""Members that ask for nothing which a model may lack, and may be streamed."""
_INTEGERS = frozenset(
    (
        *("max_tokens", "max_completion_tokens", "n", "best_of", "seed", "top_logprobs", "top_k", "min_tokens"),
        *("dimensions", "thinking_token_budget", "truncate_prompt_tokens"),
    )
)
_INTEGRAL = re.compile(rb"(-?[0-9]{1,18})\.0{1,18}")
_READ_AS_THEY_ARE = ("tools", "functions", "response_format")
"""Members that the model reads as they are written."""
_BYTES_PER_TOKEN_ID = 4
"""A prompt given as token ids counts as the text it stands for, about four bytes a token."""
MAX_CHOICES = 16_384
"""Of ``n`` and ``best_of``, for each prompt."""
MAX_OUTPUT_TOKENS = 2**31 - 1
"""Of one choice: "as many as possible" is often written as the largest integer of 32 bits."""
MAX_OUTPUT_TOKENS_IN_ALL = 10**12
"""Over all choices of all prompts: at a thousand dollars per million tokens the price still has 63 bits."""

_Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None
_Limit = Annotated[int, Meta(ge=1, le=MAX_OUTPUT_TOKENS)] | None


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Request(Struct, kw_only=True):
    model: Annotated[str, Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: _Choices = None
    best_of: _Choices = None


class _Message(Struct, gc=False):
    role: str
    content: Raw | UnsetType = UNSET
    tool_calls: Raw | UnsetType = UNSET
    function_call: Raw | UnsetType = UNSET


class _Part(Struct, gc=False):
    type: str
    text: Raw | UnsetType = UNSET
    refusal: Raw | UnsetType = UNSET


class _Chat(_Request, kw_only=True):
    messages: Annotated[list[_Message], Meta(min_length=1)]
    max_completion_tokens: _Limit = None
    max_tokens: _Limit = None


class _Completions(_Request, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_OUTPUT_TOKENS)] | None = None


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_completions = msgspec.json.Decoder(_Completions).decode
_decode_embeddings = msgspec.json.Decoder(_Request).decode
_parts = msgspec.json.Decoder(list[_Part]).decode
_items = msgspec.json.Decoder(list[Raw]).decode

_MUST_BE = {
    "model": "must be a non-empty string that names a model or a route",
    "stream": "must be true or false",
    "stream_options": "must be an object",
    "stream_options.include_usage": "must be true or false",
    "n": f"must be an integer from 1 to {MAX_CHOICES}",
    "best_of": f"must be an integer from 1 to {MAX_CHOICES}",
    "max_tokens": f"must be an integer from 1 to {MAX_OUTPUT_TOKENS}",
    "max_completion_tokens": f"must be an integer from 1 to {MAX_OUTPUT_TOKENS}",
    "messages": "must be a non-empty array of messages",
}
_PROMPTS = "must be a string, or a non-empty array of strings or token ids"
_PROMPT_ITEMS = "must hold strings only, token ids only, or arrays of token ids only"


class _Said(Struct, frozen=True):
    """What an endpoint has read of a body by itself."""

    request: _Request
    limit: int | None
    content_bytes: int
    choices: int
    kinds: Sequence[str] = ()
    """Of the parts of messages."""
    prompts: int = 1


class JsonEndpoint(Struct, kw_only=True):
    """One of OpenAI's endpoints with a JSON body."""

    path: str
    operation: Operation
    summary: str
    schema: Mapping[str, Any]
    read: Callable[[bytes, Outline | None, Mapping[str, bytes]], _Said]
    """Reads what is its own: of the text that is typed, and of its members."""
    has_tokens: bool = True
    id_header: bytes = b"x-request-id"
    keep_alive: bytes = COMMENT
    dialect: str = "openai"

    error = staticmethod(openai_error)
    allowance = staticmethod(openai_allowance)

    def decode(self, body: bytes) -> Envelope:
        """See ``Endpoint.decode``."""
        outline = outline_of(body) if len(body) > SMALL_BYTES else None
        members: Mapping[str, bytes] = members_of_object(body) if outline is None else outline.members
        # In the text of an outline, and so in what is read, long strings are marks.
        text, read = (body, members) if outline is None else (outline.text, outline.short_members)
        if (len(text) > SHORT_BYTES or b".0" in text) and (changes := _integers(members)):
            return self.decode(splice(body, members, changes))
        plain = members.keys() <= _PLAIN
        if not plain:
            check_spelling(members)
        said = self.read(text, outline, read)
        request, limit, choices, kinds = said.request, said.limit, said.choices, said.kinds
        if limit is not None and limit * choices > MAX_OUTPUT_TOKENS_IN_ALL:
            name = "max_completion_tokens" if _given(read, "max_completion_tokens") else "max_tokens"
            refuse(name, f"asks for more than {MAX_OUTPUT_TOKENS_IN_ALL} tokens over all {choices} choices")
        content_bytes = said.content_bytes
        if not plain:
            content_bytes += sum(raw_bytes(read[name]) for name in _READ_AS_THEY_ARE if name in read)
        return Envelope(
            endpoint=self,
            body=body,
            members=members,
            model=request.model,
            stream=bool(request.stream),
            include_usage=request.stream_options is not None and _includes_usage(request, read),
            max_output_tokens=limit,
            limit_is_bound=self.operation == "chat",
            choices=choices,
            streamable=self.has_tokens and (plain or _streamable(request, read)),
            needs=_NEEDS[self.operation] if plain and not kinds else _needs(self.operation, read, kinds),
            content_bytes=content_bytes,
            image_count=kinds.count("image_url"),
            prompts=said.prompts,
        )


class ChatEndpoint(JsonEndpoint):
    """Chat completions, which other formats can say too."""

    hint_headers: tuple[str, ...] = ()

    def conversation(self, envelope: Envelope, *, small: bool = False) -> Conversation:
        """See ``Translatable.conversation``."""
        return read_conversation(envelope.members, small=small)

    def writer(self, envelope: Envelope, created_s: int) -> AnswerWriter:
        """See ``Translatable.writer``."""
        return Chunks(created_s, include_usage=envelope.include_usage) if envelope.stream else Assembly(created_s)


_NEEDS: dict[Operation, frozenset[Capability]] = {each: frozenset((each,)) for each in get_args(Operation)}


def _read_chat(text: bytes, outline: Outline | None, _read: Mapping[str, bytes]) -> _Said:
    chat = read_typed(_decode_chat, text, outline, _must_be)
    limit = chat.max_tokens if chat.max_completion_tokens is None else chat.max_completion_tokens
    kinds: list[str] = []
    return _Said(chat, limit, _read_messages(chat.messages, kinds), _choices(chat), kinds)


def _read_completions(text: bytes, outline: Outline | None, read: Mapping[str, bytes]) -> _Said:
    request = read_typed(_decode_completions, text, outline, partial(_must_be, may_be_zero=True))
    size, prompts = _read_prompt(read, "prompt")
    return _Said(request, request.max_tokens, size, _choices(request) * prompts, prompts=prompts)


def _read_embeddings(text: bytes, outline: Outline | None, read: Mapping[str, bytes]) -> _Said:
    request = read_typed(_decode_embeddings, text, outline, _must_be)
    size, prompts = _read_input(read, stream=bool(request.stream))
    return _Said(request, 0, size, _choices(request), prompts=prompts)


def _choices(request: _Request) -> int:
    return request.n or 1 if request.best_of is None else max(request.n or 1, request.best_of)


def _integers(members: Mapping[str, bytes]) -> dict[str, bytes | None]:
    """Write the integers that a caller wrote as ``16.0``: languages with one kind of number do."""
    named = members.keys() & _INTEGERS
    return {name: match[1] for name in named if (match := _INTEGRAL.fullmatch(members[name]))}


def _must_be(path: str, *, may_be_zero: bool = False) -> str:
    if path == "max_tokens" and may_be_zero:
        return f"must be an integer from 0 to {MAX_OUTPUT_TOKENS}"
    return _MUST_BE.get(path) or ("must be a string" if path.endswith(".role") else "must be an object")


def check_spelling(members: Mapping[str, bytes]) -> None:
    """Refuse a member that some upstreams would take for another one. Raises GatewayError."""
    # Upstreams written in Go (Ollama, many proxies) take a member's name in any case, and of two the last: a "Model"
    # beside the "model" that was looked at here would be the one that counts.
    for name in members:
        folded = name.casefold()
        if folded != name and folded in PROTOCOL_NAMES:
            refuse(folded, "must be written in lower case")


def _includes_usage(request: _Request, members: Mapping[str, bytes]) -> bool:
    if not request.stream and _asked(members, "stream_options"):
        refuse("stream_options", "is only allowed when 'stream' is true")
    return request.stream_options is not None and bool(request.stream_options.include_usage)


def _read_messages(messages: list[_Message], kinds: list[str]) -> int:
    """Return the bytes of text in all messages, and note the kinds of their parts."""
    size = 0
    for index, message in enumerate(messages):
        content = message.content
        if content is not UNSET:
            raw = bytes(content)
            if raw.startswith(b'"'):
                size += text_bytes(raw) if b"\\" in raw else len(raw) - 2
            elif raw != b"null":
                size += _read_parts(raw, index, kinds)
        if message.tool_calls is not UNSET or message.function_call is not UNSET:
            size += sum(
                raw_bytes(bytes(each)) for each in (message.tool_calls, message.function_call) if each is not UNSET
            )
    return size


def _read_parts(raw: bytes, index: int, kinds: list[str]) -> int:
    if not raw.startswith(b"["):
        refuse(f"messages[{index}].content", "must be a string or an array of parts")
    try:
        parts = _parts(raw)
    except msgspec.ValidationError as error:
        place = path_of(error).removesuffix(".type")
        refuse(f"messages[{index}].content{place}", "must be an object with a 'type'")
    except UnicodeDecodeError:
        refuse(f"messages[{index}].content", "has a 'type' that is far too long")
    size = 0
    for part in parts:
        kinds.append(part.type)
        for text in (part.text, part.refusal):
            if text is not UNSET:
                size += _text_bytes(bytes(text))
    return size


def _text_bytes(raw: bytes) -> int:
    """Return the UTF-8 bytes of a JSON string, 0 for anything else."""
    return text_bytes(raw) if raw.startswith(b'"') else 0


def _read_input(members: Mapping[str, bytes], *, stream: bool) -> tuple[int, int]:
    if stream:
        refuse("stream", "must not be true: embeddings come in one piece")
    # vLLM's "bytes" would be no JSON, and no usage.
    if members.get("encoding_format", b"null") not in (b"null", b'"float"', b'"base64"'):
        refuse("encoding_format", "must be 'float' or 'base64'")
    return _read_prompt(members, "input")


def _read_prompt(members: Mapping[str, bytes], name: str) -> tuple[int, int]:
    """Return the bytes of text and the number of prompts."""
    raw = members.get(name, b"null")
    if raw.startswith(b'"'):
        return _text_bytes(raw), 1
    if raw == b"null" and name == "prompt" and _given(members, "prompt_embeds"):
        return 0, 1
    if not raw.startswith(b"[") or not raw[1:-1].strip():
        refuse(name, _PROMPTS)
    if not raw.translate(None, _TOKEN_IDS):
        return _count_token_ids(raw, name)
    texts = [bytes(each) for each in _items(raw)]
    if not all(text.startswith(b'"') for text in texts):
        refuse(name, _PROMPT_ITEMS)
    return sum(map(text_bytes, texts)), len(texts)


_TOKEN_IDS = b"0123456789-,[] \t\n\r"
"""A JSON array of these is one of integers, or of such arrays. A long one is never made a list."""


def _count_token_ids(raw: bytes, name: str) -> tuple[int, int]:
    if raw.count(b"[") == 1:
        return _BYTES_PER_TOKEN_ID * (raw.count(b",") + 1), 1
    prompts = [bytes(each) for each in _items(raw)]
    if not all(prompt.startswith(b"[") and prompt.count(b"[") == 1 for prompt in prompts):
        refuse(name, _PROMPT_ITEMS)
    count = sum(prompt.count(b",") + bool(prompt[1:-1].strip()) for prompt in prompts)
    return _BYTES_PER_TOKEN_ID * count, len(prompts)


def _given(members: Mapping[str, bytes], name: str) -> bool:
    """Return whether a member is there and not null."""
    return members.get(name, b"null") != b"null"


def _asked(members: Mapping[str, bytes], name: str) -> bool:
    """Return whether a member asks for anything: 0 does not, nor what stands for its absence."""
    raw = members.get(name, b"null")
    return not asks_nothing(raw) and bool(raw.strip(b"-0.eE+"))


def _streamable(request: _Request, members: Mapping[str, bytes]) -> bool:
    if any(_asked(members, name) for name in _NOT_STREAMED):
        return False
    if _asked(members, "echo") and _given(members, "logprobs"):
        return False
    return (request.best_of or 1) <= (request.n or 1)


def _needs(operation: Operation, members: Mapping[str, bytes], kinds: Sequence[str]) -> frozenset[Capability]:
    if operation == "embeddings":
        return _NEEDS[operation]  # what else is in such a body says nothing to a model that only reads
    needs: set[Capability] = {operation}
    if any(_asked(members, name) for name in ("tools", "tool_choice", "functions", "function_call")):
        needs.add("tools")
    if (structure := _structure(members)) is not None:
        needs.add(structure)
    if "image_url" in kinds:
        needs.add("vision")
    if "input_audio" in kinds or _asked(members, "audio"):
        needs.add("audio")
    # True or false in a chat; in completions a number, of which 0 asks for those of the chosen tokens.
    wants = _asked if operation == "chat" else _given
    if wants(members, "logprobs") or _given(members, "prompt_logprobs"):
        needs.add("logprobs")
    if _asked(members, "reasoning_effort"):
        needs.add("reasoning")
    return frozenset(needs)


class _Format(Struct):
    type: Raw = Raw(b'"text"')


_format = msgspec.json.Decoder(_Format | None).decode


def _structure(members: Mapping[str, bytes]) -> Capability | None:
    try:
        answer = _format(members["response_format"]) if _asked(members, "response_format") else None
    except msgspec.ValidationError:
        refuse("response_format", "must be an object")
    kind = b'"text"' if answer is None else bytes(answer.type)
    if kind == b'"json_object"':
        return "json_object"
    constrained = kind != b'"text"' or any(_asked(members, name) for name in _CONSTRAINED)
    return "json_schema" if constrained else None


_STREAM = {"type": "boolean", "default": False}
_MAX_TOKENS = {"type": "integer", "minimum": 1}
_MESSAGE = {"type": "object", "required": ["role"], "properties": {"role": {"type": "string"}, "content": {}}}
_INPUT = {"description": "A string, token ids, or an array of either.", "type": ["string", "array"], "items": {}}

CHAT = ChatEndpoint(
    path="/v1/chat/completions",
    operation="chat",
    summary="Create a chat completion",
    schema={
        "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
        "stream": _STREAM,
        "max_tokens": _MAX_TOKENS,
    },
    read=_read_chat,
)
COMPLETIONS = JsonEndpoint(
    path="/v1/completions",
    operation="completions",
    summary="Create a completion",
    schema={"prompt": {"type": "string"}, "stream": _STREAM, "max_tokens": _MAX_TOKENS},
    read=_read_completions,
)
EMBEDDINGS = JsonEndpoint(
    path="/v1/embeddings",
    operation="embeddings",
    summary="Create embeddings",
    schema={
        "input": _INPUT,
        "encoding_format": {"enum": ["float", "base64"], "default": "float"},
        "dimensions": {"type": "integer", "minimum": 1},
    },
    read=_read_embeddings,
    has_tokens=False,
)
