"""Measures one try at one target: when its tokens came, how many, what they cost, and how it ended.

An attempt settles its ledger entry exactly once, on every way out: success, refusal, error, a caller who left. Nothing
here awaits, so cancellation cannot come between a measurement and its ledger line. What a token costs is decided in
``pricing``; what survives a crash in ``journal``.
"""

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from msgspec.structs import replace

from gateway.accounting.base import Dispatch, Failures, Ledger
from gateway.accounting.pricing import cost_nano_usd, hardware_cost_nano_usd
from gateway.accounting.tokens import estimate_output_tokens, output_bytes
from gateway.clock import Clock, Ids
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.shortage import own_failure
from gateway.tariff import Usage
from gateway.types import Call, CallRecord, Candidate, LedgerEntry, Outcome, Sample, Target

_NS_PER_MS = 1e6

OUTCOMES: dict[ErrorKind, Outcome] = {
    ErrorKind.INTERNAL: "failed",
    ErrorKind.OWN_SHORTAGE: "failed",
    ErrorKind.DEADLINE: "timeout",
    ErrorKind.UPSTREAM_CONNECT: "failed",
    ErrorKind.UPSTREAM_TIMEOUT: "timeout",
    ErrorKind.UPSTREAM_STALLED: "timeout",
    ErrorKind.UPSTREAM_CUT: "cut",
    ErrorKind.STALE_CONNECTION: "failed",
    ErrorKind.UPSTREAM_PROTOCOL: "failed",
}
"""Every other kind is ``refused``."""

_UNBILLED: frozenset[Outcome] = frozenset({"refused", "failed"})
"""No upstream we know of bills a request that it refused or never received."""

_NOT_THE_TARGETS = frozenset({ErrorKind.OWN_SHORTAGE, ErrorKind.INTERNAL})
"""Failures of ours: they say nothing of the target, neither of its health nor of its speed."""


class Lease(Protocol):
    """One attempt's place at a target."""

    in_flight_at_start: int
    """Attempts at the target when this one began, itself included."""
    url: str | None
    """Of the replica that was chosen; None: the target has one address."""
    replicas_to_ask: int
    """Known at the end: of how many replicas it was one that failed by itself, if another could serve."""

    @property
    def is_half_open(self) -> bool:
        """Whether a half-open breaker let it through, to find out how the target is."""

    def begun(self) -> None:
        """Note the first token."""

    def end(self, sample: Sample) -> float:
        """Leave, teach the target's statistics, and return the replica-seconds that were this attempt's share."""

    def abandon(self) -> float:
        """Leave without a verdict on the target; return the same."""


class Sending(Protocol):
    """The attempt's request on its way; see ``transport.base``."""

    @property
    def sent(self) -> bool:
        """Whether all of the request has left this process."""


class Pool(Protocol):
    """Hands out places; see ``targets.pool``."""

    def refusal(self, target: Target, call: Call) -> str | None:
        """Say why no attempt may begin now; ask immediately before ``begin``."""

    def begin(self, target: Target, call: Call) -> Lease:
        """Count one more attempt at this target."""

    async def ready(self, target: Target, deadline_ns: int) -> None:
        """Wait while the target is cold. Raises UpstreamError when no replica comes in time."""

    def want(self, target: Target) -> Callable[[], None]:
        """Ask for a replica of a cold target; call what is returned when nobody waits for it any more."""


class Observer(Protocol):
    """Sees what was measured; never raises, never waits."""

    def attempt_ended(self, entry: LedgerEntry, gaps_ms: list[float]) -> None:
        """One attempt, and the gaps between its content-bearing chunks (ITL)."""

    def call_ended(self, record: CallRecord) -> None:
        """One call."""


class Progress(Protocol):
    """What a decoder has seen so far; see ``formats.base.Decoder``."""

    usage: Usage | None
    content_events: int
    content_bytes: int
    shows_reasoning: bool
    complete: bool


class Instruments(NamedTuple):
    """What every measurement touches; made once."""

    clock: Clock
    ids: Ids
    ledger: Ledger
    pool: Pool
    observer: Observer
    failures: Failures


class Attempt:
    """One try at one target: a context manager that settles its ledger entry exactly once."""

    def __init__(self, instruments: Instruments, call: Call, candidate: Candidate, trace_id: str | None = None) -> None:
        self.id = instruments.ids("att")
        self.target = candidate.target
        self.upstream_status: int | None = None
        self.sending: Sending | None = None
        """The request on its way; None: nothing has been sent yet."""
        self.streamed = True
        """The upstream was asked for a stream. If not, all content comes at the end, and there is a duration only."""
        self.delivered = False
        """The caller was sent all of the answer, its end included."""
        self._instruments = instruments
        self._now_ns = instruments.clock.monotonic_ns
        self._call = call
        self._trace_id = trace_id
        self._progress: Progress | None = None
        self._entry: LedgerEntry | None = None
        self._events_seen = 0
        self._journalled_tokens = self._journalled_bytes = 0
        self._arrivals_ns: list[int] = []
        """When content came, and more content."""
        self._pays_by_the_hour = self.target.rates.hardware_nano_usd_per_hour is not None
        self._started_ns = instruments.clock.monotonic_ns()
        self._started_wall_ns = instruments.clock.wall_ns()
        presumed = Usage(input_tokens=call.input_tokens_estimate, audio_ms=call.envelope.audio_ms, origin="estimated")
        instruments.ledger.dispatch(
            Dispatch(
                entry=self._ledger_entry("interrupted", presumed, cost_nano_usd(presumed, self.target.rates)),
                rates=self.target.rates,
                operation=call.operation,
                stream=call.envelope.stream,
            )
        )
        self._lease = lease = instruments.pool.begin(self.target, call)
        self.address = self.target if lease.url is None else replace(self.target, base_url=f"{lease.url}/v1")
        """The target as it is sent to: with the address of the replica that was chosen."""

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
            self.finish("failed", own_failure(error))

    @property
    def first_content_ns(self) -> int | None:
        """When the first content came."""
        return self._arrivals_ns[0] if self._arrivals_ns else None

    @property
    def replicas_to_ask(self) -> int:
        """Of how many replicas it was one that failed by itself, if another could serve; else 0."""
        return self._lease.replicas_to_ask

    @property
    def is_half_open(self) -> bool:
        """Whether a half-open breaker let it through: it finds out for all routes, so no ceiling of one bounds it."""
        return self._lease.is_half_open

    def observe(self, progress: Progress) -> None:
        """Take note of what a decoder has just been fed; call it before anything of that is sent on."""
        self._progress = progress
        events = progress.content_events
        if events == self._events_seen:
            return
        if not self._events_seen:
            self._lease.begun()
        self._events_seen = events
        self._arrivals_ns.append(self._now_ns())
        if (events > self._journalled_tokens or progress.content_bytes > self._journalled_bytes) and self.streamed:
            # Written ahead and by a quarter more each time: never below what was relayed, and few lines.
            tokens = estimate_output_tokens(events, progress.content_bytes)
            self._journalled_tokens = tokens + max(8, tokens // 4)
            self._journalled_bytes = output_bytes(self._journalled_tokens)
            self._instruments.ledger.progress(self.id, self._journalled_tokens)

    def finish(self, outcome: Outcome, error: GatewayError | None = None) -> LedgerEntry:
        """Settle the attempt and return its entry; only the first call counts."""
        if self._entry is not None:
            return self._entry
        instruments = self._instruments
        try:
            usage = self._usage(outcome)
            duration_ms = (instruments.clock.monotonic_ns() - self._started_ns) / _NS_PER_MS
            first_ns = self.first_content_ns if self.streamed else None
            ttft_ms = (first_ns - self._started_ns) / _NS_PER_MS if first_ns is not None else None
            shown = self._shown_tokens(usage)
            tpot_ms = self._tpot_ms(shown)
            sample = Sample(
                ok=outcome == "ok",
                trips_breaker=False,
                input_tokens=usage.read_tokens,
                output_tokens=shown,
                hidden_tokens=usage.written_tokens - shown,
                # Where an answer has no tokens, what the policy may expect is the time to all of it.
                ttft_ms=duration_ms if self._call.output_cap == 0 and outcome == "ok" else ttft_ms,
                tpot_ms=tpot_ms,
                in_flight_at_start=self._lease.in_flight_at_start,
                max_output_tokens=self._call.output_cap,
            )
            share_s = self._lease.end(sample) if error is None else self._end_with(error, sample, duration_ms)
        except Exception:
            self._lease.abandon()  # its place is not to be kept by a fault of ours
            raise
        if self._pays_by_the_hour:
            cost = hardware_cost_nano_usd(self.target.rates, share_s)
        else:
            cost = cost_nano_usd(usage, self.target.rates) if self._billed(outcome) else 0
        self._entry = entry = self._ledger_entry(
            outcome, usage, cost, duration_ms=duration_ms, ttft_ms=ttft_ms, tpot_ms=tpot_ms, error=error
        )
        instruments.ledger.settle(entry)
        instruments.observer.attempt_ended(entry, [(b - a) / _NS_PER_MS for a, b in pairwise(self._arrivals_ns)])
        return entry

    def _outcome_of(self, error: GatewayError) -> Outcome:
        """Name an error's outcome; behind content, any means an answer that broke off, whose tokens count."""
        outcome = OUTCOMES.get(error.kind, "refused")
        began = self._progress is not None and self._progress.content_events > 0
        return "cut" if began and outcome in _UNBILLED else outcome

    def _end_with(self, error: GatewayError, sample: Sample, duration_ms: float) -> float:
        """End the lease after a failure, of which the target is told only what is its own."""
        if error.kind in _NOT_THE_TARGETS:
            return self._lease.abandon()
        trips_breaker, body_digest = self._blame(error, duration_ms)
        return self._lease.end(
            replace(
                sample,
                trips_breaker=trips_breaker,
                body_digest=body_digest,
                retry_after_s=error.retry_after_s,
                error_kind=error.kind.value,
            )
        )

    def _blame(self, error: GatewayError, duration_ms: float) -> tuple[bool, str | None]:
        """Return whether the breaker counts it, and the body's digest where the request may have brought it about."""
        counts, provocable = error.trips_breaker, error.provocable
        if error.kind is ErrorKind.DEADLINE or (
            error.kind is ErrorKind.UPSTREAM_TIMEOUT and isinstance(error, UpstreamError) and not error.upstream_status
        ):
            # We stopped waiting: of a ceiling or the call's own end the target knows nothing.
            counts = not self._events_seen and self._waited_long_enough(duration_ms)
            # All of an answer may take as long as its request makes it.
            provocable = not self.streamed and duration_ms > self.target.timeouts.first_token_s * 1e3
        if not counts:
            return False, None
        return True, blake2b(self._call.envelope.body, digest_size=8).hexdigest() if provocable else None

    def _waited_long_enough(self, duration_ms: float) -> bool:
        """Whether the target had its time to begin, rather than what was left of the call's, or a ceiling allows."""
        timeouts = self.target.timeouts
        return duration_ms >= min(timeouts.first_token_s, timeouts.total_s) * 1e3

    def _usage(self, outcome: Outcome) -> Usage:
        """Trust the upstream's count of a complete answer; otherwise never report less than what was seen."""
        progress = self._progress
        reported = progress.usage if progress is not None else None
        # Zero tokens beside content are no count.
        saw = progress is not None and progress.content_events
        counted = reported is not None and outcome == "ok" and bool(reported.written_tokens or not saw)
        if reported is not None and counted and reported.origin == "provider":
            return replace(reported, origin="engine") if self.target.own_hardware else reported
        if not self._billed(outcome):
            return Usage(origin="estimated")
        seen = estimate_output_tokens(progress.content_events, progress.content_bytes) if progress else 0
        call = self._call
        if reported is None:
            return Usage(
                input_tokens=call.input_tokens_estimate,
                output_tokens=seen,
                audio_ms=call.envelope.audio_ms,
                origin="estimated",
            )
        has_read = reported.read_tokens or reported.audio_ms
        return replace(
            reported,
            input_tokens=reported.input_tokens if has_read else call.input_tokens_estimate,
            output_tokens=reported.output_tokens if counted else max(seen, reported.output_tokens),
            origin="estimated",
        )

    def _billed(self, outcome: Outcome) -> bool:
        """Whether the upstream may bill: not what it refused, and not what it never had whole.

        A request of which the last byte never left is no work for anybody: its caller left, or its time ran out, while
        a name was looked up, a connection made or the body written.
        """
        if self.upstream_status is None:
            return outcome not in _UNBILLED and self.sending is not None and self.sending.sent
        return outcome not in _UNBILLED and 200 <= self.upstream_status < 300

    def _shown_tokens(self, usage: Usage) -> int:
        """Count what passed between the first content and the last: reasoning too, unless it was hidden."""
        reasoned = self._progress is not None and self._progress.shows_reasoning
        return usage.written_tokens - (0 if reasoned else usage.reasoning_tokens)

    def _tpot_ms(self, shown: int) -> float | None:
        """(t_last - t_first) / (n_out - 1); none for several choices, fewer than two tokens, or without a stream.

        None, too, for what came all at once (a proxy kept it, or two tokens shared a packet): no time to divide.
        """
        if self._call.envelope.choices > 1 or shown < 2:
            return None
        if len(self._arrivals_ns) < 2:
            return None
        return (self._arrivals_ns[-1] - self._arrivals_ns[0]) / _NS_PER_MS / (shown - 1)

    def _ledger_entry(
        self,
        outcome: Outcome,
        usage: Usage,
        cost: int,
        *,
        duration_ms: float = 0.0,
        ttft_ms: float | None = None,
        tpot_ms: float | None = None,
        error: GatewayError | None = None,
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
            ttft_ms=ttft_ms,
            tpot_ms=tpot_ms,
            usage=usage,
            cost_nano_usd=cost,
            cost_origin="estimated" if self._pays_by_the_hour else usage.origin,
            price_version=self.target.rates.version,
            outcome=outcome,
            status=self.upstream_status,
            error_kind=error.kind.value if error is not None else None,
            trace_id=self._trace_id,
            cause=error.why if error is not None else None,
        )
