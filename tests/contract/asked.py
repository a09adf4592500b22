"""What a caller asks, as a value, and what wire formats share: ``in_chat``, ``in_messages``, ``in_responses``.

Each of these writes a request as a caller does, reads one as an upstream does, and hears an answer as a caller does.
What is read equals what was written, whichever two were in between, unless a case says otherwise.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from tests.ground.said import Called


class Text(NamedTuple):
    """Words; ``cached``: the prompt up to here is marked for the provider's cache."""

    text: str
    cached: bool = False


class Image(NamedTuple):
    """A picture at a URL or, with its type, in Base64."""

    source: str
    media_type: str | None = None


class Pdf(NamedTuple):
    """A PDF in Base64."""

    data: str


class Call(NamedTuple):
    """A model's call of a tool."""

    call_id: str
    name: str
    arguments: dict[str, Any]


class Result(NamedTuple):
    """What a tool returned."""

    call_id: str
    text: str
    failed: bool = False


class Raw(NamedTuple):
    """A part that only one dialect has, as it is written there."""

    part: dict[str, Any]


Part = Text | Image | Pdf | Call | Result | Raw


class Turn(NamedTuple):
    """What one side said."""

    role: Literal["user", "assistant", "system"]
    parts: tuple[Part, ...]


class Tool(NamedTuple):
    """A function that the model may call."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool = False


class Asked(NamedTuple):
    """A request. ``choice``: ``none``, ``required`` or a tool's name."""

    turns: tuple[Turn, ...] = (Turn("user", (Text("Hi"),)),)
    system: str = ""
    tools: tuple[Tool, ...] = ()
    choice: str = ""
    parallel: bool = True
    schema: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    limit: int | None = 100
    effort: str | None = None
    user: str | None = None
    standard: bool = False
    goes_on: bool = False
    """The answer has begun: its beginning is the last turn."""


CACHED = {"type": "ephemeral"}
"""A mark for the provider's cache, as it is written in chat (OpenRouter) and Messages."""


def user(*parts: Part | str) -> Turn:
    """Say something as the user."""
    return Turn("user", _parts(parts))


def said(*parts: Part | str) -> Turn:
    """Say something as the model."""
    return Turn("assistant", _parts(parts))


def _parts(parts: Sequence[Part | str]) -> tuple[Part, ...]:
    return tuple(Text(part) if isinstance(part, str) else part for part in parts)


def given(**members: Any) -> dict[str, Any]:
    """Leave out what was not asked for."""
    return {name: value for name, value in members.items() if value not in (None, "", (), [], {})}


def calls_of(calls: list[tuple[str, str, str]]) -> tuple[Called, ...]:
    """Read calls: names, arguments, ids."""
    return tuple(Called(name, arguments_of(written), call_id) for name, written, call_id in calls)


def arguments_of(written: str) -> dict[str, Any]:
    """Read a call's arguments."""
    try:
        arguments: dict[str, Any] = json.loads(written or "{}")
    except ValueError:
        return {"cut": written}
    return arguments


def events_of(data: bytes) -> list[Any]:
    """Return the data of server-sent events; a named one has the name as its type."""
    found: list[Any] = []
    text = data.decode()
    assert text == "" or text.endswith("\n\n"), "a stream consists of whole events"
    for event in text.split("\n\n")[:-1]:
        name, value = "", ""
        for line in event.split("\n"):
            name = line.removeprefix("event: ") if line.startswith("event: ") else name
            value = line.removeprefix("data: ") if line.startswith("data: ") else value
        if value:
            found.append(value if value == "[DONE]" else json.loads(value))
            assert not name or found[-1]["type"] == name
    return found
