"""The format of OpenAI's Responses API, for the upstream: a call of another dialect is said as a response to create.

Decides the URL and what differs from target to target. How the request is worded is left to ``request``, what an answer
means to ``answer``.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from gateway.errors import UpstreamError
from gateway.formats.base import Decoder, Prepared, refusal, streams_upstream
from gateway.formats.chat import Conversation, UntranslatableError, conversation_of, endpoint_of, is_translatable
from gateway.formats.classify import COMPATIBLE, Facts
from gateway.formats.openai.chat_request import effort_for, fitting
from gateway.formats.openai.decode import CHAT
from gateway.formats.openai.failure import failure_of_answer
from gateway.formats.responses.answer import ResponseDecoder
from gateway.formats.responses.passed import Passed, PassedDecoder
from gateway.formats.responses.request import write_options, write_request
from gateway.types import Call, Operation, Target, UpstreamRequest

_LEAST_OUTPUT_TOKENS = 16
"""A smaller limit is refused (platform.openai.com/docs/api-reference/responses/create)."""
_CANNOT_SAY = "cannot be said to a target that speaks Responses"
_SAME_AS_CHAT = ("prompt_cache_key", "prompt_cache_retention")
"""Hints of a chat's that have the same name and meaning here."""


class ResponsesAdapter:
    """Speaks Responses to the upstream: passes a caller's own bytes on, or writes a conversation.

    ``facts``: what its errors mean; ``wall_ns`` dates the answers.
    """

    dialect = "responses"
    may_refuse = True

    def __init__(self, facts: Facts = COMPATIBLE, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._facts = facts
        self._wall_ns = wall_ns

    def refuses(self, call: Call) -> str | None:
        """Name the member that the Responses API does not have."""
        endpoint = call.envelope.endpoint
        if endpoint.dialect == self.dialect:
            return None
        if not is_translatable(endpoint):
            return f"The operation '{endpoint.operation}' is not one of this target, which speaks Responses."
        try:
            write_options(conversation_of(call, small=True))
        except UntranslatableError as error:
            return error.sentence(_CANNOT_SAY)
        return None

    def prepare(self, call: Call) -> Prepared:
        """Write the body of ``POST /v1/responses``, or take the caller's own."""
        if call.envelope.endpoint.dialect == self.dialect:
            return Passed(call)
        try:
            return _Translated(call, conversation_of(call))
        except UntranslatableError as error:
            raise refusal(error.sentence(_CANNOT_SAY)) from None

    def decoder(self, call: Call, target: Target) -> Decoder:
        """Make the decoder for one answer with a status of success."""
        if call.envelope.endpoint.dialect == self.dialect:
            return PassedDecoder(target.rates, is_streamed=call.envelope.stream, facts=self._facts)
        return ResponseDecoder(
            endpoint_of(call).writer(call.envelope, self._wall_ns() // 1_000_000_000),
            target.rates,
            is_streamed=call.envelope.stream,
            input_tokens_estimate=call.input_tokens_estimate,
            facts=self._facts,
        )

    def failure(
        self, status: int, headers: Mapping[str, str], body: bytes, operation: Operation = "chat"
    ) -> UpstreamError:
        """Classify an answer with another status."""
        return failure_of_answer(status, headers, body, operation, self._facts)


class _Translated:
    """A translated call: what writes the request to one target (``formats.base.Prepared``)."""

    def __init__(self, call: Call, conversation: Conversation) -> None:
        self._call = call
        self._names = conversation.names
        self._effort = conversation.effort
        self._rest = write_request(conversation)
        self._is_chat = call.envelope.endpoint.path == CHAT.path
        self._always = conversation.left_out
        self.left_out = list(self._always)
        """What was not said, or changed, to the target that was asked last."""

    def __call__(self, target: Target, attempt_id: str) -> UpstreamRequest:
        """Write the request: with the effort to what is known to reason, and with a limit that is taken."""
        call = self._call
        self.left_out[:] = self._always
        members: dict[str, Any] = {"model": target.upstream_model}
        limit = self._limit(target)
        if limit is not None:
            members["max_output_tokens"] = limit
        if limit != call.envelope.max_output_tokens:
            self.left_out.append(self._names.limit)
        effort = self._effort  # a chat's in its own word
        if not self._is_chat:
            effort = effort_for(target, effort, self._names, self.left_out)
        if effort is not None:
            members["reasoning"] = {"effort": effort}
        if streams_upstream(call, target):
            members["stream"] = True
        if self._is_chat:
            given = call.envelope.members
            members |= {name: Raw(given[name]) for name in _SAME_AS_CHAT if given.get(name, b"null") != b"null"}
        return UpstreamRequest(
            method="POST",
            url=target.base_url.rstrip("/") + "/responses",
            headers=(("content-type", "application/json"), ("x-tollway-attempt-id", attempt_id), *target.headers),
            body=msgspec.json.encode(members)[:-1] + b"," + self._rest,
            pool=target.pool,
        )

    def _limit(self, target: Target) -> int | None:
        envelope = self._call.envelope
        limit = fitting(self._call, target) if envelope.limit_is_bound else envelope.max_output_tokens
        return None if limit is None else max(limit, _LEAST_OUTPUT_TOKENS)
