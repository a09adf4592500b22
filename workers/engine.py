"""What a replica needs of an engine: an ASGI app and a health check."""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """A started engine.

    ``app`` serves HTTP and has had its own start-up run; ``check_health`` raises when the engine can no longer serve.
    """

    app: AsgiApp
    check_health: Callable[[], Awaitable[None]]
