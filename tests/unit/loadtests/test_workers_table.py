"""What the bench of the ways out of a replica prints."""

from loadtests.bench.figures import Measure
from loadtests.workers.table import ALONE, BARE, markdown, others

WAYS = [("own", BARE), ("own", "direct"), ("own", ALONE), ("haproxy", "HAProxy")]


def _measure(tokens_per_s: float) -> Measure:
    times = {"p50": 1.0, "p90": 1.0, "p99": 2.0}
    return Measure(tokens_per_s / 200, tokens_per_s, times, times, times, times, 0.25, 15.6, {}, 0.1, 0.0)


def test_ways_are_compared_within_a_round_and_in_one_order() -> None:
    rounds = [
        {("own", 16, "direct"): _measure(90.0 * speed), ("own", 16, BARE): _measure(100.0 * speed)}
        for speed in (10, 1, 2)
    ]
    rows = [line.strip("| ").split(" | ") for line in markdown(rounds, WAYS, {"haproxy": "no binary"}).splitlines()]
    assert rows[2][:4] == ["16", "bare server (own)", "200 (100 to 1,000)", "1.00"]
    assert rows[3][:4] == ["16", "direct", "180 (90.0 to 900)", "0.900"], "the ratio is the same in every round"
    assert rows[-1] == ["Not measured, haproxy: no binary"]
    assert others(rounds) == "10% (at most 10%)"
