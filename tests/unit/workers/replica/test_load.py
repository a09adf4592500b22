"""What a replica says of itself: busy time from event to event, and the differences of the last minute."""

import json
from typing import Any

import pytest

from workers.engine import EngineFigures
from workers.replica.load import ReplicaLoad


class Engine:
    """An engine and a clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.figures = EngineFigures()

    def load(self, **options: Any) -> ReplicaLoad:
        return ReplicaLoad("r", "m", limit=3, figures=lambda: self.figures, now=lambda: self.now_s, **options)


async def test_busy_time_is_the_time_with_at_least_one_request_open() -> None:
    engine = Engine()
    load = engine.load()
    both = [(1, load.opened), (2, load.opened), (3, load.closed), (7, load.closed)]
    for now_s, event in [*both, (8, load.opened), (9, load.closed), (10, load.opened)]:
        engine.now_s = now_s
        event()
    engine.now_s = 10.5
    said = json.loads(load.line())
    assert said["total"]["busy_s"] == 7.5
    assert said["total"]["up_s"] == 10.5
    assert said["in_flight"] == 1


async def test_the_window_is_the_last_minute_and_less_at_first() -> None:
    engine = Engine()
    load = engine.load()
    for second in range(1, 200):
        engine.now_s = second
        engine.figures = EngineFigures(output_tokens=float(second * 10), prompt_tokens=0.0)
        load.sample()
        if second == 20:
            assert json.loads(load.line())["window"] == {
                "up_s": 20.0,
                "busy_s": 0.0,
                "prompt_tokens": 0,
                "cached_tokens": None,
                "output_tokens": 200,
            }
    said = json.loads(load.line())
    assert said["window"]["up_s"] == 60.0
    assert said["window"]["output_tokens"] == 600
    assert said["total"]["output_tokens"] == 1990


async def test_the_time_before_the_engine_was_ready_was_paid_for_too() -> None:
    engine = Engine()
    engine.now_s = 30.0
    assert json.loads(engine.load(started_at=10.0).line())["total"]["up_s"] == 20.0


async def test_the_ttft_is_the_mean_of_the_last_ten_seconds_and_null_without_any() -> None:
    engine = Engine()
    engine.figures = EngineFigures(ttft_sum_s=100.0, ttft_count=10.0)
    load = engine.load()
    assert json.loads(load.line())["ttft_ms"] is None
    engine.now_s = 1.0
    engine.figures = EngineFigures(ttft_sum_s=100.3, ttft_count=12.0)
    load.sample()
    assert json.loads(load.line())["ttft_ms"] == 150.0
    assert load.demand() == (0.0, 150.0)
    for second in range(2, 14):
        engine.now_s = second
        load.sample()
    assert json.loads(load.line())["ttft_ms"] is None


async def test_figure_that_an_engine_does_not_report_is_null() -> None:
    said = json.loads(Engine().load().line())
    assert [said[name] for name in ("running", "waiting", "kv_usage", "kv_tokens", "ttft_ms")] == [None] * 5


@pytest.mark.parametrize(("running", "waiting", "wanted"), [(None, None, 2), (1, 0, 2), (4, 3, 7)])
async def test_scaling_goes_by_what_is_open_here_or_what_the_engine_has(
    running: float | None, waiting: float | None, wanted: float
) -> None:
    engine = Engine()
    engine.figures = EngineFigures(running=running, waiting=waiting)
    load = engine.load()
    load.opened()
    load.opened()
    assert load.demand() == (wanted, 0.0)


async def test_change_is_in_the_next_line_and_wakes_what_waits_for_it() -> None:
    load = Engine().load()
    assert json.loads(load.line())["state"] == "ready"
    changed = load.changed
    load.drain()
    assert changed.done()
    assert not load.changed.done()
    assert json.loads(load.line())["state"] == "draining"
