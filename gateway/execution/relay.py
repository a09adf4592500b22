"""Moves an answer to the caller: what arrived together leaves together, and nothing waits for anything else.

Writing waits for the caller's connection, and only then is more read, so a slow reader slows its upstream and costs no
memory. An answer that breaks off is never shown as complete: the error goes up, and the pipeline tells the caller.
"""

import asyncio
import contextlib
from typing import Protocol

from gateway.clock import Clock
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.execution.base import Reply
from gateway.types import Call, LedgerEntry

_END_OF_BODY_S = 1.0


class Sink(Protocol):
    """Where an answer goes."""

    started: bool
    """The status has been sent: an error can no longer change it."""

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the status and headers."""

    async def write(self, data: bytes) -> None:
        """Send bytes of the body, waiting while the caller's connection is full."""


async def relay(reply: Reply, sink: Sink, call: Call, clock: Clock) -> None:
    """Send the whole answer. Raises UpstreamError when it breaks off or stalls, GatewayError at the call's deadline."""
    headers = [
        (b"content-type", reply.decoder.content_type.encode()),
        (b"x-tollway-request-id", call.id.encode()),
        (b"x-request-id", call.id.encode()),
        (b"x-tollway-target", reply.attempt.target.id.encode()),
        (b"x-tollway-reason", reply.reason.encode("ascii", "replace")),
    ]
    if not call.envelope.stream:
        entry = reply.attempt.finish("ok")
        headers.append((b"x-tollway-cost-usd", usd(entry.cost_nano_usd).encode()))
        headers.append((b"content-length", str(len(reply.head)).encode()))
        await sink.start(200, headers)
        await sink.write(reply.head)
        reply.attempt.delivered = True
        await _exhaust(reply)
        return
    headers.append((b"cache-control", b"no-cache"))
    headers.append((b"x-accel-buffering", b"no"))
    try:
        # Bounds the caller's reading too: one who stops reading holds a replica no longer than a slow answer may.
        async with asyncio.timeout((call.deadline_ns - clock.monotonic_ns()) / 1e9):
            await sink.start(200, headers)
            out = reply.head
            while not (reply.ended or reply.decoder.complete):
                if out:
                    await sink.write(out)
                out = await _next(reply, call.timeouts.idle_s)
            # Settled before the end marker leaves: clients hang up once they have read it.
            await sink.write(out + _cost_comment(reply.attempt.finish("ok")))
            reply.attempt.delivered = True
    except TimeoutError:
        raise GatewayError(ErrorKind.DEADLINE, "The request's total time ran out in the answer.") from None
    await _exhaust(reply)


async def _next(reply: Reply, idle_s: float) -> bytes:
    """Read once, and return what goes to the caller."""
    try:
        async with asyncio.timeout(idle_s):
            chunk = await reply.stream.read()
    except TimeoutError:
        raise UpstreamError(ErrorKind.UPSTREAM_STALLED, "The model stopped sending in its answer.") from None
    reply.ended = not chunk
    out = reply.decoder.feed(chunk) if chunk else reply.decoder.finish()
    reply.attempt.observe(reply.decoder)
    return out


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
