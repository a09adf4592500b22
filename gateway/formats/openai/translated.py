"""Read an OpenAI-compatible answer, and have it written in the dialect of a caller who speaks another one.

Decides what of a chunk is text, thinking or a tool call, whichever of the members that mean the same it stands in.
Where an answer is whole, and what is an error, is decided in ``stream``, as for callers of this dialect.
"""

from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import check_size
from gateway.formats.chat import AnswerWriter, Ending, endpoint_of
from gateway.formats.openai.answer import parse
from gateway.formats.openai.stream import EVENT_STREAM, Merging, finish_of
from gateway.formats.tokens import estimate_output_tokens
from gateway.tariff import Rates, Usage
from gateway.types import Call


class TranslatedDecoder(Merging):
    """Feeds a writer; to a caller who wants no stream all goes at the end."""

    def __init__(self, call: Call, rates: Rates, writer: AnswerWriter) -> None:
        super().__init__(call, rates)
        self._call = call
        self._assembled = not call.envelope.stream
        if not self._assembled:
            self.content_type = EVENT_STREAM
        self._writer = writer
        self._written: list[bytes] = []
        self._begun = False
        self._half = ""
        """The first half of a surrogate pair, of which the other half is in the next chunk."""
        self._calls: dict[int, tuple[int, str]] = {}
        """Index of a tool call in the stream -> its number among all, and its id."""
        self._call_count = 0
        self._stop_sequence: str | None = None
        self._size = 0

    @property
    def sent_events(self) -> int:
        """See ``GatewayError.sent_events``."""
        return getattr(self._writer, "events", 0)

    def feed(self, chunk: bytes) -> bytes:
        """See ``Decoder.feed``."""
        if self.complete:
            return b""
        if self._assembled:
            self._size += len(chunk)
            check_size(self._size)
        if self._splitter.held_bytes or not self._take_known(chunk):
            self._take_all(chunk)
        return b"" if self._assembled else self._taken()

    def finish(self) -> bytes:
        """See ``Decoder.finish``."""
        whole = None if self.complete else self._last()
        if whole is not None:
            self._add(parse(whole))
            self._close()
        return self._taken()

    def _taken(self) -> bytes:
        written, self._written = self._written, []
        return b"".join(written)

    def _end(self) -> None:
        super()._end()
        self._close()

    def _close(self) -> None:
        reason = finish_of(self.finish_reason)
        if not self._begun:
            self._begin({})
        stop = self._stop_sequence if reason == "stop" else None
        try:
            self._written.append(self._writer.end(Ending(reason, self._counted(), stop, self.service_tier)))
        except UnicodeEncodeError:  # half a surrogate pair in a name
            raise _nonsense() from None

    def _counted(self) -> Usage:
        """Return the upstream's count, and of what it has not counted the estimate that is billed."""
        usage = self.usage or Usage()
        if not usage.read_tokens:
            usage = replace(usage, input_tokens=self._call.input_tokens_estimate)
        if self.content_events and not usage.written_tokens:
            usage = replace(usage, output_tokens=estimate_output_tokens(self.content_events, self.content_bytes))
        return usage

    def _begin(self, chunk: dict[str, Any]) -> None:
        self._begun = True
        self._written.append(self._writer.start(str(chunk.get("id") or ""), str(chunk.get("model") or "")))

    def _add(self, value: dict[str, Any]) -> None:
        try:
            choices = value.get("choices") or ()
            if choices and not self._begun:
                self._begin(value)
            for choice in choices:
                if not choice.get("index"):
                    self._add_choice(choice)
        except (AttributeError, TypeError, ValueError):
            raise _nonsense() from None

    def _add_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or choice.get("message") or {}
        writer = self._writer
        for thought in _texts(delta.get("reasoning_content") or delta.get("reasoning"), "text"):
            self._write(writer.reasoning, thought)
        content = delta.get("content")
        if isinstance(content, list):  # Mistral's reasoning models
            for part in content:
                for thought in _texts(part.get("thinking"), "text"):
                    self._write(writer.reasoning, thought)
                self._write(writer.text, part.get("text") or "")
        elif content:
            self._write(writer.text, content)
        if delta.get("refusal"):
            self._write(writer.refusal, delta["refusal"])
        legacy = delta.get("function_call")
        for call in delta.get("tool_calls") or ([{"function": legacy}] if legacy else ()):
            self._add_call(call)
        stop = choice.get("stop_reason")  # vLLM: the sequence, perhaps one of the model's own, or the id of a token
        if isinstance(stop, str) and stop in endpoint_of(self._call).conversation(self._call.envelope, small=True).stop:
            self._stop_sequence = stop

    def _add_call(self, call: dict[str, Any]) -> None:
        """Begin a call at a name with a new index or id, else add to the last one of its index."""
        function = call.get("function") or {}
        index, call_id, name = call.get("index") or 0, call.get("id") or "", function.get("name")
        known = self._calls.get(index)
        if name and (known is None or (call_id and call_id != known[1])):
            known = self._calls[index] = self._call_count, call_id
            self._call_count += 1
            self._written.append(self._writer.tool(known[0], call_id, name))
        if known is None:
            raise _nonsense()
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        self._written.append(self._writer.arguments(known[0], arguments))

    def _write(self, verb: Any, text: str) -> None:
        text, self._half = self._half + text, ""
        if not text.isascii():
            if "\ud800" <= text[-1] <= "\udbff":
                text, self._half = text[:-1], text[-1]
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if text:
            self._written.append(verb(text))


def _texts(value: Any, name: str) -> list[str]:
    """Return the texts of a member that is one, or a list of parts with one each."""
    if isinstance(value, list):
        return [part[name] for part in value if part.get(name)]
    return [value] if value else []


def _nonsense() -> UpstreamError:
    return UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream sent something that is not an OpenAI answer.")
