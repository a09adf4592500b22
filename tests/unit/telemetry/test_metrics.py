"""The metrics that Prometheus reads."""

import pytest
from msgspec.structs import replace

from gateway.tariff import Usage
from gateway.telemetry.calibration import BATCH
from gateway.telemetry.metrics import Metrics
from gateway.types import CallRecord, Considered, LedgerEntry, Prediction, Quantiles


def label_of(name: str) -> str:
    """Label names as a configuration of the target ``small``, the route ``prod`` and the wildcard ``openai/*`` does."""
    return name if name in {"small", "prod"} else "openai/*" if name.startswith("openai/") else "other"


def _record(route: str) -> CallRecord:
    return CallRecord(
        call_id="req_1",
        received_at_ns=0,
        operation="chat",
        key_id="app",
        route=route,
        policy_version="1",
        stream=False,
        input_tokens_estimate=1,
        output_tokens=5,
        outcome="ok",
        status=200,
        error_kind=None,
        target_id=route,
        reason=None,
        considered=(),
        dropped=(),
        attempt_ids=("att_1",),
        cost_nano_usd=1,
        ttft_ms=None,
        tpot_ms=None,
        duration_ms=1.0,
        overhead_ms=None,
    )


def _entry(target_id: str) -> LedgerEntry:
    return LedgerEntry(
        attempt_id="att_1",
        call_id="req_1",
        key_id="app",
        team_id=None,
        route="auto",
        target_id=target_id,
        upstream_model="m",
        started_at_ns=0,
        duration_ms=1.0,
        ttft_ms=2.0,
        tpot_ms=3.0,
        usage=Usage(input_tokens=7, cached_input_tokens=1, output_tokens=5),
        cost_nano_usd=12_345,
        cost_origin="provider",
        price_version="config",
        outcome="ok",
        status=200,
        error_kind=None,
    )


def test_counters_add_exactly_what_the_ledger_says() -> None:
    """Tokens by class and nano-dollars are the entry's own integers."""
    metrics = Metrics(label_of)
    metrics.attempt_ended(_entry("small"), [0.001, 0.002])
    metrics.attempt_ended(_entry("small"), [])
    value = metrics.registry.get_sample_value
    assert value("tollway_tokens_total", {"target": "small", "class": "input"}) == 14
    assert value("tollway_tokens_total", {"target": "small", "class": "cached_input"}) == 2
    assert value("tollway_tokens_total", {"target": "small", "class": "output"}) == 10
    assert value("tollway_cost_nano_usd_total", {"target": "small"}) == 24_690
    assert value("tollway_itl_seconds_count", {"target": "small"}) == 2
    assert value("tollway_attempts_total", {"target": "small", "outcome": "ok"}) == 2


def test_rare_classes_are_shown_once_they_were_seen() -> None:
    """Images, audio, searches and cache writes for an hour; a target that reports none has no series of them."""
    metrics = Metrics(label_of)
    metrics.attempt_ended(_entry("small"), [])
    rare = Usage(input_tokens=1, cache_write_1h_tokens=2, image_output_tokens=3, web_searches=4, audio_ms=5)
    metrics.attempt_ended(replace(_entry("prod"), target_id="openai/x", usage=rare), [])
    value = metrics.registry.get_sample_value
    seen = {name: value("tollway_tokens_total", {"target": "openai/*", "class": name}) for name in ("input", "output")}
    assert seen == {"input": 1, "output": 0}
    assert value("tollway_tokens_total", {"target": "openai/*", "class": "cache_write_1h"}) == 2
    assert value("tollway_tokens_total", {"target": "openai/*", "class": "image_output"}) == 3
    assert value("tollway_web_searches_total", {"target": "openai/*"}) == 4
    assert value("tollway_audio_milliseconds_total", {"target": "openai/*"}) == 5
    assert value("tollway_tokens_total", {"target": "small", "class": "image_output"}) is None


def test_invented_names_make_no_series_and_hide_no_configured_one() -> None:
    """Behind a wildcard any name may come: all share its label, and what is configured keeps its own, even if later."""
    metrics = Metrics(label_of)
    for number in range(2_000):
        metrics.attempt_ended(_entry(f"openai/model-{number}"), [])
        metrics.call_ended(_record(f"openai/model-{number}"))
    metrics.attempt_ended(_entry("small"), [])
    metrics.call_ended(_record("prod"))
    metrics.attempt_ended(_entry("removed by a reload"), [])
    exposition = metrics.reading()().decode()
    assert exposition.count("tollway_cost_nano_usd_total{") == 3
    value = metrics.registry.get_sample_value
    assert value("tollway_cost_nano_usd_total", {"target": "openai/*"}) == 2_000 * 12_345
    assert value("tollway_cost_nano_usd_total", {"target": "small"}) == 12_345
    assert value("tollway_cost_nano_usd_total", {"target": "other"}) == 12_345
    assert value("tollway_requests_total", {"route": "openai/*", "outcome": "ok", "status": "200"}) == 2_000
    assert value("tollway_requests_total", {"route": "prod", "outcome": "ok", "status": "200"}) == 1


def test_gauges_keep_to_the_same_names() -> None:
    """However many targets come and go, a configured one has its own gauges, and what runs at the others is added."""
    metrics = Metrics(label_of)
    running = {f"openai/{number}": 1 for number in range(600)} | {"small": 2}
    metrics.watch(lambda: running, lambda: dict.fromkeys(running, "closed"))
    exposition = metrics.reading()().decode()
    assert exposition.count("tollway_in_flight_requests{") == 2
    assert exposition.count("tollway_breaker_state{") == 3
    value = metrics.registry.get_sample_value
    assert value("tollway_in_flight_requests", {"target": "small"}) == 2
    assert value("tollway_in_flight_requests", {"target": "openai/*"}) == 600
    assert value("tollway_breaker_state", {"target": "small", "state": "closed"}) == 1


def test_expected_cached_tokens_stand_beside_reported_ones() -> None:
    metrics = Metrics(label_of)
    metrics.attempt_ended(replace(_entry("small"), expected_cached_tokens=3), [])
    metrics.attempt_ended(_entry("small"), [])
    text = metrics.reading()().decode()
    assert 'tollway_expected_cached_tokens_total{target="small"} 3.0' in text
    assert 'tollway_tokens_total{class="cached_input",target="small"} 2.0' in text


def test_predictions_are_held_against_what_was_measured() -> None:
    """TTFT counts from the dispatch: 30 ms here. Only whole answers of a single attempt are compared."""
    metrics = Metrics(label_of)
    told = Quantiles(20.0, 30.0, 40.0, 50.0)
    prediction = Prediction(output_tokens=told, ttft_ms=told, tpot_ms=None, cost_nano_usd=told)
    call = replace(
        _record("prod"), target_id="small", considered=(Considered("small", prediction, True),), ttft_ms=32.0,
        overhead_ms=2.0, tpot_ms=9.0,
    )  # fmt: skip
    others = (replace(call, outcome="cancelled"), replace(call, attempt_ids=("a", "b")), _record("prod"))
    for each in (call, *others):
        metrics.call_ended(each)
    metrics.reading()
    metrics.reading()  # counts nothing twice
    value = metrics.registry.get_sample_value

    def of(name: str, share: str) -> float | None:
        return value(name, {"target": "small", "quantity": "ttft_ms", "share": share})

    assert value("tollway_predicted_calls_total", {"target": "small", "quantity": "ttft_ms"}) == 1
    assert value("tollway_predicted_calls_total", {"target": "small", "quantity": "tpot_ms"}) is None
    assert [of("tollway_predictions_covered_total", each) for each in ("0.5", "0.9", "0.95")] == [0, 1, 1]
    losses = [of("tollway_prediction_loss_total", each) for each in ("0.5", "0.9", "0.95")]
    assert losses == pytest.approx([5.0, 0.0, 0.5])


def test_calls_to_compare_do_not_pile_up() -> None:
    metrics = Metrics(label_of)
    prediction = Prediction(
        output_tokens=(told := Quantiles(5, 5, 5, 5)), ttft_ms=None, tpot_ms=None, cost_nano_usd=told
    )
    call = replace(_record("prod"), target_id="small", considered=(Considered("small", prediction, True),))
    for _ in range(BATCH):
        metrics.call_ended(call)
    counted = metrics.registry.get_sample_value(
        "tollway_predicted_calls_total", {"target": "small", "quantity": "output_tokens"}
    )
    assert counted == BATCH
