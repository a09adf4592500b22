"""Play recorded exchanges through the gateway and print every difference: ``python -m tests.recorded DIR``."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.recorded.asked import load_requests, report_requests, send
from tests.recorded.callers import DIALECTS
from tests.recorded.compare import Compared, Difference, compare, recorded_beside
from tests.recorded.play import Played, play
from tests.recorded.recording import load


def main() -> int:
    """Return 0 when nothing differs, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.recorded", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the recordings: PROVIDER/NAME.json")
    parser.add_argument("--only", default="", metavar="WORD", help="only the recordings whose name holds this")
    asked = parser.parse_args()
    recordings, not_yet = load(asked.folder)
    recordings = [each for each in recordings if asked.only in each.name]
    if not recordings:
        parser.error(f"{asked.folder} holds no such recording")
    began_s = time.monotonic()
    requests = [each for each in load_requests(asked.folder) if asked.only in each.name]
    with tempfile.TemporaryDirectory() as folder:
        plays = asyncio.run(play(recordings, Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(send(requests, Path(folder)))
    compared = [(each, compare(each)) for each in plays]
    tables = (report(compared, not_yet), report_reworded(compared), report_beside(plays), report_requests(requests))
    print(*tables, sep="\n\n")
    print(f"\n{len(recordings)} recordings, {len(plays)} runs in {time.monotonic() - began_s:.0f} s.")
    return int(any(found.differences for _, found in compared) or any(each.is_wrong for each in requests))


def report(compared: Sequence[tuple[Played, Compared]], not_yet: Counter[tuple[str, str]]) -> str:
    """Write the tables in Markdown: a line for each provider, each difference, each open reading."""
    lines = [
        "| provider | recordings | streamed | assembled | whole | runs that differ | not yet |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for provider in sorted({each.recording.provider for each, _ in compared} | {provider for provider, _ in not_yet}):
        mine = [row for row in compared if row[0].recording.provider == provider]
        modes = Counter(each.mode for each, _ in mine)
        later = sum(number for (name, _), number in not_yet.items() if name == provider)
        cells = (
            *(provider, len({each.recording.name for each, _ in mine})),
            *(modes["streamed"], modes["assembled"], modes["whole"]),
            *(sum(bool(found.differences) for _, found in mine), later),
        )
        lines.append(_line(*cells))
    lines += ["", "| what differs | runs |", "| --- | --- |"]
    kinds = Counter(what for _, found in compared for what in {each.what for each in found.differences})
    lines += [_line(what, number) for what, number in kinds.most_common()]
    lines += ["", "| recording | run | what | recorded | here |", "| --- | --- | --- | --- | --- |"]
    for each, found in compared:
        lines += [_of(each, difference) for difference in found.differences]
    lines += ["", "| open in the recording | reading taken | upstream's price, nano-USD |", "| --- | --- | --- |"]
    opened = {each.recording.name: found.bill for each, found in compared if found.bill is not None and found.bill.open}
    lines += [_line(name, bill.open, bill.price_nano_usd or "none") for name, bill in opened.items()]
    return "\n".join(lines)


def report_reworded(compared: Sequence[tuple[Played, Compared]]) -> str:
    """Write in how many runs a caller's dialect says something in other words, or not at all."""
    runs = Counter((each.recording.operation, each.caller, what) for each, found in compared for what in found.reworded)
    lines = ["| recorded in | callers of | what, and as what it comes | runs |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(_line(*kind, number) for kind, number in sorted(runs.items()))])


def report_beside(plays: Sequence[Played]) -> str:
    """Write in how many answers what not every dialect has a word for was recorded, and reached callers of each."""
    recorded, reached, others = Counter[tuple[str, str]](), Counter[tuple[str, str, str]](), set[tuple[str, ...]]()
    of_dialects = [each for each in plays if each.recording.operation in DIALECTS]
    for each in of_dialects:
        kinds = recorded_beside(each)
        for kind in kinds:
            at = (each.recording.operation, kind)
            recorded[at] += each.caller == "chat"
            reached[(*at, each.caller)] += kind in each.saw.beside
        others |= {(each.recording.operation, each.caller, kind) for kind in each.saw.beside - kinds}
    lines = ["| recorded in | what | answers | chat callers | messages callers | responses callers |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for at, number in sorted(recorded.items()):
        lines.append(_line(*at, number, *(reached[(*at, caller)] for caller in DIALECTS)))
    lines += [f"\nOf {operation}, {caller} callers get in other words: {kind}." for operation, caller, kind in others]
    return "\n".join(lines)


def _of(each: Played, difference: Difference) -> str:
    return _line(
        each.recording.name, f"{each.mode}, {each.caller}", difference.what, difference.recorded, difference.saw
    )


def _line(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    sys.exit(main())
