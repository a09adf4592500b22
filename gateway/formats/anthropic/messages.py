"""The format of Anthropic's Messages API, for the upstream: passes a caller's own bytes on, or writes a conversation.

Decides the URL, the headers, which decoder an answer gets, and whose fault a failure is. How requests and answers are
worded is left to ``request``, ``answer`` and the caller's endpoint.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
from msgspec import Raw, Struct

from gateway.errors import UpstreamError
from gateway.formats.anthropic.answer import MessageDecoder
from gateway.formats.anthropic.decode import COUNT_TOKENS
from gateway.formats.anthropic.request import DEFAULT_MAX_TOKENS, write_config, write_options, write_request
from gateway.formats.anthropic.stream import PassedDecoder
from gateway.formats.anthropic.written import UNSIGNED
from gateway.formats.base import Decoder, Prepared, refusal, streams_upstream
from gateway.formats.chat import Conversation, UntranslatableError, conversation_of, endpoint_of, is_translatable
from gateway.formats.classify import ANTHROPIC
from gateway.formats.framing import Framing
from gateway.formats.malformed import UNREADABLE
from gateway.formats.openai.chat_request import effort_for, fitting
from gateway.formats.openai.decode import CHAT
from gateway.formats.openai.failure import failure_of_answer
from gateway.formats.splice import members_of, splice
from gateway.formats.sse import Splitter
from gateway.types import Call, Envelope, Operation, Target, UpstreamRequest

API_VERSION = "2023-06-01"
"""Anthropic's only current API version (platform.claude.com/docs/en/api/versioning)."""
_BETA = "anthropic-beta"
_LEAST_BUDGET = 1_024
"""Of thinking, in tokens (build-with-claude/extended-thinking)."""
_COUNTED = frozenset(("messages", "system", "tools", "tool_choice", "thinking", "output_config"))
OWN_HEADERS = ("anthropic-version", _BETA)
"""Headers of a caller that belong to the dialect; no other one goes up."""


class AnthropicAdapter:
    """Speaks Messages to the upstream. ``wall_ns`` dates the answers, ``framing`` makes what cuts a streamed one."""

    dialect = "anthropic"
    may_refuse = True

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns, framing: Callable[[], Framing] = Splitter) -> None:
        self._wall_ns = wall_ns
        self._framing = framing

    def refuses(self, call: Call) -> str | None:
        """Name the member that the Messages API does not have."""
        endpoint = call.envelope.endpoint
        if endpoint.dialect == self.dialect:
            return None
        if not is_translatable(endpoint):
            return (
                f"The operation '{endpoint.operation}' is not one of targets of type anthropic; use chat completions."
            )
        try:
            write_options(conversation_of(call, small=True))
        except UntranslatableError as error:
            return _sentence(error)
        return None

    def prepare(self, call: Call) -> Prepared:
        """Write the body of ``POST /v1/messages``, or take the caller's own."""
        if call.envelope.endpoint.dialect == self.dialect:
            return _Own(call)
        try:
            return _Translated(call, conversation_of(call))
        except UntranslatableError as error:
            raise refusal(_sentence(error)) from None

    def decoder(self, call: Call, target: Target) -> Decoder:
        """Make the decoder for one answer with a status of success."""
        envelope = call.envelope
        if envelope.endpoint.dialect == self.dialect and self._framing is Splitter:
            return PassedDecoder(target.rates, is_streamed=envelope.stream)
        writer = endpoint_of(call).writer(envelope, self._wall_ns() // 1_000_000_000)
        return MessageDecoder(writer, target.rates, self._framing(), is_streamed=envelope.stream)

    def count(self, call: Call) -> Prepared:
        """See ``Counting.count``."""
        if call.envelope.endpoint.dialect == self.dialect:
            return _Own(call)
        try:
            asked = conversation_of(call)
            return partial(_count_request, write_config(asked, asked.effort) + write_request(asked))
        except UntranslatableError as error:
            raise refusal(_sentence(error)) from None

    def counted(self, body: bytes) -> int | None:
        """See ``Counting.counted``."""
        return _decode_count(body)

    def failure(
        self, status: int, headers: Mapping[str, str], body: bytes, operation: Operation = "chat"
    ) -> UpstreamError:
        """Classify an answer with another status."""
        return failure_of_answer(status, headers, body, operation, ANTHROPIC)


def _sentence(error: UntranslatableError) -> str:
    return error.sentence("has no equivalent at Anthropic") + " This is a target of type anthropic."


class _Own:
    """A call in the caller's own words: what writes the request to one target (``formats.base.Prepared``)."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._changes = _without_unsigned(call.envelope)
        self.left_out: list[str] = []
        """See ``CallRecord.left_out``."""

    def __call__(self, target: Target, attempt_id: str) -> UpstreamRequest:
        """Send the caller's body and betas; of the limit, no more than the target has."""
        call, limit, changes = self._call, target.max_output_tokens, dict(self._changes)
        envelope = call.envelope
        self.left_out[:] = ["thinking"] if changes else []
        if envelope.model != target.upstream_model:
            changes["model"] = msgspec.json.encode(target.upstream_model)
        if limit is not None and (call.envelope.max_output_tokens or 0) > limit:
            changes["max_tokens"] = b"%d" % limit
            self.left_out.append("max_tokens")
            self._lower_thinking(limit, changes)
        body = splice(envelope.body, envelope.members, changes)
        headers = {name: call.headers[name] for name in OWN_HEADERS if name in call.headers}
        return _sent(target, attempt_id, body, headers, envelope.endpoint.path)

    def _lower_thinking(self, limit: int, changes: dict[str, bytes | None]) -> None:
        """Leave at least half of a lowered limit to the answer: thinking counts towards it, and must be below it."""
        members = self._call.envelope.members
        budget_tokens = _budget(members.get("thinking", b"null"))
        if budget_tokens is None or budget_tokens < limit:
            return
        if limit <= _LEAST_BUDGET:
            changes["thinking"] = b'{"type":"disabled"}'
            self.left_out.append("thinking")
        else:
            thinking = members["thinking"]
            budget = b"%d" % max(_LEAST_BUDGET, limit // 2)
            changes["thinking"] = splice(thinking, members_of(thinking), {"budget_tokens": budget})
            self.left_out.append("thinking.budget_tokens")


class _Translated:
    """A translated call: what writes the request to one target (``formats.base.Prepared``)."""

    def __init__(self, call: Call, conversation: Conversation) -> None:
        self._call = call
        self._conversation = conversation
        self._rest = write_request(conversation)
        self.left_out = list(conversation.left_out)
        """See ``CallRecord.left_out``."""

    def __call__(self, target: Target, attempt_id: str) -> UpstreamRequest:
        """Write the request: with a limit that fits, and a chat's effort, or that of any to what is known to reason."""
        call, conversation = self._call, self._conversation
        self.left_out[:] = conversation.left_out
        limit = asked = call.envelope.max_output_tokens
        if asked is not None and call.envelope.limit_is_bound:
            limit = fitting(call, target) or min(asked, target.max_output_tokens or asked)
            if limit != asked:
                self.left_out.append(conversation.names.limit)
        effort = conversation.effort  # a chat's in its own word
        if call.envelope.endpoint.path != CHAT.path:
            effort = effort_for(target, effort, conversation.names, self.left_out)
        stream = b',"stream":true' if streams_upstream(call, target) else b""
        body = b'{"model":%b,"max_tokens":%d%b,%b%b' % (
            msgspec.json.encode(target.upstream_model),
            limit or target.max_output_tokens or DEFAULT_MAX_TOKENS,
            stream,
            write_config(conversation, effort),
            self._rest,
        )
        return _sent(target, attempt_id, body, {})


def _count_request(rest: bytes, target: Target, attempt_id: str) -> UpstreamRequest:
    """Write the question for a translated prompt's tokens: what is read, without how it is to be answered."""
    read = {name: Raw(value) for name, value in members_of(b"{" + rest).items() if name in _COUNTED}
    body = msgspec.json.encode({"model": target.upstream_model, **read})
    return _sent(target, attempt_id, body, {}, COUNT_TOKENS.path)


def _sent(
    target: Target, attempt_id: str, body: bytes, own: dict[str, str], path: str = "/v1/messages"
) -> UpstreamRequest:
    """Address a body. ``own``: headers of the caller's; betas of the configuration come on top of theirs."""
    headers = {"content-type": "application/json", "anthropic-version": API_VERSION, **own}
    for name, value in target.headers:
        known = headers.get(_BETA) if name.lower() == _BETA else None
        headers[name.lower()] = value if known is None else f"{known},{value}"
    headers["x-tollway-attempt-id"] = attempt_id
    url = target.base_url.rstrip("/") + path
    return UpstreamRequest(method="POST", url=url, headers=tuple(headers.items()), body=body, pool=target.pool)


class _Count(Struct):
    input_tokens: int


def _decode_count(body: bytes) -> int | None:
    try:
        return _count(body).input_tokens
    except UNREADABLE:
        return None


_count = msgspec.json.Decoder(_Count).decode


class _Thinking(Struct):
    budget_tokens: int | None = None


_decode_thinking = msgspec.json.Decoder(_Thinking | None).decode


def _budget(thinking: bytes) -> int | None:
    try:
        thought = _decode_thinking(thinking)
    except msgspec.ValidationError:
        return None  # for the provider to refuse
    return None if thought is None else thought.budget_tokens


class _Signed(Struct):
    type: str
    signature: Raw = Raw(b"null")


_raws = msgspec.json.Decoder(list[Raw]).decode
_signed = msgspec.json.Decoder(_Signed).decode


def _without_unsigned(envelope: Envelope) -> dict[str, bytes | None]:
    """Take out of earlier answers the thinking that no provider has signed: Anthropic takes back its own only."""
    mark = msgspec.json.encode(UNSIGNED)
    if mark not in envelope.body:
        return {}
    kept: list[bytes] = []
    found = False
    for message in map(bytes, _raws(envelope.members["messages"])):
        members = members_of(message) if mark in message else {}
        if members.get("content", b"").startswith(b"["):
            blocks = _raws(members["content"])
            signed = [each for each in blocks if mark not in bytes(each) or not _is_unsigned(each, mark)]
            if len(signed) < len(blocks):
                found = True
                if signed:
                    kept.append(splice(message, members, {"content": msgspec.json.encode(signed)}))
                continue
        kept.append(message)
    return {"messages": b"[%b]" % b",".join(kept)} if found else {}


def _is_unsigned(block: Raw, mark: bytes) -> bool:
    signed = _signed(block)
    return signed.type == "thinking" and bytes(signed.signature) == mark
