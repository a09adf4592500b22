"""Anthropic's Messages, as a caller and an upstream speak them: platform.claude.com/docs/en/api/messages."""

import json
from typing import Any

from tests.contract.asked import (
    CACHED,
    Asked,
    Call,
    Image,
    Part,
    Pdf,
    Raw,
    Result,
    Text,
    Tool,
    Turn,
    arguments_of,
    events_of,
    given,
)
from tests.ground.said import Called, Ended, Said


def write(asked: Asked) -> dict[str, Any]:
    """Write a request of Anthropic's Messages."""
    kind = {"": "auto", "none": "none", "required": "any"}.get(asked.choice, "tool")
    choice = {"type": kind, **given(name=asked.choice if kind == "tool" else None)}
    choice |= {} if asked.parallel else {"disable_parallel_tool_use": True}
    is_off = asked.effort == "none"
    return {
        "messages": [{"role": turn.role, "content": [_block(part) for part in turn.parts]} for turn in asked.turns],
        "max_tokens": asked.limit or 4096,
        **given(
            system=asked.system,
            tools=[_messages_tool(tool) for tool in asked.tools],
            tool_choice=choice if choice != {"type": "auto"} else None,
            output_config=given(
                format=asked.schema and {"type": "json_schema", "schema": asked.schema},
                effort=None if is_off else asked.effort,
            ),
            thinking={"type": "disabled"} if is_off else None,
            stop_sequences=list(asked.stop),
            metadata=asked.user and {"user_id": asked.user},
            service_tier="standard_only" if asked.standard else None,
            temperature=asked.temperature,
            top_p=asked.top_p,
        ),
    }


def _messages_tool(tool: Tool) -> dict[str, Any]:
    written = {"name": tool.name, **given(description=tool.description), "input_schema": tool.schema}
    return written | ({"strict": True} if tool.strict else {})


def _block(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text} | ({"cache_control": CACHED} if part.cached else {})
    if isinstance(part, Image | Pdf):
        media_type = "application/pdf" if isinstance(part, Pdf) else part.media_type
        data = part.data if isinstance(part, Pdf) else part.source
        source = {"type": "base64", "media_type": media_type, "data": data}
        return {
            "type": "document" if isinstance(part, Pdf) else "image",
            "source": source if media_type else {"type": "url", "url": data},
        }
    if isinstance(part, Call):
        return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": part.arguments}
    if isinstance(part, Result):
        failed = {"is_error": True} if part.failed else {}
        content = {"content": [{"type": "text", "text": part.text}]} if part.text else {}
        return {"type": "tool_result", "tool_use_id": part.call_id, **content, **failed}
    return part.part


def read(body: dict[str, Any]) -> Asked:
    """Read what a server of Messages is asked."""
    choice, config = body.get("tool_choice", {}), body.get("output_config", {})
    system = body.get("system", "")
    kind = choice.get("type", "auto")
    return Asked(
        turns=tuple(Turn(each["role"], tuple(_read_blocks(each["content"]))) for each in body["messages"]),
        system=system if isinstance(system, str) else "\n\n".join(each["text"] for each in system),
        tools=tuple(
            Tool(each["name"], each["input_schema"], each.get("description"), bool(each.get("strict")))
            for each in body.get("tools", ())
        ),
        choice={"auto": "", "none": "none", "any": "required"}.get(kind) or choice.get("name", ""),
        parallel=not choice.get("disable_parallel_tool_use", False),
        schema=config["format"]["schema"] if "format" in config else None,
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        stop=tuple(body.get("stop_sequences", ())),
        limit=body["max_tokens"],
        effort="none" if body.get("thinking") == {"type": "disabled"} else config.get("effort"),
        user=body.get("metadata", {}).get("user_id"),
        standard=body.get("service_tier") == "standard_only",
        goes_on=body["messages"][-1]["role"] == "assistant",
    )


def _read_blocks(content: Any) -> list[Part]:
    parts = list[Part]()
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        source = block.get("source", {})
        if block["type"] == "text":
            parts.append(Text(block["text"], "cache_control" in block))
        elif block["type"] == "image":
            parts.append(Image(source["data"], source["media_type"]) if "data" in source else Image(source["url"]))
        elif block["type"] == "document" and source["type"] == "base64":
            parts.append(Pdf(source["data"]))
        elif block["type"] == "tool_use":
            parts.append(Call(block["id"], block["name"], block["input"]))
        elif block["type"] == "tool_result" and len(block.get("content", ())) < 2:
            texts = [each["text"] for each in block.get("content", ())]
            parts.append(Result(block["tool_use_id"], "".join(texts), block.get("is_error", False)))
        else:
            parts.append(Raw(block))
    return parts


def hear(data: bytes, *, stream: bool) -> tuple[Said, bool, Any]:
    """Read one of Anthropic's messages, in the same way."""
    if not stream:
        message = json.loads(data)
        return _message_said(message, message["content"]), True, None
    blocks: list[dict[str, Any]] = []
    message, error = {"usage": {}}, None
    events = events_of(data)
    for event in events:
        if event["type"] == "message_start":
            message = event["message"]
        elif event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"] | {"json": ""})
        elif event["type"] == "content_block_delta":
            delta, block = event["delta"], blocks[event["index"]]
            name = {"input_json_delta": "json"}.get(delta["type"], delta["type"].removesuffix("_delta"))
            block[name] += delta["partial_json"] if name == "json" else delta[name]
        elif event["type"] == "message_delta":
            message |= event["delta"]
            message["usage"] |= event["usage"]
        error = event.get("error", error)
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = arguments_of(block["json"])
    done = bool(events) and events[-1]["type"] == "message_stop"
    return _message_said(message, blocks), done, error


def _message_said(message: dict[str, Any], blocks: list[dict[str, Any]]) -> Said:
    def together(kind: str) -> str:
        return "".join(block[kind] for block in blocks if block["type"] == kind)

    reasons: dict[str, Ended] = {
        "max_tokens": "length",
        "tool_use": "tools",
        "refusal": "refused",
        "stop_sequence": "stop_sequence",
    }
    usage = message["usage"]
    cached = usage.get("cache_read_input_tokens", 0)
    return Said(
        text=together("text"),
        thinking=together("thinking"),
        calls=tuple(
            Called(block["name"], block["input"], block["id"]) for block in blocks if block["type"] == "tool_use"
        ),
        ended=reasons.get(message.get("stop_reason") or "", "stop"),
        stop_sequence=message.get("stop_sequence"),
        input_tokens=usage.get("input_tokens", 0) + cached,
        cached_tokens=cached,
        output_tokens=usage.get("output_tokens", 0),
    )
