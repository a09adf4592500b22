"""Refuses requests by the host that they are for and the web page that makes them, which a key cannot do.

Without keys, listening on a loopback address keeps other machines out, but not the pages in this machine's browser. One
may post what needs no preflight, or have its own name resolve to 127.0.0.1 (DNS rebinding) and read the answers. So the
host must be a name of this machine, and a page one of this machine's or a listed one.
"""

from collections.abc import Mapping

from gateway.config.loopback import is_loopback_host
from gateway.config.snapshot import Server
from gateway.routes.http1_head import HOST, authority_of

_HOST = (
    "Without a key, this gateway answers only requests for localhost or a loopback address; "
    "list the name that you use under server.hosts, or configure keys."
)
_ORIGIN = (
    "Without a key, this gateway takes no requests from web pages of other sites; "
    "list the page's origin under server.cors_origins, or configure keys."
)


def foreign(headers: Mapping[str, str], target: bytes, server: Server) -> str | None:
    """Say, as a sentence for the caller, why a request is not one of this machine's programs; None: it is.

    ``headers`` have names in lower case. A target in absolute form must name a host of ours too (RFC 9112, 3.2.2).
    """
    host = headers.get("host", "").lower()
    if not _is_ours(host, server):
        return _HOST
    authority = authority_of(target)
    if authority is not None and not _is_ours(authority.lower(), server):
        return _HOST
    origin = headers.get("origin")
    if origin is None:
        return _ORIGIN if headers.get("sec-fetch-site", "").lower() == "cross-site" else None
    return None if _is_trusted(origin.lower(), host, server) else _ORIGIN


def _is_ours(host: str, server: Server) -> bool:
    """Return whether ``host``, with any port or none, is a loopback one or listed."""
    found = HOST.fullmatch(host)
    return found is not None and (found[1].removesuffix(".") in server.hosts or is_loopback_host(found[1]))


def _is_trusted(origin: str, host: str, server: Server) -> bool:
    """Return whether an origin is listed, the gateway's own, or a page that this machine serves. ``null`` is none."""
    if origin in server.cors_origins:
        return True
    scheme, _, authority = origin.partition("://")
    if scheme not in ("http", "https"):
        return False
    found = HOST.fullmatch(authority)
    return authority == host or (found is not None and is_loopback_host(found[1]))
