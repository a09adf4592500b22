"""A ledger without disk and threads, for virtual time: it remembers what the journal and SQL would hold."""

from gateway.accounting.base import Dispatch
from gateway.trace import Trace
from gateway.types import CallRecord, LedgerEntry


class MemoryLedger:
    """Implements ``gateway.accounting.base.Ledger``; fails where its caller breaks the contract."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        """In the order of settlement."""
        self.records: list[CallRecord] = []
        self.open: dict[str, Dispatch] = {}
        """Dispatched and not yet settled, by attempt id."""

    def dispatch(self, d: Dispatch) -> None:
        """Note an attempt."""
        if d.entry.attempt_id in self.open:
            raise ValueError(f"{d.entry.attempt_id} was dispatched twice")
        self.open[d.entry.attempt_id] = d

    def progress(self, attempt_id: str, output_tokens: int) -> None:
        """Check only that the attempt is under way."""
        if attempt_id not in self.open or output_tokens <= 0:
            raise ValueError(f"{attempt_id} is not open, or has made no progress: {output_tokens}")

    def settle(self, entry: LedgerEntry) -> None:
        """End an attempt. Raises KeyError when it was never dispatched, or has ended."""
        del self.open[entry.attempt_id]
        self.entries.append(entry)

    def record(self, record: CallRecord) -> None:
        """End a call."""
        self.records.append(record)

    async def flush(self) -> None:
        """Do nothing: there is nothing behind it."""

    async def find(self, call_id: str) -> tuple[CallRecord, tuple[LedgerEntry, ...]] | None:
        """Return a call and its attempts by time."""
        for record in self.records:
            if record.call_id == call_id:
                attempts = [entry for entry in self.entries if entry.call_id == call_id]
                return record, tuple(sorted(attempts, key=lambda entry: entry.started_at_ns))
        return None

    async def find_trace(self, trace_id: str, key_id: str) -> Trace | None:
        """Fail: nothing is kept by trace."""
        raise NotImplementedError(trace_id, key_id)

    def healthy(self) -> str | None:
        """Return None."""
        return None

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""
