"""The interface of the transport, the only way to the network: requests go out as bytes, answers come back."""

from collections.abc import Callable, Mapping
from types import TracebackType
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

    @property
    def complete(self) -> bool:
        """Whether all of the body has arrived, read or not."""

    async def read(self) -> bytes:
        """Return all that has arrived since the last call, waiting if that is nothing; ``b""`` at the clean end.

        Raises UpstreamError: UPSTREAM_CUT when the connection broke before the body was complete.
        """

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Hand what arrives to ``take`` until that returns False; return False when the clean end came first.

        As if ``read`` were called again and again, but no task is woken for it: ``take`` is called by the event loop
        as soon as bytes are there. What it raises is raised here.
        """


async def pour_by_reads(stream: UpstreamStream, take: Callable[[bytes], bool]) -> bool:
    """Be the ``pour`` of a stream that has nothing quicker than its ``read``."""
    while data := await stream.read():
        if not take(data):
            return True
    return False


class Sending(Protocol):
    """One request on its way. Entered once, as a context: that sends it and waits for the status line and headers."""

    @property
    def sent(self) -> bool:
        """Whether all of the request has left this process; tells the final truth once the context is left.

        Not while a name is looked up or a connection made, nor while a part of the body waits to be written: with its
        length announced, an upstream cannot have begun to work on what it has not got whole.
        """

    async def __aenter__(self) -> UpstreamStream:
        """Send, and wait for the status line and headers: see ``Transport.send``."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Free the connection."""


class Transport(Protocol):
    """Send a request. Has a life cycle: construct without side effects, ``start``, use, ``stop``."""

    async def start(self) -> None:
        """Open what connections need; must run inside the event loop that will use them."""

    async def stop(self) -> None:
        """Close every connection."""

    def send(self, request: UpstreamRequest, *, connect_timeout_s: float, fresh: bool = False) -> Sending:
        """Send and wait for the status line and headers; leaving the context frees the connection.

        Leaving before the body's end closes the connection at once, which is how an upstream learns that no one
        listens any more; leaving after it gives the connection back to the pool, to be used again by requests of the
        same origin and ``pool`` only, unless they ask for a ``fresh`` one. Waiting for headers has no time limit of
        its own: the caller sets one around it. Redirects are not followed, and no request is sent twice.

        Raises UpstreamError: UPSTREAM_CONNECT (nothing was sent), OWN_SHORTAGE (nothing was sent, for want of something
        of ours), UPSTREAM_CUT (the connection broke before the headers were complete), UPSTREAM_PROTOCOL (the answer is
        not HTTP, or the request could not be written as HTTP and was not sent), STALE_CONNECTION (a kept connection was
        of no use, and the request may go out anew on a fresh one: it broke within STALE_SHOWS_WITHIN_S without a byte
        of an answer, or bytes came on it before the request had been written, which may be another request's answer).
        """
