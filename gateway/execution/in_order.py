"""Targets in the order of the plan, until one sends its first token.

A target that refuses, cannot be reached, breaks off or stays silent past its deadline costs the caller time, never the
answer, as long as nothing has been sent on: the first bytes are held back until there is content in them. For a
caller who wants no stream nothing is sent before the end, so the whole answer is held back, and any break is rescued.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.accounting.meter import Meter
from gateway.clock import Clock
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.execution.base import Reply
from gateway.providers.base import Adapter, streams_upstream
from gateway.transport.base import Transport, UpstreamStream
from gateway.types import Call, Candidate, Plan

_MAX_ERROR_BODY_BYTES = 64 * 1024


class InOrder:
    """The strategy of plain routes."""

    def __init__(self, *, transport: Transport, adapters: Mapping[str, Adapter], clock: Clock) -> None:
        self._transport = transport
        self._adapters = adapters
        self._clock = clock

    @asynccontextmanager
    async def run(self, plan: Plan, call: Call, meter: Meter) -> AsyncIterator[Reply]:
        """Yield the first answer; see ``Strategy.run``."""
        async with AsyncExitStack() as winner:
            yield await self._first_to_answer(plan, call, meter, winner)

    async def _first_to_answer(self, plan: Plan, call: Call, meter: Meter, winner: AsyncExitStack) -> Reply:
        failures: list[tuple[str, UpstreamError]] = []
        for position, candidate in enumerate(plan.candidates):
            remaining_s = (call.deadline_ns - self._clock.monotonic_ns()) / 1e9
            if remaining_s <= 0:
                raise GatewayError(ErrorKind.DEADLINE, _summary("The request's total time ran out.", failures))
            others_follow = position + 1 < len(plan.candidates)
            refusal = meter.refusal(candidate.target)
            if refusal is not None:
                failures.append((candidate.target.id, UpstreamError(ErrorKind.BREAKER_OPEN, refusal)))
                continue
            try:
                async with AsyncExitStack() as attempt_scope:
                    reply = await self._try(candidate, call, meter, attempt_scope, others_follow=others_follow)
                    reply.reason = _reason(plan, failures)
                    winner.push_async_exit(attempt_scope.pop_all())
                    meter.answered(reply.attempt, reply.reason)
                    return reply
            except UpstreamError as error:
                if not error.meaning.retryable:
                    raise
                failures.append((candidate.target.id, error))
        raise _exhausted(failures)

    async def _try(
        self, candidate: Candidate, call: Call, meter: Meter, scope: AsyncExitStack, *, others_follow: bool
    ) -> Reply:
        """Open one attempt and read until there is something for the caller; the scope closes what was opened."""
        target = candidate.target
        adapter = self._adapters[target.adapter]
        attempt = scope.enter_context(meter.attempt(call, candidate))
        attempt.streamed = streams_upstream(call, target)
        request = adapter.request(call, target, attempt.id)
        wait = _Wait(call, candidate, self._clock, others_follow=others_follow)
        async with wait.limit(has_content=False):
            stream = await scope.enter_async_context(
                self._transport.send(request, connect_timeout_s=call.timeouts.connect_s)
            )
        attempt.upstream_status = stream.status
        if stream.status != 200:
            async with wait.limit(has_content=False):
                body = await _read_error_body(stream)
            raise adapter.failure(stream.status, stream.headers, body)
        decoder = adapter.decoder(call, target)
        held: list[bytes] = []
        ended = False
        while not (ended or decoder.complete or (call.envelope.stream and decoder.content_events)):
            async with wait.limit(has_content=decoder.content_events > 0):
                chunk = await stream.read()
            ended = not chunk
            held.append(decoder.feed(chunk) if chunk else decoder.finish())
            attempt.observe(decoder)
        if not call.envelope.stream and not ended:
            held.append(decoder.finish())  # the answer's own end came before the body's
        return Reply(attempt=attempt, decoder=decoder, stream=stream, head=b"".join(held), ended=ended, reason="")


class _Wait:
    """How long to wait for the next bytes of an attempt: for the first token, between bytes, and in all."""

    def __init__(self, call: Call, candidate: Candidate, clock: Clock, *, others_follow: bool) -> None:
        self._clock = clock
        self._deadline_ns = call.deadline_ns
        self._idle_ns = int(call.timeouts.idle_s * 1e9)
        # Without a stream nothing arrives before the whole answer, so only the total time can bound it.
        self._first_token_deadline_ns = call.deadline_ns
        if streams_upstream(call, candidate.target):
            first_token_s = call.timeouts.first_token_s
            ceiling = call.route.constraints.ttft_ms
            if candidate.probe and others_follow and ceiling is not None:
                # A probe shows by the ceiling whether the target is fast again; the caller pays no more than that.
                first_token_s = min(first_token_s, ceiling.value / 1e3)
            self._first_token_deadline_ns = min(call.deadline_ns, clock.monotonic_ns() + int(first_token_s * 1e9))

    @asynccontextmanager
    async def limit(self, *, has_content: bool) -> AsyncIterator[None]:
        """Bound one wait. Raises UpstreamError (timeout, stalled) or GatewayError (the call's deadline)."""
        now_ns = self._clock.monotonic_ns()
        until_ns = min(self._deadline_ns, now_ns + self._idle_ns) if has_content else self._first_token_deadline_ns
        try:
            async with asyncio.timeout((until_ns - now_ns) / 1e9):
                yield
        except TimeoutError:
            if until_ns >= self._deadline_ns:
                raise GatewayError(
                    ErrorKind.DEADLINE, "The request's total time ran out before the answer was complete."
                ) from None
            if has_content:
                raise UpstreamError(ErrorKind.UPSTREAM_STALLED, "The model stopped sending.") from None
            raise UpstreamError(ErrorKind.UPSTREAM_TIMEOUT, "The model sent no token in time.") from None


async def _read_error_body(stream: UpstreamStream) -> bytes:
    """Read an error's body, but no more than an error needs; what breaks on the way is left out."""
    body = b""
    try:
        while len(body) < _MAX_ERROR_BODY_BYTES and (chunk := await stream.read()):
            body += chunk
    except UpstreamError:
        return body
    return body


def _reason(plan: Plan, failures: list[tuple[str, UpstreamError]]) -> str:
    if not failures:
        return plan.reason
    return "fallback: " + ", ".join(f"{target_id} {error.kind.value}" for target_id, error in failures)


def _summary(sentence: str, failures: list[tuple[str, UpstreamError]]) -> str:
    if not failures:
        return sentence
    return f"{sentence} Tried: " + "; ".join(f"{target_id}: {error.kind.value}" for target_id, error in failures) + "."


def _exhausted(failures: list[tuple[str, UpstreamError]]) -> GatewayError:
    """Make the caller's error of a chain in which every target failed."""
    waits = [error.retry_after_s for _, error in failures if error.retry_after_s is not None]
    return GatewayError(
        ErrorKind.NO_TARGET,
        _summary("No target could answer; retry later.", failures),
        retry_after_s=min(waits) if waits else 1.0,
    )
