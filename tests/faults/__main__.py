"""Play the provider faults and print what the callers saw: ``python -m tests.faults``; ``make faults``."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults.judge import BEST_FIRST, Saw, is_worse
from tests.faults.play import Row, play, rows_of
from tests.faults.table import FAULTS


def main() -> int:
    """Return 0 when no row failed or was worse than expected, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", metavar="WORD", help="only the faults whose name holds this")
    word = parser.parse_args().only
    rows = rows_of([fault for fault in FAULTS if word in fault.name])
    if not rows:
        parser.error(f"no fault's name holds '{word}'")
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(rows, Path(folder)))
    print(report(rows))
    print(f"\n{len(rows)} rows in {time.monotonic() - began_s:.0f} s: {_counts(rows)}.")
    bad = [row for row in rows if is_bad(row)]
    for row in bad:
        print(f"WORSE THAN EXPECTED: {row.fault.name}, {row.mode}: {row.judged.why}", file=sys.stderr)
    return int(bool(bad))


def is_bad(row: Row) -> bool:
    """Tell whether a row failed, or is worse than its table says."""
    return row.judged.verdict == "fail" or is_worse(row.judged.verdict, row.fault.expects(row.mode))


def report(rows: Sequence[Row]) -> str:
    """Write a table in Markdown."""
    lines = [
        "| fault | asked | verdict | the caller saw | first content | the end | first target | second |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *map(_line, rows)])


def _line(row: Row) -> str:
    last = row.calls[-1] if row.fault.outage else max(row.calls, key=lambda saw: bool(saw.error))
    firsts = [saw.first_s for saw in row.calls if saw.first_s is not None]
    ends = [saw.ended_s for saw in row.calls if saw.ended_s is not None]
    cells = [
        row.fault.name,
        row.mode,
        row.judged.verdict,
        _told(row, last),
        f"{max(firsts):.1f} s" if firsts else "-",
        f"{max(ends):.1f} s" if ends else "never",
        str(len(row.first.seen)),
        "-" if row.fault.alone else str(len(row.second.seen)),
    ]
    return f"| {' | '.join(cells)} |"


def _told(row: Row, saw: Saw) -> str:
    """Say what the caller saw, and why it is no better."""
    parts = [str(saw.status)]
    if saw.text:
        parts.append(f"{len(saw.text.split())} of {len(row.fault.truth.text.split())} tokens")
    if saw.error is None:
        usage = "no usage" if saw.usage is None else f"{saw.usage[0]} + {saw.usage[1]} tokens"
        parts += [str(saw.finish_reason), str(saw.model), usage]
    else:
        parts.append(f"error `{saw.error.partition(':')[0]}`")
    if len(row.calls) > 1:
        parts.insert(0, f"{len(row.calls)} calls:")
    if row.back_s is not None:
        parts.append(f"back after {row.back_s:.1f} s")
    told = ", ".join(parts).replace(":,", ":")
    if row.judged.verdict == "pass":
        return told
    return f"{told} ({row.judged.why if is_bad(row) else row.fault.why})"


def _counts(rows: Sequence[Row]) -> str:
    counts = Counter(row.judged.verdict for row in rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in BEST_FIRST)


if __name__ == "__main__":
    sys.exit(main())
