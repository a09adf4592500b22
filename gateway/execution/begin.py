"""Reads an upstream's answer up to what can go to the caller: the first content of a stream, or the whole answer.

Decides whether what came is the answer that was asked for. What it says is left to the adapter's decoder, how long to
wait for it to ``patience``.
"""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from gateway.accounting.measure import Measure
from gateway.errors import ErrorKind, UpstreamError
from gateway.execution.patience import Patience
from gateway.execution.unstreamed import StreamRefusedError, refuses_stream
from gateway.formats.base import Decoder, Format
from gateway.transport.base import UpstreamStream
from gateway.types import Call

_MAX_ERROR_BODY_BYTES = 64 * 1024


Journal = Callable[[int], None]
"""Is given what ``Measure.observe`` returns."""


class Begun(Struct, frozen=True):
    """An answer of which there is something for the caller."""

    decoder: Decoder
    head: bytes
    """Decoded, for the caller: the whole body if ``ended``."""
    ended: bool


async def begin(
    call: Call, adapter: Format, stream: UpstreamStream, *, patience: Patience, measure: Measure, journal: Journal
) -> Begun:
    """Read until there is something for the caller. Raises UpstreamError for an answer that is an error."""
    wants_stream = call.envelope.stream
    measure.status = stream.status
    if not measure.has_succeeded:
        raise await _refusal(call, adapter, stream, patience, measure)
    decoder = adapter.decoder(call, measure.target)
    measure.observe(decoder)  # so that what it has seen counts, though it raises
    if not wants_stream and measure.streamed and "json" in stream.headers.get("content-type", ""):
        measure.streamed = False  # it does not stream, which is what the caller asked for
    if not (measure.streamed or wants_stream):
        return await _read_whole(decoder, stream, patience, measure)
    held, ended = list[bytes](), False
    while not (ended or decoder.complete or (wants_stream and decoder.content_events)):
        if decoder.content_events:
            patience.for_upstream()
        chunk = await stream.read()
        ended = not chunk
        held.append(decoder.feed(chunk) if chunk else decoder.finish())
        journal(measure.observe(decoder))
    if not (wants_stream or ended):
        held.append(decoder.finish())  # the answer's own end came before the body's
    if decoder.dropped_events and not wants_stream and patience.others:
        raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent an event that cannot be read.")
    return Begun(decoder, held[0] if len(held) == 1 else b"".join(held), ended)


async def _refusal(
    call: Call, adapter: Format, stream: UpstreamStream, patience: Patience, measure: Measure
) -> UpstreamError:
    """Read an answer that is an error."""
    body = await _read_error_body(stream, patience)
    error = adapter.failure(stream.status, stream.headers, body, call.envelope.endpoint.operation)
    if measure.streamed and not call.envelope.stream and refuses_stream(error, body):
        error = StreamRefusedError(stream.status)
    return error


async def _read_whole(decoder: Decoder, stream: UpstreamStream, patience: Patience, measure: Measure) -> Begun:
    """Read an answer that comes in one piece. Blanks, which some send to keep the connection, are no sign of it."""
    begun = False
    while chunk := await stream.read():
        decoder.feed(chunk)
        if stream.complete:
            break
        begun = begun or not chunk.isspace()
        if begun:
            patience.for_upstream()
    head = decoder.finish()
    measure.observe(decoder)
    return Begun(decoder, head, ended=True)


async def _read_error_body(stream: UpstreamStream, patience: Patience) -> bytes:
    """Read an error's body, but no more and no longer than an error needs; what breaks on the way is left out."""
    body = b""
    try:
        async with asyncio.timeout(patience.for_error_s()):
            while len(body) < _MAX_ERROR_BODY_BYTES and (chunk := await stream.read()):
                body += chunk
    except (UpstreamError, TimeoutError):
        return body
    return body
