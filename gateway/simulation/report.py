"""What a simulation shows: a line per target, and one for all."""

from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

from gateway.config.schema import RouteSection
from gateway.types import CallRecord, LedgerEntry

_HEAD = ("target", "calls", "share", "cost USD", "TTFT p50", "p95", "TPOT p50", "p95", "SLO misses", "cached")


class Slo(Struct, frozen=True):
    """What a call should take at most, in ms: the route's ceilings, whatever their quantile; None: there is none."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    total_ms: float | None = None

    def is_missed(self, record: CallRecord) -> bool:
        """Whether a call took more, or was not answered."""
        return record.outcome != "ok" or any(
            limit is not None and measured is not None and measured > limit
            for limit, measured in (
                (self.ttft_ms, record.ttft_ms),
                (self.tpot_ms, record.tpot_ms),
                (self.total_ms, record.duration_ms),
            )
        )


def slo_of(section: RouteSection | None) -> Slo:
    """Read the ceilings of a route."""
    limits = getattr(section, "limits", None)
    found = {}
    for name in ("ttft_ms", "tpot_ms", "total_ms"):
        quantiles = getattr(limits, name, None)
        found[name] = None if quantiles is None else next(iter(quantiles.model_dump(exclude_none=True).values()))
    return Slo(**found)


def table(records: Sequence[CallRecord], entries: Sequence[LedgerEntry], targets: Iterable[str], slo: Slo) -> str:
    """Return the table: latencies in ms as callers saw them, costs of all attempts at a target, failed ones too."""
    lines: list[tuple[str, ...]] = [_HEAD]
    for name in targets:
        answered = [each for each in records if each.target_id == name and each.outcome == "ok"]
        lines.append(_line(name, answered, [each for each in entries if each.target_id == name], len(records), slo))
    lines.append(_line("all", records, entries, len(records), slo))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if at == 0 else f"{cell:>{width}}"
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _line(
    name: str, records: Sequence[CallRecord], entries: Sequence[LedgerEntry], calls: int, slo: Slo
) -> tuple[str, ...]:
    read = sum(each.usage.read_tokens for each in entries)
    cached = sum(each.usage.cached_input_tokens for each in entries)
    ttfts = [each.ttft_ms for each in records if each.ttft_ms is not None]
    tpots = [each.tpot_ms for each in records if each.tpot_ms is not None]
    return (
        name,
        str(len(records)),
        f"{len(records) / calls:.1%}" if calls else "-",
        f"{sum(each.cost_nano_usd for each in entries) / 1e9:.6f}",
        *(_quantile(ttfts, q, 0) for q in (0.5, 0.95)),
        *(_quantile(tpots, q, 1) for q in (0.5, 0.95)),
        str(sum(map(slo.is_missed, records))),
        f"{cached / read:.1%}" if read else "-",
    )


def _quantile(values: Collection[float], q: float, digits: int) -> str:
    """Return the smallest value that so many are not above."""
    ordered = sorted(values)
    return f"{ordered[max(0, -int(-q * len(ordered) // 1) - 1)]:.{digits}f}" if ordered else "-"
