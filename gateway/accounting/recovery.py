"""What a dead gateway left behind, turned into rows. Runs before a new one begins, under the state directory's lock.

Reads every segment from the oldest, applies what was settled and recorded, and then decides: an attempt without its
settlement was ``interrupted``, and a call without its record gets a minimal one. All of it may be repeated, and may be
killed at any point, because nothing is deleted before everything is in SQL; ``journal`` tells why that doubles nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from gateway.accounting.base import Dispatch, Rows
from gateway.accounting.journal import Journal
from gateway.accounting.lines import Dispatched, Frame, Line, Progress, Recorded, Settled, Summed, decode_ending
from gateway.accounting.pricing import cost_nano_usd, hardware_cost_nano_usd
from gateway.types import CallRecord, LedgerEntry

BATCH_LINES = 512
"""What one transaction takes: about 170 calls. Large, since a commit costs as much as several calls; and small enough
that the interpreter lock is held for a millisecond or two at a time beside a serving event loop."""


class Rejects(Protocol):
    """Where lines go that can be neither believed nor stored."""

    def reject(self, raw: bytes, why: str) -> None:
        """Put aside a damaged line."""

    def reject_line(self, line: Line, why: str) -> None:
        """Put aside a line that SQL refuses."""


def apply_lines(rows: Rows, lines: list[Line], rejects: Rejects) -> None:
    """Put those among the lines that become rows into SQL. Raises what the store raises in an outage."""
    endings = [line for line in lines if isinstance(line, Settled | Recorded | Summed)]
    if not endings:
        return
    try:
        _insert(rows, endings)
    except ValueError:
        # One bad row must not hold up the others for ever: find it, and put it aside.
        for line in endings:
            try:
                _insert(rows, [line])
            except ValueError as error:
                rejects.reject_line(line, str(error))


def _insert(rows: Rows, lines: Sequence[Settled | Recorded | Summed]) -> None:
    rows.insert_batch(
        [line.entry for line in lines if isinstance(line, Settled)],
        [line.record for line in lines if isinstance(line, Recorded)],
        [line.refused for line in lines if isinstance(line, Summed)],
    )


def believe(frames: list[Frame], rejects: Rejects, *, for_sql: bool = False) -> list[Line]:
    """Return the lines of sound frames, and put damaged ones aside; a torn one never happened.

    ``for_sql``: only what becomes a row, and not to be looked into. The others are then not even decoded.
    """
    lines: list[Line] = []
    for frame in frames:
        if for_sql and frame.opens:
            continue
        if (line := frame.read(decode_ending) if for_sql else frame.line) is not None:
            lines.append(line)
        elif not frame.torn:
            rejects.reject(frame.raw, "its checksum or its form is wrong")
    return lines


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
    if rates.hardware_nano_usd_per_hour is None:
        cost = cost_nano_usd(usage, rates)
    else:
        # How many calls ran beside it is not known any more: the whole replica, for as long as it was seen.
        cost = hardware_cost_nano_usd(rates, duration_ms / 1e3)
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


def recover(journal: Journal, rows: Rows, rejects: Rejects) -> None:
    """Turn all segments into rows, then delete them. Raises what the store raises in an outage; repeat it then."""
    segments = journal.segments()
    still_open = _Open()
    for number in segments:
        offset, (stop, _) = 0, journal.extent(number)
        while frames := journal.frames(number, offset, stop, BATCH_LINES):
            lines = believe(frames, rejects)
            for line in lines:
                still_open.read(line)
            apply_lines(rows, lines, rejects)
            offset = frames[-1].end
    apply_lines(rows, [Settled(interrupted(attempt)) for attempt in still_open.attempts.values()], rejects)
    for call_id, dispatch in still_open.calls.items():
        if entries := rows.attempts_of(call_id):
            apply_lines(rows, [Recorded(minimal_record(dispatch, entries))], rejects)
    for number in segments:
        journal.delete(number)
