"""One attempt of a call at one target, from its line in the journal to its ledger entry.

It is settled exactly once, on every way out: success, refusal, error, a caller who left; and what settles it does not
await, so that cancellation cannot come between a measurement and its ledger line. Several attempts of a call may run at
once, each sent by one task and poured by the same or another. What was measured is decided in ``accounting.measure``,
what it costs in ``tariff``, how long it may take in ``patience``, what is an answer in ``begin``.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Self

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.accounting.base import Dispatch, Ledger, Observer
from gateway.accounting.measure import Measure
from gateway.beside import Beside
from gateway.clock import Clock, Ids
from gateway.credentials.base import Signer, further_secrets
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.execution.begin import begin
from gateway.execution.budget import Budgets
from gateway.execution.patience import Patience
from gateway.execution.retry import Retries
from gateway.execution.unstreamed import Unstreamed
from gateway.formats.base import Format, Prepared, streams_upstream
from gateway.formats.redaction import without_own
from gateway.shortage import own_failure
from gateway.targets.pool import Pool
from gateway.tariff import presume
from gateway.transport.base import Sending, Transport, UpstreamStream
from gateway.types import Call, Candidate, LedgerEntry, Outcome

_END_OF_BODY_S = 1.0


Write = Callable[[bytes], bool]
Drained = Callable[[], Awaitable[None]]
Others = Collection[Candidate]


class Means(Struct, frozen=True):
    """What every attempt works with; made once."""

    clock: Clock
    ids: Ids
    ledger: Ledger
    observer: Observer
    pool: Pool
    transport: Transport
    adapters: Mapping[str, Format]
    beside: Beside
    signers: Mapping[str, Signer]
    retries: Retries
    unstreamed: Unstreamed
    hedges: Budgets
    """By route."""


class AttemptReply(Struct, kw_only=True):
    """An answer that has begun, a ``Reply`` once it has a reason."""

    content_type: str
    target_id: str
    reason: str = ""
    pour: Callable[[Write, Drained], Awaitable[bytes]]


class Attempt:
    """An async context that is entered once; leaving it ends the attempt and frees its connection."""

    def __init__(
        self, means: Means, call: Call, candidate: Candidate, prepared: Prepared, *, others: Others, is_probe: bool
    ) -> None:
        self.id = means.ids("att")
        self.target = target = candidate.target
        self.answered = False
        self.measure = Measure(call, target, means.clock.monotonic_ns)
        self.measure.streamed = streams_upstream(call, target)
        self._means = means
        self._call = call
        self._prepared = prepared
        self._has_content = self._ended = False
        self._sending: Sending | None = None
        self._stream: UpstreamStream | None = None
        now_ns, rates, envelope = means.clock.wall_ns(), target.rates, call.envelope
        presumed = presume(call.input_tokens_estimate, envelope.audio_ms, envelope.members)
        if rates.variants:
            rates = rates.in_force(now_ns, envelope.members)
        self._rates = rates
        self._entry = LedgerEntry(
            attempt_id=self.id,
            call_id=call.id,
            key_id=call.principal.key_id,
            team_id=call.principal.team_id,
            route=call.route.name,
            target_id=target.id,
            upstream_model=target.upstream_model,
            started_at_ns=now_ns,
            usage=presumed,
            cost_nano_usd=0,
            cost_origin="estimated",
            price_version=rates.version,
            outcome="interrupted",
            trace_id=call.trace_id,
            expected_cached_tokens=candidate.prediction.cached_tokens,
        )
        """Without its cost until the attempt has ended; should the gateway die before, recovery adds that."""
        operation, stream = envelope.endpoint.operation, envelope.stream
        means.ledger.dispatch(Dispatch(entry=self._entry, rates=rates, operation=operation, stream=stream))
        self._lease = lease = means.pool.begin(target, call, candidate.expected)
        self._address = target if lease.url is None else replace(target, base_url=f"{lease.url}/v1")
        # A half-open breaker finds out for all routes, so no ceiling of one bounds what it lets through.
        is_bounded = is_probe and not lease.is_half_open
        self._patience = Patience(call, candidate, means.clock, others=others, probe=is_bounded)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        stream = self._stream
        try:
            if error is None and self._entry.outcome == "ok" and stream is not None and not stream.complete:
                await _exhaust(stream)
        finally:
            await self._leave(error)

    @property
    def replicas_to_ask(self) -> int:
        """Of how many replicas it was one that failed by itself, if another could serve; else 0."""
        return self._lease.replicas_to_ask

    async def send(self, *, fresh: bool = False) -> AttemptReply:
        """Send the request, on a ``fresh`` connection if asked to, and wait for what can go to the caller.

        That is the first content of a stream, or the whole answer. Raises UpstreamError for an answer that is an error
        or that does not come in time, GatewayError (DEADLINE) when the call's time is over; the attempt has then ended.
        """
        means, call, target = self._means, self._call, self.target
        adapter = means.adapters[target.adapter]
        try:
            with self._patience as patience:
                request = self._prepared(self._address, self.id)
                if target.credential is not None:
                    request = await means.signers[target.signer].sign(request, target.credential)
                self._sending = sending = means.transport.send(
                    request, connect_timeout_s=target.timeouts.connect_s, fresh=fresh
                )
                del request  # it need not stay as long as its answer
                self._stream = stream = await sending.__aenter__()
                self._begun = begun = await begin(
                    call, adapter, stream, patience=patience, measure=self.measure, journal=self._journal
                )
        except BaseException as error:
            await self._leave(error)
            raise
        return AttemptReply(content_type=begun.decoder.content_type, target_id=target.id, pour=self._pour)

    async def _pour(self, write: Write, drained: Drained) -> bytes:
        """See ``Reply.pour``. The attempt has ended before its last bytes are written: clients hang up behind them."""
        decoder, out, ended = (begun := self._begun).decoder, begun.head, begun.ended
        observe, patience, stream = self.measure.observe, self._patience, self._stream
        now_ns, idle_ns = self._means.clock.monotonic_ns, patience.idle_ns
        self.answered = True

        def take(chunk: bytes) -> bool:
            """Send on what has just arrived; called by the event loop, since waking this task costs more than it."""
            nonlocal out
            out = decoder.feed(chunk)
            if bound_tokens := observe(decoder):
                self._journal(bound_tokens)
            if decoder.complete:
                return False
            patience.until_ns = now_ns() + idle_ns  # as ``for_upstream``, which was called when this wait began
            return write(out)

        if not (ended or decoder.complete or stream is None):
            patience.for_upstream()
            try:
                with patience:
                    write(out)
                    while not (ended or decoder.complete):
                        patience.for_caller()
                        await drained()
                        patience.for_upstream()
                        ended = not await stream.pour(take)
                        if ended:
                            out = decoder.finish()
                            self._journal(observe(decoder))
            except BaseException as error:
                await self._leave(error)
                raise
        self.end("ok")
        return out

    def end(self, outcome: Outcome, error: GatewayError | None = None) -> LedgerEntry:
        """Settle the attempt and return its entry; only the first call counts."""
        if self._ended:
            return self._entry
        means, rates = self._means, self._rates
        try:
            measured = self.measure.stop(outcome, error, sent=self._sending is not None and self._sending.sent)
            share_s = self._lease.abandon() if measured.sample is None else self._lease.end(measured.sample)
            if self.target.rates.variants and (tier := self.measure.service_tier):
                members = {**self._call.envelope.members, "service_tier": msgspec.json.encode(tier)}
                rates = self.target.rates.in_force(self._entry.started_at_ns, members)
            if measured.dropped_events:
                error = error or malformed(measured.dropped_events)
            is_hourly, usage = rates.hardware_nano_usd_per_hour is not None, measured.usage
            stated = usage.upstream_cost_nano_usd if self.target.bills_stated_cost and measured.billed else 0
            self._entry = entry = replace(
                self._entry,
                duration_ms=measured.duration_ms,
                ttft_ms=measured.ttft_ms,
                tpot_ms=measured.tpot_ms,
                usage=usage,
                cost_nano_usd=stated or (rates.cost(usage, share_s) if is_hourly or measured.billed else 0),
                cost_origin="estimated" if is_hourly else "provider" if stated else usage.origin,
                price_version="upstream" if stated else rates.version,
                outcome=outcome,
                status=self.measure.status,
                error_kind=error.kind.value if error is not None else None,
                cause=error.why if error is not None else None,
            )
        except Exception:  # before the row is written, nothing may fail outside of this
            self._end_at_fault()
            raise
        self._ended = True
        means.ledger.settle(entry)
        means.observer.attempt_ended(entry, measured.gaps_s)
        return entry

    def _end_at_fault(self) -> None:
        """Free the place of an attempt that a fault of ours ends, and write a row all the same."""
        self._lease.abandon()
        self._ended = True
        cost = self._rates.cost(self._entry.usage)
        self._entry = replace(self._entry, outcome="failed", error_kind=ErrorKind.INTERNAL.value, cost_nano_usd=cost)
        self._means.ledger.settle(self._entry)

    def _journal(self, bound_tokens: int) -> None:
        """Note how many output tokens may be sent on from here, unless enough have been noted (0)."""
        if bound_tokens:
            if not self._has_content:
                self._has_content = True
                self._lease.begun()
            self._means.ledger.progress(self.id, bound_tokens)

    async def _leave(self, error: BaseException | None) -> None:
        """Free the connection, and end the attempt as the error says, unless it has ended."""
        if self._stream is not None and self._sending is not None:
            self._stream = None
            await self._sending.__aexit__(None, None, None)
        if not self._ended:
            self._end_with(error)

    def _end_with(self, error: BaseException | None) -> None:
        try:
            if error is None or isinstance(error, asyncio.CancelledError):
                self.end("cancelled")
            elif isinstance(error, GatewayError):
                if self.answered:
                    error.sent_events = getattr(self._begun.decoder, "sent_events", 0)
                if isinstance(error, UpstreamError):
                    further = further_secrets(self.target, self._means.signers)
                    without_own(error, self._address, self._call.envelope.body, further)  # before the ledger sees it
                    if self.target.context_length is not None:
                        error.tokens = self._call.input_tokens_estimate, self.target.context_length
                self.end(self.measure.outcome_of(error), error)
            else:
                ours = own_failure(error)
                self.end(self.measure.outcome_of(ours), ours)
        finally:
            if not self._ended:
                self._end_at_fault()


def malformed(events: int) -> UpstreamError:
    """Make what the record and the metrics say of an answer that went on without events that could not be read."""
    return UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "", said=f"{events} malformed events dropped")


async def _exhaust(stream: UpstreamStream) -> None:
    """Read a body to its end, so that the connection can be used again; the answer was whole before it."""
    with contextlib.suppress(TimeoutError, UpstreamError):
        async with asyncio.timeout(_END_OF_BODY_S):
            while await stream.read():
                pass
