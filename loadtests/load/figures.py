"""The figures that locust does not have: TTFT, TPOT, goodput and cost, as rows of its own tables and in a summary.

The rows are written past ``events.request``: locust's "Aggregated" row would count what they hold as requests.
"""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from .answer import Answer

if TYPE_CHECKING:
    from locust.stats import RequestStats, StatsEntry


@dataclass(frozen=True)
class Ceilings:
    """What an answer must keep to count as goodput, in milliseconds."""

    ttft_ms: float
    tpot_ms: float

    def kept_by(self, answer: Answer, due_s: float) -> bool:
        """Tell whether both are kept, counted from when the request was due.

        An unstreamed answer has to be there when a stream that just keeps both would have ended.
        """
        if answer.content_s is None:
            return (answer.ended_s - due_s) * 1000 <= self.ttft_ms + self.tpot_ms * max(0, answer.tokens - 1)
        in_time = (answer.content_s[0] - due_s) * 1000 <= self.ttft_ms
        return in_time and (answer.tpot_ms is None or answer.tpot_ms <= self.tpot_ms)

    def row(self, name: str) -> str:
        """Name the GOODPUT row of the requests called ``name``."""
        return f"{name}, TTFT<={self.ttft_ms:g} TPOT<={self.tpot_ms:g} ms"


def cost_row(name: str) -> str:
    """Name the COST row of the requests called ``name``; nano-dollars, as in the ledger, so that sums are exact."""
    return f"{name}, nano-USD"


def record(stats: "RequestStats", name: str, answer: Answer | None, due_s: float, ceilings: Ceilings) -> None:
    """Enter one request that has ended; ``answer`` is None if it failed."""
    goodput = stats.get(ceilings.row(name), "GOODPUT")
    _enter(goodput, None)
    if answer is None or not ceilings.kept_by(answer, due_s):
        goodput.log_error(None)
    if answer is None:
        return
    if answer.content_s is not None:
        _enter(stats.get(name, "TTFT"), (answer.content_s[0] - due_s) * 1000)
    if answer.tpot_ms is not None:
        _enter(stats.get(name, "TPOT"), answer.tpot_ms)
    if answer.cost_nano_usd is not None:
        _enter(stats.get(cost_row(name), "COST"), answer.cost_nano_usd)


def record_late(stats: "RequestStats", name: str, milliseconds: float) -> None:
    """Enter how long after it was due a request was sent: the load generator's own fault."""
    _enter(stats.get(name, "LATE"), milliseconds)


def _enter(entry: "StatsEntry", value: float | None) -> None:
    entry.log(value, 0)  # type: ignore[arg-type]  # locust itself enters floats, and None where there is no time


@dataclass(frozen=True)
class Line:
    """The summary of all requests with one name. None: no sample."""

    name: str
    requests: int
    failed: int
    kept: int
    goodput_per_s: float
    ttft_p50_ms: int | None
    ttft_p95_ms: int | None
    tpot_p50_ms: int | None
    tpot_p95_ms: int | None
    cost_usd: float | None

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.requests} requests, {self.failed} failed"]
        parts.append(f"goodput {self.goodput_per_s:.2f}/s ({self.kept / self.requests:.1%} within the ceilings)")
        if self.ttft_p50_ms is not None:
            parts.append(f"TTFT p50 {self.ttft_p50_ms} p95 {self.ttft_p95_ms} ms")
        if self.tpot_p50_ms is not None:
            parts.append(f"TPOT p50 {self.tpot_p50_ms} p95 {self.tpot_p95_ms} ms")
        if self.cost_usd is not None:
            parts.append(f"cost {self.cost_usd:.9f} USD")
        return "; ".join(parts)


def summarise(stats: "RequestStats", ceilings: Ceilings) -> list[Line]:
    """Sum up what the rows hold, one line for each name of requests."""

    def percentile(name: str, kind: str, share: float) -> int | None:
        entry = stats.entries.get((name, kind))
        return entry.get_response_time_percentile(share) if entry else None

    lines = []
    for (name, kind), asked in sorted(stats.entries.items()):
        if kind != "POST" or not asked.num_requests:
            continue
        goodput = stats.get(ceilings.row(name), "GOODPUT")
        cost = stats.entries.get((cost_row(name), "COST"))
        lines.append(
            Line(
                name=name,
                requests=asked.num_requests,
                failed=asked.num_failures,
                kept=goodput.num_requests - goodput.num_failures,
                goodput_per_s=goodput.total_rps - goodput.total_fail_per_sec,
                ttft_p50_ms=percentile(name, "TTFT", 0.5),
                ttft_p95_ms=percentile(name, "TTFT", 0.95),
                tpot_p50_ms=percentile(name, "TPOT", 0.5),
                tpot_p95_ms=percentile(name, "TPOT", 0.95),
                cost_usd=cost.total_response_time / 1e9 if cost else None,
            )
        )
    return lines


def misses(lines: list[Line], *, min_goodput: float | None, max_failures: float | None) -> list[str]:
    """Say which of the bounds, each a share of all requests, the run missed; one that asked nothing misses any."""
    requests = sum(line.requests for line in lines)
    if not requests:
        return ["no request was answered"]
    goodput = sum(line.kept for line in lines) / requests
    failures = sum(line.failed for line in lines) / requests
    said = []
    if min_goodput is not None and goodput < min_goodput:
        said.append(f"goodput {goodput:.1%} is less than --min-goodput {min_goodput:.1%}")
    if max_failures is not None and failures > max_failures:
        said.append(f"failures {failures:.1%} are more than --max-failures {max_failures:.1%}")
    return said


def append_csv(path: Path, lines: list[Line], run: dict[str, object]) -> None:
    """Append the summary, ``run``'s columns before its own; a new file begins with a header."""
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*run, *(field.name for field in fields(Line))])
        if not file.tell():
            writer.writeheader()
        writer.writerows(run | asdict(line) for line in lines)
