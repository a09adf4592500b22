"""Write a conversation as the body of Anthropic's ``POST /v1/messages``, or name what cannot be said there.

Decides which defaults need no word, and which members make the request impossible. Texts, tool arguments and schemas go
up byte for byte. What a single model refuses is left to the provider.

Sources: platform.claude.com/docs: api/messages, build-with-claude/{vision,pdf-support,prompt-caching,effort,
structured-outputs,extended-thinking}, agents-and-tools/tool-use, api/openai-sdk; types of the ``anthropic`` SDK 2.12.
"""

import re
from typing import Any

import msgspec

from gateway.formats.anthropic.written import tool_id
from gateway.formats.chat import (
    NO_ARGUMENTS,
    Audio,
    Conversation,
    Document,
    Image,
    Part,
    Refused,
    Text,
    Thinking,
    Tool,
    ToolCall,
    UntranslatableError,
)

DEFAULT_MAX_TOKENS = 4096
"""Anthropic requires an output limit; used when neither the caller nor the target's configuration gives one."""

_Block = dict[str, Any]
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_URL = re.compile(rb'"https?:', re.IGNORECASE)


def write_request(conversation: Conversation) -> bytes:
    """Write the body from behind what differs from target to target: ``"messages":[...]}``.

    Later instructions move to the front: models before Claude Opus 4.8 refuse them in their place, and others take them
    in some places only (build-with-claude/mid-conversation-system-messages). Raises UntranslatableError.
    """
    body: dict[str, Any] = {"messages": _messages(conversation)}
    later = [part for turn in conversation.turns if turn.role == "system" for part in turn.parts]
    if system := [*conversation.system, *later]:
        body["system"] = [_block(part) for part in system]
    return msgspec.json.encode(body | write_options(conversation))[1:]


def write_options(conversation: Conversation) -> dict[str, Any]:
    """Write all but the messages and ``write_config``'s. Raises UntranslatableError.

    What says no more than the default is left out: newer models refuse these members altogether.
    """
    if conversation.rest:
        raise UntranslatableError(next(iter(conversation.rest)))
    if conversation.any_json:
        raise UntranslatableError(f"{conversation.names.format}.type", "it wants a JSON schema")
    temperature, effort = conversation.temperature, conversation.effort
    if temperature is not None and not 0 <= temperature <= 1:
        raise UntranslatableError("temperature", "it must be between 0 and 1")
    if effort is not None and effort not in _EFFORTS:
        raise UntranslatableError(conversation.names.effort, f"it must be one of {', '.join(sorted(_EFFORTS))}")
    body: dict[str, Any] = {
        "temperature": None if temperature == 1 else temperature,
        "top_p": None if conversation.top_p == 1 else conversation.top_p,
        "top_k": conversation.top_k,
        "stop_sequences": conversation.stop or None,
        "tools": [_tool(tool) for tool in conversation.tools] or None,
        "tool_choice": _tool_choice(conversation) or None,
        "metadata": {"user_id": conversation.user} if conversation.user else None,
        # Anthropic's default may draw on bought priority.
        "service_tier": "standard_only" if conversation.standard_service else None,
    }
    return _given(body)


def write_config(conversation: Conversation, effort: str | None) -> bytes:
    """Write how much is thought and what form the answer has: members up to behind a comma, or nothing."""
    if effort is None and conversation.schema is None:
        return b""
    config: dict[str, Any] = {}
    if effort not in {None, "none"}:
        config["effort"] = "low" if effort == "minimal" else effort
    if conversation.schema is not None:
        config["format"] = {"type": "json_schema", "schema": conversation.schema}
    thinking = {"type": "disabled"} if effort == "none" else None
    return msgspec.json.encode(_given({"thinking": thinking, "output_config": config or None}))[1:-1] + b","


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _messages(conversation: Conversation) -> list[_Block]:
    """Write alternating turns: of neighbours with one role a single one is made."""
    messages: list[_Block] = []
    for turn in conversation.turns:
        blocks = [] if turn.role == "system" else [_block(part) for part in turn.parts]
        if blocks and messages and messages[-1]["role"] == turn.role:
            messages[-1]["content"] += blocks
        elif blocks:
            messages.append({"role": turn.role, "content": blocks})
    if not messages:
        raise UntranslatableError(conversation.names.turns, "it holds no user or assistant message with content")
    return messages


def _block(part: Part) -> _Block:
    block: _Block
    if isinstance(part, Text | Refused):
        block = {"type": "text", "text": part.text}
    elif isinstance(part, Image):
        block = {"type": "image", "source": _source(part, part.media_type in _IMAGES)}
    elif isinstance(part, Document):
        block = {"type": "document", "source": _source(part, part.media_type == "application/pdf")}
    elif isinstance(part, ToolCall):
        block = {"type": "tool_use", "id": tool_id(part.call_id), "name": part.name, "input": part.arguments}
    elif isinstance(part, Audio):
        raise UntranslatableError(part.place, "it does not listen")
    elif isinstance(part, Thinking):
        raise UntranslatableError("thinking", "only what Anthropic has signed is taken back")
    else:
        block = {"type": "tool_result", "tool_use_id": tool_id(part.call_id)}
        if part.parts:
            block["content"] = [_block(each) for each in part.parts]
        if part.failed:
            block["is_error"] = True
    return _cached(block, getattr(part, "cache_s", None))


def _cached(block: _Block, cache_s: int | None) -> _Block:
    if cache_s is not None:
        block["cache_control"] = {"type": "ephemeral", "ttl": "1h"} if cache_s > 300 else {"type": "ephemeral"}
    return block


def _source(part: Image | Document, is_known: bool) -> _Block:  # noqa: FBT001 - said by what is passed
    if part.media_type is None and _URL.match(bytes(part.source)):
        return {"type": "url", "url": part.source}
    if not is_known:
        why = "it must be an http(s) URL, or a base64 data URL of a JPEG, PNG, GIF or WebP image, or of a PDF document"
        raise UntranslatableError(part.place, why)
    return {"type": "base64", "media_type": part.media_type, "data": part.source}


def _tool_choice(conversation: Conversation) -> _Block:
    asked, has_tools = conversation.tool_choice, bool(conversation.tools)
    choice: _Block = {}
    if conversation.named_tool is not None:
        choice = {"type": "tool", "name": conversation.named_tool}
    elif asked == "required":
        choice = {"type": "any"}
    elif asked is not None and has_tools:
        choice = {"type": asked}
    if not conversation.parallel_tools and has_tools and asked != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    return choice


def _tool(tool: Tool) -> _Block:
    written: _Block = {"name": tool.name}
    if tool.description:
        written["description"] = tool.description
    written["input_schema"] = tool.schema or NO_ARGUMENTS
    if tool.strict:
        written["strict"] = True
    return _cached(written, tool.cache_s)
