"""``POST /v1/responses`` with what is kept: a call may go on from an earlier answer, and its own is kept for the next.

Around the pipeline, which knows nothing of it: the body gets the items before it, and the answer goes through a sink
that keeps it before the caller sees its end, so that a next call finds it. A response that is kept has an id of ours.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import uuid4

import msgspec
from msgspec import Raw, Struct

from gateway.auth.base import Authenticator
from gateway.clock import Clock, Ids
from gateway.config.snapshot import Current, Server
from gateway.errors import ErrorKind, GatewayError
from gateway.execution.attempt import Means
from gateway.formats.malformed import UNREADABLE
from gateway.formats.responses.decode import INPUT_TOKENS, CountEndpoint, ResponsesEndpoint
from gateway.formats.responses.items import (
    as_items,
    can_go_on,
    continued,
    in_callers_count,
    kept_items,
    names_a_place,
)
from gateway.formats.splice import members_of, splice
from gateway.formats.sse import Splitter, data_of
from gateway.formats.typed import refuse
from gateway.kept.responses import Kept, ResponseStore
from gateway.pipeline import Pipeline
from gateway.routes.count_tokens import CountTokens
from gateway.routes.http1_exchange import Exchange
from gateway.routes.llm import LlmRoute
from gateway.routes.question import Question
from gateway.types import Endpoint, Envelope, Inbound, Principal

_PREVIOUS = "previous_response_id"
_HAS_RESPONSE = b'"response":'
"""Stands in the events that carry the response, and in no delta."""
_ENDS = frozenset(("response.completed", "response.incomplete"))


class _Event(Struct):
    type: str


_kind = msgspec.json.Decoder(_Event).decode
_value = msgspec.json.Decoder().decode


class KeptCall(ResponsesEndpoint):
    """The endpoint of one call: reads its body with the items before it, and knows how its answer is to be kept."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self.key_id = ""
        self.response_id = f"resp_{uuid4().hex}"
        self._previous: bytes = b"null"
        self._joined: tuple[bytes, bytes] | None = None
        """The body with the items before those that the caller sent, and these."""
        self._envelope: Envelope | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the answer is to be kept: unless the call says otherwise, as at OpenAI."""
        return self._envelope is not None and self._envelope.members.get("store") != b"false"

    @property
    def is_streamed(self) -> bool:
        """Whether the caller gets a stream."""
        return self._envelope is not None and self._envelope.stream

    def decode(self, body: bytes) -> Envelope:
        """See ``Endpoint.decode``."""
        self._envelope = super().decode(body)
        return self._envelope

    def error(self, error: GatewayError, request_id: str, *, in_stream: bool = False) -> bytes:
        """See ``Endpoint.error``. A place within what is kept is named by the id that the caller sent for it."""
        if self._joined is not None and names_a_place(f"{error.message} {error.param}"):
            kept = kept_items(*self._joined)
            error.message = in_callers_count(error.message, kept)
            error.param = None if error.param is None else in_callers_count(error.param, kept)
        return super().error(error, request_id, in_stream=in_stream)

    async def complete(self, body: bytes, principal: Principal, server: Server, hold: Callable[[int], None]) -> bytes:
        """Return a body of this key's with the items before it; ``hold``: see ``Inbound.read_body``."""
        self.key_id = principal.key_id
        whole = await self.whole(body)
        if len(whole) > server.max_body_bytes:
            sentence = "With all the items before it the conversation is too large; begin a new one with a summary."
            raise GatewayError(ErrorKind.BODY_TOO_LARGE, sentence)
        if len(whole) > len(body):
            hold(len(whole))
        return whole

    async def whole(self, body: bytes) -> bytes:
        """Return a body with all items before it in place of the id of a response. Raises GatewayError."""
        try:
            members = members_of(body) if _PREVIOUS.encode() in body else {}
            self._previous = members.get(_PREVIOUS, b"null")
            previous = _value(self._previous)
        except UNREADABLE:
            return body  # to be refused as it is
        if previous is None:
            return body
        if not isinstance(previous, str):
            refuse(_PREVIOUS, "must be a string")
        kept = await self._store.find(self.key_id, previous)
        if kept is None:
            sentence = "This key has no such response here, or no longer; send the whole conversation as 'input'."
            raise GatewayError(ErrorKind.NOT_FOUND, sentence, param=_PREVIOUS)
        asked = as_items(members.get("input", b"null"))
        items = await asyncio.to_thread(continued, bytes(kept.input), bytes(kept.response), asked)
        try:
            whole = splice(body, members, {"input": items, _PREVIOUS: None})
        except ValueError:
            return body  # a member stands twice in it, which is refused
        self._joined = whole, asked
        return whole

    def as_kept(self, response: bytes, *, is_kept: bool = True) -> bytes:
        """Return a response under our id, saying from what it went on, and whether it is kept."""
        changes = {"id": msgspec.json.encode(self.response_id), _PREVIOUS: self._previous}
        return splice(response, members_of(response), changes | {"store": b"true" if is_kept else b"false"})

    async def keep(self, response: bytes) -> bytes:
        """Keep a whole response; return it as the caller is to see it."""
        assert self._envelope is not None  # noqa: S101 - there is an answer
        kept = self.as_kept(response)
        asked = as_items(self._envelope.members.get("input", b"null"))
        is_kept = can_go_on(kept) and await self._store.keep(self.key_id, self.response_id, Kept(Raw(asked), Raw(kept)))
        return kept if is_kept else self.as_kept(response, is_kept=False)


class KeepingSink:
    """Takes the answer of a call, and holds its end back until it is kept. ``finish`` follows."""

    def __init__(self, exchange: Exchange, call: KeptCall) -> None:
        self.started = False
        self._exchange = exchange
        self._call = call
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._splitter: Splitter | None = None
        self._held: list[bytes] = []

    @property
    def further(self) -> bytes:
        """See ``Sink.further``."""
        return self._exchange.further

    @further.setter
    def further(self, lines: bytes) -> None:
        self._exchange.further = lines

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """See ``Sink.start``: that of a whole answer waits for its body."""
        self._head = None
        self._held.clear()
        if status == 200 and self._call.is_kept and not self._call.is_streamed:
            self._head = status, headers
            return
        if status == 200 and self._call.is_kept:
            self._splitter = Splitter()
        self.started = True
        await self._exchange.start(status, headers)

    def write(self, data: bytes, *, last: bool = False) -> bool:
        """See ``Sink.write``."""
        splitter = self._splitter
        if splitter is None and self._head is None:  # nothing of it is kept
            return self._exchange.write(data, last=last)
        if splitter is None or self._held:
            self._held.append(data)
            return True
        if not (splitter.held_bytes or _HAS_RESPONSE in data):
            return self._exchange.write(data, last=last)
        return self._exchange.write(b"".join(map(self._seen, splitter.feed(data))))

    async def drained(self) -> None:
        """See ``Sink.drained``."""
        await self._exchange.drained()

    async def finish(self) -> None:
        """Keep the answer, if it is one, and send what was held back of it."""
        if self._head is not None:
            body = b"".join(self._held)
            with contextlib.suppress(*UNREADABLE):  # it is no response
                body = await self._call.keep(body)
            status, headers = self._head
            headers = [each for each in headers if each[0] != b"content-length"]
            await self._exchange.start(status, [*headers, (b"content-length", b"%d" % len(body))])
            self._exchange.write(body)
            await self._exchange.drained()
        elif self._splitter is not None:
            if self._held:
                self._held[0] = await self._kept_event(self._held[0])
            self._exchange.write(b"".join((*self._held, self._splitter.rest)), last=True)

    def _seen(self, event: bytes) -> bytes:
        """Return what can go to the caller of an event: all but the one that ends the answer, and what follows it."""
        kind = _kind_of(event)
        if self._held or kind in _ENDS:
            self._held.append(event)
            return b""
        return _with_response(event, self._call.as_kept) if kind else event

    async def _kept_event(self, event: bytes) -> bytes:
        found = _response_in(event)
        if found is None:
            return event
        kept = await self._call.keep(found)
        return _with_response(event, lambda _: kept)


def _kind_of(event: bytes) -> str:
    """Return the type of an event that carries a response; empty: it carries none."""
    data = data_of(event)
    if data is None or _response_in(event) is None:
        return ""
    return _kind(data).type


def _response_in(event: bytes) -> bytes | None:
    try:
        response = members_of(data_of(event) or b"").get("response", b"")
    except UNREADABLE:
        return None
    return response if response.startswith(b"{") else None


def _with_response(event: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Write an event anew with its response changed."""
    data = data_of(event) or b""
    members = members_of(data)
    changed = splice(data, members, {"response": change(members["response"])})
    return b"event: %b\ndata: %b\n\n" % (_kind(data).type.encode(), changed.replace(b"\n", b" "))


class ResponsesRoute(LlmRoute):
    """A handler of the HTTP server."""

    def __init__(
        self,
        pipeline: Pipeline,
        endpoint: Endpoint,
        *,
        current: Current,
        clock: Clock,
        ids: Ids,
        authenticator: Authenticator,
        store: ResponseStore,
    ) -> None:
        super().__init__(pipeline, endpoint, current=current, clock=clock, ids=ids)
        self._authenticator = authenticator
        self._store = store

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        """Serve one request."""
        if exchange.method != b"POST" or not self._store.is_on:
            return super().__call__(exchange)
        return self._serve(exchange)

    async def _serve(self, exchange: Exchange) -> None:
        call = KeptCall(self._store)
        snapshot = self._current.snapshot
        sink = KeepingSink(exchange, call)
        read_body = partial(self._read_body, exchange, call, snapshot.server)
        inbound = Inbound(
            id=self._ids("req"),
            endpoint=call,
            headers=exchange.headers,
            received_at_ns=self._clock.monotonic_ns(),
            read_body=read_body,
            caller_left=exchange.has_left,
        )
        await self._pipeline.handle(inbound, sink)
        await sink.finish()

    async def _read_body(
        self, exchange: Exchange, call: KeptCall, server: Server, hold: Callable[[int], None]
    ) -> bytes:
        """Read the body, and put the items before it into it; ``hold``: see ``Inbound.read_body``."""
        body = await exchange.read_body(server.max_body_bytes, server.body_timeout_s, hold)
        principal = await self._authenticator.authenticate(exchange.headers, self._current.snapshot.keys)
        return await call.complete(body, principal, server, hold)


class _KeptCount(KeptCall, CountEndpoint):
    """The endpoint of one question for the tokens of a call that may go on from an earlier answer."""


class KeptQuestion:
    """``POST /v1/responses/input_tokens``: a handler of the HTTP server."""

    def __init__(self, question: Callable[..., Question], means: Means, store: ResponseStore) -> None:
        self._question = question
        self._means = means
        self._store = store

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        """Serve one request."""
        if not self._store.is_on:
            return self._question(INPUT_TOKENS, CountTokens(INPUT_TOKENS, self._means))(exchange)
        count = _KeptCount(self._store)
        return self._question(count, CountTokens(count, self._means), complete=count.complete)(exchange)
