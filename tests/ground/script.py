"""Values that say how an upstream answers one request, correctly or not.

The same answer is performed over a socket (``ScriptedUpstream.start``) and over the in-memory transport
(``ScriptedUpstream.serve``): both are a ``Peer`` that takes bytes.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol


class Peer(Protocol):
    """The upstream's end of one connection."""

    left: asyncio.Event
    """Set when the client has closed the connection."""

    async def write(self, data: bytes) -> None:
        """Send bytes; raises ConnectionResetError once the client has left."""

    def close(self) -> None:
        """Close the connection in good order (FIN)."""

    def reset(self) -> None:
        """Break the connection (RST)."""


class Chunk(NamedTuple):
    """One write of a body, the content tokens in it, and the wait before it (None: the answer's)."""

    data: bytes
    tokens: int = 0
    delay_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer and everything that goes wrong with it. Healthy by default.

    ``dataclasses.replace(answer, cut_after=3)`` turns a healthy answer into a cut one.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    chunks: Iterable[bytes | Chunk] = ()
    """Each is one write; under chunked framing also one HTTP chunk."""
    framing: Literal["chunked", "content-length", "close"] = "chunked"
    """How the body's end is told; ``close``: by the end of the connection."""
    content_length: int | None = None
    """With framing ``content-length``: the length that is claimed, true unless given."""
    keep_alive: bool = True
    informational: tuple[int, ...] = ()
    """1xx answers to send before the real one."""
    first_byte_delay_s: float = 0.0
    """Before the status line."""
    per_chunk_delay_s: float | Callable[[], float] = 0.0
    """Before each chunk; a function is asked each time, so that it can change while the answer is under way."""
    hang_up: bool = False
    """Close without a byte of an answer."""
    cut_after: int | None = None
    """Close after so many chunks, before the body's end."""
    stall_after: int | None = None
    """Fall silent after so many chunks, until the client leaves."""
    reset: bool = False
    """Close by RST instead of FIN."""
    raw: bytes | None = None
    """Send these bytes in place of everything above, then close (or, with ``stall_after``, fall silent)."""
    trickle_bytes: int | None = None
    """Send at most so many bytes at a time, with ``trickle_delay_s`` before each."""
    trickle_delay_s: float = 0.0


@dataclass(kw_only=True)
class Seen:
    """One request as the upstream saw it, and what became of it. Times are the event loop's, in seconds."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    received_at_s: float
    connection_id: int = 0
    status: int | None = None
    """Of the answer that was begun."""
    chunks_written: int = 0
    tokens_written: int = 0
    completed: bool = False
    """The whole answer was written."""
    disconnected_at_s: float | None = None
    """When the client left before the answer was complete."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the upstream is done with this request, whatever the reason."""

    @property
    def attempt_id(self) -> str | None:
        """The gateway's id of the attempt (``x-tollway-attempt-id``)."""
        return self.headers.get("x-tollway-attempt-id")

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; empty when it is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def model(self) -> str | None:
        """The model named in the body."""
        model = self.json.get("model")
        return model if isinstance(model, str) else None


def json_answer(value: object, *, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    """Answer with one JSON body of a known length."""
    return Answer(
        status=status,
        headers=(("content-type", "application/json"), *headers),
        chunks=(json.dumps(value).encode(),),
        framing="content-length",
    )


def error_answer(status: int, message: str = "scripted failure", *, retry_after_s: int | None = None) -> Answer:
    """Answer with an error in OpenAI's shape."""
    headers = () if retry_after_s is None else (("retry-after", str(retry_after_s)),)
    error = {"message": message, "type": "scripted_error", "param": None, "code": None}
    return json_answer({"error": error}, status=status, headers=headers)


def html_answer(status: int = 200) -> Answer:
    """Answer with a web page, as a captive portal or a misrouted proxy does."""
    return Answer(
        status=status,
        headers=(("content-type", "text/html"),),
        chunks=(b"<!doctype html><title>Welcome</title><p>Please sign in.",),
        framing="content-length",
    )


def sse_event(data: object, *, event: str | None = None) -> bytes:
    """Write one server-sent event; ``data`` is JSON unless it is a string."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def play(
    exchange: bytes | Sequence[bytes | Mapping[str, Any]],
    *,
    status: int = 200,
    content_type: str = "text/event-stream",
    per_chunk_delay_s: float | Callable[[], float] = 0.0,
) -> Answer:
    """Replay a recorded answer: raw bytes as they are, or events, one chunk each.

    An event is bytes, or a JSON object; an object with a ``type`` is named after it, which is Anthropic's shape
    (https://docs.anthropic.com/en/docs/build-with-claude/streaming).
    """
    if isinstance(exchange, bytes):
        chunks: tuple[bytes, ...] = (exchange,)
    else:
        chunks = tuple(
            item if isinstance(item, bytes) else sse_event(item, event=item.get("type")) for item in exchange
        )
    return Answer(
        status=status, headers=(("content-type", content_type),), chunks=chunks, per_chunk_delay_s=per_chunk_delay_s
    )


async def perform(answer: Answer, peer: Peer, seen: Seen) -> None:
    """Send the answer and note in ``seen`` what was written. Raises ConnectionResetError when the client leaves."""
    await _pause(peer, answer.first_byte_delay_s)
    if answer.hang_up:
        _break_off(answer, peer)
        return
    for status in answer.informational:
        await peer.write(b"HTTP/1.1 %d Interim\r\n\r\n" % status)
    if answer.raw is not None:
        await _send(answer, peer, answer.raw)
        if answer.stall_after is not None:
            await _pause(peer, None)
        _break_off(answer, peer)
        return
    chunks = [Chunk(item) if isinstance(item, bytes) else item for item in answer.chunks]
    seen.status = answer.status
    await _send(answer, peer, _head(answer, sum(len(chunk.data) for chunk in chunks)))
    for index, chunk in enumerate(chunks):
        if await _interrupted(answer, peer, index):
            return
        delay_s = answer.per_chunk_delay_s if chunk.delay_s is None else chunk.delay_s
        await _pause(peer, delay_s() if callable(delay_s) else delay_s)
        framed = b"%x\r\n%b\r\n" % (len(chunk.data), chunk.data) if answer.framing == "chunked" else chunk.data
        seen.chunks_written += 1  # before, since the client may have read the bytes by the time the write returns
        seen.tokens_written += chunk.tokens
        await _send(answer, peer, framed)
    if await _interrupted(answer, peer, len(chunks)):
        return
    seen.completed = True  # before, as above
    if answer.framing == "chunked":
        await peer.write(b"0\r\n\r\n")
    if answer.framing == "close" or not answer.keep_alive:
        peer.close()


def _head(answer: Answer, body_bytes: int) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} Scripted", *(f"{name}: {value}" for name, value in answer.headers)]
    if answer.framing == "chunked":
        lines.append("transfer-encoding: chunked")
    elif answer.framing == "content-length":
        lines.append(f"content-length: {body_bytes if answer.content_length is None else answer.content_length}")
    if answer.framing == "close" or not answer.keep_alive:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _interrupted(answer: Answer, peer: Peer, chunks_written: int) -> bool:
    if answer.stall_after == chunks_written:
        await _pause(peer, None)
    if answer.cut_after != chunks_written:
        return False
    _break_off(answer, peer)
    return True


def _break_off(answer: Answer, peer: Peer) -> None:
    if answer.reset:
        peer.reset()
    else:
        peer.close()


async def _send(answer: Answer, peer: Peer, data: bytes) -> None:
    step = answer.trickle_bytes or max(len(data), 1)
    for start in range(0, len(data), step):
        await _pause(peer, answer.trickle_delay_s)
        await peer.write(data[start : start + step])


async def _pause(peer: Peer, delay_s: float | None) -> None:
    """Wait, for ever if None, but notice at once when the client leaves."""
    if delay_s != 0.0 and not peer.left.is_set():
        try:
            async with asyncio.timeout(delay_s):
                await peer.left.wait()
        except TimeoutError:
            return
    if peer.left.is_set():
        raise ConnectionResetError("the client has left")
