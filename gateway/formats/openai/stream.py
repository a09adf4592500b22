"""Decode OpenAI's streams: cut them, count what passes, and decide where an answer is whole.

A stream is passed through, or the whole answer is put together from one; and the right answer in the other framing is
handed on in the form asked. What a chunk means is read in ``answer``, what an error means in ``failure``.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import check_size
from gateway.formats.chat import Finish
from gateway.formats.openai.answer import (
    DONE,
    DONE_EVENT,
    Assembler,
    Chunk,
    PlainShape,
    Tap,
    as_events,
    parse,
    without_usage,
)
from gateway.formats.openai.failure import failure_in_stream
from gateway.formats.openai.frame import Frame, learn
from gateway.formats.sse import Splitter, data_of
from gateway.tariff import Rates
from gateway.types import Call

EVENT_STREAM = "text/event-stream; charset=utf-8"
_JSON = "application/json"
_BLANKS = b" \t\r\n\xef\xbb\xbf"
"""And a byte order mark."""
_LESSONS = 4
"""How many frames in a row may be learnt for nothing: with log-probabilities or padding, every event has its own."""
_FIELDS = (b":", b"data", b"event", b"id", b"retry", b"\xef\xbb\xbf")
_ERROR_EVENT = re.compile(rb"^event: ?error\b", re.MULTILINE)


_FINISH: dict[str, Finish] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",  # Mistral
    "model_context_window_exceeded": "length",  # Zhipu, and the next
    "sensitive": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class Events(Tap):
    """Cut the stream, tell a stream from what only has status 200, and decide where an answer is whole.

    ``_object`` is the answer when it is one JSON object and no stream. ``_is_text``: it is still of use with a piece
    missing, as JSON is not.
    """

    content_type = _JSON

    def __init__(self, call: Call, rates: Rates) -> None:
        super().__init__(rates)
        self._choices = call.envelope.choices
        self._is_text = call.envelope.needs.isdisjoint(("json_object", "json_schema"))
        self._splitter = Splitter()
        self._started = self._nonsense = False
        self._object: bytearray | None = None
        self._frame: Frame | None = None
        self._lessons = _LESSONS

    def _succeeded(self, chunk: Chunk, event: bytes, data: bytes) -> Chunk:
        """Return a chunk, unless it says that something failed: by itself, or by the name of its event."""
        if chunk.choices:
            failed = self.has_failed or chunk.is_error(beside=True)
        else:
            named = b"event" in event and _ERROR_EVENT.search(event) is not None
            failed = named or chunk.is_error(beside=bool(chunk.usage))
        if failed:
            raise failure_in_stream(parse(data))
        return chunk

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
        """Cut events off what has arrived, one at a time; or (True) several that look like the known frame in one."""
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
            if self._object is None and not self._started:
                self._start(chunk[position:end])
            if self._object is not None:
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
    def _take_event(self, event: bytes, data: bytes) -> Chunk:
        """Decode one event and keep what is for the caller."""

    def _keep(self, event: bytes) -> None:
        """Pass an event on that holds no part of the answer, where the caller gets events."""

    def _take(self, event: bytes) -> None:
        data, before = data_of(event), self.content_events
        if data == DONE:
            self._end()
            self._keep(event)
        elif data is not None:
            try:
                chunk = self._take_event(event, data)
            except UpstreamError as error:
                return self._drop(data, error)
            if self.dropped_events:
                self._require_start(chunk)
            if self.content_events > before:
                self._learn(event)
        elif not self._means_nothing(event):
            self._keep(event)
        return None

    def _learn(self, event: bytes) -> None:
        """Take the frame of an event that has just brought content, unless too many of them were of no use."""
        self._frame = (learn(event) or self._frame) if self._lessons else None
        self._lessons -= self._lessons > 0

    def _split(self, chunk: bytes) -> list[bytes]:
        if not self._started:
            self._start(chunk)
        if self._object is not None:
            self._object += chunk
            check_size(len(self._object))
            return []
        return self._splitter.feed(chunk)

    def _start(self, chunk: bytes) -> None:
        first = chunk.lstrip(_BLANKS)[:1]
        self._started = bool(first)
        if first == b"<":
            raise _not_a_stream()
        if first in {b"{", b"["}:
            self._object = bytearray()

    def _last(self) -> bytes | None:
        """Take what only the end of the answer completes; return the answer that is one JSON object, if it is.

        Raises UpstreamError when the end came too early, or nothing was answered. A stream is whole at its end marker;
        or at a clean end, when each choice has said why it ends.
        """
        if self._object is not None:
            whole = bytes(self._object).removeprefix(b"\xef\xbb\xbf")
            self._require_answer(self._succeeded(self.read(whole), b"", whole))
            self.complete = True
            return whole
        for event in self._splitter.finish():
            self._take(event)
        rest = self._splitter.rest.strip(_BLANKS)
        if data_of(rest) == DONE or (not (rest or self.complete or self._nonsense) and self.has_ended(self._choices)):
            self._take(DONE_EVENT)  # some upstreams save the last blank line, and some never send it
        elif rest:
            self._means_nothing(rest)
        if not self.complete:
            if self._nonsense:
                raise _not_a_stream()
            raise UpstreamError(ErrorKind.UPSTREAM_CUT, "The upstream ended its stream before the answer was complete.")
        return None

    def _require_answer(self, chunk: Chunk) -> None:
        """Raise UpstreamError when a whole answer holds none: no choice, or one with neither content nor a reason."""
        said = chunk.choices and all(
            each.message or each.text is not None or finish_of(each.finish_reason) == "content_filter"
            for each in chunk.choices  # Azure and Gemini leave the message out of what a filter withheld
        )
        if not said or not (self.content_events or self.finish_reason):
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent an answer without choices.")

    def _drop(self, data: bytes, error: UpstreamError) -> None:
        """Go on without an event that cannot be read, behind text and never within a tool call; else raise the error.

        Before any content another target can still be asked. Blanks around an end marker are nothing.
        """
        if data.strip() == DONE:
            return self._take(DONE_EVENT)
        is_text = self._is_text and self.content_events and not self.has_calls
        if error.kind is not ErrorKind.UPSTREAM_PROTOCOL or not is_text:
            raise error
        self.dropped_events += 1
        return None

    def _require_start(self, chunk: Chunk) -> None:
        """Raise UpstreamError when the event that was dropped may have been the beginning of a tool call."""
        found = [choice.delta.tool_calls for choice in chunk.choices or () if choice.delta and choice.delta.tool_calls]
        first = found[0][0] if found and isinstance(found[0], list) else found
        function = first.get("function") if isinstance(first, dict) else None
        begins = isinstance(function, dict) and function.get("name")
        if first and not (begins and isinstance(first, dict) and not first.get("index")):
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent a tool call that cannot be read.")

    def _means_nothing(self, event: bytes) -> bool:
        """Whether an event without data is not even a comment, a name or an id: then this is no event stream."""
        start = event.lstrip()
        nonsense = bool(start) and not start.startswith(_FIELDS)
        self._nonsense |= nonsense
        return nonsense

    def _end(self) -> None:
        """Take the end marker. An answer without content, or without an event, has at least a reason for its end."""
        lost = self.dropped_events and self.finish_reason == "tool_calls" and not self.has_calls
        if lost or not (self.finish_reason or (self.content_events and not self.dropped_events)):
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream ended its stream without an answer.")
        self.complete = True


class StreamDecoder(Events):
    """Pass a stream through, without the usage that only the gateway asked for."""

    content_type = EVENT_STREAM

    def __init__(self, call: Call, rates: Rates) -> None:
        super().__init__(call, rates)
        self._keeps_usage = call.envelope.include_usage
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
        """See ``Decoder.finish``. The end marker is ours where the upstream sends none."""
        passed = self._passed = list[bytes]()
        whole = None if self.complete else self._last()
        return b"".join(passed) if whole is None else as_events(parse(whole), keeps_usage=self._keeps_usage)

    def _take_known(self, events: bytes) -> bool:
        if not self._recognise(events):
            return False
        self._passed.append(events)
        return True

    def _keep(self, event: bytes) -> None:
        self._passed.append(event)

    def _take_event(self, event: bytes, data: bytes) -> Chunk:
        chunk = self._succeeded(self.read(data), event, data)
        if chunk.usage is None or self._keeps_usage:
            self._passed.append(event)
        elif chunk.choices:
            self._passed.append(b"data: " + without_usage(data).replace(b"\n", b"\ndata: ") + b"\n\n")
        return chunk


class Merging(Events):
    """Read each event as an object, and several of the known frame as one with all their contents."""

    @abstractmethod
    def _add(self, value: dict[str, Any]) -> None:
        """Take a parsed chunk."""

    def _take_known(self, events: bytes) -> bool:
        if self._frame is None or not self._frame.merges:
            return False
        contents = self._recognise(events)
        if contents is None:
            return False
        self._add(parse(data_of(self._frame.write(contents)) or b""))
        return True

    def _take_event(self, event: bytes, data: bytes) -> Chunk:
        value = parse(data)
        chunk = self._succeeded(self.read_object(value), event, data)
        self._add(value)
        return chunk


class AnswerDecoder(Merging):
    """Give the caller who wants no stream the whole answer at its end: put together, or the upstream's own bytes."""

    def __init__(self, call: Call, rates: Rates, plain: PlainShape) -> None:
        super().__init__(call, rates)
        self._assembler = Assembler(call.envelope.endpoint.operation, plain)
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        """See ``Decoder.feed``: nothing until the end, so that another target can still be tried."""
        if not self.complete:
            self._size += len(chunk)
            check_size(self._size)
            if self._splitter.held_bytes or not self._take_known(chunk):
                self._take_all(chunk)
        return b""

    def finish(self) -> bytes:
        """See ``Decoder.finish``: the whole answer."""
        whole = None if self.complete else self._last()
        return self._assembler.finish(self.reported) if whole is None else whole

    def _add(self, value: dict[str, Any]) -> None:
        self._assembler.add(value)


def finish_of(reason: Any) -> Finish:
    """Return what a finish reason means; Gemini says more of one behind a colon. Any other is the model's own end."""
    return _FINISH.get(str(reason).partition(":")[0], "stop")


def _not_a_stream() -> UpstreamError:
    return UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream's answer is not an event stream.")
