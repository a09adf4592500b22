"""What a caller hears, read as its SDK does: an answer in each dialect, streamed or whole, as the same value."""

import json
from collections.abc import Callable
from typing import Any

from tests.ground.said import Called, Ended, Said

_Usage = tuple[int, int, int]


def _events(data: bytes) -> list[Any]:
    """Return the data of server-sent events; a named one has the name as its type."""
    found: list[Any] = []
    text = data.decode()
    assert text == "" or text.endswith("\n\n"), "a stream consists of whole events"
    for event in text.split("\n\n")[:-1]:
        name, value = "", ""
        for line in event.split("\n"):
            name = line.removeprefix("event: ") if line.startswith("event: ") else name
            value = line.removeprefix("data: ") if line.startswith("data: ") else value
        if value:
            found.append(value if value == "[DONE]" else json.loads(value))
            assert not name or found[-1]["type"] == name
    return found


def hear_chat(data: bytes, *, stream: bool) -> tuple[Said, bool, Any]:
    """Read a chat completion: what was said, whether its end was heard, and the error behind it."""
    if not stream:
        body = json.loads(data)
        choice = body["choices"][0]
        return _chat_said(choice["message"], choice["finish_reason"], body["usage"]), True, None
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "refusal": "", "tool_calls": {}}
    reason, usage, error = "", None, None
    events = _events(data)
    for event in events:
        if event == "[DONE]":
            continue
        error, usage = event.get("error", error), event.get("usage") or usage
        for choice in event.get("choices", ()):
            delta = choice["delta"]
            for name in ("content", "refusal"):
                message[name] += delta.get(name) or ""
            message["reasoning_content"] += delta.get("reasoning_content") or delta.get("reasoning") or ""
            for call in delta.get("tool_calls", ()):
                known = message["tool_calls"].setdefault(call["index"], {"function": {"arguments": ""}})
                known["id"] = call.get("id") or known["id"]
                known["function"]["name"] = call["function"].get("name") or known["function"]["name"]
                known["function"]["arguments"] += call["function"].get("arguments") or ""
            reason = choice["finish_reason"] or reason
    message["tool_calls"] = list(message["tool_calls"].values())
    return _chat_said(message, reason, usage), events[-1:] == ["[DONE]"], error


def _chat_said(message: dict[str, Any], reason: str, usage: dict[str, Any] | None) -> Said:
    calls = [
        (each["function"]["name"], each["function"]["arguments"], each["id"])
        for each in message.get("tool_calls") or ()
    ]
    reasons: dict[str, Ended] = {"length": "length", "tool_calls": "tools", "content_filter": "refused"}
    counted = usage or {}
    return Said(
        text=(message.get("content") or "") + (message.get("refusal") or ""),
        thinking=message.get("reasoning_content") or message.get("reasoning") or "",
        calls=_calls(calls),
        ended=reasons.get(reason, "stop"),
        input_tokens=counted.get("prompt_tokens", 0),
        cached_tokens=(counted.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        output_tokens=counted.get("completion_tokens", 0),
    )


def _calls(calls: list[tuple[str, str, str]]) -> tuple[Called, ...]:
    return tuple(Called(name, _arguments(written), call_id) for name, written, call_id in calls)


def _arguments(written: str) -> dict[str, Any]:
    try:
        arguments: dict[str, Any] = json.loads(written or "{}")
    except ValueError:
        return {"cut": written}
    return arguments


def hear_messages(data: bytes, *, stream: bool) -> tuple[Said, bool, Any]:
    """Read one of Anthropic's messages, in the same way."""
    if not stream:
        message = json.loads(data)
        return _message_said(message, message["content"]), True, None
    blocks: list[dict[str, Any]] = []
    message, error = {"usage": {}}, None
    events = _events(data)
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
            block["input"] = _arguments(block["json"])
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


HEARERS: dict[str, Callable[..., tuple[Said, bool, Any]]] = {"chat": hear_chat, "messages": hear_messages}
"""By the caller's dialect."""
