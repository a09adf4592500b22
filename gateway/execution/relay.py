"""Sends an answer to the caller, with the headers that say which target gave it and what it cost.

Bytes that arrive together are sent together. No more is read than the caller's connection takes, so a slow reader slows
its upstream and costs no memory. An answer that breaks off is never shown as complete: the error is raised.
"""

from typing import Protocol

from gateway.accounting.meter import Meter
from gateway.execution.base import Reply
from gateway.types import Call


class Sink(Protocol):
    """Where an answer goes."""

    started: bool
    """The status has been sent: an error can no longer change it."""
    further: bytes
    """Header lines of every answer, each with its end."""

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the status and headers."""

    def write(self, data: bytes, *, last: bool = False) -> bool:
        """Send bytes of the body; behind the ``last`` come none. False: the caller's connection is full."""

    async def drained(self) -> None:
        """Wait while the caller's connection is full."""


_WITH_COST = b"%b: x-tollway-cost-usd %b\n\n"
"""The cost is a comment, which clients skip (WHATWG HTML, server-sent events, 9.2.6)."""
OF_A_STREAM = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
"""Headers of every stream."""


async def relay(reply: Reply, sink: Sink, call: Call, meter: Meter) -> None:
    """Send the whole answer, and with it what the call cost: all of its attempts. Raises what ``Reply.pour`` raises."""
    request_id = call.id.encode()
    headers = [
        (b"content-type", reply.content_type.encode()),
        (b"x-tollway-request-id", request_id),
        (call.envelope.endpoint.id_header, request_id),
        (b"x-tollway-target", reply.target_id.encode()),
        (b"x-tollway-reason", reply.reason.encode("ascii", "replace")),
    ]
    meter.target_id, meter.reason = reply.target_id, reply.reason
    if call.envelope.stream:
        headers += OF_A_STREAM
        if not sink.started:  # as it is after a sign of life, see ``KeepAlive``
            await sink.start(200, headers)
        last = await reply.pour(sink.write, sink.drained)
        sink.write(_WITH_COST % (last, usd(meter.settle()).encode()), last=True)
    else:
        body = await reply.pour(sink.write, sink.drained)
        headers.append((b"x-tollway-cost-usd", usd(meter.settle()).encode()))
        headers.append((b"content-length", b"%d" % len(body)))
        await sink.start(200, headers)
        sink.write(body)
        await sink.drained()
    meter.is_delivered = True


def usd(nano_usd: int) -> str:
    """Write nano-dollars as dollars, exactly: ``1500`` -> ``0.000001500``."""
    return f"{nano_usd // 10**9}.{nano_usd % 10**9:09d}"
