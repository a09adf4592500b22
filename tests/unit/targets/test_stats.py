"""Windows: what they predict from which samples, and how fast they change their mind."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.targets.stats import Window

S = 1_000_000_000


LATER = 10_000 * S
"""When every sample has been looked at."""


def p95(window: Window, tokens: float = 0.0, load: float = 0.0) -> float:
    known = window.predict(LATER, tokens, load)
    assert known is not None
    return known.p95


def test_an_empty_window_predicts_nothing() -> None:
    """None, not zero."""
    assert Window().predict(LATER) is None


def test_quantiles_are_those_of_the_samples() -> None:
    """Without prompt sizes or load the window is a set of values: of 1..20, the 10th, 18th, 19th and 20th."""
    window = Window()
    values = list(range(1, 21))
    random.Random(1).shuffle(values)
    for value in values:
        window.add(0, value)
    known = window.predict(LATER)
    assert known is not None
    assert (known.p50, known.p90, known.p95, known.p99) == pytest.approx((10, 18, 19, 20))


def test_ttft_grows_with_the_prompt_and_with_the_load() -> None:
    """100 ms, half a millisecond per token and 40 ms per other call: predicted where nothing was measured."""
    draw = random.Random(2)
    window = Window()
    for number in range(200):
        tokens, load = draw.randrange(10, 4000), draw.randrange(8)
        window.add(number * S // 10, (100 + 0.5 * tokens + 40 * load) * draw.uniform(0.95, 1.05), tokens, load)
    for tokens, load in ((500, 0), (3000, 6), (6000, 2)):
        known = window.predict(LATER, tokens, load)
        assert known is not None
        assert known.p50 == pytest.approx(100 + 0.5 * tokens + 40 * load, rel=0.1)


def test_a_longer_prompt_is_never_predicted_to_be_faster() -> None:
    """Whatever noise says: slopes are not negative."""
    window = Window()
    for number in range(30):
        window.add(number * S, 1000 - number * 20, tokens=number * 100, load=number)
    assert p95(window, 5000, 50) >= p95(window, 10, 0)
    window = Window()
    for number in range(30):
        window.add(number * S, 1000 - number * 20, tokens=number * 100)
    assert p95(window, 5000) >= p95(window, 10)


def test_a_slowdown_and_a_recovery_take_four_samples_each() -> None:
    """From 100 to 2000 ms and back: the prediction follows after four samples, whatever stands in the window."""
    window, draw, now_ns = Window(), random.Random(3), 0

    def samples_until(value: float, *, changed: bool) -> int:
        nonlocal now_ns
        for count in range(1, 100):
            now_ns += S // 10
            window.add(now_ns, value * draw.uniform(0.9, 1.1))
            if (p95(window) > 1000) is changed:
                return count
        raise AssertionError("never noticed")

    for _ in range(100):
        samples_until(100, changed=False)
    assert samples_until(2000, changed=True) <= 4
    for _ in range(100):
        samples_until(2000, changed=True)
    assert samples_until(100, changed=False) == 4


def test_one_outlier_does_not_move_a_full_window() -> None:
    """p95 is not the maximum; p99 is."""
    window = Window()
    for number in range(64):
        window.add(number, 100.0 + number % 7)
    window.add(65, 9000.0)
    assert p95(window) < 200
    assert window.predict(LATER).p99 == pytest.approx(9000)  # type: ignore[union-attr]


def test_old_samples_weigh_less() -> None:
    """Four half-lives on, ten old slow samples weigh less than one new one: the median is the new one's."""
    window = Window()
    for number in range(10):
        window.add(number, 180.0)
    window.add(120 * S, 160.0)
    assert window.predict(LATER).p50 == pytest.approx(160)  # type: ignore[union-attr]


def test_old_samples_beat_none() -> None:
    """An hour without samples leaves the prediction; the first new one drops it."""
    window = Window()
    for number in range(10):
        window.add(number, 500.0)
    assert p95(window) == pytest.approx(500)
    window.add(3600 * S, 50.0)
    assert len(window) == 1
    assert p95(window) == pytest.approx(50)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 100 * S), st.floats(0, 1e7, allow_nan=False), st.integers(0, 200_000), st.integers(0, 500)
        ),
        min_size=1,
        max_size=150,
    )
)
def test_predictions_are_positive_and_in_order(samples: list[tuple[int, float, int, int]]) -> None:
    """Whatever was measured: p50 <= p90 <= p95 <= p99, all finite and above zero, and memory is bounded."""
    window, now_ns = Window(), 0
    for step_ns, value, tokens, load in samples:
        now_ns += step_ns
        window.add(now_ns, value, tokens, load)
        known = window.predict(now_ns, tokens, load)
        assert known is not None
        assert 0 < known.p50 <= known.p90 <= known.p95 <= known.p99 < float("inf")
    assert len(window) <= 64
