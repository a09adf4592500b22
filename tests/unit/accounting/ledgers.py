"""Values and a ledger on a real directory for the tests of accounting and store."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from gateway.accounting.base import Dispatch
from gateway.accounting.ledger import JournalLedger
from gateway.clock import Clock, SystemClock
from gateway.store.database_file import sqlite_url
from gateway.store.queries import Store
from gateway.tariff import Rates, Usage
from gateway.types import CallRecord, LedgerEntry
from tests.ground.totals import Totals, totals_of
from tests.ground.waiting import until

RATES = Rates(input_nano_usd_per_mtok=1_000_000_000, output_nano_usd_per_mtok=2_000_000_000, version="test")
STARTED_AT_NS = 1_795_000_000_000_000_000


def build_entry(attempt_id: str = "att_1", call_id: str = "req_1", **overrides: Any) -> LedgerEntry:
    """Make the row of a good attempt."""
    fields: dict[str, Any] = {
        "key_id": "demo",
        "team_id": None,
        "route": "auto",
        "target_id": "small",
        "upstream_model": "small-1",
        "started_at_ns": STARTED_AT_NS,
        "duration_ms": 12.5,
        "ttft_ms": 3.5,
        "tpot_ms": None,
        "usage": Usage(input_tokens=10, output_tokens=5),
        "cost_nano_usd": 20_000,
        "cost_origin": "provider",
        "price_version": "test",
        "outcome": "ok",
        "status": 200,
        "error_kind": None,
    }
    return LedgerEntry(attempt_id=attempt_id, call_id=call_id, **{**fields, **overrides})


def build_dispatch(attempt_id: str = "att_1", call_id: str = "req_1", rates: Rates = RATES) -> Dispatch:
    """Make what is said before an attempt is sent: ten tokens in, presumed interrupted."""
    presumed = build_entry(
        attempt_id,
        call_id,
        outcome="interrupted",
        usage=Usage(input_tokens=10, origin="estimated"),
        cost_nano_usd=10_000,
        cost_origin="estimated",
        duration_ms=0.0,
        ttft_ms=None,
        status=None,
    )
    return Dispatch(entry=presumed, rates=rates, operation="completions", stream=True)


def build_record(call_id: str = "req_1", *attempt_ids: str, **overrides: Any) -> CallRecord:
    """Make the record of a good call."""
    fields: dict[str, Any] = {
        "received_at_ns": STARTED_AT_NS,
        "operation": "chat",
        "key_id": "demo",
        "route": "auto",
        "policy_version": "1",
        "stream": True,
        "input_tokens_estimate": 10,
        "output_tokens": 5,
        "outcome": "ok",
        "status": 200,
        "error_kind": None,
        "target_id": "small",
        "reason": "cheapest",
        "considered": (),
        "dropped": (),
        "cost_nano_usd": 20_000,
        "ttft_ms": 3.5,
        "tpot_ms": None,
        "duration_ms": 13.0,
        "overhead_ms": 0.5,
    }
    return CallRecord(call_id=call_id, attempt_ids=attempt_ids, **{**fields, **overrides})


def open_store(state_dir: Path) -> Store:
    """Return the database of a state directory; waits for no other writer."""
    return Store(sqlite_url(state_dir / "ledger.sqlite3"), busy_timeout_s=0.01)


def stored_totals(state_dir: Path) -> list[Totals]:
    """Return the sums over all rows in the database of a state directory."""
    with closing(open_store(state_dir)) as store:
        return totals_of(store)


@asynccontextmanager
async def running_ledger(state_dir: Path, clock: Clock | None = None, **options: Any) -> AsyncIterator[JournalLedger]:
    """Run a ledger, and stop it as a gateway that shuts down does."""
    options = {"apply_interval_s": 0.001, "flush_timeout_s": 60.0, **options}
    ledger = JournalLedger(state_dir, sqlite_url(state_dir / "ledger.sqlite3"), clock or SystemClock(), **options)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.stop()


def applier_pid(ledger: JournalLedger) -> int:
    """Return the number of the process that writes this ledger's database."""
    process = ledger._applier._process
    assert process is not None
    return process.pid


async def stop_applier(ledger: JournalLedger) -> None:
    """Send it SIGSTOP, and wait until all of its threads stand."""
    pid = applier_pid(ledger)
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def make_call(ledger: JournalLedger, number: int) -> None:
    """Account for one whole good call."""
    attempt_id, call_id = f"att_{number}", f"req_{number}"
    ledger.dispatch(build_dispatch(attempt_id, call_id))
    ledger.settle(build_entry(attempt_id, call_id))
    ledger.record(build_record(call_id, attempt_id))


def segments(state_dir: Path) -> list[Path]:
    """Return the journal's files, oldest first."""
    return sorted(state_dir.glob("journal-*.jsonl"))
