"""Targets in the order of the plan, until one sends its first token.

A target that refuses, cannot be reached, breaks off or stays silent past its deadline costs the caller time, never the
answer, as long as nothing has been sent on: the first bytes are held back until there is content in them. For a
caller who wants no stream nothing is sent before the end, so the whole answer is held back, and any break is rescued.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from gateway.accounting.attempt import Attempt
from gateway.accounting.meter import Meter
from gateway.clock import Clock
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.execution.base import Reply
from gateway.execution.patience import Patience
from gateway.execution.retry import RetryBudget
from gateway.providers.base import Adapter, streams_upstream
from gateway.providers.redaction import without_own
from gateway.targets.breaker import LONGEST_RETRY_AFTER_S
from gateway.transport.base import Transport, UpstreamStream
from gateway.types import Call, Candidate, Plan, Target

_Failures = list[tuple[str, UpstreamError]]
MAX_REPLICAS = 3
"""Of one target that a request may reach in vain: one that ends an engine must not go on to end them all."""
RETRY_AFTER_S = 1.0
"""When no target has named a time."""
_MAX_ERROR_BODY_BYTES = 64 * 1024


class InOrder:
    """The strategy of plain routes."""

    def __init__(
        self, *, transport: Transport, adapters: Mapping[str, Adapter], clock: Clock, retries: RetryBudget
    ) -> None:
        self._transport = transport
        self._adapters = adapters
        self._clock = clock
        self._retries = retries

    @asynccontextmanager
    async def run(self, plan: Plan, call: Call, meter: Meter) -> AsyncIterator[Reply]:
        """Yield the first answer; see ``Strategy.run``."""
        failures: _Failures = []
        answered = False
        probe = plan.candidates[0] if plan.candidates[0].probe_due and len(plan.candidates) > 1 else None
        to_try = deque(plan.candidates)
        self._retries.calls += 1
        while to_try:
            candidate = to_try.popleft()
            target = candidate.target
            if self._clock.monotonic_ns() >= call.deadline_ns:
                raise GatewayError(ErrorKind.DEADLINE, _summary("The request's total time ran out.", failures))
            adapter = self._adapters[target.adapter]
            attempt = None
            try:
                if target.cluster_url is not None:
                    await meter.ready(target, self._ready_by_ns(call))
                meter.require_open(call, target)
                patience = Patience(call, candidate, self._clock, probe=candidate is probe, last=not to_try)
                with meter.attempt(call, candidate) as attempt, patience:
                    try:
                        # The request is kept in no variable: it need not stay as long as its answer.
                        attempt.sending = sending = self._transport.send(
                            adapter.request(call, attempt.address, attempt.id),
                            connect_timeout_s=call.timeouts.connect_s,
                            fresh=bool(failures) and _was_lost(target, failures),
                        )
                        async with sending as stream:
                            reply = await _begin(call, adapter, attempt, stream, patience)
                            reply.reason = _reason(plan, failures)
                            meter.answered(attempt, reply.reason)
                            answered = True
                            yield reply
                            return
                    except UpstreamError as error:
                        without_own(error, attempt.address, call.envelope.body)  # before the ledger sees it
                        raise
            except UpstreamError as error:
                final = answered or not error.meaning.retryable
                failures.append((target.id, error.detached()))
                wait_s = 0.0 if final else self._try_again(call, candidate, attempt, failures, to_try)
                meter.attempt_failed(error, target, to_try[0].target if to_try and not final else None)
                if final:
                    raise
            if wait_s:
                await asyncio.sleep(wait_s)  # outside of the handler, whose error must not be held meanwhile
        raise _exhausted(failures)

    def _try_again(
        self, call: Call, candidate: Candidate, attempt: Attempt | None, failures: _Failures, to_try: deque[Candidate]
    ) -> float:
        """Put a candidate back that may be tried once more, and return how many seconds to wait before that."""
        target_id, error = failures[-1]
        tries = sum(failed_id == target_id for failed_id, _ in _shown(failures))
        if error.kind is ErrorKind.STALE_CONNECTION:
            to_try.appendleft(candidate)  # on a fresh connection, and so no second time
            return 0.0
        if attempt is not None and attempt.elsewhere and _broken(candidate.target, failures) < MAX_REPLICAS:
            to_try.appendleft(candidate)  # this replica is out until it is heard again
            return 0.0
        if to_try or tries > 1 or (attempt is not None and attempt.upstream_status == 200):
            return 0.0
        wait_s = self._retries.wait_s(error, (call.deadline_ns - self._clock.monotonic_ns()) / 1e9)
        if wait_s is not None:
            to_try.append(candidate)
        return wait_s or 0.0

    def _ready_by_ns(self, call: Call) -> int:
        return min(call.deadline_ns, self._clock.monotonic_ns() + int(call.timeouts.cold_start_s * 1e9))


async def _begin(call: Call, adapter: Adapter, attempt: Attempt, stream: UpstreamStream, patience: Patience) -> Reply:
    """Read until there is something for the caller: content of a stream, or the whole answer."""
    attempt.streamed = streams_upstream(call, attempt.target)
    attempt.upstream_status = stream.status
    if stream.status != 200:
        body = await _read_error_body(stream, call.timeouts.idle_s)
        raise adapter.failure(stream.status, stream.headers, body, call.operation)
    decoder = adapter.decoder(call, attempt.target)
    held: list[bytes] = []
    ended = False
    while not (ended or decoder.complete or (call.envelope.stream and decoder.content_events)):
        if decoder.content_events:
            patience.for_upstream()
        chunk = await stream.read()
        ended = not chunk
        held.append(decoder.feed(chunk) if chunk else decoder.finish())
        attempt.observe(decoder)
    if not call.envelope.stream and not ended:
        held.append(decoder.finish())  # the answer's own end came before the body's
    head = held[0] if len(held) == 1 else b"".join(held)
    return Reply(attempt=attempt, decoder=decoder, stream=stream, patience=patience, head=head, ended=ended, reason="")


async def _read_error_body(stream: UpstreamStream, timeout_s: float) -> bytes:
    """Read an error's body, but no more than an error needs, and no longer; what breaks on the way is left out."""
    body = b""
    with contextlib.suppress(UpstreamError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            while len(body) < _MAX_ERROR_BODY_BYTES and (chunk := await stream.read()):
                body += chunk
    return body


def _broken(target: Target, failures: _Failures) -> int:
    """Count the attempts at a target that reached a replica; where there is just nobody, nothing was sent."""
    return sum(i == target.id and error.kind is not ErrorKind.UPSTREAM_CONNECT for i, error in failures)


def _was_lost(target: Target, failures: _Failures) -> bool:
    """Whether a kept connection to the target was of no use, so that it is now asked on a fresh one."""
    return any(i == target.id and error.kind is ErrorKind.STALE_CONNECTION for i, error in failures)


def _shown(failures: _Failures) -> _Failures:
    """Leave out lost connections: behind each the same target was asked again, and that is what counts."""
    return [failure for failure in failures if failure[1].kind is not ErrorKind.STALE_CONNECTION]


def _reason(plan: Plan, failures: _Failures) -> str:
    if not failures or not (shown := _shown(failures)):
        return plan.reason
    return "fallback: " + ", ".join(f"{target_id} {error.kind.value}" for target_id, error in shown)


def _summary(sentence: str, failures: _Failures) -> str:
    shown = _shown(failures)
    if not shown:
        return sentence
    return f"{sentence} Tried: " + "; ".join(f"{target_id}: {error.kind.value}" for target_id, error in shown) + "."


def _exhausted(failures: _Failures) -> GatewayError:
    """Make the caller's error of a chain in which every target failed."""
    failures = _shown(failures)
    if all(error.kind is ErrorKind.UPSTREAM_UNSUPPORTED for _, error in failures):
        return GatewayError(ErrorKind.UNSUPPORTED, _summary("No target can do this.", failures), param="model")
    waits = [
        min(error.retry_after_s or RETRY_AFTER_S, LONGEST_RETRY_AFTER_S)  # no longer than the breaker stays open for it
        for _, error in failures
        if not _is_configured(error)
    ]
    sentence = "retry later" if waits else "their configuration has to change"
    return GatewayError(
        ErrorKind.NO_TARGET,
        _summary(f"No target could answer; {sentence}.", failures),
        retry_after_s=min(waits, default=None),
    )


def _is_configured(error: UpstreamError) -> bool:
    """Whether it is our configuration that a target refuses: its key, its address, the name of its model."""
    misnamed = error.kind is ErrorKind.UPSTREAM_ERROR and error.upstream_status == 404
    return misnamed or error.kind in {ErrorKind.UPSTREAM_CREDENTIALS, ErrorKind.UPSTREAM_UNSUPPORTED}
