"""What Prometheus is told."""

from gateway.telemetry.metrics import Metrics
from gateway.types import LedgerEntry, Usage


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
    metrics = Metrics()
    metrics.attempt_ended(_entry("small"), [1.0, 2.0])
    metrics.attempt_ended(_entry("small"), [])
    value = metrics.registry.get_sample_value
    assert value("tollway_tokens_total", {"target": "small", "class": "input"}) == 14
    assert value("tollway_tokens_total", {"target": "small", "class": "cached_input"}) == 2
    assert value("tollway_tokens_total", {"target": "small", "class": "output"}) == 10
    assert value("tollway_cost_nano_usd_total", {"target": "small"}) == 24_690
    assert value("tollway_itl_seconds_count", {"target": "small"}) == 2
    assert value("tollway_attempts_total", {"target": "small", "outcome": "ok"}) == 2


def test_names_that_a_caller_chooses_cannot_make_series_without_end() -> None:
    """Behind a wildcard any name may come: after some hundreds the rest share one label, and nothing is lost."""
    metrics = Metrics()
    for number in range(2_000):
        metrics.attempt_ended(_entry(f"openai/model-{number}"), [])
    exposition = metrics.exposition().decode()
    assert exposition.count("tollway_cost_nano_usd_total{") == 501
    assert metrics.registry.get_sample_value("tollway_cost_nano_usd_total", {"target": "other"}) == 1_500 * 12_345


def test_gauges_keep_to_the_same_names() -> None:
    """However many targets come and go, one that has a label keeps it, and what runs at the others is added up."""
    metrics = Metrics()
    metrics.attempt_ended(_entry("configured"), [])
    running: dict[str, int] = {}
    metrics.watch(lambda: running, lambda: dict.fromkeys(running, "closed"))
    for round_of_names in range(3):
        running = {f"openai/{round_of_names}-{number}": 1 for number in range(600)} | {"configured": 2}
        exposition = metrics.exposition().decode()
    assert exposition.count("tollway_in_flight_requests{") <= 501
    assert exposition.count("tollway_breaker_state{") <= 3 * 501
    value = metrics.registry.get_sample_value
    assert value("tollway_in_flight_requests", {"target": "configured"}) == 2
    assert value("tollway_in_flight_requests", {"target": "other"}) == 600
    assert value("tollway_breaker_state", {"target": "configured", "state": "closed"}) == 1
