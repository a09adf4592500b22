"""Reads and checks the head of a request: its fields, the host that it is for, its path and query.

Which bytes make up a head is the parser's business (``http1_connection``). Here are the demands on a head that the
parser does not make, and their refusals.
"""

import re
from collections.abc import Container
from urllib.parse import unquote_to_bytes

from gateway.clock import Ids
from gateway.errors import GatewayError
from gateway.formats.errors import anthropic_error, openai_error

MAX_HEADER_BYTES = 32 * 1024
TOO_LARGE = f"The request's headers are larger than {MAX_HEADER_BYTES} bytes; send fewer or shorter ones."
TOO_LONG = "The request's address is too long; what it holds belongs in the body."
HTTP_VERSIONS = "Only HTTP/1.1 and HTTP/1.0 are spoken here."
HOST = re.compile(
    r"(\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?", re.ASCII
)
"""A name or an address in group 1, a port in group 2 (RFC 3986, 3.2.2)."""


class RefusedHeadError(Exception):
    """A head cannot be accepted: status and sentence of the refusal."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status = status
        self.sentence = sentence


def check_head(version: str, names: list[str], headers: dict[str, str]) -> None:
    """Raise RefusedHeadError for another HTTP than 1.1 and 1.0, for another coding, and for a Host that is none.

    In HTTP/1.1 there must be exactly one Host (RFC 9112, 3.2); HTTP/1.0 may do without. ``names``: with repeated ones.
    """
    if version not in {"1.1", "1.0"}:
        raise RefusedHeadError(505, HTTP_VERSIONS)
    modern, count = version == "1.1", names.count("host")
    if count > 1 or (modern and not count):
        raise RefusedHeadError(400, f"Send the header Host exactly once; it came {count} times.")
    if count and not HOST.fullmatch(headers["host"]):
        raise RefusedHeadError(400, "The header Host is not a host name or address with an optional port.")
    if "transfer-encoding" in headers and not (modern and headers["transfer-encoding"].lower() == "chunked"):
        raise RefusedHeadError(400, "Of Transfer-Encoding only 'chunked' is understood, and in HTTP/1.1.")


def is_anthropics(target: bytes, names: Container[str]) -> bool:
    """Whether a caller speaks Anthropic's dialect, by the path or the names of the header fields.

    Anthropic's reference wants its version in every request.
    """
    path = split_target(target)[0]
    return path == b"/v1/messages" or path.startswith(b"/v1/messages/") or "anthropic-version" in names


def written(
    error: GatewayError, target: bytes, names: Container[str], ids: Ids
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Write an error for which no endpoint has the words, in the caller's dialect; return the body and its headers."""
    kind = (b"content-type", b"application/json")
    if not is_anthropics(target, names):
        return openai_error(error, ""), [kind]
    request_id = ids("req")
    return anthropic_error(error, request_id), [kind, (b"request-id", request_id.encode())]


def authority_of(target: bytes) -> str | None:
    """Return the authority of a target in absolute form, None for a path and ``*``, ``""`` for what is none of them."""
    if target.startswith(b"/") or target == b"*":
        return None
    scheme, _, rest = target.partition(b"://")
    return str(re.split(rb"[/?#]", rest)[0], "latin-1") if scheme.lower() in (b"http", b"https") else ""


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request's target, percent-encoding of the path undone (RFC 9112, 3.2)."""
    if not target.startswith(b"/"):  # a proxy's absolute form, or the ``*`` of OPTIONS
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    path, _, query = target.partition(b"?")
    return unquote_to_bytes(path), query
