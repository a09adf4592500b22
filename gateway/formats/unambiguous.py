"""Proves that a small body is one JSON object that every parser reads alike, and cuts it into its members.

Refused is what two readers may take for two things, or choke on: members twice in one object, text that is not UTF-8,
halves of surrogate pairs, NaN, numbers beyond a float or 4,300 digits, deep nesting. The grammar is msgspec's, which
keeps the last of two equal members. So the body is parsed to a tree and written again. The same bytes mean that nothing
was lost. Where blanks or escapes make them others, a member that was lost took its quotes with it, and as many quotes
before and after mean that none was. Strings that spell a quote as an escape are looked at one by one, as everything in
a large body is (``outline``): its tree might take thirty times its size.
"""

from typing import Any

import msgspec

from gateway.formats.malformed import MAX_DEPTH, NO_OBJECT, TOO_DEEP, UNREADABLE, fault, malformed
from gateway.formats.outline import outline_of
from gateway.formats.splice import members_of

SMALL_BYTES = 1 << 16
"""The worst tree of so much takes 5 ms."""
SHORT_BYTES = 1 << 12
"""So much is searched for a sign in a microsecond; in more, what was parsed of it shows sooner what there is."""

_tree = msgspec.json.Decoder().decode
_written = msgspec.json.Encoder().encode


def members_of_object(body: bytes) -> dict[str, bytes]:
    """Cut a small body into name -> raw JSON of the value. Raises GatewayError (INVALID_REQUEST) with the reason."""
    try:
        tree = _tree(body)
    except UNREADABLE as error:
        raise fault(body, body, error) from None
    if type(tree) is not dict:
        raise malformed(NO_OBJECT)
    written = _written(tree)
    if written != body and ((b"\\" in body and b"u0022" in body) or body.count(b'"') != written.count(b'"')):
        outline_of(body)
    elif len(body) > SHORT_BYTES or body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(tree)
    return members_of(body)


def _check_depth(tree: dict[str, Any]) -> None:
    level: list[Any] = [tree]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return
    raise malformed(TOO_DEEP)
