"""The interface of accounting: a request notes an attempt before it is sent, and what it cost when it has ended.

``Ledger`` is what requests use, ``Rows`` what the database offers. How nothing is lost or counted twice is described
in ``journal``, how it reaches SQL in ``ledger``. What a call cost is decided in ``tariff``.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from gateway.errors import GatewayError
from gateway.tariff import Rates
from gateway.trace import Trace
from gateway.types import CallRecord, LedgerEntry, Operation, RefusedCalls


class Dispatch(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt that is about to be sent upstream."""

    entry: LedgerEntry
    """The row that recovery writes should the gateway die now, but for its cost: outcome ``interrupted``, the estimated
    input tokens and no output, origin ``estimated``."""
    rates: Rates
    """Price that row, with the output that recovery adds."""
    operation: Operation = "chat"
    """With ``stream``, for the call record that recovery writes when the call's own was never written."""
    stream: bool = False


class Ledger(Protocol):
    """Account for attempts and calls. Construct without side effects, ``start``, use, ``stop``.

    The four synchronous verbs cost a few microseconds and are called from the event loop's thread, for one attempt in
    this order: ``dispatch``, any number of ``progress``, ``settle``; and ``record`` once when the call is over.
    """

    def dispatch(self, d: Dispatch) -> None:
        """Note an attempt before a byte of it goes upstream.

        Raises GatewayError STORAGE_UNAVAILABLE when that cannot be written: the attempt must then not be sent.
        """

    def progress(self, attempt_id: str, output_tokens: int) -> None:
        """Raise the bound of the output tokens relayed; called before they are relayed. Never raises.

        ``output_tokens`` is at least what will have been relayed by the next call. Raise it geometrically: each
        call is a line in the journal.
        """

    def settle(self, entry: LedgerEntry) -> None:
        """End an attempt with the row as billed. Never raises: what cannot be written is kept and tried again."""

    def record(self, record: CallRecord) -> None:
        """End a call. Never raises, like ``settle``."""

    async def flush(self) -> None:
        """Wait until everything written so far is in SQL. Raises GatewayError STORAGE_UNAVAILABLE after a time-out."""

    async def find(self, call_id: str) -> tuple[CallRecord, tuple[LedgerEntry, ...]] | None:
        """Return a finished call and its attempts by time; None when there is none.

        Raises GatewayError STORAGE_UNAVAILABLE.
        """

    async def find_trace(self, trace_id: str, key_id: str) -> Trace | None:
        """Return the calls of a trace by this key that have reached SQL (see ``flush``); None when there is none.

        Raises GatewayError STORAGE_UNAVAILABLE.
        """

    def healthy(self) -> str | None:
        """Return None, or one sentence about why accounting does not work at present (for readiness)."""

    async def start(self) -> None:
        """Take the state directory, recover what a dead gateway left behind, and begin.

        Raises StateUnusableError, with one sentence for the operator; and OSError.
        """

    async def stop(self) -> None:
        """Carry what is left into SQL (as far as that is possible) and let go of the state directory."""


class Observer(Protocol):
    """Sees what was measured; never raises, never waits."""

    def attempt_ended(self, entry: LedgerEntry, gaps_s: list[float]) -> None:
        """One attempt, and the gaps between its content-bearing chunks (ITL)."""

    def call_ended(self, record: CallRecord) -> None:
        """One call."""


class Failures(Protocol):
    """Says what failed, to the operator."""

    def note(self, error: GatewayError, *, call_id: str | None, target_id: str | None, then: str) -> None:
        """Take note of one failure; ``then``: what was done next, in a few words. Never raises."""


class Rows(Protocol):
    """Where lines of the journal become rows: SQL, behind blocking verbs."""

    def insert_batch(
        self, entries: Sequence[LedgerEntry], records: Sequence[CallRecord], refused: Sequence[RefusedCalls] = ()
    ) -> None:
        """Insert all in one durable transaction; a row whose id is there already is left as it is.

        Raises ValueError when a row itself cannot be stored; any other exception is taken as an outage and retried,
        and what it says is logged when it is a StateUnusableError.
        """

    def attempts_of(self, call_id: str) -> tuple[LedgerEntry, ...]:
        """Return the attempts of a call by time, whether or not the call has a record."""
