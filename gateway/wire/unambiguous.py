"""Proves that a body is one JSON object which every reader understands alike, and cuts it into its members.

Refused is what two readers may take for two things, or choke on: members twice in one object, text that is not UTF-8,
halves of surrogate pairs, NaN, numbers beyond a float or 4,300 digits, deep nesting. The grammar is msgspec's, which
keeps the last of two equal members, so what it does not tell is proved here in one of two ways:

- A small body is parsed to a tree and written again. A member that was lost took its quotes with it, so as many quotes
  before and after mean that none was. Strings that spell a quote as an escape go the second way.
- A large one is never made a tree, which may take thirty times its size and hold the interpreter for a second: its
  names, strings and brackets are looked at one by one, in steps between which other threads run, and only so many.
"""

import codecs
import json
import math
import re
from typing import Any

import msgspec

from gateway.errors import ErrorKind, GatewayError
from gateway.wire.splice import members_of

MAX_DEPTH = 64
MAX_PARTS = 500_000
"""Names, strings, and both ends of objects and arrays. A million tokens of chat have fewer than half as many."""
SMALL_BYTES = 1 << 16
"""The worst tree of so much takes 5 ms."""
_MAX_DIGITS = 4_300
_WINDOW_BYTES = 1 << 18
"""So much is looked at in one call of what is slow: some milliseconds in which no other thread runs."""

# Names that may be shown in a message: they are the protocol's, not the caller's.
PROTOCOL_NAMES = frozenset(
    (
        *("model", "messages", "prompt", "stream", "stream_options", "include_usage", "n", "best_of", "max_tokens"),
        *("max_completion_tokens", "temperature", "top_p", "stop", "seed", "tools", "tool_choice", "response_format"),
        *("user", "role", "content", "type", "text", "name", "input", "encoding_format"),
    )
)
_QUOTE, _BACKSLASH, _OPENING_BRACE, _OPENING = 0x22, 0x5C, 0x7B, frozenset(b"[{")
_INSIDE = re.compile(rb'[^"\\]*+(?:(?:\\.)++[^"\\]*+)*+', re.DOTALL)
_COLON = re.compile(rb"[ \t\n\r]*+:")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_DIGITS_ALIKE = bytes(0x30 if byte in b"0123456789" else 0x20 for byte in range(256))
_DIGITS = 100
_MANY_DIGITS = b"0" * _DIGITS
# What is neither has fewer than a hundred digits and an exponent of two: it is below 1e199.
_LARGE_NUMBER = re.compile(rb"[0-9]{100}|[eE]\+?0*+[0-9]{3}")
_MAX_LARGE_NUMBERS = 1_000
_TOO_MANY = (
    f"has too many parts; it may be made of {MAX_PARTS // 2} objects and arrays, or of {MAX_PARTS} strings and names, "
    f"and of {_MAX_LARGE_NUMBERS} numbers with a hundred digits"
)
_NUMBER = b"0123456789.eE+-"
_REST_OF_NUMBER = re.compile(rb"[0-9.eE+-]*+")
_BYTE = re.compile(r"\(byte (\d+)\)")
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")

_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_MARKED = "begins with a byte order mark; send UTF-8 without one"
_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
_TOO_LARGE = "holds a number that is too large"

_tree = msgspec.json.Decoder().decode
_written = msgspec.json.Encoder().encode


def members_of_object(body: bytes) -> dict[str, bytes]:
    """Cut a body into name -> raw JSON of the value. Raises GatewayError (INVALID_REQUEST) with the reason."""
    if len(body) > SMALL_BYTES:
        _check_text(body)
        members = _cut(body)
        _check_parts(body)
        return members
    try:
        tree = _tree(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _fault(body, error) from None
    if type(tree) is not dict:
        raise malformed("must be a JSON object")
    if b"u0022" in body or body.count(b'"') != _written(tree).count(b'"'):
        _check_parts(body)
    elif body.count(b"[") + body.count(b"{") > MAX_DEPTH:  # else it cannot be deeper
        _check_depth(tree)
    return members_of(body)


def malformed(what: str) -> GatewayError:
    """Make the refusal of a body as a whole."""
    return GatewayError(ErrorKind.INVALID_REQUEST, f"The body {what}.")


def _cut(body: bytes) -> dict[str, bytes]:
    try:
        return members_of(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _fault(body, error) from None


def _check_text(body: bytes) -> None:
    """See that a large body is UTF-8, a window at a time: as one string it may take four times its size."""
    if body.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    for start in range(0, len(body), _WINDOW_BYTES):
        begun_bytes = len(decoder.getstate()[0])
        try:
            decoder.decode(view[start : start + _WINDOW_BYTES], start + _WINDOW_BYTES >= len(body))
        except UnicodeDecodeError as error:
            place = start - begun_bytes + error.start
            raise malformed(_MARKED if body.startswith(_MARKS) else f"is not UTF-8 at byte {place}") from None


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
    raise malformed(_TOO_DEEP)


def _check_parts(body: bytes) -> None:
    """Look for members that stand twice in one object, for depth, for huge numbers, and count the parts."""
    names: set[bytes] | None = None  # of the object that is open; None: an array is, or nothing
    outer: list[set[bytes] | None] = []
    parts = large_numbers = position = 0
    while True:
        quote = body.find(b'"', position)
        between = body[position:quote] if quote >= 0 else body[position:]
        brackets = between.translate(None, _NO_BRACKETS)
        parts += len(brackets) + 1
        if len(between) > _SHORT_BYTES:
            large_numbers += _check_numbers(between)
        if parts > MAX_PARTS or large_numbers > _MAX_LARGE_NUMBERS:
            raise malformed(_TOO_MANY)
        for bracket in brackets:
            if bracket in _OPENING:
                outer.append(names)
                names = set() if bracket == _OPENING_BRACE else None
                if len(outer) > MAX_DEPTH:
                    raise malformed(_TOO_DEEP)
            else:
                names = outer.pop()
        if quote < 0:
            return
        end = _end_of_string(body, quote + 1)
        if names is not None and _COLON.match(body, end + 1):
            _add_once(names, body[quote + 1 : end])
        position = end + 1


def _end_of_string(body: bytes, start: int) -> int:
    """Return where the quote stands that ends the string whose text begins at ``start``."""
    end = body.find(b'"', start)
    while end > start and body[end - 1] == _BACKSLASH:
        inside = _INSIDE.match(body, start, start + _WINDOW_BYTES)
        start = inside.end() if inside is not None else end
        if body[start] == _QUOTE:
            return start
        end = body.find(b'"', start)
    return end


def _add_once(names: set[bytes], name: bytes) -> None:
    if b"\\" in name:
        name = json.loads(b'"%b"' % name).encode()
    if name in names:
        shown = name.decode()
        if shown not in PROTOCOL_NAMES:
            raise malformed("has a member twice in one object")
        sentence = f"The body has the member '{shown}' twice in one object."
        raise GatewayError(ErrorKind.INVALID_REQUEST, sentence, param=shown)
    names.add(name)


_SHORT_BYTES = 4
"""The shortest huge number has five (``9e308``)."""


def _check_numbers(between: bytes) -> int:
    """Look at the numbers between two strings, and count the large ones. Token ids make one stretch of megabytes."""
    large_numbers = position = 0
    while position < len(between):
        stop = position + _WINDOW_BYTES
        large = _large_number(between, position, stop)
        if large is None:
            position = stop if stop >= len(between) else stop - _MAX_DIGITS
            continue
        large_numbers += 1
        if large_numbers > _MAX_LARGE_NUMBERS:
            break
        before = between[max(0, large - _MAX_DIGITS - 2) : large]
        first = large - (len(before) - len(before.rstrip(_NUMBER)))
        rest = _REST_OF_NUMBER.match(between, large)
        position = rest.end() if rest is not None else stop
        number = between[first:position]
        if len(number) > _MAX_DIGITS if number.lstrip(b"-").isdigit() else math.isinf(float(number)):
            raise malformed(_TOO_LARGE)
    return large_numbers


def _large_number(between: bytes, start: int, stop: int) -> int | None:
    """Return a place within the next number that may be huge. The cheap looks come first."""
    window = between[start:stop]
    exponents = b"e" in window or b"E" in window
    if not exponents and (len(window) < _DIGITS or _MANY_DIGITS not in window.translate(_DIGITS_ALIKE)):
        return None
    large = _LARGE_NUMBER.search(window)
    return None if large is None else start + large.start()


def _fault(body: bytes, error: Exception) -> GatewayError:
    """Say why a body is no JSON object."""
    told = str(error)
    found = _BYTE.search(told)
    at = int(found[1]) if found is not None else len(body)
    if not body:
        what = "is empty; it must be a JSON object"
    elif body.startswith(_MARKS):
        what = _MARKED
    elif isinstance(error, RecursionError):
        what = _TOO_DEEP
    elif isinstance(error, UnicodeDecodeError):
        _check_text(body)  # raises, with the place in the whole of it
        what = "is not UTF-8"
    elif isinstance(error, msgspec.ValidationError):
        what = "must be a JSON object" if told.startswith("Expected `object`") else _TOO_LARGE
    elif (
        "surrogate" in told
        or "hex escape" in told
        or (found is None and _HALF_PAIR.search(body, max(0, len(body) - 16)))
    ):
        what = "holds half of a surrogate pair, which is not a character"
    elif body.startswith((b"NaN", b"Infinity"), at):
        what = "is not JSON: NaN and Infinity are not JSON numbers"
    else:
        line_start = body.rfind(b"\n", 0, at) + 1
        line, column = body.count(b"\n", 0, at) + 1, len(body[line_start:at].decode(errors="replace")) + 1
        what = f"is not JSON: line {line}, column {column}"
    return malformed(what)
