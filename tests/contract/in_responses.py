"""OpenAI's Responses, as a caller and an upstream speak them: platform.openai.com/docs/api-reference/responses."""

import json
from typing import Any

from tests.contract.asked import (
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
    """Write a response to be created."""
    items: list[dict[str, Any]] = []
    for turn in asked.turns:
        content: list[dict[str, Any]] = []
        items += [_item(part) for part in turn.parts if isinstance(part, Result)]
        content = [_content(part, turn.role) for part in turn.parts if not isinstance(part, Result | Call)]
        if content:
            items.append({"type": "message", "role": turn.role, "content": content})
        items += [_item(part) for part in turn.parts if isinstance(part, Call)]
    choice: Any = asked.choice
    if choice not in {"", "none", "required"}:
        choice = {"type": "function", "name": choice}
    schema = asked.schema and {"type": "json_schema", "name": "answer", "strict": True, "schema": asked.schema}
    return {
        "input": items,
        **given(
            instructions=asked.system,
            tools=[
                {
                    "type": "function",
                    **given(description=tool.description),
                    "name": tool.name,
                    "parameters": tool.schema,
                }
                | {"strict": tool.strict}
                for tool in asked.tools
            ],
            tool_choice=choice,
            text=schema and {"format": schema},
            max_output_tokens=asked.limit,
            reasoning=asked.effort and {"effort": asked.effort},
            safety_identifier=asked.user,
            service_tier="default" if asked.standard else None,
            temperature=asked.temperature,
            top_p=asked.top_p,
        ),
        **({} if asked.parallel else {"parallel_tool_calls": False}),
    }


def _item(part: Call | Result) -> dict[str, Any]:
    if isinstance(part, Call):
        arguments = json.dumps(part.arguments, ensure_ascii=False)
        return {"type": "function_call", "call_id": part.call_id, "name": part.name, "arguments": arguments}
    return {"type": "function_call_output", "call_id": part.call_id, "output": part.text}


def _content(part: Part, role: str) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part.text}
    if isinstance(part, Image):
        url = part.source if part.media_type is None else f"data:{part.media_type};base64,{part.source}"
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    if isinstance(part, Pdf):
        return {"type": "input_file", "filename": "document.pdf", "file_data": f"{_PDF}{part.data}"}
    assert isinstance(part, Raw)
    return part.part


def read(body: dict[str, Any]) -> Asked:
    """Read what a server of Responses is asked."""
    turns: list[Turn] = []
    for item in [{"role": "user", "content": body["input"]}] if isinstance(body["input"], str) else body["input"]:
        role = item.get("role") or ("assistant" if item["type"] == "function_call" else "user")
        parts = tuple(_read_parts(item))
        if turns and turns[-1].role == role:
            turns[-1] = turns[-1]._replace(parts=turns[-1].parts + parts)
        else:
            turns.append(Turn(role, parts))
    choice, wanted = body.get("tool_choice") or "", (body.get("text") or {}).get("format")
    return Asked(
        turns=tuple(turns),
        system=body.get("instructions") or "",
        tools=tuple(
            Tool(each["name"], each["parameters"], each.get("description"), each["strict"])
            for each in body.get("tools", ())
        ),
        choice=choice if isinstance(choice, str) else choice["name"],
        parallel=body.get("parallel_tool_calls", True),
        schema=wanted["schema"] if wanted else None,
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        limit=body.get("max_output_tokens"),
        effort=(body.get("reasoning") or {}).get("effort"),
        user=body.get("safety_identifier"),
        standard=body.get("service_tier") == "default",
    )


def _read_parts(item: dict[str, Any]) -> list[Part]:
    if item.get("type") == "function_call":
        return [Call(item["call_id"], item["name"], json.loads(item["arguments"]))]
    if item.get("type") == "function_call_output":
        output = item["output"]
        text = output if isinstance(output, str) else "".join(each["text"] for each in output)
        return [Result(item["call_id"], text.removeprefix("Error:").lstrip(), text.startswith("Error:"))]
    content, parts = item["content"], list[Part]()
    for part in [{"type": "input_text", "text": content}] if isinstance(content, str) else content:
        if part["type"] in {"input_text", "output_text"}:
            parts.append(Text(part["text"]))
        elif part["type"] == "input_image":
            head, found, data = part["image_url"].partition(";base64,")
            parts.append(Image(data, head.removeprefix("data:")) if found else Image(head))
        else:
            parts.append(Pdf(part["file_data"].removeprefix(_PDF)))
    return parts


def hear(data: bytes, *, stream: bool) -> tuple[Said, bool, Any]:
    """Read a response: what was said, whether its end was heard, and the error behind it."""
    if not stream:
        response = json.loads(data)
        return _said(response, response["output"]), True, None
    events = events_of(data)
    assert [event["sequence_number"] for event in events] == [*range(len(events))] or events[-1]["type"] == "error"
    items: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(items)
            items.append({**event["item"], "heard": ""})
        elif kind.endswith(".delta"):
            items[event["output_index"]]["heard"] += event["delta"]
        elif kind == "response.output_item.done":
            assert _text_of(event["item"]) == items[event["output_index"]]["heard"]
    last = events[-1]
    if last["type"] == "error":
        return _said({}, [_heard(item) for item in items]), False, last
    assert last["type"] in {"response.completed", "response.incomplete"}
    assert [_text_of(item) for item in last["response"]["output"]] == [item["heard"] for item in items]
    return _said(last["response"], last["response"]["output"]), True, None


def _heard(item: dict[str, Any]) -> dict[str, Any]:
    if item["type"] == "message":
        return {**item, "content": [{"type": "output_text", "text": item["heard"]}]}
    return {**item, "arguments": item["heard"], "summary": [{"text": item["heard"]}]}


def _text_of(item: dict[str, Any]) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    parts = item.get("content") or item.get("summary") or ()
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)


def _said(response: dict[str, Any], items: list[dict[str, Any]]) -> Said:
    def together(kind: str) -> str:
        return "".join(_text_of(item) for item in items if item["type"] == kind)

    calls = [(item["name"], item["arguments"], item["call_id"]) for item in items if item["type"] == "function_call"]
    reason = (response.get("incomplete_details") or {}).get("reason")
    cut: dict[str, Ended] = {"max_output_tokens": "length", "content_filter": "refused"}
    usage = response.get("usage") or {}
    return Said(
        text=together("message"),
        thinking=together("reasoning"),
        calls=calls_of(calls),
        ended=cut[reason] if reason else "tools" if calls else "stop",
        input_tokens=usage.get("input_tokens", 0),
        cached_tokens=usage.get("input_tokens_details", {}).get("cached_tokens", 0),
        output_tokens=usage.get("output_tokens", 0),
    )
