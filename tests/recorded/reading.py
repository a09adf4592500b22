"""What an answer says, read from its JSON alone: the measure for what the gateway hands on.

Shares no code with the gateway. The same reading is made of the recorded answer and of what the caller's client saw, so
that a difference is the gateway's. Anthropic's messages and OpenAI's responses are read as the chat completion that
they stand for; of reasoning, the full text where there is no summary, and nothing of the items of hosted tools.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_USAGE_NAMES = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens_details": "completion_tokens_details",
}


ANY_ID = "any"
"""Of a call that was recorded without one, and has to have one where it is read."""


@dataclass
class Tool:
    """One tool call."""

    id: str = ""
    name: str = ""
    arguments: str = ""
    block: int | None = None
    """Where Anthropic's fragments of it belong."""

    def __eq__(self, other: object) -> bool:
        """Compare what is called and with what: arguments by their meaning, for they may have been written anew."""
        if not isinstance(other, Tool) or (self.id != other.id and ANY_ID not in {self.id, other.id}):
            return False
        return (self.name, _meaning(self.arguments)) == (other.name, _meaning(other.arguments))

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Said:
    """One choice."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tools: list[Tool] = field(default_factory=list)
    finish: str | None = None


@dataclass
class Reading:
    """One answer."""

    choices: dict[int, Said] = field(default_factory=dict)
    vectors: list[Any] = field(default_factory=list)
    usages: list[dict[str, Any]] = field(default_factory=list)
    """Every report of usage, as it came."""
    beside: set[str] = field(default_factory=set)
    """Kinds of what another dialect may have no word for: hosted tools' items, citations, media."""
    searches: int = 0
    """Those that have an item each, and no other count."""
    anthropic: bool = False
    error: str | None = None
    status: int = 200

    def said(self, index: int) -> Said:
        """Return a choice, which begins when it is first spoken of."""
        return self.choices.setdefault(index, Said())


def read_bytes(operation: str, status: int, body: bytes, *, streamed: bool) -> Reading:
    """Read a recorded answer."""
    text = body.decode(errors="surrogatepass").removeprefix("\ufeff")
    if status != 200:
        return Reading(error=text, status=status)
    if not streamed:
        try:
            return read_objects(operation, [json.loads(text)])
        except ValueError:
            return Reading(error=text)
    return read_objects(operation, _events(text))


def read_objects(operation: str, objects: Iterable[Any]) -> Reading:
    """Read chunks in order, or a whole answer as the only one."""
    reading = Reading(anthropic=operation == "messages")
    for value in objects:
        if operation == "messages":
            _read_message_event(reading, value)
        elif operation == "responses":
            _read_response_event(reading, value)
        elif operation == "transcriptions":
            reading.said(0).text = value["text"]
            _note_usage(reading, value)
        else:
            _read_chunk(reading, value)
    return reading


def _events(text: str) -> Iterable[Any]:
    for event in text.replace("\r\n", "\n").split("\n\n"):
        data = "\n".join(line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:"))
        if data.strip() == "[DONE]":
            return
        if data:
            yield json.loads(data)


def _meaning(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def _read_chunk(reading: Reading, chunk: dict[str, Any]) -> None:
    _note_usage(reading, chunk)
    for item in chunk.get("data") or ():
        reading.vectors.append(item["embedding"])
    choices = chunk.get("choices") or ()
    failed = [each["error"] for each in (chunk, *choices) if each.get("error")]
    if failed or any(each.get("finish_reason") == "error" for each in choices):
        reading.error = json.dumps(failed)
    reading.beside |= {name for name in ("citations", "search_results") if chunk.get(name)}
    for choice in choices:
        said = reading.said(choice.get("index") or 0)
        said.finish = choice.get("finish_reason") or said.finish
        said.text += choice.get("text") or ""
        part = choice.get("delta") or choice.get("message") or {}
        _read_content(said, part.get("content"))
        said.reasoning += part.get("reasoning") or part.get("reasoning_content") or ""
        said.refusal += part.get("refusal") or ""
        reading.beside |= {f"annotation {each['type']}" for each in part.get("annotations") or ()}
        reading.beside |= {name for name in ("audio", "images") if part.get(name)}
        legacy = part.get("function_call")
        for call in part.get("tool_calls") or ([{"index": 0, "function": legacy}] if legacy else ()):
            _read_call(said, call)


def _read_content(said: Said, content: Any) -> None:
    if isinstance(content, str):
        said.text += content
    for part in content if isinstance(content, list) else ():
        said.text += part.get("text") or ""
        thinking = part.get("thinking") or ()
        said.reasoning += thinking if isinstance(thinking, str) else "".join(each.get("text", "") for each in thinking)


def _read_call(said: Said, call: dict[str, Any]) -> None:
    function = call.get("function") or call.get("custom") or {}
    index = call.get("index")
    if index is None or not (call.get("id") is None or index < len(said.tools)):
        index = len(said.tools)
    while len(said.tools) <= index:
        said.tools.append(Tool())
    known = said.tools[index]
    known.id = known.id or call.get("id") or ""
    known.name = known.name or function.get("name") or ""
    arguments = function.get("arguments") or function.get("input") or ""
    known.arguments += arguments if isinstance(arguments, str) else json.dumps(arguments)


def _read_message_event(reading: Reading, event: dict[str, Any]) -> None:
    kind, said = event["type"], reading.said(0)
    if kind == "error":
        reading.error = json.dumps(event["error"])
    message = event if kind == "message" else event.get("message")
    if message is not None:
        _note_usage(reading, message)
        for index, block in enumerate(message["content"]):
            _begin_block(reading, index, block)
    delta = event.get("delta") or {}
    if kind == "content_block_start":
        _begin_block(reading, event["index"], event["content_block"])
    elif kind == "content_block_delta":
        said.text += delta.get("text", "")
        said.reasoning += delta.get("thinking", "")
        if "citation" in delta:
            reading.beside.add(f"citation {delta['citation']['type']}")
        if delta.get("partial_json") and said.tools and said.tools[-1].block == event["index"]:
            call = said.tools[-1]
            call.arguments = call.arguments.removeprefix("{}") + delta["partial_json"]
    elif kind == "message_delta":
        _note_usage(reading, event)
    stop = (message or delta).get("stop_reason")
    said.finish = _FINISH.get(stop, "stop") if stop else said.finish


def _begin_block(reading: Reading, index: int, block: dict[str, Any]) -> None:
    said = reading.said(0)
    if block["type"] not in {"text", "thinking", "tool_use"}:
        reading.beside.add(block["type"])
    reading.beside |= {f"citation {each['type']}" for each in block.get("citations") or ()}
    said.text += block.get("text", "") if block["type"] == "text" else ""
    said.reasoning += block.get("thinking", "") if block["type"] == "thinking" else ""
    if block["type"] == "tool_use":
        said.tools.append(Tool(block["id"], block["name"], json.dumps(block["input"]), index))


def _read_response_event(reading: Reading, value: dict[str, Any]) -> None:
    """Read an event, or a whole response."""
    kind = value.get("type")
    if kind == "error":
        reading.error = json.dumps(value)
    if kind is None or kind in {"response.completed", "response.incomplete", "response.failed"}:
        _read_response(reading, value if kind is None else value["response"])


def _read_response(reading: Reading, response: dict[str, Any]) -> None:
    status = response.get("status")
    if response.get("error") or status not in {"completed", "incomplete"}:
        reading.error = json.dumps(response.get("error") or status)
        return
    said = reading.said(0)
    for item in response["output"]:
        if item["type"] == "message":
            said.text += "".join(part.get("text") or "" for part in item["content"])
            said.refusal += "".join(part.get("refusal") or "" for part in item["content"])
            annotations = [each for part in item["content"] for each in part.get("annotations") or ()]
            reading.beside |= {f"annotation {each['type']}" for each in annotations}
        elif item["type"] == "reasoning":
            parts = item.get("summary") or item.get("content") or ()
            said.reasoning += "\n\n".join(part["text"] for part in parts)
        elif item["type"] == "function_call":
            said.tools.append(Tool(item["call_id"], item["name"], item["arguments"]))
        else:
            reading.beside.add(item["type"])
            reading.searches += item["type"] == "web_search_call" and _looked_up(item.get("action"))
    said.finish = "tool_calls" if said.tools else "stop"
    if status == "incomplete":
        why = response["incomplete_details"]["reason"]
        said.finish = "content_filter" if why == "content_filter" else "length"
    usage = response.get("usage") or {}
    if usage:
        reading.usages.append({_USAGE_NAMES.get(name, name): count for name, count in usage.items()})


def _looked_up(action: dict[str, Any] | None) -> bool:
    """Whether a search is charged: opening a page, or looking into it, is not (platform.openai.com, web search)."""
    return (action or {}).get("type", "search") == "search"


def _note_usage(reading: Reading, value: dict[str, Any]) -> None:
    inner = [choice.get("usage") for choice in value.get("choices") or ()]
    for usage in (value.get("usage"), (value.get("x_groq") or {}).get("usage"), *inner):
        if isinstance(usage, dict):
            reading.usages.append(usage)
