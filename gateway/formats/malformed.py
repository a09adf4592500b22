"""Says why a body is not a JSON object in UTF-8, and where, without a word of its content."""

import codecs
import re
from collections.abc import Callable

import msgspec

from gateway.errors import ErrorKind, GatewayError

MAX_DEPTH = 64
WINDOW_BYTES = 1 << 14
"""So much is looked at in one call of what is slow: a third of a millisecond or less in which no other thread runs."""
TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
TOO_LARGE = "holds a number that is too large"
NO_OBJECT = "must be a JSON object"
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_MARKED = "begins with a byte order mark; send UTF-8 without one"
_BYTE = re.compile(r"\(byte (\d+)\)")
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no JSON of the expected shape: the last two are not its own errors."""
IN_CHARACTER = bytes(range(0x80, 0xC0))
"""Bytes of a character in UTF-8 that are not its first."""


def malformed(what: str) -> GatewayError:
    """Make the refusal of a body as a whole."""
    return GatewayError(ErrorKind.INVALID_REQUEST, f"The body {what}.")


def check_text(body: bytes) -> None:
    """See that a body is UTF-8, a window at a time: as one string it may take four times its size."""
    if body.startswith(_MARKS):
        raise malformed(_MARKED)
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    for start in range(0, len(body), WINDOW_BYTES):
        begun_bytes = len(decoder.getstate()[0])
        try:
            decoder.decode(view[start : start + WINDOW_BYTES], start + WINDOW_BYTES >= len(body))
        except UnicodeDecodeError as error:
            place = start - begun_bytes + error.start
            raise malformed(f"is not UTF-8 at byte {place}") from None


def fault(body: bytes, text: bytes, error: Exception, place: Callable[[int], int] = int) -> GatewayError:
    """Say what msgspec found wrong in ``text``, whose bytes stand in the body where ``place`` says."""
    told = str(error)
    found = _BYTE.search(told)
    at = place(int(found[1])) if found is not None else len(body)
    if not body:
        what = f"is empty; it {NO_OBJECT}"
    elif body.startswith(_MARKS):
        what = _MARKED
    elif isinstance(error, RecursionError):
        what = TOO_DEEP
    elif isinstance(error, UnicodeDecodeError):
        check_text(body)  # raises, with the place in the whole of it
        what = "is not UTF-8"
    elif isinstance(error, msgspec.ValidationError):
        what = NO_OBJECT if told.startswith("Expected `object`") else TOO_LARGE
    elif (
        "surrogate" in told
        or "hex escape" in told
        or (found is None and _HALF_PAIR.search(text, max(0, len(text) - 16)))
    ):
        what = "holds half of a surrogate pair, which is not a character"
    elif body.startswith((b"NaN", b"Infinity"), at):
        what = "is not JSON: NaN and Infinity are not JSON numbers"
    else:
        line = body.count(b"\n", 0, at) + 1
        line_start = body.rfind(b"\n", 0, at) + 1
        what = f"is not JSON: line {line}, column {_characters(body, line_start, at) + 1}"
    return malformed(what)


def _characters(body: bytes, start: int, end: int) -> int:
    """Count characters, of whose bytes all but the first are left out."""
    windows = (body[at : min(end, at + WINDOW_BYTES)] for at in range(start, end, WINDOW_BYTES))
    return sum(len(window.translate(None, IN_CHARACTER)) for window in windows)
