"""What a model says, as a value, and how each kind of upstream writes it: the same answer in every wire format.

Shapes: OpenAI's API reference (chat), vLLM 0.32's OpenAI server, which calls thinking ``reasoning`` and streams
arguments from the first piece on, platform.claude.com/docs/en/build-with-claude/streaming, and OpenAI's API reference
("Responses", "Streaming events"). Another format is a class with two functions here, and a line in ``UPSTREAMS``.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Protocol

from tests.ground.script import Answer, Chunk, json_answer, sse_event

Ended = Literal["stop", "length", "tools", "refused", "stop_sequence"]
_PIECE = 7
"""Characters of a streamed piece."""


class Called(NamedTuple):
    """A call of a tool. ``custom``: in Responses, one that takes a text, the argument ``input`` of other formats."""

    name: str
    arguments: dict[str, Any]
    call_id: str = "call_1"
    custom: bool = False


class Said(NamedTuple):
    """One answer. ``input_tokens`` are all that were read, of which ``cached_tokens`` came from a cache."""

    text: str = ""
    thinking: str = ""
    calls: tuple[Called, ...] = ()
    ended: Ended = "stop"
    stop_sequence: str | None = None
    input_tokens: int = 1010
    cached_tokens: int = 1000
    output_tokens: int = 20
    answer_id: str = "msg_1"
    """Claude Code puts answers with one id together."""


class Upstream(Protocol):
    """How one kind of upstream writes an answer."""

    def whole(self, said: Said, model: str) -> dict[str, Any]:
        """Write it in one piece."""

    def events(self, said: Said, model: str) -> Iterator[bytes]:
        """Write it as a stream."""


class ChatUpstream:
    """Chat completions; ``thinking``: the member in which it stands, if it is shown at all."""

    def __init__(self, thinking: str | None = None) -> None:
        self._thinking = thinking

    def whole(self, said: Said, model: str) -> dict[str, Any]:
        """Write it in one piece."""
        message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": None}
        if self._thinking and said.thinking:
            message[self._thinking] = said.thinking
        if said.calls:
            message["tool_calls"] = [_chat_call(call, json.dumps(call.arguments)) for call in said.calls]
        choice = {"index": 0, "message": message, "logprobs": None, **self._end(said)}
        head = {"id": said.answer_id, "object": "chat.completion", "created": 1, "model": model}
        return {**head, "choices": [choice], "usage": _chat_usage(said)}

    def events(self, said: Said, model: str) -> Iterator[bytes]:
        """Write it as a stream, with usage in a chunk of its own."""
        head = {"id": said.answer_id, "object": "chat.completion.chunk", "created": 1, "model": model}

        def chunk(delta: dict[str, Any], **members: Any) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **members}
            return sse_event({**head, "choices": [choice], "usage": None})

        yield chunk({"role": "assistant", "content": ""})
        if self._thinking:
            yield from (chunk({self._thinking: piece}) for piece in _pieces(said.thinking))
        yield from (chunk({"content": piece}) for piece in _pieces(said.text))
        for index, call in enumerate(said.calls):
            yield chunk({"tool_calls": [{"index": index, **_chat_call(call, "")}]})
            for piece in _pieces(json.dumps(call.arguments)):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield chunk({}, **self._end(said))
        yield sse_event({**head, "choices": [], "usage": _chat_usage(said)})
        yield sse_event("[DONE]")

    def _end(self, said: Said) -> dict[str, Any]:
        reasons = {"length": "length", "tools": "tool_calls", "refused": "content_filter"}
        reason = {"finish_reason": reasons.get(said.ended, "stop")}
        return reason if self._thinking is None else {**reason, "stop_reason": said.stop_sequence}


def _chat_call(call: Called, arguments: str) -> dict[str, Any]:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _chat_usage(said: Said) -> dict[str, Any]:
    return {
        "prompt_tokens": said.input_tokens,
        "completion_tokens": said.output_tokens,
        "total_tokens": said.input_tokens + said.output_tokens,
        "prompt_tokens_details": {"cached_tokens": said.cached_tokens},
    }


class MessagesUpstream:
    """Anthropic's Messages, whose thinking is signed."""

    def whole(self, said: Said, model: str) -> dict[str, Any]:
        """Write it in one piece."""
        return {
            **self._head(said, model),
            "content": _blocks(said),
            **_messages_end(said),
            "usage": _messages_usage(said),
        }

    def events(self, said: Said, model: str) -> Iterator[bytes]:
        """Write it as a stream."""

        def event(name: str, **members: Any) -> bytes:
            return sse_event({"type": name, **members}, event=name)

        begun = {**self._head(said, model), "content": [], "stop_reason": None, "stop_sequence": None}
        yield event("message_start", message={**begun, "usage": {**_messages_usage(said), "output_tokens": 1}})
        yield event("ping")
        for index, block in enumerate(_blocks(said)):
            deltas = list(_deltas(block))
            yield event("content_block_start", index=index, content_block=_EMPTY[block["type"]](block))
            yield from (event("content_block_delta", index=index, delta=delta) for delta in deltas)
            yield event("content_block_stop", index=index)
        yield event("message_delta", delta=_messages_end(said), usage={"output_tokens": said.output_tokens})
        yield event("message_stop")

    def _head(self, said: Said, model: str) -> dict[str, Any]:
        return {"id": said.answer_id, "type": "message", "role": "assistant", "model": model}


class ResponsesUpstream:
    """OpenAI's Responses, which summarise thinking."""

    def whole(self, said: Said, model: str) -> dict[str, Any]:
        """Write it in one piece."""
        return self._response(said, model, [item for item, _ in _items(said)])

    def events(self, said: Said, model: str) -> Iterator[bytes]:
        """Write it as a stream."""
        count = itertools.count()

        def event(name: str, **members: Any) -> bytes:
            return sse_event({"type": name, "sequence_number": next(count), **members}, event=name)

        begun = {**self._response(said, model, []), "status": "in_progress", "incomplete_details": None, "usage": None}
        yield event("response.created", response=begun)
        yield event("response.in_progress", response=begun)
        items = list(_items(said))
        for index, (item, text) in enumerate(items):
            kind = item["type"]
            at = {"item_id": item["id"], "output_index": index}
            name, member, empty = _PIECES[kind]
            yield event(
                "response.output_item.added", output_index=index, item={**item, "status": "in_progress", member: empty}
            )
            at |= {"content_index": 0} if kind == "message" else {"summary_index": 0} if kind == "reasoning" else {}
            parts = {"message": "content_part", "reasoning": "reasoning_summary_part"}.get(kind)
            part = {} if parts is None else (item.get("content") or item["summary"])[0]
            if parts:
                yield event(f"response.{parts}.added", **at, part={**part, "text": ""})
            yield from (event(f"response.{name}.delta", **at, delta=piece) for piece in _pieces(text))
            yield event(f"response.{name}.done", **at, **{"text" if empty == [] else member: text})
            if parts:
                yield event(f"response.{parts}.done", **at, part=part)
            yield event("response.output_item.done", output_index=index, item=item)
        response = self._response(said, model, [item for item, _ in items])
        yield event(f"response.{response['status']}", response=response)

    def _response(self, said: Said, model: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        reason = {"length": "max_output_tokens", "refused": "content_filter"}.get(said.ended)
        return {
            "id": said.answer_id,
            "object": "response",
            "created_at": 1,
            "status": "incomplete" if reason else "completed",
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": model,
            "output": items,
            "usage": {
                "input_tokens": said.input_tokens,
                "input_tokens_details": {"cached_tokens": said.cached_tokens},
                "output_tokens": said.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": said.input_tokens + said.output_tokens,
            },
        }


_PIECES: dict[str, tuple[str, str, Any]] = {
    "message": ("output_text", "content", []),
    "reasoning": ("reasoning_summary_text", "summary", []),
    "function_call": ("function_call_arguments", "arguments", ""),
    "custom_tool_call": ("custom_tool_call_input", "input", ""),
}
"""By the type of an item: the events of its pieces, the member that they make, and that member when it begins."""


def _items(said: Said) -> Iterator[tuple[dict[str, Any], str]]:
    """Write its items, each with the text that comes in pieces."""
    if said.thinking:
        summary = {"type": "summary_text", "text": said.thinking}
        yield {"type": "reasoning", "id": "rs_1", "summary": [summary]}, said.thinking
    if said.text:
        content = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [content]}
        yield item, said.text
    for number, call in enumerate(said.calls):
        kind, member = ("custom_tool_call", "input") if call.custom else ("function_call", "arguments")
        written = call.arguments["input"] if call.custom else json.dumps(call.arguments)
        named = {"call_id": call.call_id, "name": call.name, member: written, "status": "completed"}
        yield {"type": kind, "id": f"fc_{number}", **named}, written


SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"
_EMPTY = {
    "thinking": lambda _block: {"type": "thinking", "thinking": "", "signature": ""},
    "text": lambda _block: {"type": "text", "text": ""},
    "tool_use": lambda block: {**block, "input": {}},
}


def _blocks(said: Said) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said.thinking:
        blocks.append({"type": "thinking", "thinking": said.thinking, "signature": SIGNATURE})
    if said.text:
        blocks.append({"type": "text", "text": said.text})
    calls = [
        {"type": "tool_use", "id": each.call_id, "name": each.name, "input": each.arguments} for each in said.calls
    ]
    return [*blocks, *calls]


def _deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] == "tool_use":
        written = json.dumps(block["input"])
        yield from ({"type": "input_json_delta", "partial_json": piece} for piece in ("", *_pieces(written)))
        return
    kind = block["type"]
    yield from ({"type": f"{kind}_delta", kind: piece} for piece in _pieces(block[kind]))
    if kind == "thinking":
        yield {"type": "signature_delta", "signature": block["signature"]}


def _messages_end(said: Said) -> dict[str, Any]:
    reasons = {"length": "max_tokens", "tools": "tool_use", "refused": "refusal", "stop_sequence": "stop_sequence"}
    return {"stop_reason": reasons.get(said.ended, "end_turn"), "stop_sequence": said.stop_sequence}


def _messages_usage(said: Said) -> dict[str, Any]:
    return {
        "input_tokens": said.input_tokens - said.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": said.cached_tokens,
        "output_tokens": said.output_tokens,
    }


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))


UPSTREAMS: dict[str, Upstream] = {
    "openai": ChatUpstream(),
    "vllm": ChatUpstream(thinking="reasoning"),
    "anthropic": MessagesUpstream(),
    "responses": ResponsesUpstream(),
}
"""By the type of the provider; of OpenAI's there are two, by the model's ``api``."""


def model_at(upstream: str, url: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sections of a provider of this kind at an origin, with ``env:KEY``, and of what its model needs."""
    kind = "openai" if upstream == "responses" else upstream
    provider = {"type": kind, "base_url": url if kind == "anthropic" else f"{url}/v1"}
    key = {} if kind == "vllm" else {"api_key": "env:KEY"}
    return provider | key, {"api": "responses" if upstream == "responses" else "chat"} if kind == "openai" else {}


def answer(said: Said, upstream_kind: str, request: dict[str, Any]) -> Answer:
    """Say it as this kind of upstream does to this request, streamed or not."""
    upstream, model = UPSTREAMS[upstream_kind], str(request.get("model"))
    custom = {tool["name"] for tool in request.get("tools", ()) if tool.get("type") == "custom"}
    said = said._replace(calls=tuple(call._replace(custom=call.name in custom) for call in said.calls))
    if not request.get("stream"):
        return json_answer(upstream.whole(said, model))
    chunks = [Chunk(event) for event in upstream.events(said, model)]
    return Answer(headers=(("content-type", "text/event-stream; charset=utf-8"),), chunks=chunks)


def results_in(request: dict[str, Any]) -> int:
    """Count the results of tools in the conversation of a request, whichever format it has."""
    if "input" in request:
        return sum(each.get("type", "").endswith("_call_output") for each in request["input"])
    messages = request["messages"]
    blocks = [block for each in messages for block in each["content"] or () if isinstance(block, dict)]
    return sum(each["role"] == "tool" for each in messages) + sum(block["type"] == "tool_result" for block in blocks)
