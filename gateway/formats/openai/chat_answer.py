"""Write an answer of another dialect as OpenAI's chat completion: as a stream of chunks, or whole.

Decides the bytes that a caller gets from a translated target. Both writers take the same few verbs, so a translation
says what it has read and not how the caller wants it. Shapes: platform.openai.com/docs/api-reference/chat and the
types of the ``openai`` SDK; ``reasoning_content`` is where vLLM, DeepSeek and most clients keep readable thinking.
"""

from typing import Any, Protocol

import msgspec

from gateway.tariff import Usage

_encode = msgspec.json.Encoder().encode


class Sink(Protocol):
    """Takes one answer in order. Each verb returns what can go to the caller now, perhaps nothing."""

    def start(self, answer_id: str, model: str) -> bytes:
        """Begin, with the upstream's own id and model; comes before all others."""

    def text(self, text: str) -> bytes:
        """Add visible text."""

    def reasoning(self, text: str) -> bytes:
        """Add readable thinking."""

    def refusal(self, text: str) -> bytes:
        """Add an explanation of why the model declined."""

    def tool(self, index: int, call_id: str, name: str) -> bytes:
        """Begin a tool call. Indices count from 0 in order of appearance."""

    def arguments(self, index: int, fragment: str) -> bytes:
        """Add to the arguments of a tool call that has begun."""

    def end(self, finish_reason: str, usage: Usage | None) -> bytes:
        """End the answer; comes last."""


class Chunks:
    """Writes each piece at once, as ``chat.completion.chunk`` events.

    ``include_usage``: the caller asked for it, so every chunk has the member and the last one, without choices, has
    the numbers.
    """

    def __init__(self, created_s: int, *, include_usage: bool) -> None:
        self._created_s = created_s
        self._include_usage = include_usage
        self._head = b""
        no_usage = b',"usage":null' if include_usage else b""
        self._tail = b',"logprobs":null,"finish_reason":null}]' + no_usage + b"}\n\n"
        self._end_tail = no_usage + b"}\n\n"

    def start(self, answer_id: str, model: str) -> bytes:
        """Write the role chunk."""
        top = {"id": answer_id, "object": "chat.completion.chunk", "created": self._created_s, "model": model}
        self._head = b"data: " + _encode(top)[:-1] + b',"choices":['
        return self._chunk(b'{"role":"assistant","content":""}')

    def text(self, text: str) -> bytes:
        """Write a content chunk."""
        return self._chunk(b'{"content":' + _encode(text) + b"}")

    def reasoning(self, text: str) -> bytes:
        """Write a reasoning chunk."""
        return self._chunk(b'{"reasoning_content":' + _encode(text) + b"}")

    def refusal(self, text: str) -> bytes:
        """Write a refusal chunk."""
        return self._chunk(b'{"refusal":' + _encode(text) + b"}")

    def tool(self, index: int, call_id: str, name: str) -> bytes:
        """Write the chunk that names the tool; its arguments follow."""
        function = {"name": name, "arguments": ""}
        call = {"index": index, "id": call_id, "type": "function", "function": function}
        return self._chunk(_encode({"tool_calls": [call]}))

    def arguments(self, index: int, fragment: str) -> bytes:
        """Write a chunk with a fragment of arguments."""
        return self._chunk(_encode({"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}))

    def end(self, finish_reason: str, usage: Usage | None) -> bytes:
        """Write the finish chunk, the usage if it was asked for, and the end marker."""
        reason = _encode(finish_reason)
        written = self._head + b'{"index":0,"delta":{},"logprobs":null,"finish_reason":' + reason + b"}]"
        written += self._end_tail
        if self._include_usage and usage is not None:
            written += self._head + b'],"usage":' + _encode(openai_usage(usage)) + b"}\n\n"
        return written + b"data: [DONE]\n\n"

    def _chunk(self, delta: bytes) -> bytes:
        return self._head + b'{"index":0,"delta":' + delta + self._tail


class Assembly:
    """Collects the pieces and writes one ``chat.completion`` at the end."""

    def __init__(self, created_s: int) -> None:
        self._created_s = created_s
        self._id = ""
        self._model = ""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._tools: list[tuple[str, str, list[str]]] = []

    def start(self, answer_id: str, model: str) -> bytes:
        """Remember the id and the model."""
        self._id = answer_id
        self._model = model
        return b""

    def text(self, text: str) -> bytes:
        """Collect."""
        self._text.append(text)
        return b""

    def reasoning(self, text: str) -> bytes:
        """Collect."""
        self._reasoning.append(text)
        return b""

    def refusal(self, text: str) -> bytes:
        """Collect."""
        self._refusal.append(text)
        return b""

    def tool(self, index: int, call_id: str, name: str) -> bytes:  # noqa: ARG002 - in order, so its place is its index
        """Collect."""
        self._tools.append((call_id, name, []))
        return b""

    def arguments(self, index: int, fragment: str) -> bytes:
        """Collect."""
        self._tools[index][2].append(fragment)
        return b""

    def end(self, finish_reason: str, usage: Usage | None) -> bytes:
        """Write the whole completion."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(self._text) if self._text or not (self._tools or self._refusal) else None,
            "refusal": "".join(self._refusal) or None,
        }
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._tools:
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": name, "arguments": "".join(fragments)}}
                for call_id, name, fragments in self._tools
            ]
        completion: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created_s,
            "model": self._model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        }
        if usage is not None:
            completion["usage"] = openai_usage(usage)
        return _encode(completion)


def openai_usage(usage: Usage) -> dict[str, object]:
    """Write OpenAI's usage object, whose totals include the classes that its details name."""
    read, written = usage.read_tokens, usage.written_tokens
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
