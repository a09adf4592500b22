"""Measures one call: who asked for what, what was planned and tried, what it cost, how it ended; one record each.

Its attempts are measured in ``attempt``. Nothing here awaits, so cancellation cannot come between a measurement and
its ledger line.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.accounting.attempt import Attempt, Instruments
from gateway.accounting.measure import OUTCOMES
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.tariff import Amounts, Usage
from gateway.trace import trace_id_of
from gateway.types import (
    Call,
    CallRecord,
    Candidate,
    Considered,
    Inbound,
    LedgerEntry,
    Outcome,
    Plan,
    Principal,
    Target,
)

_NS_PER_MS = 1e6


class Hold(Protocol):
    """Something reserved for the call, given back when it ends. Both verbs are idempotent and never raise."""

    def settle(self, usage: Usage) -> None:
        """Give back the difference between what was reserved and what was used."""

    def release(self) -> None:
        """Give everything back."""


class Meter:
    """One call, from its arrival to its record."""

    def __init__(self, inbound: Inbound, instruments: Instruments) -> None:
        self._instruments = instruments
        clock = instruments.clock
        self._inbound = inbound
        self._received_wall_ns = clock.wall_ns() - (clock.monotonic_ns() - inbound.received_at_ns)
        traceparent = inbound.headers.get("traceparent")
        self._trace_id = trace_id_of(traceparent) if traceparent is not None else None
        self._principal: Principal | None = None
        self._call: Call | None = None
        self._plan: Plan | None = None
        self._holds: list[Hold] = []
        self._attempts: list[Attempt] = []
        self._winner: Attempt | None = None
        self._reason: str | None = None
        self._error: GatewayError | None = None
        self._unlogged: tuple[UpstreamError, Target] | None = None
        """The last failure of a target, behind which no other was tried: its line says what the caller was told."""
        self._left = False
        self._first_dispatch_ns: int | None = None
        self._no_longer_wanted: Callable[[], None] | None = None

    def identified(self, principal: Principal) -> None:
        """Note who is calling."""
        self._principal = principal

    def called(self, call: Call) -> None:
        """Note what is asked for."""
        self._call = call

    def planned(self, plan: Plan) -> None:
        """Note what the policy answered; a cold target that it would have preferred is asked to start."""
        self._plan = plan
        if plan.wanted is not None:
            self._no_longer_wanted = self._instruments.pool.want(plan.wanted)

    def hold(self, hold: Hold) -> None:
        """Keep a reservation until the call ends."""
        self._holds.append(hold)

    def attempt(self, call: Call, candidate: Candidate) -> Attempt:
        """Begin an attempt: from here on there is a line in the journal. Raises GatewayError: STORAGE_UNAVAILABLE."""
        attempt = Attempt(self._instruments, call, candidate, self._trace_id)
        if self._first_dispatch_ns is None:
            self._first_dispatch_ns = self._instruments.clock.monotonic_ns()
        self._attempts.append(attempt)
        return attempt

    def require_open(self, call: Call, target: Target) -> None:
        """Ask immediately before ``attempt``. Raises UpstreamError (BREAKER_OPEN) when none may begin now."""
        refusal = self._instruments.pool.refusal(target, call)
        if refusal is not None:
            raise UpstreamError(ErrorKind.BREAKER_OPEN, refusal)

    async def ready(self, target: Target, deadline_ns: int) -> None:
        """Wait while the target has no replica. Raises UpstreamError when none comes in time."""
        await self._instruments.pool.ready(target, deadline_ns)

    def answered(self, attempt: Attempt, reason: str) -> None:
        """Note whose answer the caller gets, and why it was this target's."""
        self._winner = attempt
        self._reason = reason

    def attempt_failed(self, error: UpstreamError, target: Target, next_target: Target | None) -> None:
        """Note that a target failed, or might not be tried; without a next one the caller is told."""
        if next_target is None:
            self._unlogged = error, target
        else:
            self._log(error, target, f"went on to {next_target.id}")

    def failed(self, error: GatewayError) -> None:
        """Note the error that the caller gets."""
        last_target = self._attempts[-1].target if self._attempts else None
        then = f"the caller was told {error.status}"
        if self._unlogged is not None:
            self._log(*self._unlogged, then)
        if self._unlogged is None or error.kind is ErrorKind.INTERNAL:
            self._log(error, last_target, then)
        self._error = error.detached()

    def left(self) -> None:
        """Note that the caller went away; one who had the whole answer by then did not leave it."""
        self._left = self._winner is None or not self._winner.delivered

    def close(self) -> None:
        """Settle the holds and write the call's record; a fault in one attempt keeps nothing else from its end."""
        entries: list[LedgerEntry] = []
        fault: Exception | None = None
        for attempt in self._attempts:
            try:
                entries.append(attempt.finish("cancelled"))
            except Exception as error:  # noqa: BLE001 - raised below
                fault = error
        usage = entries[0].usage if len(entries) == 1 else _sum([entry.usage for entry in entries])
        for hold in self._holds:
            hold.settle(usage)
        if self._no_longer_wanted is not None:
            self._no_longer_wanted()
        if fault is not None:
            raise fault
        record = self._record(entries)
        self._instruments.ledger.record(record)
        self._instruments.observer.call_ended(record)

    def _log(self, error: GatewayError, target: Target | None, then: str) -> None:
        target_id = None if target is None else target.id
        self._instruments.failures.note(error, call_id=self._inbound.id, target_id=target_id, then=then)

    def _record(self, entries: list[LedgerEntry]) -> CallRecord:
        call, plan, winner, error = self._call, self._plan, self._winner, self._error
        received_ns = self._inbound.received_at_ns
        won = winner.finish("cancelled") if winner is not None else None
        first_ns = winner.measure.first_content_ns if winner is not None else None
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
            considered=_considered(plan) if plan is not None else (),
            dropped=plan.dropped if plan is not None else (),
            attempt_ids=tuple([e.attempt_id for e in entries]),
            cost_nano_usd=sum([e.cost_nano_usd for e in entries]),
            ttft_ms=(first_ns - received_ns) / _NS_PER_MS if first_ns is not None else None,
            tpot_ms=won.tpot_ms if won is not None else None,
            duration_ms=(self._instruments.clock.monotonic_ns() - received_ns) / _NS_PER_MS,
            bridged_for=_bridged_for(plan, winner),
            overhead_ms=(dispatched_ns - received_ns) / _NS_PER_MS if dispatched_ns is not None else None,
            cause=_cause(error, entries) if error is not None else None,
        )


def _cause(error: GatewayError, entries: list[LedgerEntry]) -> str | None:
    """Return the cause of what the caller was told, or that of the last attempt that has one."""
    return error.why or next((entry.cause for entry in reversed(entries) if entry.cause is not None), None)


def _bridged_for(plan: Plan | None, winner: Attempt | None) -> str | None:
    """Name the cold target in whose place another one answered."""
    if plan is None or plan.wanted is None or winner is None or winner.target.id == plan.wanted.id:
        return None
    return plan.wanted.id


def _considered(plan: Plan) -> tuple[Considered, ...]:
    first = plan.candidates[0] if plan.candidates else None
    return tuple(
        [
            Considered(
                target_id=each.target.id,
                prediction=each.prediction,
                within_ceilings=each.within_ceilings,
                probe=each.probe_due and each is first,
            )
            for each in plan.candidates + plan.beyond
        ]
    )


def _sum(usages: Sequence[Usage]) -> Usage:
    return Usage(**{name: sum(getattr(each, name) for each in usages) for name in Amounts.__struct_fields__})
