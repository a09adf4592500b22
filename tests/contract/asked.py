"""What a caller asks, as a value: how each caller's dialect writes it, and how each upstream's format reads it.

A dialect is a function that writes, a format one that reads. What is read equals what was written, whichever of the two
were in between, unless a case says otherwise. Shapes: platform.openai.com/docs/api-reference/chat/create and
platform.claude.com/docs/en/api/messages.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple


class Text(NamedTuple):
    """Words; ``cached``: the prompt up to here is marked for the provider's cache."""

    text: str
    cached: bool = False


class Image(NamedTuple):
    """A picture at a URL or, with its type, in Base64."""

    source: str
    media_type: str | None = None


class Pdf(NamedTuple):
    """A PDF in Base64."""

    data: str


class Call(NamedTuple):
    """A model's call of a tool."""

    call_id: str
    name: str
    arguments: dict[str, Any]


class Result(NamedTuple):
    """What a tool returned."""

    call_id: str
    text: str
    failed: bool = False


class Raw(NamedTuple):
    """A part that only one dialect has, as it is written there."""

    part: dict[str, Any]


Part = Text | Image | Pdf | Call | Result | Raw


class Turn(NamedTuple):
    """What one side said."""

    role: Literal["user", "assistant", "system"]
    parts: tuple[Part, ...]


class Tool(NamedTuple):
    """A function that the model may call."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool = False


class Asked(NamedTuple):
    """A request. ``choice``: ``none``, ``required`` or a tool's name."""

    turns: tuple[Turn, ...] = (Turn("user", (Text("Hi"),)),)
    system: str = ""
    tools: tuple[Tool, ...] = ()
    choice: str = ""
    parallel: bool = True
    schema: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    limit: int | None = 100
    effort: str | None = None
    user: str | None = None
    standard: bool = False
    goes_on: bool = False
    """The answer has begun: its beginning is the last turn."""


def user(*parts: Part | str) -> Turn:
    """Say something as the user."""
    return Turn("user", _parts(parts))


def said(*parts: Part | str) -> Turn:
    """Say something as the model."""
    return Turn("assistant", _parts(parts))


def _parts(parts: Sequence[Part | str]) -> tuple[Part, ...]:
    return tuple(Text(part) if isinstance(part, str) else part for part in parts)


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value not in (None, "", (), [], {})}


def write_chat(asked: Asked) -> dict[str, Any]:
    """Write a chat completion request."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": asked.system}] if asked.system else []
    for turn in asked.turns:
        results = [part for part in turn.parts if isinstance(part, Result)]
        messages += [{"role": "tool", "tool_call_id": each.call_id, "content": each.text} for each in results]
        calls = [_chat_call(part) for part in turn.parts if isinstance(part, Call)]
        content = [_chat_part(part) for part in turn.parts if not isinstance(part, Result | Call)]
        if content or calls:
            plain = content[0]["text"] if len(content) == 1 and content[0].keys() == {"type", "text"} else content
            messages.append({"role": turn.role, "content": plain or None, **_given(tool_calls=calls)})
    choice: Any = asked.choice
    if choice not in {"", "none", "required"}:
        choice = {"type": "function", "function": {"name": choice}}
    schema = asked.schema and {"name": "answer", "strict": True, "schema": asked.schema}
    return {
        "messages": messages,
        **_given(
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
    function = {"name": tool.name, **_given(description=tool.description), "parameters": tool.schema}
    return {"type": "function", "function": function | ({"strict": True} if tool.strict else {})}


def _chat_call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": call.call_id, "type": "function", "function": function}


def _chat_part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text} | ({"cache_control": _CACHED} if part.cached else {})
    if isinstance(part, Image):
        url = part.source if part.media_type is None else f"data:{part.media_type};base64,{part.source}"
        return {"type": "image_url", "image_url": {"url": url}}
    if isinstance(part, Pdf):
        data = f"{_PDF}{part.data}"
        return {"type": "file", "file": {"filename": "document.pdf", "file_data": data}}
    assert isinstance(part, Raw)
    return part.part


_CACHED = {"type": "ephemeral"}
_PDF = "data:application/pdf;base64,"


def read_chat(body: dict[str, Any]) -> Asked:
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


def write_messages(asked: Asked) -> dict[str, Any]:
    """Write a request of Anthropic's Messages."""
    kind = {"": "auto", "none": "none", "required": "any"}.get(asked.choice, "tool")
    choice = {"type": kind, **_given(name=asked.choice if kind == "tool" else None)}
    choice |= {} if asked.parallel else {"disable_parallel_tool_use": True}
    is_off = asked.effort == "none"
    return {
        "messages": [{"role": turn.role, "content": [_block(part) for part in turn.parts]} for turn in asked.turns],
        "max_tokens": asked.limit or 4096,
        **_given(
            system=asked.system,
            tools=[_messages_tool(tool) for tool in asked.tools],
            tool_choice=choice if choice != {"type": "auto"} else None,
            output_config=_given(
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
    written = {"name": tool.name, **_given(description=tool.description), "input_schema": tool.schema}
    return written | ({"strict": True} if tool.strict else {})


def _block(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text} | ({"cache_control": _CACHED} if part.cached else {})
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


def read_messages(body: dict[str, Any]) -> Asked:
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


WRITERS: dict[str, Callable[[Asked], dict[str, Any]]] = {"chat": write_chat, "messages": write_messages}
"""By the caller's dialect."""
READERS: dict[str, Callable[[dict[str, Any]], Asked]] = {
    "openai": read_chat,
    "vllm": read_chat,
    "anthropic": read_messages,
}
"""By the upstream's format."""
