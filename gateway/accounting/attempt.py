"""Measures one try at one target: when its tokens came, how many, what they cost, and how it ended.

An attempt settles its ledger entry exactly once, on every way out: success, refusal, error, a caller who left. Nothing
here awaits, so cancellation cannot come between a measurement and its ledger line. What a token costs is decided in
``pricing``; what survives a crash in ``journal``.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from msgspec.structs import replace

from gateway.accounting.base import Dispatch, Failures, Ledger
from gateway.accounting.measure import Measure, Progress, presumed_usage
from gateway.accounting.pricing import cost_nano_usd, hardware_cost_nano_usd
from gateway.clock import Clock, Ids
from gateway.errors import GatewayError
from gateway.shortage import own_failure
from gateway.types import Call, CallRecord, Candidate, LedgerEntry, Outcome, Sample, Target


class Lease(Protocol):
    """One attempt's place at a target."""

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
        self.sending: Sending | None = None
        """The request on its way; None: nothing has been sent yet."""
        self.delivered = False
        """The caller was sent all of the answer, its end included."""
        self.measure = Measure(call, candidate.target, instruments.clock.monotonic_ns)
        self._instruments = instruments
        self._begun = self._ended = False
        presumed, rates = presumed_usage(call), self.target.rates
        self._entry = LedgerEntry(
            attempt_id=self.id,
            call_id=call.id,
            key_id=call.principal.key_id,
            team_id=call.principal.team_id,
            route=call.route.name,
            target_id=self.target.id,
            upstream_model=self.target.upstream_model,
            started_at_ns=instruments.clock.wall_ns(),
            duration_ms=0.0,
            ttft_ms=None,
            tpot_ms=None,
            usage=presumed,
            cost_nano_usd=cost_nano_usd(presumed, rates),
            cost_origin="estimated",
            price_version=rates.version,
            outcome="interrupted",
            status=None,
            error_kind=None,
            trace_id=trace_id,
        )
        """As it would be billed should the gateway die now; once the attempt has ended, as it is billed."""
        instruments.ledger.dispatch(
            Dispatch(entry=self._entry, rates=rates, operation=call.operation, stream=call.envelope.stream)
        )
        self._lease = lease = instruments.pool.begin(self.target, call)
        self.address = self.target if lease.url is None else replace(self.target, base_url=f"{lease.url}/v1")
        """The target as it is sent to: with the address of the replica that was chosen."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, asyncio.CancelledError):
            self.finish("cancelled")
        elif isinstance(error, GatewayError):
            self.finish(self.measure.outcome_of(error), error)
        else:
            self.finish("failed", own_failure(error))

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
        bound_tokens = self.measure.observe(progress)
        if progress.content_events and not self._begun:
            self._begun = True
            self._lease.begun()
        if bound_tokens:
            self._instruments.ledger.progress(self.id, bound_tokens)

    def finish(self, outcome: Outcome, error: GatewayError | None = None) -> LedgerEntry:
        """Settle the attempt and return its entry; only the first call counts."""
        if self._ended:
            return self._entry
        instruments, rates = self._instruments, self.target.rates
        try:
            measured = self.measure.stop(outcome, error, sent=self.sending is not None and self.sending.sent)
            share_s = self._lease.abandon() if measured.sample is None else self._lease.end(measured.sample)
        except Exception:
            self._lease.abandon()  # its place is not to be kept by a fault of ours
            raise
        cost, origin = 0, measured.usage.origin
        if rates.hardware_nano_usd_per_hour is not None:
            cost, origin = hardware_cost_nano_usd(rates, share_s), "estimated"
        elif measured.billed:
            cost = cost_nano_usd(measured.usage, rates)
        self._ended = True
        self._entry = replace(
            self._entry,
            duration_ms=measured.duration_ms,
            ttft_ms=measured.ttft_ms,
            tpot_ms=measured.tpot_ms,
            usage=measured.usage,
            cost_nano_usd=cost,
            cost_origin=origin,
            outcome=outcome,
            status=self.measure.status,
            error_kind=error.kind.value if error is not None else None,
            cause=error.why if error is not None else None,
        )
        instruments.ledger.settle(self._entry)
        instruments.observer.attempt_ended(self._entry, measured.gaps_ms)
        return self._entry
