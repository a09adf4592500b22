"""Chunks of a chat completion from a compatible upstream, with what they used and what that costs."""

import json
from typing import Any

PRICE = {"input": 1.0, "cached_input": 0.1, "output": 5.0}
USAGE = {
    "prompt_tokens": 1010,
    "completion_tokens": 20,
    "total_tokens": 1030,
    "prompt_tokens_details": {"cached_tokens": 1000},
}
COST_NANO_USD = 10 * 1_000 + 1_000 * 100 + 20 * 5_000


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **members: Any) -> bytes:
    """Write a chunk with one choice; without a delta, that of the usage."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish, **members}]
    usage = USAGE if delta is None else None
    top = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: " + json.dumps(top | {"usage": usage}).encode() + b"\n\n"
