"""OpenAI's dialect on both sides: the caller's own bytes go up, the upstream's own bytes come down.

Decides which single members of a request change (``model``, and what makes the upstream stream and count), and what is
taken out of a stream again. What a chunk means is read in ``answer``, what an error means in ``failure``.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping

import msgspec

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import Decoder, check_size, streams_upstream
from gateway.formats.classify import COMPATIBLE, Facts
from gateway.formats.openai.answer import DONE, Assembler, Chunk, PlainShape, Tap, parse, without_usage
from gateway.formats.openai.failure import failure_in_stream, failure_of_answer
from gateway.formats.openai.frame import Frame, learn
from gateway.formats.openai.transcript import TranscriptDecoder, form_for
from gateway.formats.splice import members_of, splice
from gateway.formats.sse import Splitter, data_of
from gateway.types import Call, Operation, Target, UpstreamRequest

_PATHS: dict[Operation, str] = {
    "chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings",
    "transcriptions": "/audio/transcriptions",
}  # fmt: skip
_EVENT_STREAM = "text/event-stream; charset=utf-8"
_JSON = "application/json"
_LESSONS = 4
"""How many frames in a row may be learnt for nothing: with log-probabilities or padding, every event has its own."""
_FIELDS = (b":", b"data", b"event", b"id", b"retry", b"\xef\xbb\xbf")
_ERROR_EVENT = re.compile(rb"^event: ?error\b", re.MULTILINE)
_INCLUDE_USAGE = b'{"include_usage":true}'


class CompatibleAdapter:
    """Speak OpenAI's dialect to an upstream that speaks it too.

    ``refused_members`` are those the upstream is known to answer with 400. ``asks_usage`` is False for an upstream that
    refuses ``stream_options`` and counts in its last chunk anyway. ``facts``: what its errors mean. ``plain``: what its
    plain answers look like, for those that are put together from a stream.
    """

    def __init__(
        self,
        *,
        refused_members: frozenset[str] = frozenset(),
        asks_usage: bool = True,
        facts: Facts = COMPATIBLE,
        plain: PlainShape | None = None,
    ) -> None:
        self._refused_members = refused_members
        self._asks_usage = asks_usage
        self._facts = facts
        self._plain = plain or PlainShape()

    def refuses(self, call: Call, target: Target) -> str | None:  # noqa: ARG002 - the same for every target
        """Name the members of the request that this upstream does not take, if there are any."""
        if call.dialect != "openai":
            return f"a request in the dialect '{call.dialect}'"
        members = call.envelope.members
        if self._refused_members.isdisjoint(members):
            return None
        refused = sorted(name for name in self._refused_members & members.keys() if members[name] != b"null")
        return ", ".join(f"'{name}'" for name in refused) or None

    def request(self, call: Call, target: Target, attempt_id: str) -> UpstreamRequest:
        """Write the request: the caller's body with single members changed, and none of the caller's headers."""
        form = form_for(call.envelope, target.upstream_model) if call.operation == "transcriptions" else None
        content_type, body = form or (_JSON, self._body(call, target))
        headers = [("content-type", content_type), ("x-tollway-attempt-id", attempt_id)]
        if target.credential is not None:
            headers.append(("authorization", f"Bearer {target.credential.value}"))
        return UpstreamRequest(
            method="POST",
            url=target.base_url.rstrip("/") + _PATHS[call.operation],
            headers=(*headers, *target.headers),
            body=body,
            pool=target.pool,
        )

    def decoder(self, call: Call, target: Target) -> Decoder:
        """Make the decoder: pass a stream or an object through, or assemble the one from the other."""
        if call.operation == "transcriptions":
            return TranscriptDecoder(call.envelope)
        if not streams_upstream(call, target):
            return EmbeddingsDecoder() if call.operation == "embeddings" else ObjectDecoder()
        if call.envelope.stream:
            return StreamDecoder(keeps_usage=call.envelope.include_usage)
        return AssemblingDecoder(call, self._plain)

    def failure(
        self, status: int, headers: Mapping[str, str], body: bytes, operation: Operation = "chat"
    ) -> UpstreamError:
        """Classify an answer with an error status."""
        return failure_of_answer(status, headers, body, operation, self._facts)

    def _body(self, call: Call, target: Target) -> bytes:
        envelope = call.envelope
        changes: dict[str, bytes | None] = {}
        if envelope.model != target.upstream_model:
            changes["model"] = msgspec.json.encode(target.upstream_model)
        if streams_upstream(call, target):
            if not envelope.stream:
                changes["stream"] = b"true"
            options = envelope.members.get("stream_options", b"null")
            if not self._asks_usage:
                changes["stream_options"] = None
            elif options == b"null":
                changes["stream_options"] = _INCLUDE_USAGE
            elif not envelope.include_usage:
                changes["stream_options"] = splice(options, members_of(options), {"include_usage": b"true"})
        return splice(envelope.body, envelope.members, changes)


class _Reader(Tap):
    """Read what accounting needs, and raise what the upstream reports in an answer with status 200."""

    content_type = _JSON

    def __init__(self) -> None:
        super().__init__()
        self.complete = False

    def read(self, data: bytes, event: bytes = b"") -> Chunk:
        chunk = super().read(data)
        if _is_failure(chunk, event):
            raise failure_in_stream(parse(data))
        return chunk


class _Events(_Reader):
    """Cut the stream, and tell a stream from what only has status 200."""

    def __init__(self) -> None:
        super().__init__()
        self._splitter = Splitter()
        self._started = False
        self._foreign: bytearray | None = None
        self._nonsense = False
        self._frame: Frame | None = None
        self._lessons = _LESSONS

    def _recognise(self, whole: bytes) -> list[bytes] | None:
        """Count whole events of the known frame and return their contents; None for anything else, yet to be read."""
        found = self._frame.read(whole) if self._frame is not None else None
        if found is None:
            return None
        contents, size = found
        self.content_events += len(contents)
        self.content_bytes += size
        self._lessons = _LESSONS
        return contents

    def _runs(self, chunk: bytes) -> Iterator[tuple[bytes, bool]]:
        """Cut events off what has arrived, each by itself; or (True) several that look like the known frame in one.

        What an event taught is known when the next is cut.
        """
        if not self._splitter.plain(chunk):
            for event in self._split(chunk):
                yield event, False
            return
        position = 0
        barren: Frame | None = None
        while (end := chunk.find(b"\n\n", position) + 2) > 1:
            frame = self._frame
            run_end = end if frame is None or frame is barren else frame.end_of_run(chunk, position)
            barren = frame if run_end < 0 else barren  # not to be searched for once an event
            is_run = run_end > end
            end = max(end, run_end)
            if self._foreign is None and not self._started:
                self._start(chunk[position:end])
            if self._foreign is not None:
                break
            yield chunk[position:end], is_run
            position = end
        if position < len(chunk):
            self._split(chunk[position:])

    def _take_all(self, chunk: bytes) -> None:
        for events, is_run in self._runs(chunk):
            if is_run and self._take_known(events):
                continue
            for event in [each + b"\n\n" for each in events.split(b"\n\n")[:-1]] if is_run else (events,):
                if not (is_run and self._take_known(event)):
                    self._take(event)
                if self.complete:
                    return

    @abstractmethod
    def _take_known(self, events: bytes) -> bool:
        """Take whole events if they are all of the known frame; False: none was taken."""

    @abstractmethod
    def _take(self, event: bytes) -> None:
        """Decode one event."""

    def _learn(self, event: bytes) -> None:
        """Take the frame of an event that has just brought content, unless too many of them were of no use."""
        self._frame = (learn(event) or self._frame) if self._lessons else None
        self._lessons -= self._lessons > 0

    def _split(self, chunk: bytes) -> list[bytes]:
        if not self._started:
            self._start(chunk)
        if self._foreign is not None:
            self._foreign += chunk
            check_size(len(self._foreign))
            return []
        return self._splitter.feed(chunk)

    def _start(self, chunk: bytes) -> None:
        first = chunk.lstrip()[:1]
        self._started = bool(first)
        if first == b"<":
            raise _not_a_stream()
        if first in {b"{", b"["}:
            self._foreign = bytearray()

    def _last(self) -> list[bytes]:
        """Return the events that only the end of the stream completes. Raises UpstreamError when it came too early."""
        if self.complete:
            return []
        if self._foreign is not None:
            # An error with status 200, or an upstream that does not stream.
            self.read(bytes(self._foreign))
            raise _not_a_stream()
        events = self._splitter.finish()
        rest = self._splitter.rest
        if data_of(rest) == DONE:
            # Some upstreams save the last blank line.
            events.append(b"data: [DONE]\n\n")
        elif rest:
            self._means_nothing(rest)
        return events

    def _means_nothing(self, event: bytes) -> bool:
        """Whether an event without data is not even a comment, a name or an id: then this is no event stream."""
        start = event.lstrip()
        nonsense = bool(start) and not start.startswith(_FIELDS)
        self._nonsense |= nonsense
        return nonsense

    def _end(self) -> None:
        """Take the end marker. An answer without content has at least a reason to be at its end."""
        if not self.content_events and self.finish_reason is None:
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream ended its stream without an answer.")
        self.complete = True

    def _require_end(self) -> None:
        if self.complete:
            return
        if self._nonsense:
            raise _not_a_stream()
        raise UpstreamError(ErrorKind.UPSTREAM_CUT, "The upstream ended its stream before the answer was complete.")


class StreamDecoder(_Events):
    """Pass a stream through, without the usage that only the gateway asked for."""

    content_type = _EVENT_STREAM

    def __init__(self, *, keeps_usage: bool) -> None:
        super().__init__()
        self._keeps_usage = keeps_usage
        self._passed: list[bytes] = []

    def feed(self, chunk: bytes) -> bytes:
        """See ``Decoder.feed``. What comes after the end marker is dropped."""
        if self.complete:
            return b""
        held = self._splitter.held_bytes
        if not held and self._recognise(chunk):
            return chunk
        passed = self._passed = list[bytes]()
        self._take_all(chunk)
        # What was left out or rewritten has become shorter.
        unchanged = not held and sum(map(len, passed)) == len(chunk)
        return chunk if unchanged else b"".join(passed)

    def finish(self) -> bytes:
        """See ``Decoder.finish``."""
        passed = self._passed = list[bytes]()
        for event in self._last():
            self._take(event)
        self._require_end()
        return b"".join(passed)

    def _take_known(self, events: bytes) -> bool:
        if not self._recognise(events):
            return False
        self._passed.append(events)
        return True

    def _take(self, event: bytes) -> None:
        data = data_of(event)
        if data is None:
            if not self._means_nothing(event):
                self._passed.append(event)
        elif data == DONE:
            self._end()
            self._passed.append(event)
        else:
            before = self.content_events
            chunk = self.read(data, event)
            if self.content_events > before:
                self._learn(event)
            if chunk.usage is None or self._keeps_usage:
                self._passed.append(event)
            elif chunk.choices:
                without = without_usage(data)
                self._passed.append(b"data: " + without.replace(b"\n", b"\ndata: ") + b"\n\n")


class AssemblingDecoder(_Events):
    """Take a stream, and give the caller who wants none the whole answer at its end."""

    def __init__(self, call: Call, plain: PlainShape) -> None:
        super().__init__()
        self._assembler = Assembler(call.operation, plain)
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        """See ``Decoder.feed``: nothing until the end."""
        if not self.complete:
            self._size += len(chunk)
            check_size(self._size)
            if self._splitter.held_bytes or not self._take_known(chunk):
                self._take_all(chunk)
        return b""

    def finish(self) -> bytes:
        """See ``Decoder.finish``: the whole answer."""
        for event in self._last():
            self._take(event)
        self._require_end()
        return self._assembler.finish()

    def _take_known(self, events: bytes) -> bool:
        """Add events of the known frame as one with all their contents."""
        if self._frame is None or not self._frame.merges:
            return False
        contents = self._recognise(events)
        if contents is None:
            return False
        self._assembler.add(parse(data_of(self._frame.write(contents)) or b""))
        return True

    def _take(self, event: bytes) -> None:
        data = data_of(event)
        if data is None:
            self._means_nothing(event)
        elif data == DONE:
            self._end()
        else:
            value, before = parse(data), self.content_events
            if _is_failure(self.read_object(value), event):
                raise failure_in_stream(value)
            self._assembler.add(value)
            if self.content_events > before:
                self._learn(event)


class ObjectDecoder(_Reader):
    """Hold an answer that is one JSON object until it is whole, and pass its bytes on untouched."""

    def __init__(self) -> None:
        super().__init__()
        self._body = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """See ``Decoder.feed``: nothing until the object is whole, so that another target can still be tried."""
        self._body += chunk
        check_size(len(self._body))
        return b""

    def finish(self) -> bytes:
        """See ``Decoder.finish``: the upstream's own bytes."""
        body = bytes(self._body)
        if not body:
            raise UpstreamError(ErrorKind.UPSTREAM_CUT, "The upstream sent an empty answer.")
        self._check(body)
        self.complete = True
        return body

    def _check(self, body: bytes) -> None:
        if not self.read(body).choices:
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent an answer without choices.")


class EmbeddingsDecoder(ObjectDecoder):
    """The same for vectors. They are no tokens: there is no first content, and so no TTFT."""

    def _check(self, body: bytes) -> None:
        answer = self.read_embeddings(body)
        if answer.is_error(beside=bool(answer.data)):
            raise failure_in_stream(parse(body))
        if not answer.data:
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent an answer without embeddings.")


def _is_failure(chunk: Chunk, event: bytes) -> bool:
    """Whether a chunk says that something failed: by itself, or by the name of its event."""
    if chunk.choices:
        return chunk.error is not None or chunk.object == "error"
    named = b"event" in event and _ERROR_EVENT.search(event) is not None
    return named or chunk.is_error(beside=bool(chunk.usage))


def _not_a_stream() -> UpstreamError:
    return UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream's answer is not an event stream.")
