"""Write an answer of another dialect as one of OpenAI's responses: as a stream of events, or whole.

Decides how pieces become output items: one after another, each with one part. Thinking is a summary for a caller that
asked for one, and else the item's own text; its id tells it from a provider's (``UNSIGNED``), so that it is left out
when it is sent back. What a custom tool is given is written when it is whole: it came as an argument.

Events and their order: platform.openai.com/docs/api-reference/responses-streaming; shapes: the types of the ``openai``
SDK 3.54.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import msgspec
from msgspec import Struct

from gateway.formats.chat import Ending, Finish
from gateway.formats.malformed import UNREADABLE
from gateway.formats.one_by_one import OneByOne, encode, event_of
from gateway.formats.openai.chat_answer import OPENAI_TIERS
from gateway.tariff import Usage

UNSIGNED = "rs_tollway_"
"""How the ids of reasoning begin that no provider has signed: none of them knows it, or takes it back."""
INPUT = "input"
"""The only argument of the function that stands in for a custom tool."""
_INCOMPLETE: dict[Finish, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _Kind(Struct, frozen=True):
    """How a kind of piece is written."""

    item: str
    id_prefix: str
    delta: str
    """The event that adds to it; the one that ends it has the same name, with ``done``."""
    member: str
    """What holds its text."""
    parts: str = ""
    """The member that holds its parts, of which there is one; empty: it has none."""
    part: str = ""
    """The type of that."""


_KINDS = {
    "text": _Kind("message", "msg_", "output_text", "text", "content", "output_text"),
    "refusal": _Kind("message", "msg_", "refusal", "refusal", "content", "refusal"),
    "reasoning": _Kind("reasoning", UNSIGNED, "reasoning_text", "text", "content", "reasoning_text"),
    "summary": _Kind("reasoning", UNSIGNED, "reasoning_summary_text", "text", "summary", "summary_text"),
    "function": _Kind("function_call", "fc_", "function_call_arguments", "arguments"),
    "custom": _Kind("custom_tool_call", "ctc_", "custom_tool_call_input", "input"),
}
_BESIDE: dict[str, dict[str, Any]] = {"output_text": {"annotations": [], "logprobs": []}}
"""Members of a part that say nothing here."""


class Offered(NamedTuple):
    """What a caller calls a tool that a model is offered as a function."""

    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None


class Written(OneByOne):
    """Takes the verbs of ``AnswerWriter``. A caller who wants no stream gets the response alone, at its end.

    ``asked``: what a response repeats of its request. ``tools``: what the caller calls those that were offered.
    ``shows_summary``: thinking is a summary.
    """

    def __init__(
        self,
        asked: Mapping[str, Any],
        created_s: int,
        *,
        stream: bool,
        tools: Mapping[str, Offered],
        shows_summary: bool,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._tools = tools
        self._reasoning = "summary" if shows_summary else "reasoning"
        self._suffix = uuid4().hex
        self._response = {"id": f"resp_{self._suffix}", "object": "response", "created_at": created_s, **asked}
        self.events = 0
        """How many have been written."""
        self._output: list[dict[str, Any]] = []
        self._texts: list[str] = []
        """Of the piece that is open."""
        self._status = "completed"
        """Of a piece that ends."""
        self._head = self._tail = b""

    def start(self, answer_id: str, model: str) -> bytes:  # noqa: ARG002 - a response has an id of ours
        """Begin the response."""
        self._response["model"] = model
        begun = {"response": self._response | self._ends_in("in_progress")}
        return self._event("response.created", begun) + self._event("response.in_progress", begun)

    def text(self, text: str) -> bytes:
        """Add visible text."""
        return self._add("text", text)

    def reasoning(self, text: str) -> bytes:
        """Add readable thinking."""
        return self._add(self._reasoning, text)

    def refusal(self, text: str) -> bytes:
        """Add an explanation of why the model declined."""
        return self._add("refusal", text)

    def tool(self, index: int, call_id: str, name: str) -> bytes:
        """Begin a tool call."""
        kind = self._tools[name].kind if name in self._tools else "function"
        return self._begin_tool(index, kind, call_id or f"call_{self._suffix}{index}", name)

    def end(self, ending: Ending) -> bytes:
        """End the items, and write the whole response."""
        written = self._say_held()
        why = _INCOMPLETE.get(ending.reason)
        status = self._status = "completed" if why is None else "incomplete"
        written += self._close()
        ends = self._ends_in(status, why, ending.usage)
        ends["service_tier"] = OPENAI_TIERS.get(ending.service_tier)
        if not self._stream:
            return encode(self._response | ends)
        return written + self._event(f"response.{status}", {"response": self._response | ends})

    def _ends_in(self, status: str, why: str | None = None, usage: Usage | None = None) -> dict[str, Any]:
        details = None if why is None else {"reason": why}
        ends = {"status": status, "incomplete_details": details, "output": self._output}
        return ends | {"usage": None if usage is None else responses_usage(usage)}

    def _begun(self, kind: str, tool: tuple[str, str]) -> bytes:
        known, number = _KINDS[kind], len(self._output)
        item: dict[str, Any] = {"id": f"{known.id_prefix}{self._suffix}{number}", "type": known.item}
        if known.item == "reasoning":
            item |= {"summary": []}
        else:
            item |= {"status": "in_progress"}
        if known.item == "message":
            item |= {"role": "assistant", "content": []}
        elif known.item != "reasoning":
            _, name, namespace = self._tools.get(tool[1], (kind, tool[1], None))
            item |= {"call_id": tool[0], "name": name, known.member: ""}
            item |= {} if namespace is None else {"namespace": namespace}
        self._output.append(item)
        self._texts = []
        delta = f"response.{known.delta}.delta".encode()
        self._head = b'event: %b\ndata: {"type":"%b","sequence_number":%%d,%b,"delta":' % (
            delta, delta, encode(self._place(known))[1:-1],
        )  # fmt: skip
        self._tail = b',"logprobs":[]}\n\n' if kind == "text" else b"}\n\n"
        added = self._event("response.output_item.added", {"output_index": number, "item": item})
        return added + self._part_event("added", known, "")

    def _added(self, text: str) -> bytes:
        self._texts.append(text)
        return b"" if self._open == "custom" else self._delta(text)

    def _delta(self, text: str) -> bytes:
        if not self._stream:
            return b""
        self.events += 1
        return self._head % (self.events - 1) + encode(text) + self._tail

    def _ended(self) -> bytes:
        known, item = _KINDS[self._open], self._output[-1]
        text, written = "".join(self._texts), b""
        if self._open == "custom":
            text = _input_of(text)
            written = self._delta(text)
        elif self._open == "function" and not text.strip() and self._status == "completed":
            text = "{}"
            written = self._delta(text)
        item[known.parts or known.member] = [_part(known, text)] if known.parts else text
        if "status" in item:
            item["status"] = self._status
        done = self._place(known) | {known.member: text} | ({"logprobs": []} if self._open == "text" else {})
        written += self._event(f"response.{known.delta}.done", done) + self._part_event("done", known, text)
        return written + self._event("response.output_item.done", {"output_index": len(self._output) - 1, "item": item})

    def _place(self, known: _Kind) -> dict[str, Any]:
        number = len(self._output) - 1
        place = {"item_id": self._output[number]["id"], "output_index": number}
        index = "summary_index" if known.parts == "summary" else "content_index"
        return place | {index: 0} if known.parts else place

    def _part_event(self, verb: str, known: _Kind, text: str) -> bytes:
        if not known.parts:
            return b""
        name = "reasoning_summary_part" if known.parts == "summary" else "content_part"
        return self._event(f"response.{name}.{verb}", self._place(known) | {"part": _part(known, text)})

    def _event(self, name: str, members: dict[str, Any]) -> bytes:
        if not self._stream:
            return b""
        self.events += 1
        return numbered(name, self.events - 1, members)


def numbered(name: str, number: int, members: Mapping[str, Any]) -> bytes:
    """Write one event of a stream, with its place among them."""
    return event_of(name, {"sequence_number": number, **members})


def _part(known: _Kind, text: str) -> dict[str, Any]:
    return {"type": known.part, known.member: text} | _BESIDE.get(known.part, {})


class _Input(Struct):
    input: str


_decode_input = msgspec.json.Decoder(_Input).decode


def _input_of(arguments: str) -> str:
    """Return what a custom tool is given: what its stand-in was called with, or what is no call of that."""
    try:
        return _decode_input(arguments).input
    except UNREADABLE:
        return arguments


def responses_usage(usage: Usage) -> dict[str, Any]:
    """Write the usage of a response, whose totals include the classes that its details name."""
    read, written = usage.read_tokens, usage.written_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": read + written,
    }
