"""Counters and histograms as plain numbers in one block of memory, which other processes can read.

A request adds to some twenty of them. Each is a cell of an array of doubles, found once per label set and kept, so that
counting is one addition; whole numbers stay exact up to 2**53. What the cells mean is decided in ``metrics``.

With a path the array is a file mapped into memory, and beside it, one JSON line each, stand the names of the cells.
So every process of a gateway can compute the sum over all without a message, and what a process counted outlives it:
the next process that opens the same path goes on counting from there.

A full disk never disturbs a request: the array has its room from the start (to write to a mapped page that gets none
kills the process), and a name that cannot be written is written with the next one.
"""

import contextlib
import mmap
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

CELLS = 1 << 18
"""Room for ten times the series that ``metrics`` can make: 2 MB."""
_BYTES = CELLS * 8

Labels = tuple[str, ...]
Name = tuple[str, Labels]
"""A metric and the values of its labels, in the order of its declaration."""


class Figures:
    """The cells of one process."""

    def __init__(self, path: Path | None = None) -> None:
        self._cells: dict[Name, range] = {}
        self._used = 0
        self._names: Path | None = None
        self._unwritten = b""
        if path is None:
            self.values: memoryview[float] = memoryview(bytearray(_BYTES)).cast("d")
            return
        for name, cells in _read_names(path).items():
            self._cells[name] = cells
            self._used = max(self._used, cells.stop)
        self._names = _names_path(path)
        self._append(b"")  # closes the line that a death may have left unfinished
        with path.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, _BYTES)
        with path.open("r+b") as file:
            self.values = memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("d")

    def counter(self, metric: str, labels: Labels) -> int:
        """Return the cell of a counter; add to ``values`` at it."""
        return self._find((metric, labels), 1).start

    def histogram(self, metric: str, labels: Labels, bounds: Sequence[float]) -> "Histogram":
        """Return a histogram with these upper bounds; a value equal to a bound lies within it."""
        return Histogram(self.values, self._find((metric, labels), len(bounds) + 2).start, bounds)

    def read(self) -> dict[Name, list[float]]:
        """Return all there is: of a counter its value, of a histogram the count of each bucket, +Inf's, and the sum.

        Any thread may call it while another counts.
        """
        known = list(self._cells.items())  # at once: another thread may find a new one
        return {name: list(self.values[cells.start : cells.stop]) for name, cells in known}

    def _find(self, name: Name, count: int) -> range:
        cells = self._cells.get(name)
        if cells is None:
            cells = range(self._used, self._used + count)
            if cells.stop > CELLS:
                raise MemoryError("more series than there is room for")
            self._used = cells.stop
            self._cells[name] = cells
            for cell in cells:  # a predecessor may have counted there without having written the name
                self.values[cell] = 0.0
            self._append(msgspec.json.encode((*name, cells.start, count)))
        return cells

    def _append(self, line: bytes) -> None:
        if self._names is not None:
            self._unwritten += b"\n%b\n" % line  # the first ends what was written in part
            with contextlib.suppress(OSError), self._names.open("ab") as file:
                file.write(self._unwritten)
                file.flush()
                self._unwritten = b""


class Histogram:
    """Counts by upper bound, and a sum."""

    __slots__ = ("_bounds", "_start", "_sum", "_values")

    def __init__(self, values: "memoryview[float]", start: int, bounds: Sequence[float]) -> None:
        self._values = values
        self._bounds = bounds
        self._start = start
        self._sum = start + len(bounds) + 1

    def observe(self, value: float) -> None:
        """Count one value."""
        values = self._values
        values[self._start + bisect_left(self._bounds, value)] += 1.0
        values[self._sum] += value

    def observe_all(self, numbers: list[float]) -> None:
        """Count many values; the cost grows with the number of bounds."""
        values, start, below = self._values, self._start, 0
        ordered = sorted(numbers)
        for position, bound in enumerate(self._bounds):
            within = bisect_right(ordered, bound)
            values[start + position] += within - below
            below = within
        values[self._sum - 1] += len(ordered) - below
        values[self._sum] += sum(ordered)


def read_all(paths: Iterable[Path]) -> dict[Name, list[float]]:
    """Add up what the processes with these paths have counted; the paths of the dead count too."""
    totals: dict[Name, list[float]] = {}
    for path in paths:
        names = _read_names(path)
        if not names:
            continue  # it may not have its size yet
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), _BYTES, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as whole,
            whole.cast("d") as values,
        ):
            for name, cells in names.items():
                mine = list(values[cells.start : cells.stop])
                known = totals.get(name)
                totals[name] = mine if known is None else [a + b for a, b in zip(known, mine, strict=True)]
    return totals


def _names_path(path: Path) -> Path:
    return path.with_suffix(".names")


def _read_names(path: Path) -> dict[Name, range]:
    names: dict[Name, range] = {}
    if not _names_path(path).exists():
        return names
    for line in _names_path(path).read_bytes().split(b"\n"):
        try:
            metric, labels, start, count = msgspec.json.decode(line, type=tuple[str, Labels, int, int])
        except msgspec.DecodeError:
            continue  # an empty line, or one that a death cut short: its cell was never added to
        names[metric, labels] = range(start, start + count)
    return names
