"""Reads of a body of OpenAI's Responses what the gateway must know, once it is proved to be one unambiguous object.

Checks the members that routing, limits and accounting depend on, and refuses what no target is to be asked: answers in
the background, and conversations and responses that lie at the provider. Every other member is the upstream's to judge,
or refused by name where it has to be translated (``conversation``). Messages name the place, never the content.

Shapes: platform.openai.com/docs/api-reference/responses and the types of the ``openai`` SDK 3.54.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gateway.formats.allowance import openai_allowance
from gateway.formats.chat import AnswerWriter, Conversation
from gateway.formats.errors import responses_error
from gateway.formats.openai.decode import check_spelling
from gateway.formats.outline import raw_bytes, text_bytes
from gateway.formats.responses.conversation import read_conversation
from gateway.formats.responses.tools import tools_offered
from gateway.formats.responses.written import Written
from gateway.formats.sse import COMMENT
from gateway.formats.typed import open_body, path_of, read_typed, refuse
from gateway.types import Capability, Envelope, Operation

MAX_OUTPUT_TOKENS = 2**31 - 1
_NULL = Raw(b"null")


class _Format(Struct):
    type: str


class _Text(Struct):
    format: _Format | None = None


class _Reasoning(Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class _Tool(Struct, gc=False):
    type: str
    name: str = ""


class _Counted(Struct, kw_only=True):
    model: Annotated[str, Meta(min_length=1)]
    input: Raw = _NULL
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=MAX_OUTPUT_TOKENS)] | None = None
    background: bool | None = None
    store: bool | None = None
    top_logprobs: int | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    tools: list[_Tool] | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    stream_options: dict[str, Raw] | None = None


class _Item(Struct, gc=False):
    type: str = "message"
    role: str | UnsetType = UNSET
    content: Raw | UnsetType = UNSET
    output: Raw | UnsetType = UNSET
    arguments: Raw | UnsetType = UNSET
    input: Raw | UnsetType = UNSET


class _Part(Struct, gc=False):
    type: str = ""
    text: Raw | UnsetType = UNSET
    refusal: Raw | UnsetType = UNSET


_decode_request = msgspec.json.Decoder(_Counted).decode
_items = msgspec.json.Decoder(list[_Item]).decode
_parts = msgspec.json.Decoder(list[_Part]).decode

_MUST_BE = {
    "model": "must be a non-empty string that names a model or a route",
    "max_output_tokens": f"must be an integer from 1 to {MAX_OUTPUT_TOKENS}",
    "stream": "must be true or false",
    "store": "must be true or false",
    "background": "must be true or false",
    "instructions": "must be a string",
    "top_logprobs": "must be an integer",
    "tools": "must be an array of tools",
    "metadata": "must be an object with at most 16 strings",
    "truncation": "must be 'auto' or 'disabled'",
    "input": "must be a non-empty string or array of items",
}
_ROLES = frozenset({"user", "assistant", "system", "developer"})
_ELSEWHERE = {
    "conversation": "is not taken: conversations lie at one provider; send all items as 'input'",
    "previous_response_id": "is not taken while 'responses.keep' is 0; send all items as 'input'",
}
_SEEN = frozenset({"input_image", "input_file", "computer_screenshot"})
_FUNCTIONS = frozenset({"function", "custom", "namespace"})
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What a response repeats of its request, and what it says of that where the request did not."""
_FIXED = {"background": False, "error": None, "previous_response_id": None, "service_tier": None, "store": False}


class _Seen:
    """What the model will read."""

    def __init__(self) -> None:
        self.content_bytes = self.images = 0

    def input(self, raw: bytes) -> None:
        """Count a text, or items."""
        if raw.startswith(b'"') and raw != b'""':
            self.content_bytes += text_bytes(raw)
            return
        if not raw.startswith(b"[") or not raw[1:-1].strip():
            refuse("input", _MUST_BE["input"])
        try:
            items = _items(raw)
        except msgspec.ValidationError as error:
            place = path_of(error)
            refuse(f"input{place}", "must be a string" if place.endswith((".type", ".role")) else "must be an object")
        except UnicodeDecodeError:
            refuse("input", "has an item whose 'type' or 'role' is far too long")
        for number, item in enumerate(items):
            self._item(item, f"input[{number}]")

    def _item(self, item: _Item, place: str) -> None:
        if item.type == "message":
            if item.role not in _ROLES:
                refuse(f"{place}.role", "must be 'user', 'assistant', 'system' or 'developer'")
            if item.content is UNSET:
                refuse(f"{place}.content", "must be a string or an array of parts")
        for name in ("content", "output", "arguments", "input"):
            raw = getattr(item, name)
            if raw is not UNSET:
                self._content(bytes(raw), f"{place}.{name}", must_be_parts=item.type == "message")

    def _content(self, raw: bytes, place: str, *, must_be_parts: bool) -> None:
        if raw.startswith(b'"'):
            self.content_bytes += text_bytes(raw)
            return
        try:
            parts = _parts(raw) if raw != b"null" else []
        except msgspec.ValidationError as error:
            if must_be_parts:
                refuse(f"{place}{path_of(error)}", "must be a string or an array of parts")
            parts = []
            self.content_bytes += raw_bytes(raw)
        except UnicodeDecodeError:
            refuse(place, "has a 'type' that is far too long")
        for part in parts:
            self.images += part.type in _SEEN
            for text in (part.text, part.refusal):
                if text is not UNSET and bytes(text).startswith(b'"'):
                    self.content_bytes += text_bytes(bytes(text))


class ResponsesEndpoint:
    """``POST /v1/responses``."""

    path = "/v1/responses"
    dialect = "responses"
    operation: Operation = "chat"
    summary = "Create a response (OpenAI's Responses)"
    has_tokens = True
    id_header = b"x-request-id"
    keep_alive = COMMENT
    hint_headers: tuple[str, ...] = ()
    schema: Mapping[str, Any] = {
        "input": {"description": "A string, or items.", "type": ["string", "array"], "items": {}},
        "instructions": {"type": "string"},
        "stream": {"type": "boolean", "default": False},
        "max_output_tokens": {"type": "integer", "minimum": 1},
    }
    is_answered = True
    """By a model, which can stream."""
    error = staticmethod(responses_error)
    allowance = staticmethod(openai_allowance)

    def decode(self, body: bytes) -> Envelope:
        """See ``Endpoint.decode``."""
        outline, members, text, read = open_body(body)
        check_spelling(members)
        request = read_typed(_decode_request, text, outline, _must_be)
        for name, why in _ELSEWHERE.items():
            if read.get(name, b"null") != b"null":
                refuse(name, why)
        if request.background:
            refuse("background", "must not be true: the answer is given to this request, and none is kept for later")
        seen = _Seen()
        if request.input != _NULL or "prompt" not in read:
            seen.input(bytes(request.input))
        tools = raw_bytes(read["tools"]) if request.tools else 0
        said = text_bytes(read["instructions"]) if request.instructions else 0
        return Envelope(
            endpoint=self,
            body=body,
            members=members,
            model=request.model,
            stream=bool(request.stream),
            include_usage=True,
            max_output_tokens=request.max_output_tokens,
            limit_is_bound=True,
            choices=1,
            streamable=self.is_answered,
            needs=_needs(request, has_images=bool(seen.images)),
            content_bytes=seen.content_bytes + tools + said,
            image_count=seen.images,
        )

    def conversation(self, envelope: Envelope, *, small: bool = False) -> Conversation:
        """See ``Translatable.conversation``."""
        return read_conversation(envelope.members, small=small)

    def writer(self, envelope: Envelope, created_s: int) -> AnswerWriter:
        """See ``Translatable.writer``."""
        members = envelope.members
        given = {name: members.get(name, b"null") for name in _ECHOED}
        asked = {  # on one line, as an event has it
            name: absent if given[name] == b"null" else Raw(given[name].translate(None, b"\r\n"))
            for name, absent in _ECHOED.items()
        }
        return Written(
            asked | _FIXED,
            created_s,
            stream=envelope.stream,
            tools=tools_offered(members),
            shows_summary=_asks_summary(given["reasoning"]),
        )


def _asks_summary(reasoning: bytes) -> bool:
    asked = _reasoning(reasoning)
    return asked is not None and (asked.summary or asked.generate_summary) is not None


_reasoning = msgspec.json.Decoder(_Reasoning | None).decode


def _needs(request: _Counted, *, has_images: bool) -> frozenset[Capability]:
    needs: set[Capability] = {"chat"}
    if any(tool.type in _FUNCTIONS for tool in request.tools or ()):
        needs.add("tools")
    if has_images:
        needs.add("vision")
    kind = request.text.format.type if request.text is not None and request.text.format is not None else "text"
    if kind != "text":
        needs.add("json_object" if kind == "json_object" else "json_schema")
    if request.top_logprobs:
        needs.add("logprobs")
    return frozenset(needs)


def _must_be(path: str) -> str:
    name = path.rsplit(".", 1)[-1]
    return _MUST_BE.get(path.removesuffix("[...]")) or (
        "must be a string" if name in {"type", "name", "effort"} else "must be an object"
    )


class CountEndpoint(ResponsesEndpoint):
    """``POST /v1/responses/input_tokens``, whose bodies are the same."""

    path = "/v1/responses/input_tokens"
    summary = "Count a response's input tokens (OpenAI's Responses)"
    count_is: Mapping[str, str] = {"object": "response.input_tokens"}
    is_answered = False


RESPONSES = ResponsesEndpoint()
INPUT_TOKENS = CountEndpoint()
