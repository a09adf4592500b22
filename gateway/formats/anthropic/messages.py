"""The adapter for Anthropic's Messages API, for callers who speak OpenAI's chat completions.

Decides the URL, the headers, which decoder an answer gets, and whose fault a failure is. How requests and answers are
worded is left to ``request``, ``answer`` and ``formats.openai.chat_answer``.
"""

import time
from collections.abc import Callable, Mapping

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.anthropic.answer import Answer, StreamError
from gateway.formats.anthropic.request import DEFAULT_MAX_TOKENS, UntranslatableError, translate
from gateway.formats.base import check_size, streams_upstream
from gateway.formats.classify import ANTHROPIC
from gateway.formats.openai.answer import parse
from gateway.formats.openai.chat_answer import Assembly, Chunks
from gateway.formats.openai.failure import failure_in_stream, failure_of_answer
from gateway.formats.sse import Splitter, data_of
from gateway.tariff import Usage
from gateway.types import Call, Operation, Target, UpstreamRequest

API_VERSION = "2023-06-01"
"""Anthropic's only current API version (platform.claude.com/docs/en/api/versioning)."""


class AnthropicAdapter:
    """Speaks Messages to the upstream and chat completions to the caller. ``wall_ns`` dates the answers."""

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._wall_ns = wall_ns

    def refuses(self, call: Call, target: Target) -> str | None:
        """Name what the Messages API cannot express of the call, or return None."""
        if call.operation != "chat":
            return f"The operation '{call.operation}' is not one of targets of type anthropic; use chat completions."
        try:
            self._body(call, target)
        except UntranslatableError as error:
            return f"{error} This is a target of type anthropic."
        return None

    def request(self, call: Call, target: Target, attempt_id: str) -> UpstreamRequest:
        """Write ``POST {base_url}/v1/messages``. For a call that ``refuses`` names, raises UntranslatableError."""
        headers = {"content-type": "application/json", "anthropic-version": API_VERSION}
        if target.credential is not None:
            headers["x-api-key"] = target.credential.value
        headers.update((name.lower(), value) for name, value in target.headers)
        headers["x-tollway-attempt-id"] = attempt_id
        url = f"{target.base_url.rstrip('/')}/v1/messages"
        return UpstreamRequest(
            method="POST", url=url, headers=tuple(headers.items()), body=self._body(call, target), pool=target.pool
        )

    def decoder(self, call: Call, target: Target) -> "StreamDecoder | WholeDecoder":
        """Make the decoder for one answer with status 200."""
        created_s = self._wall_ns() // 1_000_000_000
        if call.envelope.stream:
            chunks = Chunks(created_s, include_usage=call.envelope.include_usage)
            return StreamDecoder(Answer(chunks), "text/event-stream; charset=utf-8")
        if streams_upstream(call, target):
            return StreamDecoder(Answer(Assembly(created_s)), "application/json")
        return WholeDecoder(Answer(Assembly(created_s)))

    def failure(
        self, status: int, headers: Mapping[str, str], body: bytes, operation: Operation = "chat"
    ) -> UpstreamError:
        """Classify an answer with another status."""
        return failure_of_answer(status, headers, body, operation, ANTHROPIC)

    @staticmethod
    def _body(call: Call, target: Target) -> bytes:
        return translate(
            call.envelope.members,
            model=target.upstream_model,
            max_tokens=call.max_output_tokens or target.max_output_tokens or DEFAULT_MAX_TOKENS,
            stream=streams_upstream(call, target),
        )


class StreamDecoder:
    """Reads a stream of Messages events, for a caller who streams or for one who does not."""

    def __init__(self, answer: Answer, content_type: str) -> None:
        self._answer = answer
        self._assembled = content_type == "application/json"
        self._body = b""
        self._size = 0
        self._splitter = Splitter()
        self._failure: UpstreamError | None = None
        self.content_type = content_type
        self.usage: Usage | None = None
        self.content_events = 0
        self.content_bytes = 0
        self.shows_reasoning = False
        self.complete = False

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes in any chunking; see ``Decoder.feed``.

        An ``error`` event behind content in the same chunk is raised by the next call, so that what the caller gets
        does not depend on how the network cut the stream.
        """
        if self._failure is not None:
            raise self._failure
        if self._assembled and not self.complete:
            self._size += len(chunk)
            check_size(self._size)
        return self._read(self._splitter.feed(chunk))

    def finish(self) -> bytes:
        """Return the assembled body, or what a last event at the very end gives; see ``Decoder.finish``."""
        if self._failure is not None:
            raise self._failure
        written = self._read(self._splitter.finish())
        if not self.complete:
            raise self._failure or UpstreamError(
                ErrorKind.UPSTREAM_CUT, "The upstream's stream ended before its message_stop event."
            )
        return self._body if self._assembled else written

    def _read(self, events: list[bytes]) -> bytes:
        answer = self._answer
        written: list[bytes] = []
        try:
            for event in events:
                data = data_of(event)
                if data is not None:
                    written.append(answer.read_event(data))
        except StreamError as error:
            self._failure = failure_in_stream(parse(error.data), ANTHROPIC)
        except UpstreamError as error:
            self._failure = error
        new_content = answer.content_events > self.content_events
        self.usage = answer.usage
        self.content_events = answer.content_events
        self.content_bytes = answer.content_bytes
        self.shows_reasoning = answer.shows_reasoning
        self.complete = answer.complete
        if self._failure is not None and (self._assembled or not new_content):
            raise self._failure
        output = b"".join(written)
        if self._assembled:
            self._body += output
            return b""
        return output


class WholeDecoder:
    """Reads one Messages body."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._body = bytearray()
        self.content_type = "application/json"
        self.usage: Usage | None = None
        self.content_events = 0
        self.content_bytes = 0
        self.shows_reasoning = False
        self.complete = False

    def feed(self, chunk: bytes) -> bytes:
        """Keep the bytes; nothing can go out before the end."""
        self._body += chunk
        check_size(len(self._body))
        return b""

    def finish(self) -> bytes:
        """Return the chat completion; see ``Decoder.finish``."""
        body = self._answer.read_message(bytes(self._body))
        self.usage = self._answer.usage
        self.content_events = self._answer.content_events
        self.content_bytes = self._answer.content_bytes
        self.shows_reasoning = self._answer.shows_reasoning
        self.complete = True
        return body
