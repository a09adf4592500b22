"""The ways from a caller to a target: whose dialect asks, what format answers, and how the caller reads what came.

Another way is a line in ``WAYS``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.formats.anthropic.decode import MESSAGES
from gateway.formats.openai.decode import CHAT
from gateway.formats.responses.decode import RESPONSES
from gateway.types import Endpoint
from tests.ground import native_shapes
from tests.ground.upstream_shapes import DEADLINE, MODES, NO_TARGET, Mode, Shape, shapes


@dataclass(frozen=True)
class Dialect:
    """How callers of one endpoint ask, and read their answers."""

    endpoint: Endpoint
    asked: Callable[[str], dict[str, Any]]
    """Write a prompt's request, but for model and stream."""
    whole_text: Callable[[Any], str]
    """Read the text of an answer in one piece."""
    delta: Callable[[dict[str, Any]], str]
    """Read the text of an event."""
    end: Callable[[Any], bool]
    """Whether an event ends a stream that is whole."""
    names: dict[tuple[int, str], str]
    """Declared answers by the status and the code, or else the type, of an error."""


@dataclass(frozen=True)
class Way:
    """A dialect of callers, and a kind of target."""

    dialect: Dialect
    provider: str = "openai-compatible"
    base_path: str = "/v1"
    path: str = "/v1/chat/completions"
    """At the upstream."""
    model: tuple[tuple[str, str], ...] = ()
    """Members of the model's configuration."""
    modes: tuple[Mode, ...] = MODES
    shapes: Callable[[], list[Shape]] = shapes


def _chat_delta(event: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices") or ())


_OPENAI = {(503, "no_target_available"): NO_TARGET, (504, "deadline_exceeded"): DEADLINE}
_CHAT = Dialect(
    CHAT,
    lambda prompt: {"messages": [{"role": "user", "content": prompt}]},
    lambda answer: str(answer["choices"][0]["message"]["content"]),
    _chat_delta,
    lambda event: event == "[DONE]",
    _OPENAI,
)
_MESSAGES = Dialect(
    MESSAGES,
    lambda prompt: {"max_tokens": 100, "messages": [{"role": "user", "content": prompt}]},
    lambda answer: "".join(block["text"] for block in answer["content"]),
    lambda event: str(event["delta"].get("text", "")) if event.get("type") == "content_block_delta" else "",
    lambda event: bool(event["type"] == "message_stop"),
    {(503, "overloaded_error"): NO_TARGET, (504, "timeout_error"): DEADLINE},
)
_RESPONSES = Dialect(
    RESPONSES,
    lambda prompt: {"store": False, "input": prompt},
    lambda answer: "".join(part["text"] for item in answer["output"] for part in item["content"]),
    lambda event: str(event["delta"]) if event.get("type") == "response.output_text.delta" else "",
    lambda event: bool(event["type"] == "response.completed"),
    _OPENAI,
)
WAYS: dict[str, Way] = {
    "chat": Way(_CHAT),
    "messages to chat": Way(_MESSAGES),
    "responses to chat": Way(_RESPONSES),
    "messages": Way(
        _MESSAGES,
        *("anthropic", "", "/v1/messages"),
        modes=("stream", "plain"),
        shapes=lambda: native_shapes.native_shapes(native_shapes.MESSAGES),
    ),
    "responses": Way(
        _RESPONSES,
        *("openai", "/v1", "/v1/responses", (("api", "responses"),)),
        shapes=lambda: native_shapes.native_shapes(native_shapes.RESPONSES),
    ),
}


def error_of(dialect: Dialect, status: int, body: bytes) -> str:
    """Name an error in the words of the tables; it has the shape of the caller's dialect."""
    answer = json.loads(body)
    error = answer["error"]
    assert error["message"]
    if dialect is _MESSAGES:
        assert (answer["type"], bool(answer["request_id"])) == ("error", True)
        code = error["type"]
    else:
        assert set(error) >= {"message", "type", "param", "code"}
        code = error["code"]
    if found := dialect.names.get((status, code)):
        return found
    return f"caller {status}" if status < 500 else f"{status} {code}"
