"""Keeps the record of one call: what was asked for, planned and tried, what it cost in all, and how it ended.

What an attempt took is measured in ``measure``. Nothing here awaits, so cancellation cannot come between what a call
used and its line in the ledger.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from gateway.accounting.base import Failures, Ledger, Observer
from gateway.accounting.measure import OUTCOMES, Measure
from gateway.clock import Clock
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.tariff import Amounts, Hold, Spent
from gateway.types import (
    Call,
    CallRecord,
    Considered,
    Inbound,
    LedgerEntry,
    Outcome,
    Plan,
    Principal,
    Target,
)

_NS_PER_MS = 1e6


class MeteredAttempt(Protocol):
    """One try at a target; see ``execution.attempt``."""

    target: Target
    measure: Measure
    answered: bool
    """What it answers has been handed on, or some of it."""

    def end(self, outcome: Outcome) -> LedgerEntry:
        """Settle it, unless it is, and return its entry."""


class Books(Struct, frozen=True):
    """Where calls are accounted for; made once."""

    clock: Clock
    ledger: Ledger
    observer: Observer
    failures: Failures


class Meter:
    """One call, from its arrival to its record. What is public is assigned as soon as it is known."""

    principal: Principal | None = None
    call: Call | None = None
    plan: Plan | None = None
    no_longer_wanted: Callable[[], None] | None = None
    """Called at the call's end: a cold target that would have been first need not start for it any more."""
    target_id: str | None = None
    """Whose answer the caller gets."""
    reason: str | None = None
    left_out: Sequence[str] = ()
    """See ``CallRecord``."""
    is_delivered = False
    """The caller was sent all of the answer, its end included."""

    def __init__(self, inbound: Inbound, books: Books) -> None:
        self._books = books
        clock = books.clock
        self._inbound = inbound
        self._received_wall_ns = clock.wall_ns() - (clock.monotonic_ns() - inbound.received_at_ns)
        self.hold: Hold | None = None  # what is taken until the call ends
        self._attempts: list[MeteredAttempt] = []
        self._error: GatewayError | None = None
        self._unlogged: tuple[UpstreamError, Target] | None = None
        """The last failure of a target, behind which no other was tried: its log line says what the caller got."""
        self._left = False
        self._first_dispatch_ns: int | None = None

    @property
    def is_waiting(self) -> bool:
        """Nothing of an answer or an error has been given to the caller yet."""
        return self.target_id is None and self._error is None

    def began(self, attempt: MeteredAttempt) -> None:
        """Keep an attempt, which has just been dispatched."""
        if not self._attempts:
            self._first_dispatch_ns = self._books.clock.monotonic_ns()
        self._attempts.append(attempt)

    def settle(self) -> int:
        """End what is left of the attempts, and return what the call cost with all of them: nano-dollars."""
        return sum([attempt.end("cancelled").cost_nano_usd for attempt in self._attempts])

    def attempt_failed(self, error: UpstreamError, target: Target, next_target: Target | None) -> None:
        """Note that a target failed, or might not be tried; without a next one it is the call's error."""
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
        self._left = not self.is_delivered

    def close(self) -> None:
        """Settle the hold and write the call's record; a fault in one attempt keeps nothing else from its end."""
        entries: list[LedgerEntry] = []
        fault: Exception | None = None
        for attempt in self._attempts:
            try:
                entries.append(attempt.end("cancelled"))
            except Exception as error:  # noqa: BLE001 - raised below
                fault = error
        usage = entries[0].usage if len(entries) == 1 else _sum(entries)
        spent = Spent(usage, sum([entry.cost_nano_usd for entry in entries]))
        if self.hold is not None:
            self.hold.settle(spent)
        if self.no_longer_wanted is not None:
            self.no_longer_wanted()
        if fault is not None:
            raise fault
        record = self._record(entries, spent.cost_nano_usd)
        self._books.ledger.record(record)
        self._books.observer.call_ended(record)

    def _log(self, error: GatewayError, target: Target | None, then: str) -> None:
        target_id = None if target is None else target.id
        self._books.failures.note(error, call_id=self._inbound.id, target_id=target_id, then=then)

    def _record(self, entries: list[LedgerEntry], cost_nano_usd: int) -> CallRecord:
        call, plan, error = self.call, self.plan, self._error
        received_ns = self._inbound.received_at_ns
        given = [each for each in self._attempts if each.answered and each.target.id == self.target_id]
        winner = given[-1] if given else None
        won = winner.end("cancelled") if winner is not None else None
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
            operation=self._inbound.endpoint.operation,
            key_id=self.principal.key_id if self.principal is not None else None,
            route=call.route.name if call is not None else None,
            policy_version=call.route.version if call is not None else None,
            stream=call.envelope.stream if call is not None else False,
            input_tokens_estimate=call.input_tokens_estimate if call is not None else 0,
            output_tokens=won.usage.output_tokens if won is not None else 0,
            outcome=outcome,
            status=499 if self._left else error.status if error is not None else 200,
            error_kind=error.kind.value if error is not None else None,
            target_id=self.target_id,
            reason=self.reason,
            considered=considered(plan) if plan is not None else (),
            dropped=plan.dropped if plan is not None else (),
            attempt_ids=tuple([e.attempt_id for e in entries]),
            cost_nano_usd=cost_nano_usd,
            ttft_ms=(first_ns - received_ns) / _NS_PER_MS if first_ns is not None else None,
            tpot_ms=won.tpot_ms if won is not None else None,
            duration_ms=(self._books.clock.monotonic_ns() - received_ns) / _NS_PER_MS,
            bridged_for=_bridged_for(plan.wanted, self.target_id) if plan is not None else None,
            overhead_ms=(dispatched_ns - received_ns) / _NS_PER_MS if dispatched_ns is not None else None,
            cause=_cause(error, entries) if error is not None else None,
            left_out=tuple(self.left_out) if self.left_out else (),
            session=call.session if call is not None else None,
        )


def _sum(entries: list[LedgerEntry]) -> Amounts:
    return Amounts(**{name: sum(getattr(each.usage, name) for each in entries) for name in Amounts.__struct_fields__})


def _cause(error: GatewayError, entries: list[LedgerEntry]) -> str | None:
    """Return the cause of the call's error, or that of the last attempt that has one."""
    return error.why or next((entry.cause for entry in reversed(entries) if entry.cause is not None), None)


def _bridged_for(wanted: Target | None, target_id: str | None) -> str | None:
    """Name the cold target instead of which another one answered."""
    return None if wanted is None or target_id is None or target_id == wanted.id else wanted.id


def considered(plan: Plan) -> tuple[Considered, ...]:
    """Return a plan's candidates as they are remembered."""
    first = plan.candidates[0] if plan.candidates else None
    return tuple(
        [
            Considered(each.target.id, each.prediction, each.within_ceilings, each.probe_due and each is first)
            for each in plan.candidates + plan.beyond
        ]
    )
