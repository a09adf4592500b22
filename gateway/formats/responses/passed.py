"""Pass a caller's own bytes to a target that speaks Responses too, and its answer's bytes back.

Decides which single members of a request change: the model, an output limit above what the target has, and what makes
it stream. Reasoning that we wrote, which no provider knows, stays behind. A stream ends with the whole response, so a
caller who wants none gets that.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from gateway.formats.base import streams_upstream
from gateway.formats.classify import Facts
from gateway.formats.passed import UNWRITTEN, Passing
from gateway.formats.responses.answer import ResponseDecoder, Seen
from gateway.formats.responses.written import UNSIGNED, numbered
from gateway.formats.splice import kind_of, splice
from gateway.tariff import Rates
from gateway.types import Call, Envelope, Target, UpstreamRequest


class Passed:
    """A call in the caller's own words: what writes the request to one target (``formats.base.Prepared``)."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._changes = _without_unsigned(call.envelope)
        self.left_out: list[str] = []
        """See ``CallRecord.left_out``."""

    def __call__(self, target: Target, attempt_id: str) -> UpstreamRequest:
        """Write the request."""
        envelope, limit, changes = self._call.envelope, target.max_output_tokens, dict(self._changes)
        self.left_out[:] = ["reasoning"] if changes else []
        if envelope.model != target.upstream_model:
            changes["model"] = msgspec.json.encode(target.upstream_model)
        if limit is not None and (envelope.max_output_tokens or 0) > limit:
            changes["max_output_tokens"] = b"%d" % limit
            self.left_out.append("max_output_tokens")
        if streams_upstream(self._call, target) and not envelope.stream:
            changes["stream"] = b"true"
        return UpstreamRequest(
            method="POST",
            url=target.base_url.rstrip("/") + envelope.endpoint.path.removeprefix("/v1"),
            headers=(("content-type", "application/json"), ("x-tollway-attempt-id", attempt_id), *target.headers),
            body=splice(envelope.body, envelope.members, changes),
            pool=target.pool,
        )


class _Id(Struct):
    id: Any = None


class _Ended(Struct):
    response: Raw


_raws = msgspec.json.Decoder(list[Raw] | None).decode
_id = msgspec.json.Decoder(_Id).decode
_ended = msgspec.json.Decoder(_Ended).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_string = msgspec.json.Decoder(str).decode
_BEGUN: dict[str, Any] = {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
_ADDED = {
    "function_call": ("arguments", "function_call_arguments"),
    "custom_tool_call": ("input", "custom_tool_call_input"),
}
"""Kind of an item -> the member of which a stream has deltas, and their name."""


def _without_unsigned(envelope: Envelope) -> dict[str, bytes | None]:
    """Take out of earlier answers the reasoning that no provider has signed."""
    mark = b'"' + UNSIGNED.encode()
    asked = envelope.members.get("input", b"")
    if mark not in envelope.body or not asked.startswith(b"["):
        return {}
    items = _raws(asked) or ()
    kept = [bytes(item) for item in items if mark not in bytes(item) or not str(_id(item).id).startswith(UNSIGNED)]
    return {"input": b"[%b]" % b",".join(kept)} if len(kept) < len(items) else {}


class _Delta(Struct, tag_field="type", tag="response.output_text.delta"):
    delta: str


_deltas = msgspec.json.Decoder(list[_Delta]).decode


def _texts(data: bytes) -> list[str]:
    return [event.delta for event in _deltas(data)]


class PassedDecoder(Passing, ResponseDecoder):
    """Reads what passes; tools of the provider's own count as content."""

    known = {b"event: response.output_text.delta\ndata: ": _texts}  # noqa: RUF012 - typed in the base

    def __init__(self, rates: Rates, *, is_streamed: bool, facts: Facts) -> None:
        super().__init__(UNWRITTEN, rates, is_streamed=is_streamed, facts=facts)
        self._whole = b""

    def read_event(self, data: bytes) -> bytes:
        """See ``EventsDecoder.read_event``."""
        was_complete = self.complete
        written = super().read_event(data)
        if self.complete and not was_complete:
            self._whole = bytes(_ended(data).response)
        elif not self.content_events and "_call" in kind_of(data).partition("response.")[2]:
            self.content_events += 1  # a tool of the provider's own is at work
        return written

    def _rest_of(self, seen: Seen, verb: Callable[[str], bytes], whole: str) -> bytes:
        """Take what of a whole item did not come in pieces, as far as these were looked at one by one."""
        return b"" if self._in_one_go else super()._rest_of(seen, verb, whole)

    def _put_together(self) -> bytes:
        return self._whole

    def _last(self, rest: bytes) -> bytes:
        return rest.rstrip(b"\r\n") + b"\n\n" if rest else b""

    def _apart(self, body: bytes) -> bytes:
        return as_events(body)

    def _forgive(self, data: bytes, error: Exception) -> None:
        """Pass an event that cannot be read behind content: the caller's client may read what we cannot."""
        if not self.content_events:
            super()._forgive(data, error)


def as_events(body: bytes) -> bytes:
    """Write a whole response, which has been read before, as the stream that it would have been."""
    response = _members(body.translate(None, b"\r\n"))  # an event has one line
    begun = {"response": response | _BEGUN}
    events: list[tuple[str, dict[str, Any]]] = [("response.created", begun), ("response.in_progress", begun)]
    for number, raw in enumerate(_raws(response.get("output", b"[]")) or ()):
        item, place = _members(raw), {"output_index": number}
        kind = _string(item.get("type", Raw(b'""')))
        at = place | {"item_id": item.get("id", Raw(b'""'))}
        name, added = _ADDED.get(kind, ("", ""))
        start: dict[str, Any] = {**item, **({"content": []} if kind == "message" else {name: ""} if name else {})}
        events.append(("response.output_item.added", place | {"item": start}))
        if name and name in item:
            events.append((f"response.{added}.delta", at | {"delta": item[name]}))
            events.append((f"response.{added}.done", at | {name: item[name]}))
        for index, part in enumerate(_raws(item.get("content", b"[]")) or () if kind == "message" else ()):
            events += _part(at | {"content_index": index}, part)
        events.append(("response.output_item.done", place | {"item": item}))
    end = "incomplete" if response.get("status") == Raw(b'"incomplete"') else "completed"
    events.append((f"response.{end}", {"response": response}))
    return b"".join(numbered(name, number, members) for number, (name, members) in enumerate(events))


def _part(at: dict[str, Any], raw: Raw) -> list[tuple[str, dict[str, Any]]]:
    part = _members(raw)
    name = "refusal" if "refusal" in part else "text"
    kind = "refusal" if name == "refusal" else "output_text"
    beside: dict[str, Any] = {} if name == "refusal" else {"logprobs": []}
    return [
        ("response.content_part.added", at | {"part": part | {name: ""}}),
        (f"response.{kind}.delta", at | {"delta": part.get(name, "")} | beside),
        (f"response.{kind}.done", at | {name: part.get(name, "")} | beside),
        ("response.content_part.done", at | {"part": part}),
    ]
