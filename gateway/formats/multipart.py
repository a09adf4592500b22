"""Finds the parts of a form with files (multipart/form-data, RFC 7578), and replaces the value of one.

A recording may be a hundred megabytes, so nothing is copied but small fields. Only forms that every reader cuts in the
same way are taken: what another parser might see differently (a preamble, a name twice, a folded header, a boundary
after a bare line feed) is refused, for else an upstream could be sent another model than the one that was looked at.
"""

import re
from typing import NamedTuple, Never

from gateway.errors import ErrorKind, GatewayError

_FIRST_LINE = re.compile(rb"--([0-9A-Za-z'()+_,./:=?-]{1,70})\r\n")
_HEADER = re.compile(rb"[\w-]+:[^\r\n\0]*")
_DISPOSITION = re.compile(rb"content-disposition:[ \t]*form-data((?:[ \t]*;[^\r\n]*)?)\Z", re.IGNORECASE)
_PARAMETER = re.compile(rb';[ \t]*([A-Za-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s";]+))[ \t]*')
_MAX_PARTS = 100
_MAX_HEADER_BYTES = 8192


class FormPart(NamedTuple):
    """One part; its content is ``body[start:end]``."""

    name: str
    is_file: bool
    start: int
    end: int


def boundary_of(body: bytes) -> bytes:
    """Read the boundary off the first line. Raises GatewayError (INVALID_REQUEST)."""
    first = _FIRST_LINE.match(body)
    return first[1] if first else _malformed("is no multipart form; it must begin with its boundary")


def parts_of(body: bytes) -> list[FormPart]:
    """Find all parts of a form, in order. Raises GatewayError (INVALID_REQUEST)."""
    boundary = boundary_of(body)
    delimiter = b"\n--" + boundary
    parts: list[FormPart] = []
    names: set[str] = set()
    position = len(delimiter) + 1
    while body[position - 2 : position] != b"--":
        if body[position - 2 : position] != b"\r\n" or len(parts) == _MAX_PARTS:
            _malformed(f"is a form that breaks off or has more than {_MAX_PARTS} parts")
        blank = body.find(b"\r\n\r\n", position, position + _MAX_HEADER_BYTES)
        # From the blank line's own end on: that a boundary there has no line break of its own, not all see alike.
        end = body.find(delimiter, blank + 3) - 1 if blank >= 0 else -1
        if end < blank + 4 or body[end] != ord("\r"):
            _malformed("is a form with a part that does not end")
        name, is_file = _described(body[position:blank])
        if name in names and not name.endswith("[]"):
            _malformed("is a form with a name twice")
        names.add(name)
        parts.append(FormPart(name, is_file, blank + 4, end))
        position = end + 1 + len(delimiter) + 2
    if body[position : position + 3] not in (b"", b"\r\n"):
        _malformed("is a form with something behind its end")
    return parts


def replace(body: bytes, part: FormPart, value: bytes) -> bytes:
    """Write the form with another value for one part; everything else is copied once."""
    view = memoryview(body)
    return b"".join((view[: part.start], value, view[part.end :]))


def _described(headers: bytes) -> tuple[str, bool]:
    lines = headers.split(b"\r\n")
    found = [match for line in lines if (match := _DISPOSITION.match(line))]
    if len(found) != 1 or not all(map(_HEADER.fullmatch, lines)):
        _malformed("is a form with a part that has no name, or two")
    parameters: dict[bytes, bytes] = {}
    text, position = found[0][1].lstrip(), 0
    while match := _PARAMETER.match(text, position):
        if match[1].lower() in parameters:
            _malformed("is a form with a part that has no name, or two")
        parameters[match[1].lower()] = match[2] if match[2] is not None else match[3]
        position = match.end()
    name = parameters.get(b"name", b"")
    if position != len(text) or b"name*" in parameters or not re.fullmatch(rb"[\w\[\].-]+", name):
        _malformed("is a form with a part whose name cannot be read")
    return name.decode(), b"filename" in parameters or b"filename*" in parameters


def _malformed(what: str) -> Never:
    raise GatewayError(ErrorKind.INVALID_REQUEST, f"The body {what}.")
