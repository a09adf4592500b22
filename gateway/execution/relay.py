"""Moves an answer to the caller: what arrived together leaves together, and nothing waits for anything else.

Writing waits for the caller's connection, and only then is more read, so a slow reader slows its upstream and costs no
memory. An answer that breaks off is never shown as complete: the error goes up, and the pipeline tells the caller.
"""

import asyncio
import contextlib
from typing import Protocol

from gateway.errors import UpstreamError
from gateway.execution.base import Reply
from gateway.types import Call, LedgerEntry

_END_OF_BODY_S = 1.0


class Sink(Protocol):
    """Where an answer goes."""

    started: bool
    """The status has been sent: an error can no longer change it."""

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the status and headers."""

    def write(self, data: bytes, *, last: bool = False) -> bool:
        """Send bytes of the body; behind the ``last`` come none. False: the caller's connection is full."""

    async def drained(self) -> None:
        """Wait while the caller's connection is full."""


async def relay(reply: Reply, sink: Sink, call: Call) -> None:
    """Send the whole answer. Raises UpstreamError when it breaks off; the strategy's context bounds every wait."""
    request_id = call.id.encode()
    headers = [
        (b"content-type", reply.decoder.content_type.encode()),
        (b"x-tollway-request-id", request_id),
        (b"x-request-id", request_id),
        (b"x-tollway-target", reply.attempt.target.id.encode()),
        (b"x-tollway-reason", reply.reason.encode("ascii", "replace")),
    ]
    if not call.envelope.stream:
        entry = reply.attempt.finish("ok")
        headers.append((b"x-tollway-cost-usd", usd(entry.cost_nano_usd).encode()))
        headers.append((b"content-length", b"%d" % len(reply.head)))
        reply.patience.end()
        await sink.start(200, headers)
        sink.write(reply.head)
        await sink.drained()
    else:
        headers.append((b"cache-control", b"no-cache"))
        headers.append((b"x-accel-buffering", b"no"))
        await sink.start(200, headers)
        await _relay_stream(reply, sink)
        reply.patience.end()
    reply.attempt.delivered = True
    if not reply.ended:
        await _exhaust(reply)


async def _relay_stream(reply: Reply, sink: Sink) -> None:
    attempt, decoder, patience = reply.attempt, reply.decoder, reply.patience
    out = reply.head

    def take(chunk: bytes) -> bool:
        """Send on what has just arrived; called by the event loop, for to wake this task costs more than all of it."""
        nonlocal out
        out = decoder.feed(chunk)
        attempt.observe(decoder)
        if decoder.complete:
            return False
        patience.for_upstream()
        return sink.write(out)

    if not (reply.ended or decoder.complete):
        sink.write(out)
    while not (reply.ended or decoder.complete):
        patience.for_caller()
        await sink.drained()
        patience.for_upstream()
        reply.ended = not await reply.stream.pour(take)
        if reply.ended:
            out = decoder.finish()
            attempt.observe(decoder)
    # Settled before the end marker leaves: clients hang up once they have read it.
    entry = attempt.finish("ok")
    sink.write(out + _cost_comment(entry), last=True)


async def _exhaust(reply: Reply) -> None:
    """Read the upstream's body to its end, so that the connection can be used again; the answer was whole before it."""
    with contextlib.suppress(TimeoutError, UpstreamError):
        async with asyncio.timeout(_END_OF_BODY_S):
            while not reply.ended:
                reply.ended = not await reply.stream.read()


def usd(nano_usd: int) -> str:
    """Write nano-dollars as dollars, exactly: ``1500`` -> ``0.000001500``."""
    return f"{nano_usd // 10**9}.{nano_usd % 10**9:09d}"


def _cost_comment(entry: LedgerEntry) -> bytes:
    """Make the comment that closes a stream; clients skip comments (WHATWG HTML, server-sent events, 9.2.6)."""
    return f": x-tollway-cost-usd {usd(entry.cost_nano_usd)}\n\n".encode()
