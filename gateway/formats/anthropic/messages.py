"""Anthropic's Messages API, for callers who speak another dialect.

Decides the URL, the headers, which decoder an answer gets, and whose fault a failure is. How requests and answers are
worded is left to ``request``, ``answer`` and the caller's endpoint.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec

from gateway.errors import UpstreamError
from gateway.formats.anthropic.answer import Answer, StreamError
from gateway.formats.anthropic.request import DEFAULT_MAX_TOKENS, write_options, write_request
from gateway.formats.base import Prepared, check_size, refusal, streams_upstream
from gateway.formats.chat import AnswerWriter, Translatable, UntranslatableError, endpoint_of
from gateway.formats.classify import ANTHROPIC
from gateway.formats.framing import Framing
from gateway.formats.openai.answer import parse
from gateway.formats.openai.failure import failure_in_stream, failure_of_answer
from gateway.formats.sse import Splitter
from gateway.tariff import Rates
from gateway.types import Call, Operation, Target, UpstreamRequest

API_VERSION = "2023-06-01"
"""Anthropic's only current API version (platform.claude.com/docs/en/api/versioning)."""


class AnthropicAdapter:
    """Speaks Messages to the upstream. ``wall_ns`` dates the answers, ``framing`` makes what cuts a streamed one."""

    dialect = "anthropic"

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns, framing: Callable[[], Framing] = Splitter) -> None:
        self._wall_ns = wall_ns
        self._framing = framing

    def refuses(self, call: Call) -> str | None:
        """Name the member that the Messages API does not have."""
        endpoint = call.envelope.endpoint
        if not isinstance(endpoint, Translatable):
            return (
                f"The operation '{endpoint.operation}' is not one of targets of type anthropic; use chat completions."
            )
        try:
            write_options(endpoint.conversation(call.envelope, small=True))
        except UntranslatableError as error:
            return _sentence(error)
        return None

    def prepare(self, call: Call) -> Prepared:
        """Write the body of ``POST /v1/messages``."""
        try:
            return partial(_request, call, write_request(endpoint_of(call).conversation(call.envelope)))
        except UntranslatableError as error:
            raise refusal(_sentence(error)) from None

    def decoder(self, call: Call, target: Target) -> "MessageDecoder":
        """Make the decoder for one answer with a status of success."""
        writer = endpoint_of(call).writer(call.envelope, self._wall_ns() // 1_000_000_000)
        return MessageDecoder(writer, target.rates, self._framing(), is_streamed=call.envelope.stream)

    def failure(
        self, status: int, headers: Mapping[str, str], body: bytes, operation: Operation = "chat"
    ) -> UpstreamError:
        """Classify an answer with another status."""
        return failure_of_answer(status, headers, body, operation, ANTHROPIC)


def _sentence(error: UntranslatableError) -> str:
    why = f": {error.why}" if error.why else ""
    return f"'{error.place}' has no equivalent at Anthropic{why}. This is a target of type anthropic."


def _request(call: Call, rest: bytes, target: Target, attempt_id: str) -> UpstreamRequest:
    """Write the request. ``rest``: its body behind what differs from target to target."""
    headers = {"content-type": "application/json", "anthropic-version": API_VERSION}
    headers.update((name.lower(), value) for name, value in target.headers)
    headers["x-tollway-attempt-id"] = attempt_id
    limit = call.max_output_tokens or target.max_output_tokens or DEFAULT_MAX_TOKENS
    stream = b',"stream":true' if streams_upstream(call, target) else b""
    body = b'{"model":%b,"max_tokens":%d%b,%b' % (
        msgspec.json.encode(target.upstream_model), limit, stream, rest,
    )  # fmt: skip
    url = f"{target.base_url.rstrip('/')}/v1/messages"
    return UpstreamRequest(method="POST", url=url, headers=tuple(headers.items()), body=body, pool=target.pool)


class MessageDecoder(Answer):
    """Reads a stream of Messages events or one Messages body, for a caller who streams or for one who does not."""

    def __init__(self, writer: AnswerWriter, rates: Rates, framing: Framing, *, is_streamed: bool) -> None:
        super().__init__(writer, rates)
        self._assembled = not is_streamed
        self.content_type = "application/json" if self._assembled else "text/event-stream; charset=utf-8"
        self._written = b""
        self._size = 0
        self._framing = framing
        self._object: bytearray | None = None
        """The answer, when it is no stream."""
        self._failure: UpstreamError | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes in any chunking; see ``Decoder.feed``.

        An ``error`` event behind content in the same chunk is raised by the next call, so that what the caller gets
        does not depend on how the network cut the stream.
        """
        if self._failure is not None:
            raise self._failure
        if not self._size and chunk.lstrip()[:1] in self._framing.whole:
            self._object = bytearray()
        self._size += len(chunk.lstrip()) if not self._size else len(chunk)
        if self._assembled or self._object is not None:
            check_size(0 if self.complete else self._size)
        if self._object is not None:
            self._object += chunk
            return b""
        return self._take(self.read_event, map(self._framing.data, self._framing.feed(chunk)))

    def finish(self) -> bytes:
        """Return the assembled body, or what a last event at the very end gives; see ``Decoder.finish``."""
        if self._failure is not None:
            raise self._failure
        if self._object is not None:
            last = self._take(self.read_message, [bytes(self._object)])
        else:
            last = self._take(self.read_event, map(self._framing.data, self._framing.finish()))
            last += self._take(self.read_end, [self._framing.rest or b"\n"])
        if self._failure is not None:
            raise self._failure
        return self._written if self._assembled else last

    def _take(self, read: Callable[[bytes], bytes], pieces: Iterable[bytes | None]) -> bytes:
        before = self.content_events
        written: list[bytes] = []
        try:
            for data in filter(None, pieces):
                written.append(read(data))  # noqa: PERF401 - what came before an error is kept
        except StreamError as error:
            self._failure = failure_in_stream(parse(error.data), ANTHROPIC)
        except UpstreamError as error:
            self._failure = error
        if self._failure is not None and (self._assembled or self.content_events == before):
            raise self._failure
        output = b"".join(written)
        if self._assembled:
            self._written += output
            return b""
        return output
