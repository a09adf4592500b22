"""Parses a large JSON body in short steps: its long strings are replaced by marks, and only the small rest is parsed.

A parser in C lets no other thread run until it is done, which takes up to a quarter of a second for 20 MB. So a body is
walked from string to string in steps of a millisecond or less, between which others run. The walk looks for what a
parser does not tell (a member twice in one object, huge numbers, depth), refuses what is made of more parts than any
request needs, and checks each long string by itself. What remains for the parser is short, and a fault in it is one in
the body. Nothing large is copied.
"""

import json
import math
import re
from bisect import bisect_right

import msgspec

from gateway.errors import ErrorKind, GatewayError
from gateway.formats.malformed import (
    IN_CHARACTER,
    MAX_DEPTH,
    NO_OBJECT,
    TOO_DEEP,
    TOO_LARGE,
    WINDOW_BYTES,
    check_text,
    fault,
    malformed,
)
from gateway.formats.splice import BLANKS, Members

MAX_PARTS = 150_000
"""Names, strings, and both ends of objects and arrays. A message of one text has six, one with an image some twenty."""
MAX_NUMBERS = 500_000
"""As token ids, as many tokens. OpenAI takes 300,000 in one request for embeddings (API reference, 2026)."""
MAX_BLANK_BYTES = 1_000_000
"""Between parts: a million tokens of chat, indented, have a few hundred thousand."""
MAX_ESCAPES = 2_000_000
"""In an outline: the parser takes 10 ms for so many. A million short words have as many, each on a line of its own."""
MAX_MEMBERS = 1_000
"""Of the body itself; OpenAI's and vLLM's requests have fewer than a hundred."""
LONG_BYTES = 1 << 10
_MAX_NAME_BYTES = 1 << 16
_MAX_LARGE_NUMBERS = 1_000
_MAX_DIGITS = 4_300

# Names that may be shown in a message: they are the protocol's, not the caller's.
PROTOCOL_NAMES = frozenset(
    (
        *("model", "messages", "prompt", "stream", "stream_options", "include_usage", "n", "best_of", "max_tokens"),
        *("max_completion_tokens", "temperature", "top_p", "stop", "seed", "tools", "tool_choice", "response_format"),
        *("user", "role", "content", "type", "text", "name", "input", "encoding_format"),
        "max_output_tokens",
    )
)
_TOO_MANY = (
    f"has too many parts; it may be made of {MAX_PARTS // 2} objects and arrays, or of {MAX_PARTS} strings and names, "
    f"of {MAX_NUMBERS} numbers, and of {_MAX_LARGE_NUMBERS} numbers with a hundred digits; send it in several requests"
)
_TOO_BLANK = f"has more than {MAX_BLANK_BYTES} blanks and line ends between its parts; send it without"
_TOO_ESCAPED = f"has more than {MAX_ESCAPES} escapes in strings of up to {LONG_BYTES} bytes; send them as UTF-8"
_QUOTE, _ESCAPED_QUOTE, _BACKSLASH, _OPENING_BRACE, _OPENING = b'"', b'\\"', 0x5C, 0x7B, frozenset(b"[{")
_COUNTED_BYTES = 1 << 20
_ANY_BLANKS = re.compile(rb"[ \t\n\r]*+")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_DIGITS_ALIKE = bytes(0x30 if byte in b"0123456789" else 0x20 for byte in range(256))
_DIGITS = 100
_MANY_DIGITS = b"0" * _DIGITS
# What is neither has fewer than a hundred digits and an exponent of two: it is below 1e199.
_LARGE_EXPONENT = re.compile(rb"[eE]\+?0*+[0-9]{3}")
_LARGE_NUMBER = re.compile(rb"[0-9]{100}|" + _LARGE_EXPONENT.pattern)
_SHORT_BYTES = 4
"""The shortest huge number has five (``9e308``)."""
_NUMBER = b"0123456789.eE+-"
_REST_OF_NUMBER = re.compile(rb"[0-9.eE+-]*+")
_LONGEST_ESCAPE_BYTES = 12
"""That of a character in two halves; of so many neighbouring places in a string, one is between two characters."""
_MARK = b"\xff\\/%d,%d"
"""Stands in a string in place of its text; no other string of a body that is UTF-8 has such a byte."""
_MARKS = re.compile(rb"\xff\\/([0-9]+),([0-9]+)")

_raw = msgspec.json.Decoder(msgspec.Raw).decode
_string = msgspec.json.Decoder(str).decode


class Outline:
    """What ``outline_of`` returns."""

    def __init__(self, body: bytes) -> None:
        self.text = b""
        """That it is JSON has yet to be proved: so is the body, then."""
        self._body = body
        self._pieces: list[bytes] = []
        self._ends = [0]
        """Of what was replaced, in the body."""
        self._text_ends = [0]
        self._starts: dict[str, int] = {}
        self._stops: list[int] = []

    @property
    def members(self) -> Members:
        """The body's members; of one that is no JSON, some."""
        spans = zip(self._starts.values(), self._stops, strict=False)
        return Members(self._body, dict(zip(self._starts, spans, strict=False)))

    @property
    def short_members(self) -> Members:
        """The same with marks."""
        spans = ((self._in_text(start), self._in_text(stop)) for start, stop in self.members.places.values())
        return Members(self.text, dict(zip(self._starts, spans, strict=False)))

    def check_grammar(self) -> None:
        """See that the body is JSON. Raises GatewayError."""
        try:
            _raw(self.text)
        except msgspec.DecodeError as error:
            raise self.fault(error) from None

    def fault(self, error: Exception) -> GatewayError:
        """Say what ``error``, which msgspec raised for the text, means for the body."""
        if isinstance(error, UnicodeDecodeError):
            return malformed(f"has a 'model', 'role' or 'type' that is longer than {LONG_BYTES} bytes")
        return fault(self._body, self.text, error, self._in_body)

    def replace(self, start: int, end: int, text: bytes) -> None:
        """Let a text stand for a stretch of the body, behind those of before."""
        self._pieces += (self._body[self._ends[-1] : start], text)
        self._text_ends.append(self._in_text(start) + len(text))
        self._ends.append(end)

    def begin_member(self, name: str, quote: int, start: int) -> None:
        """Note where the value of a member of the body begins, whose name begins at ``quote``."""
        if len(self._starts) == MAX_MEMBERS:
            raise malformed(f"has more than {MAX_MEMBERS} members")
        self._end_member(b",", quote)
        self._starts[name] = start

    def end(self, stop: int) -> "Outline":
        """Take the rest of the body up to there."""
        self._pieces.append(self._body[self._ends[-1] : stop])
        self.text = b"".join(self._pieces)
        self._pieces.clear()
        if _count(self.text, b"\\") > MAX_ESCAPES:
            raise malformed(_TOO_ESCAPED)
        self._end_member(b"}", stop)
        return self

    def _end_member(self, sign: bytes, before: int) -> None:
        if self._starts:
            stop = self._body.rfind(sign, next(reversed(self._starts.values())), before)
            self._stops.append(before if stop < 0 else stop)

    def _in_text(self, position: int) -> int:
        index = bisect_right(self._ends, position) - 1
        return position - self._ends[index] + self._text_ends[index]

    def _in_body(self, position: int) -> int:
        index = bisect_right(self._text_ends, position) - 1
        return position - self._text_ends[index] + self._ends[index]


def outline_of(body: bytes) -> Outline:
    """Walk through a body. Raises GatewayError (INVALID_REQUEST) with the reason, unless only the grammar is wrong."""
    check_text(body)
    if not body.startswith(b"{", _behind_blanks(body, 0)):
        raise malformed(NO_OBJECT)
    quotes = _count(body, _QUOTE)
    if quotes > 2 * MAX_PARTS and quotes - _count(body, _ESCAPED_QUOTE) > 2 * MAX_PARTS:  # so many strings at least
        raise malformed(_TOO_MANY)
    walk = _Walk(body)
    parts = position = 0
    while True:
        quote = body.find(_QUOTE, position, position + WINDOW_BYTES)
        stop = quote if quote >= 0 else _end_of_window(body, position)
        between = body[position:stop]
        brackets = between.translate(None, _NO_BRACKETS)
        parts += len(brackets) + 1
        if parts > MAX_PARTS:
            raise malformed(_TOO_MANY)
        if stop - position > _SHORT_BYTES:
            walk.look_at_stretch(between, position)
        position = stop
        if brackets and not walk.follow(brackets):
            break
        if quote >= 0:
            end = _end_of_string(body, quote + 1)
            if end < 0:
                position = quote + 1  # the outline is no JSON either, then
                break
            walk.look_at_string(quote, end)
            position = end + 1
        elif stop == len(body):
            break
    return walk.outline.end(position)


class _Walk:
    """What is known of a body up to a place."""

    def __init__(self, body: bytes) -> None:
        self.outline = Outline(body)
        self._body = body
        self._names: set[bytes] | None = None
        """Of the object that is open; None: an array is, or nothing."""
        self._outer: list[set[bytes] | None] = []
        self._numbers = self._large_numbers = self._blanks = 0

    def look_at_stretch(self, between: bytes, position: int) -> None:
        """Take what stands between two strings, unless it is too short for a number to be huge."""
        self._numbers += between.count(b",")
        self._large_numbers += _check_numbers(between)
        if self._numbers > MAX_NUMBERS or self._large_numbers > _MAX_LARGE_NUMBERS:
            raise malformed(_TOO_MANY)
        blanks = len(between) - len(between.translate(None, BLANKS))
        if LONG_BYTES < blanks == len(between):
            self.outline.replace(position, position + len(between), b" ")
        elif (blanks := blanks + self._blanks) > MAX_BLANK_BYTES:
            raise malformed(_TOO_BLANK)
        else:
            self._blanks = blanks

    def follow(self, brackets: bytes) -> bool:
        """Open and close objects and arrays. False: there is none to close, so this is no JSON."""
        for bracket in brackets:
            if bracket in _OPENING:
                self._outer.append(self._names)
                self._names = set() if bracket == _OPENING_BRACE else None
                if len(self._outer) > MAX_DEPTH:
                    raise malformed(TOO_DEEP)
            elif self._outer:
                self._names = self._outer.pop()
            else:
                return False
        return True

    def look_at_string(self, quote: int, end: int) -> None:
        """Take a name, of which none may come twice, or a value, which stays in the outline if it is short."""
        body, names = self._body, self._names
        if names is not None and body.startswith(b":", colon := _behind_blanks(body, end + 1)):
            if end - quote > _MAX_NAME_BYTES:
                raise malformed(f"has a member whose name is longer than {_MAX_NAME_BYTES} bytes")
            name = _add_once(names, body[quote + 1 : end])
            if len(self._outer) == 1:
                self.outline.begin_member(name.decode(), quote, colon + 1)
        elif end - quote > LONG_BYTES:
            mark = _MARK % (_check_string(body, quote + 1, end), end - quote - 1)
            self.outline.replace(quote + 1, end, mark)


def text_bytes(raw: bytes) -> int:
    """Return how many bytes of UTF-8 a JSON string of an outline stands for."""
    mark = _MARKS.match(raw, 1)
    if mark is not None:
        return int(mark[1])
    return len(_string(raw).encode()) if b"\\" in raw else len(raw) - 2


def raw_bytes(raw: bytes) -> int:
    """Return how many bytes of the body a piece of its outline stands for."""
    return len(raw) + sum(int(mark[2]) - len(mark[0]) for mark in _MARKS.finditer(raw))


def _count(text: bytes, sign: bytes) -> int:
    """Count one or two bytes, a stretch at a time."""
    before = len(sign) - 1
    return sum(
        text.count(sign, max(0, start - before), start + _COUNTED_BYTES)
        for start in range(0, len(text), _COUNTED_BYTES)
    )


def _behind_blanks(body: bytes, position: int) -> int:
    if (byte := body[position : position + 1]) and byte not in BLANKS:
        return position
    while (blanks := _ANY_BLANKS.match(body, position, position + WINDOW_BYTES)) is not None:
        if blanks.end() - position < WINDOW_BYTES:
            return blanks.end()
        position = blanks.end()
    return position


def _end_of_window(body: bytes, start: int) -> int:
    """Return where to stop within a long stretch without strings: not in the middle of a number."""
    if start + WINDOW_BYTES >= len(body):
        return len(body)
    size = len(body[start : start + WINDOW_BYTES].rstrip(_NUMBER))
    if not size:
        raise malformed(TOO_LARGE)
    return start + size


def _end_of_string(body: bytes, start: int) -> int:
    """Return where the quote stands that ends the string whose text begins at ``start``; negative: nowhere."""
    size = LONG_BYTES
    end = body.find(_QUOTE, start)
    while end > start and body[end - 1] == _BACKSLASH:
        # Four times as fast as an expression. Of a run of backslashes the first begins a pair.
        window = body[start : start + size].replace(rb"\\", b"  ").replace(b'\\"', b"  ")
        if (inside := window.find(_QUOTE)) >= 0:
            return start + inside
        start += len(window) - window.endswith(b"\\")
        size = min(4 * size, WINDOW_BYTES)
        end = body.find(_QUOTE, start)
    return end


def _check_string(body: bytes, start: int, end: int) -> int:
    """Check a long string's text piece by piece, and return its bytes in UTF-8. Raises GatewayError."""
    size = 0
    while start < end:
        stop = min(start + WINDOW_BYTES, end)
        while stop < end and body[stop] in IN_CHARACTER:
            stop -= 1
        cut, text_size = _check_piece(body, start, stop, stop if stop == end else stop - _LONGEST_ESCAPE_BYTES + 1)
        start, size = cut, size + text_size
    return size


def _check_piece(body: bytes, start: int, stop: int, least: int) -> tuple[int, int]:
    """Check a piece that ends where a character does, from ``stop`` down to ``least``; return where, and its bytes."""
    piece, first_error = b"", None
    for cut in range(stop, least - 1, -1):
        piece = b'"%b"' % body[start:cut]
        try:
            if b"\\" in piece:
                return cut, len(_string(piece).encode())
            _raw(piece)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            first_error = first_error or error.with_traceback(None)  # or it would hold this frame, and the body
        else:
            return cut, cut - start
    raise fault(body, piece, first_error or ValueError(), (start - 1).__add__)


def _add_once(names: set[bytes], name: bytes) -> bytes:
    if b"\\" in name:
        try:
            name = json.loads(b'"%b"' % name).encode()
        except ValueError:
            return name  # it is no JSON
    if name in names:
        shown = name.decode()
        if shown not in PROTOCOL_NAMES:
            raise malformed("has a member twice in one object")
        sentence = f"The body has the member '{shown}' twice in one object."
        raise GatewayError(ErrorKind.INVALID_REQUEST, sentence, param=shown)
    names.add(name)
    return name


def _check_numbers(between: bytes) -> int:
    """Look at the numbers between two strings, and count the large ones. The cheap looks come first."""
    if (len(between) < _DIGITS or _MANY_DIGITS not in between.translate(_DIGITS_ALIKE)) and (
        _LARGE_EXPONENT.search(between) is None
    ):
        return 0
    large_numbers = position = 0
    while (large := _LARGE_NUMBER.search(between, position)) is not None:
        large_numbers += 1
        if large_numbers > _MAX_LARGE_NUMBERS:
            break
        before = between[max(0, large.start() - _MAX_DIGITS - 2) : large.start()]
        first = large.start() - (len(before) - len(before.rstrip(_NUMBER)))
        rest = _REST_OF_NUMBER.match(between, large.start())
        position = rest.end() if rest is not None else len(between)
        if _is_too_large(between[first:position]):
            raise malformed(TOO_LARGE)
    return large_numbers


def _is_too_large(number: bytes) -> bool:
    if number.lstrip(b"-").isdigit():
        return len(number) > _MAX_DIGITS
    try:
        return math.isinf(float(number))
    except ValueError:
        return False  # it is no JSON
