"""The bench's arithmetic."""

import math

import pytest

from loadtests.bench.figures import Measure, Spread, added, compared, figure, measure_of, percentile, ratio, spread


def _measure(rate: float, p50_ms: float = 1.0) -> Measure:
    times = {"p50": p50_ms, "p90": p50_ms, "p99": p50_ms}
    return Measure(
        requests_per_s=rate,
        tokens_per_s=rate * 16,
        latency_ms=times,
        ttft_ms=times,
        tpot_ms=times,
        longest_gap_ms=times,
        cpu_s_per_1k_requests=1.0,
        cpu_s_per_1m_tokens=2.0,
        errors={},
        others_share=0.0,
        peak_growth_bytes=0.0,
    )


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5.0), (0.9, 9.0), (0.99, 10.0), (1.0, 10.0), (0.0, 1.0)])
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(1, 11)], share) == expected


def test_a_percentile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(percentile([], 0.5))


def test_a_report_becomes_rates_of_its_window_and_costs_of_all_its_requests() -> None:
    report = {
        "window_s": 2.0,
        "window_requests": 100,
        "window_tokens": 1600,
        "requests": 110,
        "tokens": 1760,
        "errors": {"a stream without [DONE]": 3},
        "latency_us": [3000, 1000, 2000],
        "ttft_us": [500],
        "tpot_us": [100_100, 100_300],
        "longest_gap_us": [101_000],
    }
    measure = measure_of(report, cpu_s=0.22, others_share=0.5, peak_growth_bytes=5.0)
    assert (measure.requests_per_s, measure.tokens_per_s) == (50.0, 800.0)
    assert measure.cpu_s_per_1k_requests == pytest.approx(2.0)
    assert measure.cpu_s_per_1m_tokens == pytest.approx(125.0)
    assert measure.latency_ms == {"p50": 2.0, "p90": 3.0, "p99": 3.0}
    assert measure.ttft_ms["p50"] == 0.5
    assert measure.tpot_ms == {"p50": 100.1, "p90": 100.3, "p99": 100.3}
    assert measure.longest_gap_ms["p99"] == 101.0
    assert measure.errors == {"a stream without [DONE]": 3}


def test_a_contender_that_only_failed_has_no_figures_and_its_errors() -> None:
    report = {
        "window_s": 2.0,
        "window_requests": 0,
        "window_tokens": 0,
        "requests": 0,
        "tokens": 0,
        "errors": {"EOF": 7},
        "latency_us": [],
        "ttft_us": [],
        "tpot_us": [],
        "longest_gap_us": [],
    }
    measure = measure_of(report, cpu_s=0.1, others_share=0.0, peak_growth_bytes=math.nan)
    assert math.isnan(measure.cpu_s_per_1k_requests)
    assert math.isnan(measure.latency_ms["p50"])
    assert measure.errors == {"EOF": 7}


def test_spread_leaves_out_values_not_measured() -> None:
    assert spread([3.0, math.nan, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([math.nan]) is None


def test_ratios_are_formed_within_rounds_and_only_then_summed_up() -> None:
    """A machine that was twice as fast in one round must not show in the ratio."""
    rounds = [
        {("chat-1", "tollway"): _measure(50.0), ("chat-1", "nginx"): _measure(100.0)},
        {("chat-1", "tollway"): _measure(100.0), ("chat-1", "nginx"): _measure(200.0)},
        {("chat-1", "tollway"): _measure(999.0)},
    ]
    found = compared(rounds, "chat-1", "tollway", "nginx", by=ratio, read=lambda measure: measure.requests_per_s)
    assert found == Spread(0.5, 0.5, 0.5)


def test_added_latency_is_a_difference_within_a_round() -> None:
    rounds = [
        {("chat-1", "tollway"): _measure(1.0, p50_ms=1.5), ("chat-1", "direct"): _measure(1.0, p50_ms=1.0)},
        {("chat-1", "tollway"): _measure(1.0, p50_ms=4.25), ("chat-1", "direct"): _measure(1.0, p50_ms=4.0)},
    ]
    found = compared(rounds, "chat-1", "tollway", "direct", by=added, read=lambda measure: measure.latency_ms["p50"])
    assert found == Spread(0.375, 0.25, 0.5)


def test_a_figure_is_of_the_rounds_in_which_it_was_measured() -> None:
    rounds = [{("chat-1", "nginx"): _measure(10.0)}, {}]
    assert figure(rounds, "chat-1", "nginx", lambda measure: measure.requests_per_s) == Spread(10.0, 10.0, 10.0)
    assert figure(rounds, "chat-64", "nginx", lambda measure: measure.requests_per_s) is None


def test_a_ratio_to_nothing_is_not_a_number() -> None:
    assert math.isnan(ratio(1.0, 0.0))
