"""Edit top-level members of a JSON object where they stand; every other byte stays as the caller wrote it.

Decides where a member begins and ends, never what may be changed: that is the adapters' affair.
"""

import re
from collections.abc import Mapping

import msgspec

_OPENING = re.compile(rb"[ \t\n\r]*\{")
# What stands between two values: a comma, a name (perhaps written with escapes) and a colon.
_BETWEEN = re.compile(rb'[ \t\n\r]*(?:,[ \t\n\r]*)?"(?:[^"\\]|\\.)*"[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)

_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def members_of(body: bytes) -> dict[str, bytes]:
    """Cut an object into name -> raw JSON of the value, in order.

    Does not see duplicate members (the last one wins); the validating scan refuses them first. Raises
    msgspec.DecodeError when the text is not a JSON object.
    """
    return {name: bytes(raw) for name, raw in _raw_members(body).items()}


def splice(body: bytes, members: Mapping[str, bytes], changes: Mapping[str, bytes | None]) -> bytes:
    """Replace, remove (None) and append members of ``body``; the same object when there is nothing to change.

    ``members`` is what ``members_of`` gave for this body, which must hold no duplicates. Raises ValueError when the two
    do not belong together.
    """
    pending = {name: value for name, value in changes.items() if value is not None or name in members}
    if not pending:
        return body
    opening = _OPENING.match(body)
    if opening is None:
        raise ValueError("not a JSON object")
    pieces = [body[: opening.end()]]
    kept = False
    copied = position = opening.end()
    for name, raw in members.items():
        if not pending and kept:
            break
        between = _BETWEEN.match(body, position)
        if between is None or not body.startswith(raw, between.end()):
            raise ValueError("the members are not those of this body")
        start, end = between.end(), between.end() + len(raw)
        if pending.pop(name, b"") is None:
            pieces.append(body[copied:position])
            copied = end
        else:
            if not kept and copied == position:
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
        added = b",".join(msgspec.json.encode(name) + b":" + value for name, value in pending.items() if value)
        pieces.append(b"," + added if kept else added)
    pieces.append(body[copied:])
    return b"".join(pieces)


def _comma(between: bytes) -> int:
    name = between.index(b'"')
    return between.find(b",", 0, name) + 1
