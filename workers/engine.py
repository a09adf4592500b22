"""The interface between a replica and its engine: an ASGI app, a health check, and the engine's figures."""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """What an engine says of itself just now; ``None`` is what it does not say.

    ``running`` and ``waiting`` are requests, ``kv_usage`` is 0 to 1, ``kv_tokens`` what the KV cache can hold. Tokens
    and the times to first token (their sum in seconds, and how many) are counted since the engine started.
    """

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    kv_tokens: float | None = None
    prompt_tokens: float | None = None
    cached_tokens: float | None = None
    output_tokens: float | None = None
    ttft_sum_s: float | None = None
    ttft_count: float | None = None


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """A started engine.

    ``app`` serves HTTP and has had its own start-up run; ``check_health`` raises when the engine can no longer serve.
    ``figures`` is asked many times a second, so it must not block.
    """

    app: AsgiApp
    check_health: Callable[[], Awaitable[None]]
    figures: Callable[[], EngineFigures] = EngineFigures
