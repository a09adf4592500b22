"""Read answers of OpenAI's Responses API, streamed or whole, for a writer of the caller's dialect.

Decides which items the caller sees, and why an answer ended. Of each item whatever has come as deltas counts; an item
of which none came is taken from the event that ends it, or from the whole response at the end: not every server sends
each of the documented events. Events and items that are not known here are passed over.

Sources: platform.openai.com/docs/api-reference/responses and responses-streaming; types of the ``openai`` SDK 3.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.chat import AnswerWriter, Ending, Finish
from gateway.formats.classify import COMPATIBLE, Facts
from gateway.formats.events import EventsDecoder, StreamError, raise_if_cut
from gateway.formats.malformed import UNREADABLE
from gateway.formats.splice import kind_of
from gateway.formats.sse import Splitter
from gateway.formats.tokens import estimate_output_tokens
from gateway.formats.usage import merged, tier_of, usage_of
from gateway.tariff import Rates, Usage

_INCOMPLETE: dict[str | None, Finish] = {"content_filter": "content_filter"}
"""``incomplete_details.reason``; any other one, as a rule ``max_output_tokens``, is a length."""
_CALLS = frozenset(("function_call", "custom_tool_call"))
_BETWEEN_PARTS = "\n\n"


class _Piece(Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class Item(Struct):
    """What is read of an item."""

    type: str
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None
    input: str | None = None
    content: list[_Piece] | None = None
    summary: list[_Piece] | None = None
    action: Any = None
    """What a search of the provider's own did."""


class _Details(Struct):
    reason: str | None = None


class _Response(Struct):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[Item] | None = None
    error: Any = None
    incomplete_details: _Details | None = None
    usage: Any = None
    """Counts that may be anything: see ``formats.usage``."""
    service_tier: Any = None


class _Event(Struct):
    type: str
    response: _Response | None = None
    item: Item | None = None
    output_index: int | None = None
    summary_index: int | None = None
    delta: Any = None
    error: Any = None


class Seen(Struct):
    """What has passed of one item."""

    call: int | None = None
    """Its index among the calls."""
    source: str = ""
    """Which event its text or thinking comes from; of summary and full thinking only the first is shown."""
    part: int | None = None
    """Of its summary, the part that was shown last."""
    chars: int = 0
    last: str = ""
    """The piece that came last."""


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_response = msgspec.json.Decoder(_Response).decode


class ResponseDecoder(EventsDecoder):
    """One answer on its way from a Responses API to a writer."""

    def __init__(
        self,
        writer: AnswerWriter,
        rates: Rates,
        *,
        is_streamed: bool,
        input_tokens_estimate: int = 0,
        facts: Facts = COMPATIBLE,
    ) -> None:
        super().__init__(writer, rates, Splitter(), is_streamed=is_streamed)
        self.facts = facts
        self._input_tokens_estimate = input_tokens_estimate
        self._reported: dict[str, Any] | None = None
        self._tier: Any = None
        self._started = False
        self._items: dict[int, Seen] = {}
        """By output index."""
        self._call_count = 0
        self._searches = 0

    @property
    def service_tier(self) -> str | None:
        """See ``Decoder.service_tier``."""
        return tier_of(self._tier)

    @property
    def usage(self) -> Usage | None:
        """See ``Decoder.usage``: it comes with the last event, and not every provider counts its searches there."""
        usage = usage_of(self._reported, self._rates, (self.content_events, self.content_bytes))
        if usage is None or usage.web_searches >= self._searches:
            return usage
        return replace(usage, web_searches=self._searches)

    def read_event(self, data: bytes) -> bytes:
        """See ``EventsDecoder.read_event``."""
        if self.complete or data.strip() == b"[DONE]":
            return b""
        try:
            event = _decode_event(data)
            handler = self._HANDLERS.get(event.type)
            if event.type == "error" or (event.error and handler is None):
                raise StreamError(data)
            return b"" if handler is None else handler(self, event)
        except UNREADABLE as error:
            self._forgive(data, error)
        except (AttributeError, TypeError, ValueError):  # a delta of another type, half a surrogate pair
            raise nonsense() from None
        return b""

    def read_whole(self, body: bytes) -> bytes:
        """See ``EventsDecoder.read_whole``."""
        try:
            response = _decode_response(body)
            if response.output is None and not response.error:
                raise nonsense()
            return self._finish(response)
        except UNREADABLE as error:
            raise_if_cut(error)
            raise nonsense() from None
        except ValueError:
            raise nonsense() from None

    def read_end(self, rest: bytes) -> bytes:
        """See ``EventsDecoder.read_end``: only an event that says so ends an answer."""
        written = self._read_last(rest)
        if not self.complete:
            raise UpstreamError(ErrorKind.UPSTREAM_CUT, "The upstream ended its stream before the answer was complete.")
        return written

    def _forgive(self, data: bytes, error: Exception) -> None:
        """Pass over an event of a kind that is not known, and behind text one that cannot be read."""
        kind = kind_of(data)
        if not kind or kind in self._HANDLERS:
            if not self.content_events or self._call_count:
                raise nonsense() from error
            self.dropped_events += 1

    def _start(self, response: _Response | None) -> bytes:
        if self._started:
            return b""
        self._started = True
        answer_id, model = (response.id, response.model) if response is not None else (None, None)
        return self._writer.start(answer_id or "", model or "")

    def _on_begin(self, event: _Event) -> bytes:
        return self._start(event.response)

    def _on_item(self, event: _Event) -> bytes:
        """Begin a call: its name is known before its arguments."""
        if event.item is None or event.item.type not in _CALLS:
            return b""
        return self._call(self._seen(event), event.item)

    def _on_item_done(self, event: _Event) -> bytes:
        return b"" if event.item is None else self._whole_item(self._seen(event), event.item)

    def _on_text(self, event: _Event) -> bytes:
        return self._add(self._seen(event), self._text, event.delta)

    def _on_refusal(self, event: _Event) -> bytes:
        return self._add(self._seen(event), self._refusal, event.delta)

    def _on_thought(self, event: _Event) -> bytes:
        """Show thinking, or its summary, of which the parts stand apart."""
        seen, delta = self._seen(event), event.delta
        if not delta or (seen.source and seen.source != event.type):
            return b""
        is_next = seen.source and seen.part != event.summary_index
        seen.source, seen.part = event.type, event.summary_index
        return self._add(seen, self._reasoning, _BETWEEN_PARTS + delta if is_next else delta)

    def _on_arguments(self, event: _Event) -> bytes:
        seen = self._seen(event)
        if seen.call is None:
            raise nonsense()
        return self._add(seen, self._arguments_of(seen.call), event.delta)

    def _on_end(self, event: _Event) -> bytes:
        if event.response is None:
            raise nonsense()
        return self._finish(event.response)

    def _seen(self, event: _Event) -> Seen:
        if event.output_index is None:
            raise nonsense()
        return self._items.setdefault(event.output_index, Seen())

    def _add(self, seen: Seen, verb: Callable[[str], bytes], text: str | None) -> bytes:
        if not text:
            return b""
        seen.chars, seen.last = seen.chars + len(text), text
        return self._start(None) + verb(text)

    def _refusal(self, text: str) -> bytes:
        self._saw(text)
        return self._writer.refusal(text)

    def _arguments_of(self, call: int) -> Callable[[str], bytes]:
        def add(fragment: str) -> bytes:
            self._saw(fragment)
            return self._writer.arguments(call, fragment)

        return add

    def _call(self, seen: Seen, item: Item) -> bytes:
        """Begin a call, unless it has begun; its id is the one that its result will name."""
        if seen.call is not None:
            return b""
        seen.call, self._call_count = self._call_count, self._call_count + 1
        self._saw(item.name or "")
        return self._start(None) + self._writer.tool(seen.call, item.call_id or item.id or "", item.name or "")

    def _whole_item(self, seen: Seen, item: Item) -> bytes:
        """Take what has not come in pieces: all of it, or how it ends."""
        if item.type in _CALLS:
            written = self._call(seen, item)
            arguments = item.input if item.arguments is None else item.arguments
            whole = arguments if isinstance(arguments, str | None) else msgspec.json.encode(arguments).decode()
            return written + self._rest_of(seen, self._arguments_of(seen.call or 0), whole or "")
        if item.type == "reasoning":
            pieces = item.summary or item.content or ()
            return self._rest_of(seen, self._reasoning, _BETWEEN_PARTS.join(piece.text or "" for piece in pieces))
        if item.type != "message":
            self._searches += item.type == "web_search_call" and _is_charged(item.action)
            return b""
        has_begun, pieces = bool(seen.chars), item.content or ()
        written = self._rest_of(seen, self._text, "".join(piece.text or "" for piece in pieces))
        refusal = "" if has_begun else "".join(piece.refusal or "" for piece in pieces)
        return written + self._add(seen, self._refusal, refusal)

    def _rest_of(self, seen: Seen, verb: Callable[[str], bytes], whole: str) -> bytes:
        is_longer = whole[: seen.chars].endswith(seen.last)
        return self._add(seen, verb, whole[seen.chars :]) if is_longer else b""

    def _finish(self, response: _Response) -> bytes:
        """Take the whole response, with which every answer ends. Raises StreamError for one that failed."""
        self._reported = merged(self._reported, response.usage)
        self._tier = response.service_tier
        if response.status in {"failed", "cancelled"} or response.error:
            raise StreamError(msgspec.json.encode({"error": response.error or {"code": response.status}}))
        if response.status not in {None, "completed", "incomplete"}:
            raise nonsense()
        written = self._start(response)
        for item in () if self._items else response.output or ():
            written += self._whole_item(Seen(), item)
        finish: Finish = "tool_calls" if self._call_count else "stop"
        if response.status == "incomplete":
            details = response.incomplete_details or _Details()
            finish = _INCOMPLETE.get(details.reason, "length")
        self.complete = True
        return written + self._writer.end(Ending(finish, self._counted(), service_tier=self.service_tier))

    def _counted(self) -> Usage:
        """Return the upstream's count, and of what it has not counted the estimate that is billed."""
        usage = self.usage or Usage()
        if not usage.read_tokens:
            usage = replace(usage, input_tokens=self._input_tokens_estimate)
        if self.content_events and not usage.written_tokens:
            usage = replace(usage, output_tokens=estimate_output_tokens(self.content_events, self.content_bytes))
        return usage

    _HANDLERS: ClassVar[dict[str, Callable[["ResponseDecoder", _Event], bytes]]] = {
        "response.created": _on_begin,
        "response.in_progress": _on_begin,
        "response.queued": _on_begin,
        "response.output_item.added": _on_item,
        "response.output_item.done": _on_item_done,
        "response.output_text.delta": _on_text,
        "response.refusal.delta": _on_refusal,
        "response.reasoning_summary_text.delta": _on_thought,
        "response.reasoning_text.delta": _on_thought,
        "response.function_call_arguments.delta": _on_arguments,
        "response.custom_tool_call_input.delta": _on_arguments,
        "response.completed": _on_end,
        "response.incomplete": _on_end,
        "response.failed": _on_end,
    }
    """Every event that is read; an ``error`` is raised, all else passed over."""


def _is_charged(action: Any) -> bool:
    """Whether a search looked something up: to open a page and to look into it is free (guides/tools-web-search)."""
    return not isinstance(action, dict) or action.get("type") in {None, "search"}


def nonsense() -> UpstreamError:
    """Make the error of an answer that cannot be read."""
    return UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream's answer is not one of a Responses API.")
