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


class Leases[L](Protocol):
    """The pool, as far as measuring concerns it: who is busy, and what an attempt taught."""

    def begin(self, target: Target) -> L:
        """Count one more attempt at this target."""

    def end(self, lease: L, sample: Sample) -> float:
        """Count one fewer, learn from it, and return the replica-seconds that were its share."""

    def in_flight(self, target_id: str) -> int:
        """Attempts running now."""


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
    complete: bool
