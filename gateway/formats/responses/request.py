"""Write a conversation as the body of ``POST /v1/responses``, or name what cannot be said there.

Decides which items stand for what was said: instructions in front, each message, call and result an item of its own,
texts byte for byte. Nothing is to be kept by the provider. What differs from target to target (model, effort, limit) is
decided when the request is addressed.

Sources: platform.openai.com/docs/api-reference/responses/create and guides/{function-calling,images-vision,pdf-files,
structured-outputs,migrate-to-responses}; types of the ``openai`` SDK 3.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from gateway.formats.chat import (
    NO_ARGUMENTS,
    Audio,
    Conversation,
    Document,
    Image,
    Part,
    Refused,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    UntranslatableError,
)
from gateway.formats.openai.chat_request import BETWEEN, joined, response_format, short_id, url_of

_Item = dict[str, Any]


def write_request(conversation: Conversation) -> bytes:
    """Write the body from behind what differs from target to target: ``"input":[...]}``. Raises UntranslatableError."""
    items: list[_Item] = []
    for turn in conversation.turns:
        items += _said(turn)
    instructions = joined([part.text for part in conversation.system], BETWEEN) if conversation.system else None
    if not items and instructions is not None:
        items, instructions = [{"role": "system", "content": instructions}], None
    if not items:
        raise UntranslatableError(conversation.names.turns, "it holds no message with content")
    if conversation.continues and items[-1].get("role") == "assistant":
        raise UntranslatableError(conversation.names.turns, "no answer that has begun is gone on with")
    body = {"input": items, "instructions": instructions, **write_options(conversation)}
    if conversation.tools:
        body["tools"] = [_tool(tool) for tool in conversation.tools]
    else:  # nothing is to be said of how they are used
        body["tool_choice"] = body["parallel_tool_calls"] = None
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})[1:]


def write_options(conversation: Conversation) -> dict[str, Any]:
    """Write all but the input and the tools. Raises UntranslatableError."""
    text, rest = _text(conversation)
    tier = rest.pop("service_tier", b'"default"' if conversation.standard_service else None)
    if rest:
        raise UntranslatableError(next(iter(rest)))
    for name, given in (("top_k", conversation.top_k), (conversation.names.stop, conversation.stop)):
        if given:
            raise UntranslatableError(name)
    choice: Any = conversation.tool_choice
    if conversation.named_tool is not None:
        choice = {"type": "function", "name": conversation.named_tool}
    return {
        "store": False,
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "text": text or None,
        "tool_choice": choice,
        "parallel_tool_calls": None if conversation.parallel_tools or choice == "none" else False,
        "safety_identifier": short_id(conversation.user) if conversation.user else None,
        "service_tier": None if tier is None else Raw(tier),
    }


def _text(conversation: Conversation) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what the text is to be like, and which other members there are that ask for something."""
    rest = dict(conversation.rest)
    text: dict[str, Any] = {}
    wanted = response_format(conversation)
    if wanted is not None:
        text["format"] = wanted
    if wanted is not None and "json_schema" in wanted:
        text["format"] = {"type": "json_schema", "strict": False, **wanted["json_schema"]}
    if "verbosity" in rest:
        text["verbosity"] = Raw(rest.pop("verbosity"))
    return text, rest


def _said(turn: Turn) -> list[_Item]:
    """Write a turn: results stand before what else the user said, and calls behind the text of an answer."""
    if turn.role == "assistant":
        return _answer(turn.parts)
    items: list[_Item] = [_result(part) for part in turn.parts if isinstance(part, ToolResult)]
    parts = [part for part in turn.parts if not isinstance(part, ToolResult)]
    return items + ([{"role": turn.role, "content": _content(parts)}] if parts else [])


def _answer(parts: list[Part]) -> list[_Item]:
    items: list[_Item] = []
    texts = [part.text for part in parts if isinstance(part, Text | Refused)]
    if texts:
        items.append({"role": "assistant", "content": joined(texts, b"")})
    for part in parts:
        if isinstance(part, ToolCall):
            arguments = bytes(part.arguments).decode()
            called = {"call_id": short_id(part.call_id), "name": part.name, "arguments": arguments}
            items.append({"type": "function_call", **called})
    return items


def _result(result: ToolResult) -> _Item:
    parts = list(result.parts)
    if result.failed:
        parts.insert(0, Text(Raw(b'"Error:"')))
    output = _content(parts) if parts else ""
    return {"type": "function_call_output", "call_id": short_id(result.call_id), "output": output}


def _content(parts: Sequence[Part]) -> Any:
    """Write what was said or returned: one text where there is nothing else."""
    texts = [part.text for part in parts if isinstance(part, Text)]
    return joined(texts, BETWEEN) if len(texts) == len(parts) else [_part(part) for part in parts]


def _part(part: Part) -> _Item:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "input_image", "image_url": url_of(part), "detail": "auto"}
    if isinstance(part, Document) and part.media_type is None:
        return {"type": "input_file", "file_url": part.source}
    if isinstance(part, Document):
        return {"type": "input_file", "filename": "document.pdf", "file_data": url_of(part)}
    if isinstance(part, Audio):
        raise UntranslatableError(part.place, "it does not listen")
    raise UntranslatableError("messages", "it is no part of what a user says")


def _tool(tool: Tool) -> _Item:
    """Write a tool. To be strict is the default there, and not with us."""
    described = {"description": tool.description} if tool.description else {}
    return {
        "type": "function",
        "name": tool.name,
        **described,
        "parameters": tool.schema or NO_ARGUMENTS,
        "strict": tool.strict,
    }
