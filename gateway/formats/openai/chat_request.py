"""Write a conversation of another dialect as the body of a chat completion, or name what cannot be said there.

Decides what stands in for what OpenAI's dialect has no word for: an image that a tool returned follows as a message of
the user's, a tool's failure is said in its text, a document of plain text is text. What differs from target to target
(effort, and a limit that does not fit) is decided when the request is addressed. Texts go up byte for byte.

Sources: platform.openai.com/docs/api-reference/chat/create; docs.vllm.ai, "OpenAI-Compatible Server" (what goes on with
an answer that has begun).
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec
from msgspec import Raw

from gateway.formats.chat import (
    NO_ARGUMENTS,
    Audio,
    Conversation,
    Document,
    Image,
    Names,
    Part,
    Refused,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    UntranslatableError,
)
from gateway.formats.splice import members_of
from gateway.types import Call, Target, UpstreamRequest

Says = Literal["files", "instructions", "prefill", "reasoning", "tier", "tokenize", "user"]
"""What can be said in a provider's chat beyond what can in all: a PDF, a system message in mid-conversation, the
beginning of an answer, what was thought for an earlier one, ``service_tier``, vLLM's question for a prompt's tokens,
``user``."""
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9.+-]+")
_LONGEST_ID = 64
_TYPED = frozenset({"type", "$ref", "anyOf", "enum", "const"})
_VALUES = frozenset({"enum", "const", "default", "examples"})
_SCHEMAS_BY_NAME = frozenset({"properties", "$defs", "definitions"})
"""Members of a JSON schema: those that say what it takes, that hold no schema, and that hold some by names."""
_TOKENIZED = frozenset(("model", "messages", "tools", "add_generation_prompt", "continue_final_message"))
_LIMITS = ("max_completion_tokens", "max_tokens")
BETWEEN = rb"\n\n"
"""Two line ends, as JSON writes them."""

Changes = dict[str, bytes | None]


def write_chat(
    conversation: Conversation, *, model: str, limit: int | None, stream: bool, says: frozenset[Says]
) -> tuple[bytes, tuple[str, ...]]:
    """Write the body, and name what is left out beside what the conversation names. Raises UntranslatableError."""
    if conversation.rest:
        raise UntranslatableError(next(iter(conversation.rest)))
    left_out: list[str] = []
    system: list[Part] = list(conversation.system)
    turns = conversation.turns
    if "instructions" not in says:  # many chat templates take them at the beginning only
        system += [part for turn in turns if turn.role == "system" for part in turn.parts]
        turns = [turn for turn in turns if turn.role != "system"]
    turns = _merged(turns)
    messages = [_message("system", system)] if system else []
    for turn in turns:
        messages += _said(turn, says)
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": limit,
        "stream": stream or None,
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "top_k": conversation.top_k,
        "stop": conversation.stop or None,
        "response_format": response_format(conversation),
        **_tools(conversation),
    }
    if not messages:
        raise UntranslatableError(conversation.names.turns, "it holds no message with content")
    if conversation.continues and turns and turns[-1].role == "assistant":
        if "prefill" not in says:
            why = "only an own engine goes on with an answer that has begun"
            raise UntranslatableError(f"{conversation.names.turns}[{len(conversation.turns) - 1}]", why)
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if conversation.standard_service:
        _say_if("tier" in says, body, {"service_tier": "default"}, "service_tier", left_out)
    if conversation.user:
        _say_if("user" in says, body, {"user": short_id(conversation.user)}, conversation.names.user, left_out)
    written = msgspec.json.encode({name: value for name, value in body.items() if value is not None})
    return written, tuple(left_out)


def write_tokenize(chat: bytes) -> bytes:
    """Write vLLM's question for a chat's tokens (``/tokenize``)."""
    return msgspec.json.encode({name: Raw(raw) for name, raw in members_of(chat).items() if name in _TOKENIZED})


class Translated:
    """A translated call: what writes the request to one target (``formats.base.Prepared``)."""

    def __init__(
        self,
        request: Callable[[Call, Target, str, Changes], UpstreamRequest],
        call: Call,
        conversation: Conversation,
        left_out: Iterable[str],
    ) -> None:
        self._request = request
        self._call = call
        self._effort = conversation.effort
        self._names = conversation.names
        self._always = tuple(left_out)
        self.left_out = list(self._always)
        """What was not said, or lowered, to the target that was asked last."""

    def __call__(self, target: Target, attempt_id: str) -> UpstreamRequest:
        """Write the request: with the effort to what is known to reason, and with a limit that fits."""
        changes: Changes = {}
        self.left_out[:] = self._always
        effort = effort_for(target, self._effort, self._names, self.left_out)
        if effort is not None:
            changes["reasoning_effort"] = msgspec.json.encode(effort)
        limit = fitting(self._call, target)
        if limit != self._call.envelope.max_output_tokens:
            changes["max_tokens"] = None if limit is None else b"%d" % limit
            self.left_out.append(self._names.limit)
        return self._request(self._call, target, attempt_id, changes)


class Limited:
    """A chat that passes with its output limit lowered to what a target has (``formats.base.Prepared``)."""

    def __init__(self, request: Callable[[Call, Target, str, Changes], UpstreamRequest], call: Call) -> None:
        self._request = request
        self._call = call
        self.left_out: list[str] = []
        """What was lowered for the target that was asked last."""

    def __call__(self, target: Target, attempt_id: str) -> UpstreamRequest:
        """Write the request."""
        envelope = self._call.envelope
        limit = fitting(self._call, target)
        self.left_out.clear()
        if limit == envelope.max_output_tokens:
            return self._request(self._call, target, attempt_id, {})
        self.left_out += [name for name in _LIMITS if envelope.members.get(name, b"null") != b"null"]
        changes: Changes = dict.fromkeys(self.left_out, None if limit is None else b"%d" % limit)
        return self._request(self._call, target, attempt_id, changes)


def effort_for(target: Target, asked: str | None, names: Names, left_out: list[str]) -> str | None:
    """Return the effort of reasoning for a target: none where it is not known to reason, else a word that is common.

    What of it is not said so is added to what is left out.
    """
    if asked is None:
        return None
    effort, is_known = names.efforts.get(asked, asked), "reasoning" in (target.capabilities or ())
    if effort != asked or not is_known:
        left_out.append(names.no_effort if asked == "none" else names.effort)
    return effort if is_known else None


def fitting(call: Call, target: Target) -> int | None:
    """Return the output limit for a target; None: what is left of its context, which it knows better than we do.

    A prompt's estimate is right within about a third.
    """
    limit, context = call.envelope.max_output_tokens, target.context_length
    if limit is None:
        return None
    if target.max_output_tokens is not None:
        limit = min(limit, target.max_output_tokens)
    if context is None:
        return limit
    estimate = call.input_tokens_estimate
    room = context - estimate - estimate // 3
    if room >= limit:
        return limit
    return room if room > 0 and limit + estimate // 2 <= context else None


def response_format(conversation: Conversation) -> dict[str, Any] | None:
    """Write what the answer must look like: strictly, where OpenAI would take the schema so."""
    schema = conversation.schema
    if schema is None:
        return {"type": "json_object"} if conversation.any_json else None
    wanted: dict[str, Any] = {"name": conversation.schema_name, "schema": schema}
    is_strict = conversation.strict_schema
    if is_strict is None:
        read = msgspec.json.decode(msgspec.json.encode(schema))
        is_strict = read.get("type") == "object" and _is_closed(read)
    if is_strict:
        wanted["strict"] = True
    return {"type": "json_schema", "json_schema": wanted}


def _is_closed(schema: Any) -> bool:
    """Whether all has a type, and objects list what they may and must have: OpenAI's strict mode takes no other schema.

    Source: platform.openai.com/docs/guides/structured-outputs ("Supported schemas").
    """
    if isinstance(schema, list):
        return all(map(_is_closed, schema))
    if not isinstance(schema, dict):
        return True
    if _TYPED.isdisjoint(schema):
        return False
    inner = [each for name, each in schema.items() if name not in _SCHEMAS_BY_NAME and name not in _VALUES]
    for name in _SCHEMAS_BY_NAME:
        inner += _dict(schema.get(name)).values()
    kind = schema.get("type")
    if "properties" in schema or kind == "object" or (isinstance(kind, list) and "object" in kind):
        required = schema.get("required")
        names = {each for each in required if isinstance(each, str)} if isinstance(required, list) else set()
        if schema.get("additionalProperties") is not False or not names >= _dict(schema.get("properties")).keys():
            return False
    return all(map(_is_closed, inner))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _say_if(can: bool, body: dict[str, Any], members: dict[str, Any], name: str, left_out: list[str]) -> None:  # noqa: FBT001 - said by what is passed
    if can:
        body |= members
    else:
        left_out.append(name)


def short_id(given: str) -> str:
    """Return an id as OpenAI takes it, of a user or a call: of a longer one its digest. Same in, same out."""
    return given if len(given) <= _LONGEST_ID else hashlib.sha256(given.encode()).hexdigest()


def _merged(turns: list[Turn]) -> list[Turn]:
    """Make one turn of neighbours with one role: many chat templates want them to alternate."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            merged[-1] = Turn(turn.role, [*merged[-1].parts, *turn.parts])
        elif turn.parts:
            merged.append(turn)
    return merged


def _said(turn: Turn, says: frozenset[Says]) -> list[dict[str, Any]]:
    if turn.role == "assistant":
        return [_answer(turn.parts)]
    results = [part for part in turn.parts if isinstance(part, ToolResult)]
    messages = [_result(each) for each in results]
    shown = [part for each in results for part in each.parts if not isinstance(part, Text)]
    rest = shown + [part for part in turn.parts if not isinstance(part, ToolResult)]
    return messages + ([_message(turn.role, rest, says)] if rest else [])


def _message(role: str, parts: Iterable[Part], says: frozenset[Says] = frozenset()) -> dict[str, Any]:
    """Write a message: one text where there is nothing else, for not every chat template takes a list."""
    parts = list(parts)
    texts = [part.text for part in parts if isinstance(part, Text)]
    content = joined(texts, BETWEEN) if len(texts) == len(parts) else [_part(part, says) for part in parts]
    return {"role": role, "content": content}


def _answer(parts: list[Part]) -> dict[str, Any]:
    texts = [part.text for part in parts if isinstance(part, Text | Refused)]
    message: dict[str, Any] = {"role": "assistant"}
    if thoughts := [part.text for part in parts if isinstance(part, Thinking)]:
        message["reasoning"] = joined(thoughts, BETWEEN)
    calls = [
        {
            "id": part.call_id,
            "type": "function",
            "function": {"name": part.name, "arguments": bytes(part.arguments).decode()},
        }
        for part in parts
        if isinstance(part, ToolCall)
    ]
    message["content"] = None if calls and not texts else joined(texts, b"")
    return message | ({"tool_calls": calls} if calls else {})


def _result(result: ToolResult) -> dict[str, Any]:
    texts = [part.text for part in result.parts if isinstance(part, Text)]
    if result.failed:
        texts.insert(0, Raw(b'"Error:"'))
    return {
        "role": "tool",
        "tool_call_id": result.call_id,
        "content": joined(texts, b" " if result.failed and len(texts) == 2 else BETWEEN),
    }


def _part(part: Part, says: frozenset[Says]) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": url_of(part)}}
    if isinstance(part, Audio):
        return {"type": "input_audio", "input_audio": {"data": part.source, "format": part.format}}
    if isinstance(part, Document) and part.media_type == "application/pdf" and "files" in says:
        return {"type": "file", "file": {"filename": "document.pdf", "file_data": url_of(part)}}
    raise UntranslatableError(getattr(part, "place", "messages"), "it reads no such documents")


def url_of(part: Image | Document) -> Raw:
    """Return the address of what is shown, or all of it as a data URL. Raises UntranslatableError."""
    if part.media_type is None:
        return part.source
    if not _MEDIA_TYPE.fullmatch(part.media_type):
        raise UntranslatableError(f"{part.place}.media_type", "it is no media type")
    return Raw(b'"data:%b;base64,%b' % (part.media_type.encode(), bytes(part.source)[1:]))


def joined(texts: list[Raw], between: bytes) -> Raw:
    """Join JSON strings without decoding them."""
    return Raw(b'"%b"' % between.join(bytes(text)[1:-1] for text in texts))


def _tools(conversation: Conversation) -> dict[str, Any]:
    if not conversation.tools:
        return {}
    choice: Any = conversation.tool_choice
    if conversation.named_tool is not None:
        choice = {"type": "function", "function": {"name": conversation.named_tool}}
    tools = [_tool(tool) for tool in conversation.tools]
    parallel = None if conversation.parallel_tools or choice == "none" else False
    return {"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = tool.schema or NO_ARGUMENTS
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}
