"""Chat completions, as a caller and an upstream speak them: platform.openai.com/docs/api-reference/chat."""

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
    calls_of,
    events_of,
    given,
)
from tests.ground.said import Ended, Said

_PDF = "data:application/pdf;base64,"


def write(asked: Asked) -> dict[str, Any]:
    """Write a chat completion request."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": asked.system}] if asked.system else []
    for turn in asked.turns:
        results = [part for part in turn.parts if isinstance(part, Result)]
        messages += [{"role": "tool", "tool_call_id": each.call_id, "content": each.text} for each in results]
        calls = [_chat_call(part) for part in turn.parts if isinstance(part, Call)]
        content = [_chat_part(part) for part in turn.parts if not isinstance(part, Result | Call)]
        if content or calls:
            plain = content[0]["text"] if len(content) == 1 and content[0].keys() == {"type", "text"} else content
            messages.append({"role": turn.role, "content": plain or None, **given(tool_calls=calls)})
    choice: Any = asked.choice
    if choice not in {"", "none", "required"}:
        choice = {"type": "function", "function": {"name": choice}}
    schema = asked.schema and {"name": "answer", "strict": True, "schema": asked.schema}
    return {
        "messages": messages,
        **given(
            tools=[_chat_tool(tool) for tool in asked.tools],
            tool_choice=choice,
            parallel_tool_calls=None if asked.parallel else False,
            response_format=schema and {"type": "json_schema", "json_schema": schema},
            stop=list(asked.stop),
            max_completion_tokens=asked.limit,
            reasoning_effort=asked.effort,
            user=asked.user,
            service_tier="default" if asked.standard else None,
            temperature=asked.temperature,
            top_p=asked.top_p,
        ),
    }


def _chat_tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, **given(description=tool.description), "parameters": tool.schema}
    return {"type": "function", "function": function | ({"strict": True} if tool.strict else {})}


def _chat_call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": call.call_id, "type": "function", "function": function}


def _chat_part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text} | ({"cache_control": CACHED} if part.cached else {})
    if isinstance(part, Image):
        url = part.source if part.media_type is None else f"data:{part.media_type};base64,{part.source}"
        return {"type": "image_url", "image_url": {"url": url}}
    if isinstance(part, Pdf):
        data = f"{_PDF}{part.data}"
        return {"type": "file", "file": {"filename": "document.pdf", "file_data": data}}
    assert isinstance(part, Raw)
    return part.part


__PDF = "data:application/pdf;base64,"


def read(body: dict[str, Any]) -> Asked:
    """Read what a server of chat completions is asked."""
    turns: list[Turn] = []
    for message in body["messages"]:
        parts = tuple(_read_chat_parts(message))
        if turns and turns[-1].role == ("user" if message["role"] == "tool" else message["role"]):
            turns[-1] = turns[-1]._replace(parts=turns[-1].parts + parts)
        else:
            turns.append(Turn("user" if message["role"] == "tool" else message["role"], parts))
    system = ""
    if turns[0].role == "system":
        system = "\n\n".join(part.text for part in turns.pop(0).parts if isinstance(part, Text))
    choice, wanted = body.get("tool_choice") or "", body.get("response_format") or {}
    tools = [each["function"] for each in body.get("tools", ())]
    return Asked(
        turns=tuple(turns),
        system=system,
        tools=tuple(
            Tool(each["name"], each["parameters"], each.get("description"), bool(each.get("strict"))) for each in tools
        ),
        choice=choice if isinstance(choice, str) else choice["function"]["name"],
        parallel=body.get("parallel_tool_calls", True),
        schema=wanted["json_schema"]["schema"] if wanted else None,
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        stop=tuple(body.get("stop", ())),
        limit=body.get("max_completion_tokens") or body.get("max_tokens"),
        effort=body.get("reasoning_effort"),
        user=body.get("user"),
        standard=body.get("service_tier") == "default",
        goes_on=body.get("continue_final_message", False),
    )


def _read_chat_parts(message: dict[str, Any]) -> list[Part]:
    content, parts = message.get("content"), list[Part]()
    if message["role"] == "tool":
        failed = content.startswith("Error: ")
        return [Result(message["tool_call_id"], content.removeprefix("Error: "), failed)]
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
        if part["type"] == "text":
            parts.append(Text(part["text"], "cache_control" in part))
        elif part["type"] == "image_url":
            head, found, data = part["image_url"]["url"].partition(";base64,")
            parts.append(Image(data, head.removeprefix("data:")) if found else Image(head))
        elif part["type"] == "file":
            parts.append(Pdf(part["file"]["file_data"].removeprefix(_PDF)))
        else:
            parts.append(Raw(part))
    for call in message.get("tool_calls", ()):
        parts.append(Call(call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])))
    return parts


def hear(data: bytes, *, stream: bool) -> tuple[Said, bool, Any]:
    """Read a chat completion: what was said, whether its end was heard, and the error behind it."""
    if not stream:
        body = json.loads(data)
        choice = body["choices"][0]
        return _chat_said(choice["message"], choice["finish_reason"], body["usage"]), True, None
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "refusal": "", "tool_calls": {}}
    reason, usage, error = "", None, None
    events = events_of(data)
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
        calls=calls_of(calls),
        ended=reasons.get(reason, "stop"),
        input_tokens=counted.get("prompt_tokens", 0),
        cached_tokens=(counted.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        output_tokens=counted.get("completion_tokens", 0),
    )
