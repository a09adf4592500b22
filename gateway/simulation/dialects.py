"""What a modelled upstream writes, in the format in which it is asked: the events of a stream, with usage at its end.

Text is a dot for each piece. Counts are those of the trace; cached ones stand where each format has them. Sources:
platform.openai.com/docs/api-reference/chat-streaming and /responses-streaming,
platform.claude.com/docs/en/build-with-claude/streaming, docs.vllm.ai (``--enable-prompt-tokens-details``).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from msgspec import Struct

_encode = msgspec.json.encode


class Read(Struct, frozen=True):
    """What became of a prompt."""

    input_tokens: int
    cached_tokens: int
    written_tokens: int = 0
    """To the cache, where that is billed apart."""


class Dialect(Protocol):
    """Writes one format. Has no state."""

    def begin(self, read: Read) -> bytes:
        """Write what comes with the first token, and that."""

    def piece(self) -> bytes:
        """Write more of the answer."""

    def end(self, read: Read, output_tokens: int) -> bytes:
        """Write what says how much it was, and the end."""

    def error(self, message: str) -> bytes:
        """Write the body of a refusal."""

    def allowance(self, limit: int, remaining: int, reset_s: float) -> Mapping[str, str]:
        """Write headers about a limit on requests."""


def _event(value: Mapping[str, Any], name: str | None = None) -> bytes:
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + _encode(value) + b"\n\n"


class _OpenAI:
    def error(self, message: str) -> bytes:
        return _encode({"error": {"message": message, "type": "requests", "param": None, "code": "unavailable"}})

    def allowance(self, limit: int, remaining: int, reset_s: float) -> Mapping[str, str]:
        return {
            "x-ratelimit-limit-requests": str(limit),
            "x-ratelimit-remaining-requests": str(remaining),
            "x-ratelimit-reset-requests": f"{reset_s:.3f}s",
        }


def _chunk(choices: list[Any], **more: Any) -> bytes:
    head = {"id": "chatcmpl-simulated", "object": "chat.completion.chunk", "created": 0, "model": "simulated"}
    return _event({**head, "choices": choices, **more})


def _delta(delta: Mapping[str, str], finish: str | None = None) -> bytes:
    return _chunk([{"index": 0, "delta": delta, "finish_reason": finish}])


class _Chat(_OpenAI):
    """Chat completions, of OpenAI and all that speak like it."""

    _BEGIN = _delta({"role": "assistant", "content": "."})
    _PIECE = _delta({"content": "."})
    _FINISH = _delta({}, "stop")

    def begin(self, read: Read) -> bytes:  # noqa: ARG002 - other formats say at once what was read
        return self._BEGIN

    def piece(self) -> bytes:
        return self._PIECE

    def end(self, read: Read, output_tokens: int) -> bytes:
        details = {"cached_tokens": read.cached_tokens}
        if read.written_tokens:
            details["cache_write_tokens"] = read.written_tokens
        usage = {
            "prompt_tokens": read.input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": read.input_tokens + output_tokens,
            "prompt_tokens_details": details,
        }
        return self._FINISH + _chunk([], usage=usage) + b"data: [DONE]\n\n"


class _Messages:
    """Anthropic's Messages."""

    _START = _event(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        "content_block_start",
    )
    _PIECE = _event(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "."}},
        "content_block_delta",
    )
    _STOP = _event({"type": "content_block_stop", "index": 0}, "content_block_stop")
    _END = _event({"type": "message_stop"}, "message_stop")

    def begin(self, read: Read) -> bytes:
        usage = {
            "input_tokens": read.input_tokens - read.cached_tokens - read.written_tokens,
            "cache_read_input_tokens": read.cached_tokens,
            "cache_creation_input_tokens": read.written_tokens,
            "output_tokens": 1,
        }
        message: dict[str, Any] = {
            "id": "msg_simulated",
            "type": "message",
            "role": "assistant",
            "model": "simulated",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return _event({"type": "message_start", "message": message}, "message_start") + self._START + self._PIECE

    def piece(self) -> bytes:
        return self._PIECE

    def end(self, read: Read, output_tokens: int) -> bytes:  # noqa: ARG002 - it was said at the beginning
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        said = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}}
        return self._STOP + _event(said, "message_delta") + self._END

    def error(self, message: str) -> bytes:
        return _encode({"type": "error", "error": {"type": "rate_limit_error", "message": message}})

    def allowance(self, limit: int, remaining: int, reset_s: float) -> Mapping[str, str]:  # noqa: ARG002
        return {  # without the reset, which is a moment: a retry-after says the same
            "anthropic-ratelimit-requests-limit": str(limit),
            "anthropic-ratelimit-requests-remaining": str(remaining),
        }


class _Responses(_OpenAI):
    """OpenAI's Responses."""

    _AT: Mapping[str, Any] = {"item_id": "msg_simulated", "output_index": 0, "content_index": 0}
    _PIECE = _event(
        {"type": "response.output_text.delta", **_AT, "delta": ".", "logprobs": []}, "response.output_text.delta"
    )

    def begin(self, read: Read) -> bytes:  # noqa: ARG002 - usage stands at the end
        item = {"id": "msg_simulated", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        return (
            _event({"type": "response.created", "response": self._response("in_progress")}, "response.created")
            + _event(
                {"type": "response.output_item.added", "output_index": 0, "item": item}, "response.output_item.added"
            )
            + _event({"type": "response.content_part.added", **self._AT, "part": part}, "response.content_part.added")
            + self._PIECE
        )

    def piece(self) -> bytes:
        return self._PIECE

    def end(self, read: Read, output_tokens: int) -> bytes:
        usage = {
            "input_tokens": read.input_tokens,
            "input_tokens_details": {
                "cached_tokens": read.cached_tokens,
                "cache_write_tokens": read.written_tokens,
            },
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read.input_tokens + output_tokens,
        }
        part = {"type": "output_text", "text": ".", "annotations": []}
        item = {"id": "msg_simulated", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        done = {**self._response("completed"), "output": [item], "usage": usage}
        return (
            _event({"type": "response.output_text.done", **self._AT, "text": "."}, "response.output_text.done")
            + _event({"type": "response.content_part.done", **self._AT, "part": part}, "response.content_part.done")
            + _event(
                {"type": "response.output_item.done", "output_index": 0, "item": item}, "response.output_item.done"
            )
            + _event({"type": "response.completed", "response": done}, "response.completed")
        )

    @staticmethod
    def _response(status: str) -> dict[str, Any]:
        return {
            "id": "resp_simulated",
            "object": "response",
            "created_at": 0,
            "status": status,
            "model": "simulated",
            "output": [],
            "usage": None,
        }


DIALECTS: Mapping[str, Dialect] = {
    "/chat/completions": _Chat(),
    "/messages": _Messages(),
    "/responses": _Responses(),
}
"""By the end of the path."""
