"""Writes results as Markdown for people and as JSON for programs. Decides nothing about them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

from loadtests.bench.figures import DIRECT, Measure, Rounds, Spread, added, compared, figure, ratio, spread
from loadtests.bench.run import Entry
from loadtests.bench.workloads import Workload

_OURS = "tollway"
_NOTHING = "-"


def markdown(entries: Sequence[Entry], workloads: Sequence[Workload], rounds: Rounds) -> str:
    """Return the tables: who, what they did, how even paced streams are, and how Tollway compares within rounds."""
    names = [entry.name for entry in entries]
    return "\n".join(
        [
            *_contenders(entries),
            "",
            *_results(names, workloads, rounds),
            "",
            *_paced(names, workloads, rounds),
            *_ours(names, workloads, rounds),
        ]
    )


def _contenders(entries: Sequence[Entry]) -> list[str]:
    rows = []
    for entry in entries:
        if entry.contender is None:
            continue
        installed = entry.installed
        rows.append(
            [
                entry.name,
                installed.version if installed else _NOTHING,
                f"{installed.size_bytes / 1e6:,.0f}" if installed else _NOTHING,
                _plain(spread(entry.start_s)),
                _plain(spread(size / 1e6 for size in entry.peak_rss_bytes)),
                entry.problem or "",
            ]
        )
    return table(["contender", "version", "installed MB", "start s", "peak MB", "left out because"], rows)


def _results(names: Sequence[str], workloads: Sequence[Workload], rounds: Rounds) -> list[str]:
    header = ["workload", "contender", "requests/s", "tokens/s", "added ms p50", "p90", "p99"]
    header += ["added TTFT ms p50", "p99", "CPU s/1k requests", "CPU s/1M tokens", "errors"]
    rows = [
        [workload.name, name, *_figures(rounds, workload, name)]
        for workload in workloads
        for name in names
        if any((workload.name, name) in measures for measures in rounds)
    ]
    return table(header, rows)


def _figures(rounds: Rounds, workload: Workload, name: str) -> list[str]:
    def own(read: Callable[[Measure], float]) -> str:
        return with_spread(figure(rounds, workload.name, name, read))

    def over_direct(read: Callable[[Measure], float]) -> str:
        if name == DIRECT:
            value = figure(rounds, workload.name, name, read)
            return f"({_plain(value)})"
        return _plain(compared(rounds, workload.name, name, DIRECT, by=added, read=read))

    def cpu(read: Callable[[Measure], float]) -> str:
        return _NOTHING if name == DIRECT else _plain(figure(rounds, workload.name, name, read))

    ttft = [_NOTHING, _NOTHING]
    if workload.stream:
        ttft = [over_direct(lambda m: m.ttft_ms["p50"]), over_direct(lambda m: m.ttft_ms["p99"])]
    return [
        own(lambda m: m.requests_per_s),
        own(lambda m: m.tokens_per_s) if workload.stream else _NOTHING,
        over_direct(lambda m: m.latency_ms["p50"]),
        over_direct(lambda m: m.latency_ms["p90"]),
        over_direct(lambda m: m.latency_ms["p99"]),
        *ttft,
        cpu(lambda m: m.cpu_s_per_1k_requests),
        cpu(lambda m: m.cpu_s_per_1m_tokens) if workload.stream else _NOTHING,
        _errors(rounds, workload.name, name),
    ]


def _paced(names: Sequence[str], workloads: Sequence[Workload], rounds: Rounds) -> list[str]:
    """Tell how evenly tokens came, and what a stream took in memory, where the upstream set one pace for all."""
    columns: list[Callable[[Measure], float]] = [
        lambda m: m.tpot_ms["p50"],
        lambda m: m.tpot_ms["p99"],
        lambda m: m.longest_gap_ms["p50"],
        lambda m: m.longest_gap_ms["p99"],
    ]
    rows = []
    for workload in workloads:
        if not workload.pace_ms or workload.speed:
            continue

        def stream_kb(measure: Measure, streams: int = workload.connections) -> float:
            return measure.peak_growth_bytes / 1e3 / streams

        for name in names:
            cells = [with_spread(figure(rounds, workload.name, name, read)) for read in (*columns, stream_kb)]
            if set(cells) != {_NOTHING}:
                rows.append([workload.name, name, *cells])
    header = ["workload", "contender", "TPOT ms p50", "p99", "longest gap ms p50", "p99", "peak KB a stream"]
    return [*table(header, rows), ""] if rows else []


def _ours(names: Sequence[str], workloads: Sequence[Workload], rounds: Rounds) -> list[str]:
    """Tollway's rate and CPU over each other contender's, within rounds."""
    others = [name for name in names if name != _OURS]
    if _OURS not in names or not others:
        return []
    rows = []
    for workload in workloads:
        kinds: list[tuple[str, Callable[[Measure], float]]] = [("CPU/request", lambda m: m.cpu_s_per_1k_requests)]
        if not (workload.is_paced or workload.speed):
            rate = (lambda m: m.tokens_per_s) if workload.stream else (lambda m: m.requests_per_s)
            kinds.insert(0, ("tokens/s" if workload.stream else "requests/s", rate))
        for kind, read in kinds:
            cells = [
                with_spread(compared(rounds, workload.name, _OURS, other, by=ratio, read=read)) for other in others
            ]
            if set(cells) != {_NOTHING}:
                rows.append([workload.name, kind, *cells])
    return table(["tollway's", "", *(f"over {other}'s" for other in others)], rows)


def _errors(rounds: Rounds, workload: str, name: str) -> str:
    """Return the number of failures over all rounds and the most frequent reason."""
    reasons: dict[str, int] = {}
    for measures in rounds:
        measure = measures.get((workload, name))
        for reason, count in (measure.errors if measure else {}).items():
            reasons[reason] = reasons.get(reason, 0) + count
    if not reasons:
        return "0"
    worst = max(reasons, key=lambda reason: reasons[reason])
    return f"{sum(reasons.values())}: {worst[:80].replace('|', '/')}"


def with_spread(value: Spread | None) -> str:
    """Write a median with its least and greatest, where they differ."""
    if value is None or value.low == value.high:
        return _plain(value)
    return f"{_number(value.median)} ({_number(value.low)} to {_number(value.high)})"


def _plain(value: Spread | None) -> str:
    return _NOTHING if value is None else _number(value.median)


def _number(value: float) -> str:
    """Write three significant digits, and no fraction from 100 on."""
    if value == 0 or not math.isfinite(value):
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def as_json(entries: Sequence[Entry], rounds: Rounds) -> dict[str, object]:
    """Return everything that was measured, by round, workload and contender, in the units of ``figures.Measure``."""
    return {
        "contenders": {
            entry.name: {
                "installed": asdict(entry.installed) if entry.installed else None,
                "start_s": entry.start_s,
                "peak_rss_bytes": entry.peak_rss_bytes,
                "problem": entry.problem,
            }
            for entry in entries
        },
        "rounds": [
            [
                {"workload": workload, "contender": contender, **asdict(measure)}
                for (workload, contender), measure in measures.items()
            ]
            for measures in rounds
        ],
    }
