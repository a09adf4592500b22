"""Moves journal lines that are damaged or refused by the database to ``rejected.jsonl``, so that they block no other.

It is for people to look at. Its size is bounded, the oldest lines go first, and a line that comes again (a recovery
reads a segment once more) is not written again. How old it may get is decided in ``retention``.
"""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

from gateway.accounting.lines import Line, frame_into


class Rejected:
    """The rejected lines of one journal. Not safe for threads: one applies lines."""

    def __init__(self, journal_dir: Path, max_bytes: Callable[[], int | None], alarm: Callable[[str], None]) -> None:
        self._path = journal_dir / "rejected.jsonl"
        self._max_bytes = max_bytes
        self._alarm = alarm
        self._known: set[int] | None = None
        """Checksums of the lines in the file, once it has been read."""

    def reject(self, raw: bytes, why: str) -> None:
        """Put aside a damaged line, with an alarm that does not quote it. Raises OSError."""
        raw = raw if raw.endswith(b"\n") else raw + b"\n"
        if self._known is None:
            self._known = set(map(zlib.crc32, self._lines()))
        if zlib.crc32(raw) in self._known:
            return
        bound = self._max_bytes()
        if bound is not None and self._size() + len(raw) > bound:
            self._forget_oldest(bound // 2 - len(raw))
        if bound is None or len(raw) <= bound:
            with self._path.open("ab") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
        self._known.add(zlib.crc32(raw))
        self._alarm(f"a line of the journal was put aside in {self._path}: {why}")

    def reject_line(self, line: Line, why: str) -> None:
        """Put aside a line that was read well but cannot be stored. Raises OSError."""
        self.reject(bytes(frame_into(line, bytearray())), why)

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _lines(self) -> list[bytes]:
        try:
            return self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def _forget_oldest(self, keep_bytes: int) -> None:
        """Keep the latest lines, as many as go into so many bytes."""
        kept: list[bytes] = []
        for line in reversed(self._lines()):
            keep_bytes -= len(line)
            if keep_bytes < 0:
                break
            kept.append(line)
        fresh = self._path.with_suffix(".tmp")
        fresh.write_bytes(b"".join(reversed(kept)))
        fresh.replace(self._path)
        self._known = set(map(zlib.crc32, kept))
