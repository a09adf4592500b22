"""Handles every request: makes the checks that all routes share, then passes it to the route.

In this order: may it come from there at all (``access``), is it a browser's question before a request (CORS), is its
body in a form that is read here. An answer to a listed origin carries the headers with which a page may read it, errors
included.
"""

import re
from collections.abc import Awaitable, Mapping

from gateway.config.snapshot import Current, Snapshot
from gateway.errors import ErrorKind, GatewayError
from gateway.routes.access import foreign
from gateway.routes.http1_exchange import Exchange, Handler
from gateway.routes.http1_head import HOST, authority_of, split_target

_RARE = frozenset({"origin", "sec-fetch-site", "content-encoding", "expect"})
"""Where a request has none of these and there are keys, nothing needs to be checked here."""
_METHODS = b"GET, HEAD, POST, DELETE"
_EXPOSED = (
    b"anthropic-ratelimit-requests-limit, anthropic-ratelimit-requests-remaining, anthropic-ratelimit-requests-reset, "
    b"request-id, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    b"x-ratelimit-reset-requests, x-request-id, x-tollway-cost-usd, x-tollway-reason, x-tollway-request-id, "
    b"x-tollway-target"
)
_FIELD_NAMES = re.compile(r"[\w!#$%&'*+.^`|~, \t-]{1,4096}", re.ASCII)
_MAX_AGE_S = b"7200"
"""How long a browser may remember the answer to a preflight; no browser does for longer than a day."""


class Front:
    """Serves handlers by path, and everything else by ``rest``."""

    def __init__(self, routes: Mapping[str, Handler], rest: Handler, current: Current) -> None:
        self._routes = {path.encode(): handler for path, handler in routes.items()}
        self._rest = rest
        self._current = current

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        """Serve one request."""
        snapshot = self._current.snapshot
        if not (snapshot.keys and _RARE.isdisjoint(exchange.headers)):
            answer = _checked(exchange, snapshot)
            if answer is not None:
                return answer
        handler = self._routes.get(exchange.target)
        return self._found(exchange) if handler is None else handler(exchange)

    def _found(self, exchange: Exchange) -> Awaitable[None]:
        """Answer where the target is not simply the path of a model route."""
        target = exchange.target
        if target == b"*" and exchange.method == b"OPTIONS":
            return _allow(exchange)
        if target == b"/" and exchange.method == b"HEAD":  # Claude Code asks so whether the gateway is there
            return exchange.start(200, [(b"content-length", b"0")])
        authority = authority_of(target)
        if authority is not None and not HOST.fullmatch(authority):
            return exchange.refuse(
                GatewayError(ErrorKind.INVALID_REQUEST, "Send a path, or an address that begins with http://.")
            )
        return self._routes.get(split_target(target)[0], self._rest)(exchange)


def _checked(exchange: Exchange, snapshot: Snapshot) -> Awaitable[None] | None:
    """Return the answer to a request that no route is to see."""
    headers, server = exchange.headers, snapshot.server
    origin = headers.get("origin")
    listed = origin is not None and origin.lower() in server.cors_origins
    if server.cors_origins:
        exchange.further = _readable_by(origin) if origin is not None and listed else b"vary: origin\r\n"
    if not snapshot.keys and (sentence := foreign(headers, exchange.target, server)) is not None:
        return exchange.refuse(GatewayError(ErrorKind.FOREIGN_REQUEST, sentence))
    if exchange.method == b"OPTIONS" and origin is not None and "access-control-request-method" in headers:
        if listed:
            return _preflight(exchange)
        sentence = "Web pages of this origin may not use this gateway; list it under server.cors_origins."
        return exchange.refuse(GatewayError(ErrorKind.FOREIGN_REQUEST, sentence))
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        sentence = "Bodies are read only as they are; send this one without a Content-Encoding."
        return exchange.refuse(GatewayError(ErrorKind.UNSUPPORTED_CODING, sentence), (b"accept-encoding", b"identity"))
    if headers.get("expect", "100-continue").lower() != "100-continue":
        sentence = "Of Expect only '100-continue' is understood; leave the header out."
        return exchange.refuse(GatewayError(ErrorKind.EXPECTATION_FAILED, sentence))
    return None


def _readable_by(origin: str) -> bytes:
    return b"vary: origin\r\naccess-control-allow-origin: %b\r\naccess-control-expose-headers: %b\r\n" % (
        origin.encode("latin-1"),
        _EXPOSED,
    )


async def _preflight(exchange: Exchange) -> None:
    """Allow a listed origin what it asks for; the request itself is checked when it comes (Fetch, 4.8)."""
    allowed = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", _MAX_AGE_S),
        (b"vary", b"access-control-request-method, access-control-request-headers"),
    ]
    asked = exchange.headers.get("access-control-request-headers", "")
    if _FIELD_NAMES.fullmatch(asked):
        allowed.append((b"access-control-allow-headers", asked.encode("latin-1")))
    await exchange.start(204, allowed)


async def _allow(exchange: Exchange) -> None:
    await exchange.start(204, [(b"allow", _METHODS + b", OPTIONS")])
