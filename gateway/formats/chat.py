"""A conversation and its answer as values of our own: what translations between dialects and formats go through.

An endpoint reads a body into a ``Conversation`` and writes the answer with an ``AnswerWriter``; a format writes the one
and feeds the other. So N dialects and M formats need N + M translations, and none where they are the same. Shaped after
OpenAI's Chat and Responses and Anthropic's Messages. Text stays as the JSON that the caller wrote: a long one is copied
and never decoded. What a dialect has beyond this stays in ``rest``, for a format to refuse by name.
"""

import re
from collections.abc import Mapping
from typing import Literal, Protocol, TypeGuard

from msgspec import Raw, Struct, ValidationError
from msgspec.structs import replace

from gateway.tariff import Usage
from gateway.types import Call, Endpoint, Envelope

Finish = Literal["stop", "length", "tool_calls", "content_filter"]
"""Why an answer ended."""


class Text(Struct, frozen=True):
    """Words. ``text`` is a JSON string. ``cache_s``: the prompt up to here is to be cached for so long."""

    text: Raw
    cache_s: int | None = None


class Image(Struct, frozen=True):
    """A picture, at a URL or, with its media type, in Base64: a JSON string either way. ``place``: in the body."""

    source: Raw
    media_type: str | None = None
    cache_s: int | None = None
    place: str = ""


class Audio(Struct, frozen=True):
    """Sound, in Base64."""

    source: Raw
    format: str
    place: str = ""


class Document(Struct, frozen=True):
    """A file to be read, at a URL or, with its media type, in Base64."""

    source: Raw
    media_type: str | None = None
    cache_s: int | None = None
    place: str = ""


class Thinking(Struct, frozen=True):
    """What a model thought, without a provider's proof of it: own engines take it back. ``text`` is a JSON string."""

    text: Raw


class Refused(Struct, frozen=True):
    """Why a model declined."""

    text: Raw


class ToolCall(Struct, frozen=True):
    """A model's call of a tool; ``arguments`` is a JSON object, byte for byte."""

    call_id: str
    name: str
    arguments: Raw


class ToolResult(Struct, frozen=True):
    """What a tool returned."""

    call_id: str
    parts: "list[Part]"
    failed: bool = False


NO_ARGUMENTS = Raw(b'{"type":"object","properties":{}}')
"""The schema of a tool that takes nothing."""
Part = Text | Image | Audio | Document | Thinking | Refused | ToolCall | ToolResult


class Turn(Struct, frozen=True):
    """What one side said."""

    role: Literal["user", "assistant", "system"]
    """``system``: an instruction in mid-conversation."""
    parts: list[Part]


class Tool(Struct, frozen=True):
    """A function that the model may call; ``schema`` is that of its arguments, byte for byte."""

    name: str
    description: str | None
    schema: Raw | None
    strict: bool = False
    cache_s: int | None = None


class Names(Struct, frozen=True):
    """What a dialect calls that which a translation may name."""

    turns: str
    limit: str
    effort: str
    no_effort: str
    user: str
    format: str = "response_format"
    stop: str = "stop"
    thinking: str = "reasoning"
    efforts: Mapping[str, str] = {}
    """Words for the effort that OpenAI's models do not all know -> the nearest that they do."""


class Conversation(Struct, frozen=True, kw_only=True):
    """All that a model is asked; what is None or empty was not asked for."""

    system: list[Text]
    turns: list[Turn]
    tools: list[Tool] = []
    tool_choice: Literal["auto", "none", "required"] | None = None
    named_tool: str | None = None
    parallel_tools: bool = True
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = []
    schema: Mapping[str, Raw] | None = None
    """Of the answer, with its description."""
    schema_name: str = "answer"
    strict_schema: bool | None = None
    """None: where the schema is one that can be kept to strictly."""
    any_json: bool = False
    """The answer is to be a JSON object, whatever is in it."""
    effort: str | None = None
    """Of reasoning; ``none``: it is not wanted."""
    user: str | None = None
    standard_service: bool = False
    """Nothing that was bought for urgent requests is to be used."""
    continues: bool = False
    """An answer that stands last is the beginning of the one that is asked for."""
    hosted: tuple[str, ...] = ()
    """Places of tools that only the dialect's own provider has."""
    names: Names
    rest: Mapping[str, bytes] = {}
    """Members that the dialect has beyond this, and that ask for something."""
    left_out: tuple[str, ...] = ()
    """What was asked for and is not said, since the answer is the same without; by name, for the call's record."""


class UntranslatableError(Exception):
    """There is no equivalent. ``place``: of what, as a path in the caller's body; ``why``: a clause, or empty."""

    def __init__(self, place: str, why: str = "") -> None:
        super().__init__(place)
        self.place = place
        self.why = why

    def sentence(self, says: str) -> str:
        """Say of the place that it has no equivalent, in these words, and why."""
        return f"'{self.place}' {says}{f': {self.why}' if self.why else ''}."


def untranslatable(place: str, error: ValidationError) -> UntranslatableError:
    """Return the refusal of what stands at a place and has not the type that is known: its own place, and why."""
    why, _, path = str(error).partition(" - at `$")
    place += path.removesuffix("`")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", why[:200]):
        return UntranslatableError(f"{place}.{unknown[1]}")
    return UntranslatableError(place, f"{why[:1].lower()}{why[1:200]}")


class Ending(Struct, frozen=True):
    """How an answer ended, and what it took."""

    reason: Finish
    usage: Usage | None = None
    stop_sequence: str | None = None
    """Which of those asked for ended it, where that is known."""
    service_tier: str | None = None
    """What the upstream says that it served the answer at, in its own word."""


class AnswerWriter(Protocol):
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

    def end(self, ending: Ending) -> bytes:
        """End the answer; comes last."""


class Translatable(Endpoint, Protocol):
    """An endpoint whose calls can be said in another format."""

    hint_headers: tuple[str, ...]
    """Of the dialect: they tune what its own upstreams do, and no others get them."""

    def conversation(self, envelope: Envelope, *, small: bool = False) -> Conversation:
        """Read a body, or of that only what is ``small``: no turn and no tool. Raises UntranslatableError."""

    def writer(self, envelope: Envelope, created_s: int) -> AnswerWriter:
        """Make what writes the answer, streamed or whole as the caller asked, dated in seconds since 1970."""


def is_translatable(endpoint: Endpoint) -> TypeGuard[Translatable]:
    """Whether calls of an endpoint can be said in another format. To ask its protocol takes as long as a few tokens."""
    return hasattr(endpoint, "conversation")


def conversation_of(call: Call, *, small: bool = False, takes_thinking: bool = False) -> Conversation:
    """Read a call's conversation; a provider's own tools are left out where the route says so, and else refused.

    Headers that tune what the dialect's own upstreams do are left out too, and earlier thinking unless it is taken.
    Raises UntranslatableError.
    """
    endpoint = endpoint_of(call)
    conversation = endpoint.conversation(call.envelope, small=small)
    if conversation.hosted and not call.route.drops_unsupported_tools:
        raise UntranslatableError(conversation.hosted[0], "it is a tool of the provider's own")
    if not small and "tool_choice" not in conversation.left_out:
        _require_tools(conversation)
    if not takes_thinking:
        conversation = _without_thinking(conversation)
    hints = [name for name in endpoint.hint_headers if name in call.headers]
    if not (hints or conversation.hosted):
        return conversation
    return replace(conversation, left_out=(*hints, *conversation.left_out, *conversation.hosted))


def _require_tools(conversation: Conversation) -> None:
    """Raise UntranslatableError when a tool is to be called that is not there."""
    named = conversation.named_tool
    if named is not None and all(tool.name != named for tool in conversation.tools):
        raise UntranslatableError("tool_choice", "there is no such tool")
    if conversation.tool_choice == "required" and not conversation.tools:
        why = "a tool is to be called, and there is none that this target could call"
        raise UntranslatableError("tool_choice", why)


def _without_thinking(conversation: Conversation) -> Conversation:
    if not any(isinstance(part, Thinking) for turn in conversation.turns for part in turn.parts):
        return conversation
    said = [Turn(each.role, [it for it in each.parts if not isinstance(it, Thinking)]) for each in conversation.turns]
    left_out = dict.fromkeys((*conversation.left_out, conversation.names.thinking))
    return replace(conversation, turns=[turn for turn in said if turn.parts], left_out=tuple(left_out))


def endpoint_of(call: Call) -> Translatable:
    """Return the endpoint of a call that no format has refused for want of it."""
    endpoint = call.envelope.endpoint
    assert is_translatable(endpoint)  # noqa: S101 - see ``Format.refuses``
    return endpoint
