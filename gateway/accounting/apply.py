"""Reads the lines of one journal, in order and a batch at a time, and writes them to the database as rows.

One path: rows reach SQL only by being read back from the journal's files (they are in the page cache), whether that is
a millisecond behind or a day. So an outage of the database, or of the process that runs this, costs no memory, only
disk, and is recovered from by the same code that runs all the time. When a segment may be deleted, the ledger decides.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.accounting.base import Rows
from gateway.accounting.lines import (
    Line,
    Recorded,
    Settled,
    StoredLine,
    Summed,
    decode_ending,
    read_frames,
    segment_numbers,
    segment_path,
)
from gateway.accounting.rejected import Rejected

BATCH_LINES = 2048
"""What one transaction takes: about 700 calls, since a commit costs as much as several calls."""


class JournalReader:
    """A place in a journal, and what takes its lines from there. Not safe for threads."""

    def __init__(self, journal_dir: Path, rows: Rows, rejected: Rejected, alarm: Callable[[str], None]) -> None:
        self._dir = journal_dir
        self._rows = rows
        self._rejected = rejected
        self._alarm = alarm
        self.segment = self.offset = 0
        """All lines before are in a durable commit; segment 0: begin with the oldest there is."""

    @property
    def position(self) -> tuple[int, int]:
        """Segment number and byte offset in it: positions are ordered like the lines."""
        return self.segment, self.offset

    def begin_anew(self) -> None:
        """Go back to the oldest segment there is."""
        self.segment = self.offset = 0

    def begin_behind(self, recovered: list[int]) -> None:
        """Begin with the segment that will follow these, which are about to be deleted."""
        self.segment = recovered[-1] + 1 if recovered else 0

    def apply_batch(self) -> bool:
        """Apply the next lines; True when more were there. Raises OSError and what the store raises in an outage.

        What is written meanwhile waits for the next time: a commit for each call or two would cost more than the calls.
        """
        numbers = segment_numbers(self._dir)
        later = [number for number in numbers if number > self.segment]
        if self.segment not in numbers:
            if later:
                if self.segment:
                    sentence = (
                        f"segment {self.segment} of the journal was removed: what the database has not of it is lost"
                    )
                    self._alarm(sentence)
                self.segment, self.offset = later[0], 0
            return bool(later)
        frames = read_frames(segment_path(self._dir, self.segment), self.offset, BATCH_LINES)
        if frames and not later and not frames[-1].whole:
            frames.pop()  # it may still be being written
        if frames:
            apply_lines(self._rows, believe(frames, self._rejected, for_sql=True), self._rejected)
            self.offset = frames[-1].end
        elif later:
            self.segment, self.offset = later[0], 0
        return bool(later) or len(frames) == BATCH_LINES


def apply_lines(rows: Rows, lines: list[Line], rejected: Rejected) -> None:
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
                rejected.reject_line(line, str(error))


def _insert(rows: Rows, lines: Sequence[Settled | Recorded | Summed]) -> None:
    rows.insert_batch(
        [line.entry for line in lines if isinstance(line, Settled)],
        [line.record for line in lines if isinstance(line, Recorded)],
        [line.refused for line in lines if isinstance(line, Summed)],
    )


def believe(frames: list[StoredLine], rejected: Rejected, *, for_sql: bool = False) -> list[Line]:
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
            rejected.reject(frame.raw, "its checksum or its form is wrong")
    return lines
