"""Takes URLs apart and writes the heads of requests to upstreams, so that neither can smuggle anything in."""

import re
from typing import NamedTuple

from gateway.errors import ErrorKind, UpstreamError
from gateway.types import UpstreamRequest

_URL = re.compile(
    r"(?P<scheme>(?i:https?))://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][!-~]*)?"
)
"""No user name, no blanks, no control characters, nothing beyond ASCII."""
_METHOD = re.compile(r"[A-Z]+")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*")
_OURS = frozenset({"accept-encoding", "connection", "content-length", "transfer-encoding"})
"""Headers that say how a message is framed or coded: written here and nowhere else."""


class Origin(NamedTuple):
    """What a connection is opened to."""

    tls: bool
    host: str
    port: int


class PoolKey(NamedTuple):
    """Which requests a connection may carry: those to one origin with one credential."""

    origin: Origin
    name: str
    """See ``UpstreamRequest.pool``."""


class Address(NamedTuple):
    """A URL taken apart."""

    origin: Origin
    host_header: str
    target: str
    """Path and query, as the adapter wrote them: a provider may sign them."""


def address_of(url: str) -> Address:
    """Take a URL apart. Raises UpstreamError: UPSTREAM_CONNECT when it is not one of HTTP."""
    parts = _URL.fullmatch(url.partition("#")[0])
    if parts is None or not 0 <= int(parts["port"] or 0) <= 65_535:
        raise UpstreamError(ErrorKind.UPSTREAM_CONNECT, "The upstream's address is not a valid URL.")
    tls = parts["scheme"].lower() == "https"
    default = 443 if tls else 80
    port = int(parts["port"] or default)
    host = parts["host"].lower()
    target = parts["target"] or "/"
    return Address(
        Origin(tls, host.strip("[]"), port),
        host if port == default else f"{host}:{port}",
        target if target.startswith("/") else f"/{target}",
    )


def head_of(request: UpstreamRequest, address: Address) -> bytes:
    """Write request line and headers. Raises UpstreamError: UPSTREAM_PROTOCOL when they would not be what they say."""
    method, body, headers = request.method, request.body, request.headers
    names = {name.lower() for name, _ in headers}
    if not _OURS.isdisjoint(names):
        headers = tuple([(name, value) for name, value in headers if name.lower() not in _OURS])
    fields = [f"{name}: {value}" for name, value in headers]
    if method in {"HEAD", "CONNECT"} or not (_METHOD.fullmatch(method) and all(map(_HEADER.fullmatch, fields))):
        raise _unsendable()
    lines = [f"{method} {address.target} HTTP/1.1"]
    if "host" not in names:
        lines.append(f"host: {address.host_header}")
    lines += fields
    if "user-agent" not in names:
        lines.append("user-agent: tollway")
    if body or method != "GET":
        lines.append(f"content-length: {len(body)}")
    lines.append("accept-encoding: identity\r\n\r\n")
    try:
        return "\r\n".join(lines).encode()
    except UnicodeEncodeError:
        raise _unsendable() from None


def _unsendable() -> UpstreamError:
    return UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The request to the upstream cannot be written as HTTP.")
