"""Measures one call and each of its attempts, and hands what was measured to the ledger, the pool and the metrics.

A ``Meter`` belongs to one call, an ``Attempt`` to one try at one target. Both end exactly once, on every way out:
success, refusal, error, a caller who left. Nothing here awaits, so cancellation cannot come between a measurement
and its ledger line. What a token costs is decided in ``pricing``; what survives a crash in ``journal``.
"""

import asyncio
from types import TracebackType
from typing import Protocol, Self

from msgspec.structs import replace

from gateway.accounting.base import Dispatch, Ledger
from gateway.accounting.pricing import cost_nano_usd, hardware_cost_nano_usd
from gateway.accounting.tokens import estimate_output_tokens
from gateway.clock import Clock, Ids
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.types import (
    Call,
    CallRecord,
    Candidate,
    Considered,
    Inbound,
    LedgerEntry,
    Origin,
    Outcome,
    Plan,
    Principal,
    Sample,
    Target,
    Usage,
)

_NS_PER_MS = 1e6

OUTCOMES: dict[ErrorKind, Outcome] = {
    ErrorKind.INTERNAL: "failed",
    ErrorKind.DEADLINE: "timeout",
    ErrorKind.CLIENT_LEFT: "cancelled",
    ErrorKind.UPSTREAM_CONNECT: "failed",
    ErrorKind.UPSTREAM_TIMEOUT: "timeout",
    ErrorKind.UPSTREAM_STALLED: "timeout",
    ErrorKind.UPSTREAM_CUT: "cut",
    ErrorKind.UPSTREAM_PROTOCOL: "failed",
}
"""Every other kind is ``refused``."""

_UNBILLED: frozenset[Outcome] = frozenset({"refused", "failed"})
"""No upstream we know of bills a request that it refused or never received."""


class Hold(Protocol):
    """Something reserved for the call, given back when it ends. Both verbs are idempotent and never raise."""

    def settle(self, usage: Usage) -> None:
        """Give back the difference between what was reserved and what was used."""

    def release(self) -> None:
        """Give everything back."""


class Lease(Protocol):
    """One attempt's place at a target."""

    in_flight_at_start: int
    """Attempts at the target when this one began, itself included."""

    def end(self, sample: Sample) -> float:
        """Leave, teach the target's statistics, and return the replica-seconds that were this attempt's share."""


class Pool(Protocol):
    """Hands out places; see ``targets.pool``."""

    def refusal(self, target: Target) -> str | None:
        """Say why no attempt may begin now; ask immediately before ``begin``."""

    def begin(self, target: Target) -> Lease:
        """Count one more attempt at this target."""


class Observer(Protocol):
    """Sees what was measured; never raises, never waits."""

    def attempt_ended(self, entry: LedgerEntry, gaps_ms: list[float]) -> None:
        """One attempt, and the gaps between its content-bearing chunks (ITL)."""

    def call_ended(self, record: CallRecord) -> None:
        """One call."""


class Progress(Protocol):
    """What a decoder has seen so far; see ``providers.base.Decoder``."""

    usage: Usage | None
    content_events: int
    content_bytes: int
    shows_reasoning: bool
    complete: bool


class Attempt:
    """One try at one target: a context manager that settles its ledger entry exactly once."""

    def __init__(self, meter: "Meter", call: Call, candidate: Candidate) -> None:
        self.id = meter.ids("att")
        self.target = candidate.target
        self.first_content_ns: int | None = None
        self.last_content_ns: int | None = None
        self.upstream_status: int | None = None
        self.streamed = True
        """The upstream was asked for a stream. If not, all content comes at the end, and there is a duration only."""
        self.answered = False
        """The upstream accepted the request: from here on it may bill."""
        self.delivered = False
        """The caller was sent all of the answer, its end included."""
        self._meter = meter
        self._call = call
        self._progress: Progress | None = None
        self._entry: LedgerEntry | None = None
        self._events_seen = 0
        self._journalled_tokens = 0
        self._gaps_ms: list[float] = []
        self._pays_by_the_hour = self.target.rates.hardware_nano_usd_per_hour is not None
        self._started_ns = meter.clock.monotonic_ns()
        self._started_wall_ns = meter.clock.wall_ns()
        presumed = Usage(input_tokens=call.input_tokens_estimate, origin="estimated")
        meter.ledger.dispatch(
            Dispatch(
                entry=self._ledger_entry("interrupted", presumed, self._token_cost(presumed), 0.0, None),
                rates=self.target.rates,
                operation=call.operation,
                stream=call.envelope.stream,
            )
        )
        self._lease = meter.pool.begin(self.target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.finish("ok" if self._progress is not None and self._progress.complete else "cancelled")
        elif isinstance(error, GatewayError):
            self.finish(self._outcome_of(error), error)
        elif isinstance(error, asyncio.CancelledError):
            self.finish("cancelled")
        else:
            self.finish("failed", GatewayError(ErrorKind.INTERNAL, "internal error"))

    def observe(self, progress: Progress) -> None:
        """Take note of what a decoder has just been fed; call it before anything of that is sent on."""
        self._progress = progress
        events = progress.content_events
        if events == self._events_seen:
            return
        now_ns = self._meter.clock.monotonic_ns()
        if self.last_content_ns is None:
            self.first_content_ns = now_ns
        else:
            self._gaps_ms.append((now_ns - self.last_content_ns) / _NS_PER_MS)
        self.last_content_ns = now_ns
        self._events_seen = events
        tokens = estimate_output_tokens(events, progress.content_bytes)
        if tokens > self._journalled_tokens:
            # Written ahead and by a quarter more each time: never below what was relayed, and few lines.
            self._journalled_tokens = tokens + max(8, tokens // 4)
            self._meter.ledger.progress(self.id, self._journalled_tokens)

    def finish(self, outcome: Outcome, error: GatewayError | None = None) -> LedgerEntry:
        """Settle the attempt and return its entry; only the first call counts."""
        if self._entry is not None:
            return self._entry
        usage = self._usage(outcome)
        duration_ms = (self._meter.clock.monotonic_ns() - self._started_ns) / _NS_PER_MS
        first_ns = self.first_content_ns if self.streamed else None
        ttft_ms = (first_ns - self._started_ns) / _NS_PER_MS if first_ns is not None else None
        shown = self._shown_tokens(usage)
        tpot_ms = self._tpot_ms(shown)
        share_s = self._lease.end(
            Sample(
                ok=outcome == "ok",
                trips_breaker=error is not None
                and (error.meaning.trips_breaker or self._was_silent(error, duration_ms)),
                input_tokens=usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens,
                output_tokens=shown,
                ttft_ms=ttft_ms,
                tpot_ms=tpot_ms,
                in_flight_at_start=self._lease.in_flight_at_start,
                retry_after_s=error.retry_after_s if error is not None else None,
                error_kind=error.kind.value if error is not None else None,
                max_output_tokens=self._cap(),
            )
        )
        if self._pays_by_the_hour:
            cost = hardware_cost_nano_usd(self.target.rates, share_s)
        else:
            cost = self._token_cost(usage) if outcome not in _UNBILLED else 0
        if isinstance(error, UpstreamError) and error.upstream_status is not None:
            self.upstream_status = error.upstream_status
        entry = self._ledger_entry(outcome, usage, cost, duration_ms, error)
        self._entry = replace(entry, ttft_ms=ttft_ms, tpot_ms=tpot_ms)
        self._meter.ledger.settle(self._entry)
        self._meter.observer.attempt_ended(self._entry, self._gaps_ms)
        return self._entry

    def _outcome_of(self, error: GatewayError) -> Outcome:
        """Name an error's outcome; behind content, any means an answer that broke off, whose tokens count."""
        outcome = OUTCOMES.get(error.kind, "refused")
        began = self._progress is not None and self._progress.content_events > 0
        return "cut" if began and outcome in _UNBILLED else outcome

    def _was_silent(self, error: GatewayError, duration_ms: float) -> bool:
        """Whether the call's time ran out on a target that had long enough to begin."""
        long_enough = duration_ms >= self._call.timeouts.first_token_s * 1e3
        return error.kind is ErrorKind.DEADLINE and not self._events_seen and long_enough

    def _cap(self) -> int | None:
        per_choice = self._call.max_output_tokens
        return None if per_choice is None else per_choice * self._call.envelope.choices

    def _token_cost(self, usage: Usage) -> int:
        return cost_nano_usd(usage, self.target.rates)

    def _usage(self, outcome: Outcome) -> Usage:
        """Trust the upstream's count of a complete answer; otherwise never report less than what was seen."""
        progress = self._progress
        reported = progress.usage if progress is not None else None
        if reported is not None and outcome == "ok":
            measured: Origin = "engine" if self.target.own_hardware else "provider"
            return replace(reported, origin=measured) if reported.origin == "provider" else reported
        if outcome in _UNBILLED or not self.answered:
            return Usage(origin="estimated")
        output_tokens = estimate_output_tokens(progress.content_events, progress.content_bytes) if progress else 0
        if reported is None:
            return Usage(input_tokens=self._call.input_tokens_estimate, output_tokens=output_tokens, origin="estimated")
        return replace(reported, output_tokens=max(output_tokens, reported.output_tokens), origin="estimated")

    def _shown_tokens(self, usage: Usage) -> int:
        """Count what passed between the first content and the last: reasoning too, unless it was hidden."""
        reasoned = self._progress is not None and self._progress.shows_reasoning
        return usage.output_tokens + (usage.reasoning_tokens if reasoned else 0)

    def _tpot_ms(self, shown: int) -> float | None:
        """(t_last - t_first) / (n_out - 1); none for several choices, fewer than two tokens, or without a stream.

        None, too, for what came all at once (a proxy kept it, or two tokens shared a packet): no time to divide.
        """
        if self._call.envelope.choices > 1 or shown < 2:
            return None
        if self.first_content_ns is None or self.last_content_ns is None or not self._gaps_ms:
            return None
        return (self.last_content_ns - self.first_content_ns) / _NS_PER_MS / (shown - 1)

    def _ledger_entry(
        self, outcome: Outcome, usage: Usage, cost: int, duration_ms: float, error: GatewayError | None
    ) -> LedgerEntry:
        call = self._call
        return LedgerEntry(
            attempt_id=self.id,
            call_id=call.id,
            key_id=call.principal.key_id,
            team_id=call.principal.team_id,
            route=call.route.name,
            target_id=self.target.id,
            upstream_model=self.target.upstream_model,
            started_at_ns=self._started_wall_ns,
            duration_ms=duration_ms,
            ttft_ms=None,
            tpot_ms=None,
            usage=usage,
            cost_nano_usd=cost,
            cost_origin="estimated" if self._pays_by_the_hour else usage.origin,
            price_version=self.target.rates.version,
            outcome=outcome,
            status=self.upstream_status,
            error_kind=error.kind.value if error is not None else None,
        )


class Meter:
    """One call, from its arrival to its record."""

    def __init__(
        self, inbound: Inbound, *, clock: Clock, ids: Ids, ledger: Ledger, pool: Pool, observer: Observer
    ) -> None:
        self.clock = clock
        self.ids = ids
        self.ledger = ledger
        self.pool = pool
        self.observer = observer
        self._inbound = inbound
        self._received_wall_ns = clock.wall_ns() - (clock.monotonic_ns() - inbound.received_at_ns)
        self._principal: Principal | None = None
        self._call: Call | None = None
        self._plan: Plan | None = None
        self._holds: list[Hold] = []
        self._attempts: list[Attempt] = []
        self._winner: Attempt | None = None
        self._reason: str | None = None
        self._error: GatewayError | None = None
        self._left = False
        self._first_dispatch_ns: int | None = None

    def identified(self, principal: Principal) -> None:
        """Note who is calling."""
        self._principal = principal

    def called(self, call: Call) -> None:
        """Note what is asked for."""
        self._call = call

    def planned(self, plan: Plan) -> None:
        """Note what the policy answered."""
        self._plan = plan

    def hold(self, hold: Hold) -> None:
        """Keep a reservation until the call ends."""
        self._holds.append(hold)

    def attempt(self, call: Call, candidate: Candidate) -> Attempt:
        """Begin an attempt: from here on there is a line in the journal. Raises GatewayError: STORAGE_UNAVAILABLE."""
        attempt = Attempt(self, call, candidate)
        if self._first_dispatch_ns is None:
            self._first_dispatch_ns = self.clock.monotonic_ns()
        self._attempts.append(attempt)
        return attempt

    def answered(self, attempt: Attempt, reason: str) -> None:
        """Note whose answer the caller gets, and why it was this target's."""
        self._winner = attempt
        self._reason = reason

    def failed(self, error: GatewayError) -> None:
        """Note the error that the caller gets."""
        self._error = error

    def left(self) -> None:
        """Note that the caller went away; one who had the whole answer by then did not leave it."""
        self._left = self._winner is None or not self._winner.delivered

    def close(self) -> None:
        """Settle the holds and write the call's record."""
        entries = [attempt.finish("cancelled") for attempt in self._attempts]
        usage = Usage(
            input_tokens=sum(e.usage.input_tokens for e in entries),
            cached_input_tokens=sum(e.usage.cached_input_tokens for e in entries),
            cache_write_tokens=sum(e.usage.cache_write_tokens for e in entries),
            output_tokens=sum(e.usage.output_tokens for e in entries),
            reasoning_tokens=sum(e.usage.reasoning_tokens for e in entries),
        )
        for hold in self._holds:
            hold.settle(usage)
        record = self._record(entries)
        self.ledger.record(record)
        self.observer.call_ended(record)

    def _record(self, entries: list[LedgerEntry]) -> CallRecord:
        call, plan, winner, error = self._call, self._plan, self._winner, self._error
        received_ns = self._inbound.received_at_ns
        won = winner.finish("cancelled") if winner is not None else None
        first_ns = winner.first_content_ns if winner is not None and winner.streamed else None
        outcome: Outcome = "ok"
        if self._left:
            outcome = "cancelled"
        elif error is not None:
            outcome = won.outcome if won is not None else OUTCOMES.get(error.kind, "refused")
        dispatched_ns = self._first_dispatch_ns
        return CallRecord(
            call_id=self._inbound.id,
            received_at_ns=self._received_wall_ns,
            operation=self._inbound.operation,
            key_id=self._principal.key_id if self._principal is not None else None,
            route=call.route.name if call is not None else None,
            policy_version=call.route.version if call is not None else None,
            stream=call.envelope.stream if call is not None else False,
            input_tokens_estimate=call.input_tokens_estimate if call is not None else 0,
            output_tokens=won.usage.output_tokens if won is not None else 0,
            outcome=outcome,
            status=499 if self._left else error.status if error is not None else 200,
            error_kind=error.kind.value if error is not None else None,
            target_id=winner.target.id if winner is not None else None,
            reason=self._reason,
            considered=tuple(
                Considered(
                    target_id=c.target.id, prediction=c.prediction, within_ceilings=c.within_ceilings, probe=c.probe
                )
                for c in (plan.candidates if plan is not None else ())
            ),
            dropped=plan.dropped if plan is not None else (),
            attempt_ids=tuple(e.attempt_id for e in entries),
            cost_nano_usd=sum(e.cost_nano_usd for e in entries),
            ttft_ms=(first_ns - received_ns) / _NS_PER_MS if first_ns is not None else None,
            tpot_ms=won.tpot_ms if won is not None else None,
            duration_ms=(self.clock.monotonic_ns() - received_ns) / _NS_PER_MS,
            overhead_ms=(dispatched_ns - received_ns) / _NS_PER_MS if dispatched_ns is not None else None,
        )
