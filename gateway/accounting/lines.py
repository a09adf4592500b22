"""The lines of the journal: one type for each thing that happens to an attempt or a call, written and read here.

A line is JSON and, behind it, its CRC-32, so that what a power cut or a bad disk has changed is not believed.
"""

import re
import zlib
from collections.abc import Callable
from itertools import accumulate, islice
from pathlib import Path

import msgspec
from msgspec import Struct

from gateway.accounting.base import Dispatch
from gateway.types import CallRecord, LedgerEntry, RefusedCalls


class Dispatched(Struct, frozen=True, tag="dispatched", omit_defaults=True):
    """An attempt is about to be sent; or, written anew out of an old segment, has relayed that much since."""

    dispatch: Dispatch
    relayed_tokens: int = 0
    seen_at_ns: int = 0
    """Wall clock of the last progress."""


class Progress(Struct, frozen=True, tag="progress"):
    """No more than ``output_tokens`` will have been relayed before the next such line."""

    attempt_id: str
    output_tokens: int
    seen_at_ns: int


class Settled(Struct, frozen=True, tag="settled"):
    """An attempt ended; the row as billed."""

    entry: LedgerEntry


class Recorded(Struct, frozen=True, tag="recorded"):
    """A call ended."""

    record: CallRecord


class Summed(Struct, frozen=True, tag="summed"):
    """A minute has ended in which calls were refused that have no record each."""

    refused: RefusedCalls


Line = Dispatched | Progress | Settled | Recorded | Summed


class _UnreadRecord(CallRecord, frozen=True, kw_only=True):
    """A record on its way to SQL, where these are JSON again: they are not decoded and encoded in between."""

    considered: msgspec.Raw  # type: ignore[assignment]
    dropped: msgspec.Raw  # type: ignore[assignment]
    attempt_ids: msgspec.Raw  # type: ignore[assignment]
    left_out: msgspec.Raw = msgspec.Raw(b"[]")  # type: ignore[assignment]


class _RecordedUnread(Recorded, frozen=True, tag="recorded"):
    record: _UnreadRecord


_encode_into = msgspec.json.Encoder().encode_into
_decode: Callable[[bytes], Line] = msgspec.json.Decoder(Line).decode
decode_ending: Callable[[bytes], Line] = msgspec.json.Decoder(Settled | _RecordedUnread | Summed).decode
"""Decodes what becomes a row, for SQL alone: a record's JSON columns stay as they are."""
_OPENINGS = (b'{"type":"dispatched",', b'{"type":"progress",')
"""How a line begins that ends nothing; msgspec puts the tag first."""
_SEGMENT_NAME = re.compile(r"journal-(\d{6,})\.jsonl")
_CHECKSUM = b" %08x\n"
_CHECKSUM_BYTES = 10


class StoredLine(Struct, frozen=True, gc=False):
    """One line as read, not yet decoded."""

    raw: bytes
    end: int
    """The offset behind it."""

    @property
    def line(self) -> Line | None:
        """What it says; None where it is torn or damaged."""
        return self.read(_decode)

    @property
    def opens(self) -> bool:
        """Whether it is a sound dispatch or progress: of no account until a death."""
        return self.raw.startswith(_OPENINGS) and self._text() is not None

    def read(self, decode: Callable[[bytes], Line]) -> Line | None:
        """Return what a decoder makes of it; None where it is torn or damaged, or not what the decoder knows."""
        text = self._text()
        try:
            return None if text is None else decode(text)
        except msgspec.DecodeError:
            return None

    def _text(self) -> bytes | None:
        """Return the JSON; None where its checksum is another."""
        text = self.raw[:-_CHECKSUM_BYTES]
        return text if self.raw.endswith(_CHECKSUM % zlib.crc32(text)) else None

    @property
    def whole(self) -> bool:
        """Whether its end is there."""
        return self.raw.endswith(b"\n")

    @property
    def torn(self) -> bool:
        """Never finished: the last thing in its segment, without a newline; or the newline that closed such a thing."""
        return not self.whole or self.raw == b"\n"


def frame_into(line: Line, buffer: bytearray) -> bytearray:
    """Return the line as it is written, in that buffer, whose content it replaces."""
    _encode_into(line, buffer)
    buffer += _CHECKSUM % zlib.crc32(buffer)
    return buffer


def segment_path(journal_dir: Path, number: int) -> Path:
    """Return where a segment of a journal is."""
    return journal_dir / f"journal-{number:06d}.jsonl"


def segment_numbers(journal_dir: Path) -> list[int]:
    """Return the numbers of all segments there are, oldest first. Raises OSError."""
    return sorted(int(match[1]) for path in journal_dir.iterdir() if (match := _SEGMENT_NAME.fullmatch(path.name)))


def read_frames(path: Path, start: int, limit: int) -> list[StoredLine]:
    """Read up to ``limit`` lines of a segment from an offset on; none: there are no more. Raises OSError.

    The last may be without its end: torn, or still being written. Then nothing behind it is read: a writer may have
    finished that line since, and its second half alone would look like a damaged one.
    """
    with path.open("rb", buffering=1 << 17) as file:
        file.seek(start)
        lines = list(islice(file, limit))
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            del lines[number:]
    ends = accumulate(map(len, lines), initial=start)
    return list(map(StoredLine, lines, islice(ends, 1, None)))
