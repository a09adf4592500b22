"""The one seam to the network: bytes go out, bytes come back. Everything above it is tested without a socket."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gateway.types import UpstreamRequest

STALE_SHOWS_WITHIN_S = 1.0
"""A connection that was closed already answers what is sent on it with a reset: a round trip later, or after a
retransmission. One that breaks later may have carried the request to an upstream that has worked on it and bills it."""


class UpstreamStream(Protocol):
    """An answer whose status and headers have arrived and whose body is still coming."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""

    async def read(self) -> bytes:
        """Return all that has arrived since the last call, waiting if that is nothing; ``b""`` at the clean end.

        Raises UpstreamError: UPSTREAM_CUT when the connection broke before the body was complete.
        """

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Hand what arrives to ``take`` until that returns False; return False when the clean end came first.

        As if ``read`` were called again and again, but no task is woken for it: ``take`` is called by the event loop
        as soon as bytes are there. What it raises is raised here.
        """


class Transport(Protocol):
    """Send a request. Has a life cycle: construct without side effects, ``start``, use, ``stop``."""

    async def start(self) -> None:
        """Open what connections need; must run inside the event loop that will use them."""

    async def stop(self) -> None:
        """Close every connection."""

    def send(
        self, request: UpstreamRequest, *, connect_timeout_s: float
    ) -> AbstractAsyncContextManager[UpstreamStream]:
        """Send and wait for the status line and headers; leaving the context frees the connection.

        Leaving before the body's end closes the connection at once, which is how an upstream learns that nobody
        listens any more; leaving after it gives the connection back to the pool. Waiting for headers has no time
        limit of its own: the caller sets one around it. Redirects are not followed. Raises UpstreamError:
        UPSTREAM_CONNECT (nothing was sent), UPSTREAM_CUT (the connection broke before the headers were complete),
        UPSTREAM_PROTOCOL (the answer is not HTTP, or the request could not be written as HTTP and was not sent). A
        pooled connection that breaks within STALE_SHOWS_WITHIN_S, without a byte of an answer, is taken for one that
        the upstream had closed already, and the request is sent once more on a fresh one; if there is none to be had,
        that is UPSTREAM_CUT too.
        """
