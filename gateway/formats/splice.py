"""Edit top-level members of a JSON object where they stand; every other byte stays as the caller wrote it.

Decides where a member begins and ends, never what may be changed: that is the adapters' affair.
"""

import re
from collections.abc import Iterator, Mapping

import msgspec

from gateway.formats.malformed import UNREADABLE

BLANKS = b" \t\n\r"
"""Of JSON."""
# What stands between two values: a comma, a name (perhaps written with escapes) and a colon.
_BETWEEN = re.compile(rb'[ \t\n\r]*(?:,[ \t\n\r]*)?"(?:[^"\\]|\\.)*"[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)

_NOTHING = frozenset((b"null", b"false", b'""', b'"none"', b"[]", b"{}"))

_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Kind(msgspec.Struct):
    type: str


_kind = msgspec.json.Decoder(_Kind).decode


class Members(Mapping[str, bytes]):
    """Name -> raw JSON of the value, which is copied out of a large object when it is asked for."""

    __slots__ = ("_text", "places")

    def __init__(self, text: bytes, places: dict[str, tuple[int, int]]) -> None:
        self._text = text
        self.places = places
        """From behind the colon to before the comma."""

    def __getitem__(self, name: str) -> bytes:
        start, end = self.places[name]
        return self._text[start:end].strip(BLANKS)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def members_of(body: bytes) -> dict[str, bytes]:
    """Cut an object without duplicate members into name -> raw JSON, in order. Raises msgspec.DecodeError."""
    return {name: bytes(raw) for name, raw in _raw_members(body).items()}


def kind_of(raw: bytes) -> str:
    """Return the ``type`` of an object that may have any other fault; empty: it has none."""
    try:
        return _kind(raw).type
    except UNREADABLE:
        return ""


def asks_nothing(raw: bytes) -> bool:
    """Return whether a member's value stands for its absence: null, false, ``none``, or empty."""
    return raw in _NOTHING or (raw[:1] in (b"[", b"{") and not raw[1:-1].strip())


def splice(body: bytes, members: Mapping[str, bytes], changes: Mapping[str, bytes | None]) -> bytes:
    """Replace, remove (None) and append members of ``body``; the same object when there is nothing to change.

    ``members`` is what ``members_of`` gave for this body. Raises ValueError when the two do not belong together.
    """
    pending = {name: value for name, value in changes.items() if value is not None or name in members}
    if not pending:
        return body
    copied = position = first = body.index(b"{") + 1
    places = members.places if type(members) is Members else None
    pieces = [body[:position]]
    kept = False
    for name in members:
        if not pending and kept:
            break
        if places is not None:
            start, end = _value(body, members[name], places[name]) if name in changes else places[name]
        else:
            raw = members[name]
            between = _BETWEEN.match(body, position)
            if between is None or not body.startswith(raw, between.end()):
                raise ValueError("the members are not those of this body")
            start, end = between.end(), between.end() + len(raw)
        if pending.pop(name, b"") is None:
            pieces.append(body[copied:position])
            copied = end
        else:
            if not kept and copied == position > first:
                # Everything before it was removed, and the comma with it.
                copied = position + _comma(body[position:start])
            if name in changes:
                pieces += (body[copied:start], changes[name] or b"")
                copied = end
            kept = True
        position = end
    if pending:
        position = body.rindex(b"}")
        pieces.append(body[copied:position])
        copied = position
        added = b",".join(msgspec.json.encode(name) + b":" + (value or b"") for name, value in pending.items())
        pieces.append(b"," + added if kept else added)
    pieces.append(body[copied:])
    return b"".join(pieces)


def without(body: bytes, members: Mapping[str, bytes], name: str) -> tuple[bytes, Mapping[str, bytes]]:
    """Remove one member, and return what is left with its members; no other is read again, however large it is."""
    shorter = splice(body, members, {name: None})
    if type(members) is not Members:
        return shorter, {each: raw for each, raw in members.items() if each != name}
    removed_at, size = members.places[name][0], len(body) - len(shorter)
    places = {
        each: place if place[0] < removed_at else (place[0] - size, place[1] - size)
        for each, place in members.places.items()
        if each != name
    }
    return shorter, Members(shorter, places)


def _value(body: bytes, raw: bytes, place: tuple[int, int]) -> tuple[int, int]:
    """Return where a value stands without the blanks around it."""
    start = body.index(raw[:1], *place)
    return start, start + len(raw)


def _comma(between: bytes) -> int:
    name = between.index(b'"')
    return between.find(b",", 0, name) + 1
