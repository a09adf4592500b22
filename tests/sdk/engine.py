"""An engine that does what it is asked, played: JSON schemas, forced tools, log-probabilities, n, seed, stop, length.

It answers in the shapes of vLLM's OpenAI server. Words stand for tokens in text; in JSON, pieces of four characters.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.ground.model import prompt_words
from tests.ground.script import Answer, Chunk, Seen, error_answer, json_answer, sse_event

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NEXT_TO_LIKELIEST = " indeed"


@dataclass(frozen=True)
class _Choice:
    """One sample: its tokens, why it ended, and the tool it calls, if the tokens are that tool's arguments."""

    index: int
    tokens: list[str]
    finish_reason: str
    tool: str | None


class ScriptedEngine:
    """Answers ``/v1/chat/completions`` and ``/v1/completions``; give ``answer`` to a scripted upstream."""

    def __init__(self) -> None:
        self._dice = itertools.count(1)

    def answer(self, seen: Seen) -> Answer:
        """Answer one request."""
        request = seen.json
        chat = seen.path.endswith("/chat/completions")
        if request.get("temperature") == 0 and (request.get("n") or 1) > 1:
            return error_answer(400, "n must be 1 when using greedy sampling.")
        choices = [self._choice(request, index) for index in range(request.get("n") or 1)]
        if not request.get("stream"):
            return json_answer(_whole(request, choices, chat=chat))
        return Answer(
            headers=(("content-type", "text/event-stream; charset=utf-8"),),
            chunks=tuple(_stream(request, choices, chat)),
        )

    def _choice(self, request: dict[str, Any], index: int) -> _Choice:
        tool = _forced_tool(request)
        schema = tool["parameters"] if tool else _asked_schema(request)
        if schema is not None:
            text = json.dumps(example(schema, schema))
            tokens = [text[at : at + 4] for at in range(0, len(text), 4)]
        else:
            tokens = self._words(request, index)
        limit = request.get("max_completion_tokens") or request.get("max_tokens") or len(tokens)
        finish_reason = "length" if limit < len(tokens) else "stop"
        if tool and request["tool_choice"] == "required" and finish_reason == "stop":
            finish_reason = "tool_calls"
        return _Choice(index, tokens[:limit], finish_reason, tool["name"] if tool else None)

    def _words(self, request: dict[str, Any], index: int) -> list[str]:
        """Say the same words at temperature 0 or for the same seed, others otherwise; up to a stop sequence."""
        roll = 0
        if request.get("temperature") != 0:
            seed = request.get("seed")
            roll = next(self._dice) if seed is None else seed + index
        roll %= len(WORDS)
        tokens = [f" {word}" for word in WORDS[roll:] + WORDS[:roll]]
        stop = request.get("stop") or []
        text = "".join(tokens)
        for sequence in [stop] if isinstance(stop, str) else stop:
            text = text.partition(sequence)[0]
        return [f" {word}" for word in text.split(" ")[1:]]


def example(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """Make a value that a JSON schema accepts; of the schemas that the suite sends."""
    if "$ref" in schema:
        return example(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    made: dict[str, Any] = {"boolean": True, "integer": 1, "number": 0.5, "string": "text", "array": []}
    if schema["type"] == "object":
        return {name: example(member, root) for name, member in schema["properties"].items()}
    return made[schema["type"]]


def _forced_tool(request: dict[str, Any]) -> dict[str, Any] | None:
    choice = request.get("tool_choice")
    tools: list[dict[str, Any]] = [tool["function"] for tool in request.get("tools") or ()]
    if choice == "required":
        return tools[0]
    if isinstance(choice, dict):
        return next(tool for tool in tools if tool["name"] == choice["function"]["name"])
    return None


def _asked_schema(request: dict[str, Any]) -> dict[str, Any] | None:
    wanted = request.get("response_format") or {}
    schema: dict[str, Any] | None = wanted["json_schema"]["schema"] if wanted.get("type") == "json_schema" else None
    return schema


def _top(request: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    return {"id": "cmpl-1" if not chat else "chatcmpl-1", "created": 1, "model": request["model"]}


def _usage(request: dict[str, Any], choices: list[_Choice]) -> dict[str, int]:
    read, written = prompt_words(request), sum(len(choice.tokens) for choice in choices)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _chat_logprobs(request: dict[str, Any], tokens: list[str]) -> dict[str, Any] | None:
    if not request.get("logprobs"):
        return None
    tops = [_NEXT_TO_LIKELIEST] * ((request.get("top_logprobs") or 0) - 1)
    return {"content": [{**_token(token), "top_logprobs": [_token(top) for top in [token, *tops]]} for token in tokens]}


def _token(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.5, "bytes": list(token.encode())}


def _text_logprobs(request: dict[str, Any], tokens: list[str], offset: int = 0) -> dict[str, Any] | None:
    if request.get("logprobs") is None:
        return None
    offsets = [offset + len("".join(tokens[:at])) for at in range(len(tokens))]
    tops = [{token: -0.5, _NEXT_TO_LIKELIEST: -1.0} for token in tokens]
    return {"tokens": tokens, "token_logprobs": [-0.5] * len(tokens), "top_logprobs": tops, "text_offset": offsets}


def _call(choice: _Choice, arguments: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-tool-{choice.index}",
        "type": "function",
        "function": {"name": choice.tool, "arguments": arguments},
    }


def _whole(request: dict[str, Any], choices: list[_Choice], *, chat: bool) -> dict[str, Any]:
    written = []
    for choice in choices:
        text = "".join(choice.tokens)
        end = {"index": choice.index, "finish_reason": choice.finish_reason}
        if not chat:
            written.append({**end, "text": text, "logprobs": _text_logprobs(request, choice.tokens)})
            continue
        calls = [_call(choice, text)] if choice.tool else []
        message = {"role": "assistant", "content": None if calls else text, "tool_calls": calls}
        written.append({**end, "message": message, "logprobs": _chat_logprobs(request, choice.tokens)})
    kind = "chat.completion" if chat else "text_completion"
    return {**_top(request, chat=chat), "object": kind, "choices": written, "usage": _usage(request, choices)}


def _stream(request: dict[str, Any], choices: list[_Choice], chat: bool) -> Iterator[Chunk]:
    top = {**_top(request, chat=chat), "object": "chat.completion.chunk" if chat else "text_completion"}

    def event(choice: _Choice, logprobs: Any = None, finish_reason: str | None = None, **delta: Any) -> Chunk:
        body = {"delta": delta} if chat else {"text": delta.get("content", "")}
        written = {"index": choice.index, **body, "logprobs": logprobs, "finish_reason": finish_reason}
        return Chunk(sse_event({**top, "choices": [written]}), tokens=int(logprobs is not None or bool(delta)))

    if chat:
        yield from (event(choice, role="assistant", content="") for choice in choices)
    for number in range(max(len(choice.tokens) for choice in choices)):
        for choice in choices:
            if number >= len(choice.tokens):
                continue
            token = choice.tokens[number]
            if choice.tool:
                fragment = _call(choice, token) if number == 0 else {"function": {"arguments": token}}
                yield event(choice, tool_calls=[{"index": 0, **fragment}])
            elif chat:
                yield event(choice, _chat_logprobs(request, [token]), content=token)
            else:
                offset = len("".join(choice.tokens[:number]))
                yield event(choice, _text_logprobs(request, [token], offset), content=token)
    yield from (event(choice, finish_reason=choice.finish_reason) for choice in choices)
    if (request.get("stream_options") or {}).get("include_usage"):
        yield Chunk(sse_event({**top, "choices": [], "usage": _usage(request, choices)}))
    yield Chunk(sse_event("[DONE]"))
