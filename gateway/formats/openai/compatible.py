"""OpenAI's format for upstreams: the caller's own bytes go up, the upstream's own bytes come down.

Decides which single members of a request change (``model``, and what makes the upstream stream and count). What comes
back is read in ``stream``, what an error means in ``failure``.
"""

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import GatewayError, UpstreamError
from gateway.formats.base import Decoder, Prepared, refusal, streams_upstream
from gateway.formats.chat import UntranslatableError, conversation_of, endpoint_of, is_translatable
from gateway.formats.classify import COMPATIBLE, Facts
from gateway.formats.malformed import UNREADABLE
from gateway.formats.openai.answer import PlainShape
from gateway.formats.openai.chat_request import Changes, Limited, Says, Translated, write_chat, write_tokenize
from gateway.formats.openai.decode import CHAT, EMBEDDINGS
from gateway.formats.openai.failure import failure_of_answer
from gateway.formats.openai.stream import AnswerDecoder, StreamDecoder
from gateway.formats.openai.transcript import EmbeddingsDecoder, TranscriptDecoder, form_for
from gateway.formats.openai.transcription import TRANSCRIPTIONS
from gateway.formats.openai.translated import TranslatedDecoder
from gateway.formats.responses.passed import Passed, PassedDecoder
from gateway.formats.splice import asks_nothing, members_of, splice
from gateway.types import Call, Envelope, Operation, Target, UpstreamRequest

_JSON = "application/json"
REASONS = re.compile(r"(?:ft:)?(?:o[1-9]|gpt-(?:[5-9]|\d\d))")
"""OpenAI's models that refuse ``max_tokens`` (API reference, "Create chat completion"), by OpenAI or Azure."""
ANY_MODEL = re.compile("")
_INCLUDE_USAGE = b'{"include_usage":true}'


class CompatibleAdapter:
    """Speak OpenAI's dialect to an upstream that speaks it too.

    ``refused_members`` are those the upstream is known to answer with 400. ``asks_usage`` is False for an upstream that
    refuses ``stream_options`` and counts in its last chunk anyway. ``limit``: the name by which alone it knows a chat's
    output limit, at the models that ``limited`` matches. ``facts``: what its errors mean. ``plain``: what its plain
    answers look like, for those that are put together from a stream. ``says``: what a translation may ask of it.
    ``has_responses``: it speaks OpenAI's Responses beside chat completions, so such a call passes as it is.
    ``wall_ns`` dates the answers of translations.
    """

    dialect = "openai"

    def __init__(
        self,
        *,
        refused_members: frozenset[str] = frozenset(),
        asks_usage: bool = True,
        limit: Literal["max_tokens", "max_completion_tokens"] = "max_completion_tokens",
        limited: re.Pattern[str] = REASONS,
        facts: Facts = COMPATIBLE,
        plain: PlainShape | None = None,
        says: frozenset[Says] = frozenset(),
        has_responses: bool = False,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._refused_members = refused_members
        self.may_refuse = bool(refused_members)
        self._asks_usage = asks_usage
        self._limit = limit
        self._other_limit = "max_tokens" if limit == "max_completion_tokens" else "max_completion_tokens"
        self._limited = limited
        self._facts = facts
        self._plain = plain or PlainShape()
        self._says = says
        self._passes = "responses" if has_responses else self.dialect
        self._wall_ns = wall_ns

    def refuses(self, call: Call) -> str | None:
        """Name the members of the request that this upstream does not take, if there are any."""
        members = call.envelope.members
        if self._refused_members.isdisjoint(members):
            return None
        refused = sorted(name for name in self._refused_members & members.keys() if not asks_nothing(members[name]))
        return ", ".join(f"'{name}'" for name in refused) or None

    def prepare(self, call: Call) -> Prepared:
        """Take the caller's own body, of which single members change, and none of the caller's headers."""
        if call.envelope.endpoint.dialect != self.dialect:
            return self._translated(call)
        if call.envelope.limit_is_bound and call.envelope.max_output_tokens is not None:
            return Limited(self._request, call)
        return partial(self._request, call)

    def count(self, call: Call) -> Prepared | None:
        """See ``Counting.count``."""
        if call.envelope.endpoint.dialect == self._passes:
            return Passed(call)
        return partial(_tokenize, self._translated(call)) if "tokenize" in self._says else None

    def counted(self, body: bytes) -> int | None:
        """See ``Counting.counted``."""
        try:
            answer = _count(body)
        except UNREADABLE:
            return None
        return answer.count if answer.input_tokens is None else answer.input_tokens

    def _translated(self, call: Call) -> Prepared:
        """Say a call of another dialect as a chat completion, unless the upstream speaks that too."""
        endpoint, envelope = call.envelope.endpoint, call.envelope
        if endpoint.dialect == self._passes:
            return Passed(call)
        if not is_translatable(endpoint):
            raise refusal(f"'{endpoint.path}' is not translated for a target that is OpenAI-compatible.")
        try:
            conversation = conversation_of(call, takes_thinking="reasoning" in self._says)
            body, left_out = write_chat(
                conversation,
                model=envelope.model,
                limit=envelope.max_output_tokens,
                stream=envelope.stream,
                says=self._says,
            )
            chat = replace(call, envelope=CHAT.decode(body))
        except GatewayError as error:
            raise refusal(f"As a chat completion it would be refused: {error.message}") from None
        except UntranslatableError as error:
            raise refusal(error.sentence("cannot be said to a target that is OpenAI-compatible")) from None
        if (refused := self.refuses(chat)) is not None:
            raise refusal(f"{refused} is not taken by this provider.")
        return Translated(self._request, chat, conversation, [*conversation.left_out, *left_out])

    def _request(self, call: Call, target: Target, attempt_id: str, changes: Changes | None = None) -> UpstreamRequest:
        path = call.envelope.endpoint.path
        if path == TRANSCRIPTIONS.path:
            content_type, body = form_for(call.envelope, target.upstream_model)
        else:
            content_type, body = _JSON, self._body(call, target, changes)
        return UpstreamRequest(
            method="POST",
            url=target.base_url.rstrip("/") + path.removeprefix("/v1"),
            headers=(("content-type", content_type), ("x-tollway-attempt-id", attempt_id), *target.headers),
            body=body,
            pool=target.pool,
        )

    def decoder(self, call: Call, target: Target) -> Decoder:
        """Make the decoder: pass a stream or an object through, or make the one from the other."""
        endpoint = call.envelope.endpoint
        if endpoint.dialect != self.dialect:
            return self._other_decoder(call, target)
        if endpoint.path in _WHOLE:
            return _WHOLE[endpoint.path](call.envelope)
        if call.envelope.stream:
            return StreamDecoder(call, target.rates)
        return AnswerDecoder(call, target.rates, self._plain)

    def _other_decoder(self, call: Call, target: Target) -> Decoder:
        """Make the decoder for a caller of another dialect."""
        if call.envelope.endpoint.dialect == self._passes:
            return PassedDecoder(target.rates, is_streamed=call.envelope.stream, facts=self._facts)
        writer = endpoint_of(call).writer(call.envelope, self._wall_ns() // 1_000_000_000)
        return TranslatedDecoder(call, target.rates, writer)

    def failure(
        self, status: int, headers: Mapping[str, str], body: bytes, operation: Operation = "chat"
    ) -> UpstreamError:
        """Classify an answer with an error status."""
        return failure_of_answer(status, headers, body, operation, self._facts)

    def _body(self, call: Call, target: Target, changes: Changes | None) -> bytes:
        envelope = call.envelope
        changes = changes or {}
        if envelope.model != target.upstream_model:
            changes["model"] = msgspec.json.encode(target.upstream_model)
        if self._other_limit in envelope.members and self._limited.match(target.upstream_model):
            self._rename_limit(call, changes)
        if not self._refused_members.isdisjoint(envelope.members):  # ``refuses`` lets pass those that ask for nothing
            changes.update(dict.fromkeys(self._refused_members & envelope.members.keys()))
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

    def _rename_limit(self, call: Call, changes: Changes) -> None:
        """Give a chat's output limit the name that the upstream knows; of two, the newer one counts."""
        if call.envelope.endpoint.operation != "chat":
            return
        members = call.envelope.members
        values = (changes.get(name, members.get(name)) for name in ("max_completion_tokens", "max_tokens"))
        value = next((each for each in values if each not in {None, b"null"}), None)
        changes[self._other_limit] = None
        if value is not None:
            changes[self._limit] = value


class _Count(Struct):
    count: int | None = None
    input_tokens: int | None = None


_count = msgspec.json.Decoder(_Count).decode


def _tokenize(chat: Prepared, target: Target, attempt_id: str) -> UpstreamRequest:
    request = chat(target, attempt_id)
    url = target.base_url.rstrip("/").removesuffix("/v1") + "/tokenize"
    return replace(request, url=url, body=write_tokenize(request.body))


_WHOLE: dict[str, Callable[[Envelope], Decoder]] = {
    EMBEDDINGS.path: EmbeddingsDecoder,
    TRANSCRIPTIONS.path: TranscriptDecoder,
}
"""By path, how an answer is read that comes in one piece; any other has choices."""
