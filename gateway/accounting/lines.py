"""What stands in the journal: a line for each thing that happens to an attempt or a call, and how it is written.

A line is JSON and, behind it, its CRC-32, so that what a power cut or a bad disk has changed is not believed.
"""

import zlib
from collections.abc import Callable

import msgspec
from msgspec import Struct

from gateway.accounting.base import Dispatch
from gateway.types import CallRecord, LedgerEntry, Refused


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

    refused: Refused


Line = Dispatched | Progress | Settled | Recorded | Summed


class _UnreadRecord(CallRecord, frozen=True, kw_only=True):
    """A record on its way to SQL, where these three are JSON again: they are not decoded and encoded in between."""

    considered: msgspec.Raw  # type: ignore[assignment]
    dropped: msgspec.Raw  # type: ignore[assignment]
    attempt_ids: msgspec.Raw  # type: ignore[assignment]


class _RecordedUnread(Recorded, frozen=True, tag="recorded"):
    record: _UnreadRecord


_encode_into = msgspec.json.Encoder().encode_into
_decode: Callable[[bytes], Line] = msgspec.json.Decoder(Line).decode
decode_ending: Callable[[bytes], Line] = msgspec.json.Decoder(Settled | _RecordedUnread | Summed).decode
"""Decodes what becomes a row, for SQL alone: a record's JSON columns stay as they are."""
_OPENINGS = (b'{"type":"dispatched",', b'{"type":"progress",')
"""How a line begins that ends nothing; msgspec puts the tag first."""
_CHECKSUM = b" %08x\n"
_CHECKSUM_BYTES = 10


class Frame(Struct, frozen=True):
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
        return self.raw.startswith(_OPENINGS) and self._sound()

    def read(self, decode: Callable[[bytes], Line]) -> Line | None:
        """Return what a decoder makes of it; None where it is torn or damaged, or not what the decoder knows."""
        try:
            return decode(self.raw[:-_CHECKSUM_BYTES]) if self._sound() else None
        except msgspec.DecodeError:
            return None

    def _sound(self) -> bool:
        return self.raw.endswith(_CHECKSUM % zlib.crc32(self.raw[:-_CHECKSUM_BYTES]))

    @property
    def torn(self) -> bool:
        """Never finished: the last thing in its segment, without a newline; or the newline that closed such a thing."""
        return not self.raw.endswith(b"\n") or self.raw == b"\n"


def frame_into(line: Line, buffer: bytearray) -> bytearray:
    """Return the line as it is written, in that buffer, whose content it replaces."""
    _encode_into(line, buffer)
    buffer += _CHECKSUM % zlib.crc32(buffer)
    return buffer
