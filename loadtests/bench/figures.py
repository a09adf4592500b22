"""The bench's arithmetic: from one measurement's samples to what stands in the table.

Latency is compared by differences and rates by ratios, each formed between two measurements of one workload in one
round, minutes apart at most; over the rounds there is a median and a spread. Times are in milliseconds.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

DIRECT = "direct"


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least ``share`` of all do not exceed (nearest rank); NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Measure:
    """What one contender did with one workload in one round. NaN: there was nothing to measure."""

    requests_per_s: float
    tokens_per_s: float
    latency_ms: Mapping[str, float]
    """``p50``, ``p90`` and ``p99``, to the answer's end."""
    ttft_ms: Mapping[str, float]
    tpot_ms: Mapping[str, float]
    """Of each stream the mean time between its tokens."""
    longest_gap_ms: Mapping[str, float]
    """Of each stream the longest time between two of its tokens."""
    cpu_s_per_1k_requests: float
    cpu_s_per_1m_tokens: float
    errors: Mapping[str, int]
    """How often each kind of failure was seen."""
    others_share: float
    """Of the contender's core's time, what went to programs other than the contender: the measurement's noise."""
    peak_growth_bytes: float
    """How much more was resident at most than before the client's first connection."""


def measure_of(report: Mapping[str, object], *, cpu_s: float, others_share: float, peak_growth_bytes: float) -> Measure:
    """Make a measure of what ``wire client`` printed; ``cpu_s`` is what the contender used from its go to its end."""
    window_s = float(_number(report, "window_s"))
    requests, tokens = _number(report, "requests"), _number(report, "tokens")
    errors = report["errors"]
    if not isinstance(errors, dict):
        raise TypeError("errors")
    return Measure(
        requests_per_s=_number(report, "window_requests") / window_s,
        tokens_per_s=_number(report, "window_tokens") / window_s,
        latency_ms=_percentiles(report, "latency_us"),
        ttft_ms=_percentiles(report, "ttft_us"),
        tpot_ms=_percentiles(report, "tpot_us"),
        longest_gap_ms=_percentiles(report, "longest_gap_us"),
        cpu_s_per_1k_requests=cpu_s / requests * 1e3 if requests else math.nan,
        cpu_s_per_1m_tokens=cpu_s / tokens * 1e6 if tokens else math.nan,
        errors={str(reason): int(count) for reason, count in errors.items()},
        others_share=others_share,
        peak_growth_bytes=peak_growth_bytes,
    )


def _number(report: Mapping[str, object], name: str) -> float:
    value = report[name]
    if not isinstance(value, int | float):
        raise TypeError(name)
    return value


def _percentiles(report: Mapping[str, object], name: str) -> dict[str, float]:
    samples = report[name]
    if not isinstance(samples, list):
        raise TypeError(name)
    ordered = sorted(sample / 1e3 for sample in samples)
    return {f"p{share}": percentile(ordered, share / 100) for share in (50, 90, 99)}


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread | None:
    """Return the median, the least and the greatest of what was measured; None where nothing was."""
    known = [value for value in values if not math.isnan(value)]
    return Spread(median(known), min(known), max(known)) if known else None


Rounds = Sequence[Mapping[tuple[str, str], Measure]]
"""For each round the measures by workload and contender."""


def figure(rounds: Rounds, workload: str, contender: str, read: Callable[[Measure], float]) -> Spread | None:
    """Return one figure of one contender over the rounds in which it was measured."""
    measures = (measures.get((workload, contender)) for measures in rounds)
    return spread(read(measure) for measure in measures if measure is not None)


def compared(
    rounds: Rounds,
    workload: str,
    contender: str,
    other: str,
    *,
    by: Callable[[float, float], float],
    read: Callable[[Measure], float],
) -> Spread | None:
    """Return ``by(contender's, other's)`` of a figure, formed within each round in which both were measured."""
    values = []
    for measures in rounds:
        mine, theirs = measures.get((workload, contender)), measures.get((workload, other))
        if mine is not None and theirs is not None:
            values.append(by(read(mine), read(theirs)))
    return spread(values)


def ratio(mine: float, theirs: float) -> float:
    """Divide; NaN by nothing."""
    return mine / theirs if theirs else math.nan


def added(mine: float, theirs: float) -> float:
    """Subtract."""
    return mine - theirs
