"""Writes the run's results as Markdown. Each figure is the median over the rounds, with the least and the greatest."""

from collections.abc import Callable, Mapping, Sequence

from loadtests.bench.figures import Measure, ratio, spread
from loadtests.bench.table import table, with_spread

BARE = "bare server"
"""What every way is compared with."""
ALONE = "bare server, Ray frozen"
"""The same without what idles beside it."""

Rounds = list[dict[tuple[str, int, str], Measure]]
"""For each round the measures by group, number of streams and way."""


def markdown(rounds: Rounds, ways: Sequence[tuple[str, str]], problems: Mapping[str, str]) -> str:
    """Return the table, its rows in the order of ``ways`` (group and name), and a line for each group left out."""
    rows = [
        [str(streams), f"{way} ({group})" if way in (BARE, ALONE) else way, *_figures(rounds, group, streams, way)]
        for streams in sorted({streams for measures in rounds for _, streams, _ in measures})
        for group, way in ways
        if any((group, streams, way) in measures for measures in rounds)
    ]
    header = ["streams", "way", "tokens/s", "of the bare server's", "TTFT ms p50", "p99", "CPU s/1M tokens", "errors"]
    lines = table(header, rows)
    return "\n".join([*lines, *(f"\nNot measured, {group}: {reason}" for group, reason in problems.items())])


def _figures(rounds: Rounds, group: str, streams: int, way: str) -> list[str]:
    found = [measures.get((group, streams, way)) for measures in rounds]
    beside = [measures.get((group, streams, BARE)) for measures in rounds]

    def own(read: Callable[[Measure], float]) -> str:
        return with_spread(spread(read(measure) for measure in found if measure))

    of_bare = spread(
        ratio(mine.tokens_per_s, bare.tokens_per_s) for mine, bare in zip(found, beside, strict=True) if mine and bare
    )
    return [
        own(lambda m: m.tokens_per_s),
        with_spread(of_bare),
        own(lambda m: m.ttft_ms["p50"]),
        own(lambda m: m.ttft_ms["p99"]),
        own(lambda m: m.cpu_s_per_1m_tokens),
        str(sum(sum(measure.errors.values()) for measure in found if measure)),
    ]


def others(rounds: Rounds) -> str:
    """Tell how much of the servers' core programs of others took: the noise."""
    found = spread(measure.others_share for measures in rounds for measure in measures.values())
    return f"{found.median:.0%} (at most {found.high:.0%})" if found else "an unknown part"
