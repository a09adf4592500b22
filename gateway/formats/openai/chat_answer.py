"""Write an answer of another dialect as OpenAI's chat completion: as a stream of chunks, or whole.

Decides the bytes that a caller gets from a translated target. Both writers take the same few verbs, so a translation
says what it has read and not how the caller wants it. Shapes: platform.openai.com/docs/api-reference/chat and the
types of the ``openai`` SDK; ``reasoning_content`` is where vLLM, DeepSeek and most clients keep readable thinking.
"""

from abc import abstractmethod
from typing import Any

import msgspec

from gateway.formats.chat import Ending
from gateway.formats.openai.answer import Assembler, PlainShape
from gateway.tariff import Usage

OPENAI_TIERS: dict[str | None, str] = {
    "standard": "default",
    **{name: name for name in ("default", "flex", "scale", "priority")},
}
"""What an upstream says that it served an answer at -> OpenAI's word for it, in chat and Responses."""
_encode = msgspec.json.Encoder().encode


class _Deltas:
    """The verbs of ``AnswerWriter`` that add to a message, each as OpenAI's delta."""

    @abstractmethod
    def _add(self, delta: dict[str, Any]) -> bytes:
        """Take one delta."""

    def text(self, text: str) -> bytes:
        """Add visible text."""
        return self._add({"content": text})

    def reasoning(self, text: str) -> bytes:
        """Add readable thinking."""
        return self._add({"reasoning_content": text})

    def refusal(self, text: str) -> bytes:
        """Add an explanation of why the model declined."""
        return self._add({"refusal": text})

    def tool(self, index: int, call_id: str, name: str) -> bytes:
        """Name a tool; its arguments follow."""
        function = {"name": name, "arguments": ""}
        return self._add({"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]})

    def arguments(self, index: int, fragment: str) -> bytes:
        """Add a fragment of arguments."""
        return self._add({"tool_calls": [{"index": index, "function": {"arguments": fragment}}]})


class Chunks(_Deltas):
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
        return self._add({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """Add visible text: as nearly every event does, so it is written without an object for it."""
        return self._head + b'{"index":0,"delta":{"content":' + _encode(text) + b"}" + self._tail

    def end(self, ending: Ending) -> bytes:
        """Write the finish chunk, the usage if it was asked for, and the end marker."""
        written = (
            self._head + b'{"index":0,"delta":{},"logprobs":null,"finish_reason":' + _encode(ending.reason) + b"}]"
        )
        if tier := OPENAI_TIERS.get(ending.service_tier):
            written += b',"service_tier":' + _encode(tier)
        written += self._end_tail
        if self._include_usage and ending.usage is not None:
            written += self._head + b'],"usage":' + _encode(openai_usage(ending.usage)) + b"}\n\n"
        return written + b"data: [DONE]\n\n"

    def _add(self, delta: dict[str, Any]) -> bytes:
        return self._head + b'{"index":0,"delta":' + _encode(delta) + self._tail


class Assembly(_Deltas):
    """Collects the pieces and writes one ``chat.completion`` at the end."""

    def __init__(self, created_s: int) -> None:
        self._created_s = created_s
        self._assembler = Assembler("chat", PlainShape(message={"refusal": None}))

    def start(self, answer_id: str, model: str) -> bytes:
        """Remember the id and the model."""
        self._assembler.add({"id": answer_id, "created": self._created_s, "model": model})
        return self._add({"role": "assistant"})

    def end(self, ending: Ending) -> bytes:
        """Write the whole completion."""
        end: dict[str, Any] = {"choices": [{"index": 0, "logprobs": None, "finish_reason": ending.reason}]}
        if tier := OPENAI_TIERS.get(ending.service_tier):
            end["service_tier"] = tier
        if ending.usage is not None:
            end["usage"] = openai_usage(ending.usage)
        self._assembler.add(end)
        return self._assembler.finish()

    def _add(self, delta: dict[str, Any]) -> bytes:
        self._assembler.add({"choices": [{"index": 0, "delta": delta}]})
        return b""


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
