"""Turns the journals of a gateway that has died into rows, before a new gateway starts on the same directory.

Reads every segment from the oldest, applies what was settled and recorded, and then decides: an attempt without its
settlement was ``interrupted``, and a call without its record gets a minimal one. All of it may be repeated, and may be
killed at any point, because the gateway deletes nothing before everything is in SQL; ``journal`` says why that doubles
nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from gateway.accounting.apply import BATCH_LINES, apply_lines, believe
from gateway.accounting.base import Dispatch, Rows
from gateway.accounting.lines import (
    Dispatched,
    Line,
    Progress,
    Recorded,
    Settled,
    read_frames,
    segment_numbers,
    segment_path,
)
from gateway.accounting.rejected import Rejected
from gateway.types import CallRecord, LedgerEntry


@dataclass(slots=True)
class _Open:
    """What is known so far of attempts and calls that have not ended: as many as ran at one time."""

    attempts: dict[str, Dispatched] = field(default_factory=dict)
    calls: dict[str, Dispatch] = field(default_factory=dict)

    def read(self, line: Line) -> None:
        match line:
            case Dispatched():
                entry = line.dispatch.entry
                self.attempts[entry.attempt_id] = line
                self.calls.setdefault(entry.call_id, line.dispatch)
            case Progress():
                # Without its dispatch it belongs to an attempt that an earlier recovery has finished with.
                if (known := self.attempts.get(line.attempt_id)) is not None:
                    relayed_tokens = max(known.relayed_tokens, line.output_tokens)
                    self.attempts[line.attempt_id] = Dispatched(known.dispatch, relayed_tokens, line.seen_at_ns)
            case Settled():
                self.attempts.pop(line.entry.attempt_id, None)
            case Recorded():
                self.calls.pop(line.record.call_id, None)


def interrupted(dispatched: Dispatched) -> LedgerEntry:
    """Return the row of an attempt whose gateway died: what was relayed at least, and what that costs."""
    presumed, rates = dispatched.dispatch.entry, dispatched.dispatch.rates
    usage = replace(
        presumed.usage,
        output_tokens=max(presumed.usage.output_tokens, dispatched.relayed_tokens),
        origin="estimated",
    )
    duration_ms = max(presumed.duration_ms, (dispatched.seen_at_ns - presumed.started_at_ns) / 1e6)
    # How many calls ran beside it is not known any more: of own hardware the whole, for as long as it was seen.
    cost = rates.cost(usage, duration_ms / 1e3)
    return replace(
        presumed,
        usage=usage,
        duration_ms=duration_ms,
        cost_nano_usd=max(cost, presumed.cost_nano_usd),
        cost_origin="estimated",
        outcome="interrupted",
    )


def minimal_record(dispatch: Dispatch, entries: tuple[LedgerEntry, ...]) -> CallRecord:
    """Return the record of a call that died with its gateway; status 0: what the caller saw is unknown.

    An attempt that was settled as ok had its whole answer, and only its end was still to be sent: such a call was
    answered.
    """
    answered = any(entry.outcome == "ok" for entry in entries)
    first, last = entries[0], entries[-1]
    ended_at_ms = max(entry.started_at_ns / 1e6 + entry.duration_ms for entry in entries)
    return CallRecord(
        call_id=first.call_id,
        received_at_ns=first.started_at_ns,
        operation=dispatch.operation,
        key_id=first.key_id,
        route=first.route,
        policy_version=None,
        stream=dispatch.stream,
        input_tokens_estimate=dispatch.entry.usage.input_tokens,
        output_tokens=last.usage.written_tokens,
        outcome="ok" if answered else "interrupted",
        status=200 if answered else 0,
        error_kind=None,
        target_id=last.target_id,
        reason=None,
        considered=(),
        dropped=(),
        attempt_ids=tuple(entry.attempt_id for entry in entries),
        cost_nano_usd=sum(entry.cost_nano_usd for entry in entries),
        ttft_ms=None,
        tpot_ms=None,
        duration_ms=ended_at_ms - first.started_at_ns / 1e6,
        overhead_ms=None,
    )


def recover(journal_dir: Path, rows: Rows, rejected: Rejected) -> None:
    """Turn all segments into rows. Raises what the store raises in an outage, and OSError; repeat it then."""
    segments = [segment_path(journal_dir, number) for number in segment_numbers(journal_dir)]
    still_open = _Open()
    for path in segments:
        offset = 0
        while frames := read_frames(path, offset, BATCH_LINES):
            lines = believe(frames, rejected)
            for line in lines:
                still_open.read(line)
            apply_lines(rows, lines, rejected)
            offset = frames[-1].end
    apply_lines(rows, [Settled(interrupted(attempt)) for attempt in still_open.attempts.values()], rejected)
    for call_id, dispatch in still_open.calls.items():
        if entries := rows.attempts_of(call_id):
            apply_lines(rows, [Recorded(minimal_record(dispatch, entries))], rejected)
