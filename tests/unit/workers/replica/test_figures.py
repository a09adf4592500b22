"""An engine's figures are read by vLLM's names."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from workers.engine import EngineFigures
from workers.replica.figures import read_figures


def test_the_figures_are_read_by_vllms_names_and_what_is_missing_is_none() -> None:
    registry = CollectorRegistry()
    assert read_figures(registry) == EngineFigures()
    labels = ["model_name", "engine"]
    Gauge("vllm:num_requests_running", "-", labels, registry=registry).labels("m", "0").set(2)
    usage = Gauge("vllm:kv_cache_usage_perc", "-", labels, registry=registry)
    usage.labels("m", "0").set(0.5)
    usage.labels("m", "1").set(0.25)
    tokens = Counter("vllm:generation_tokens", "-", labels, registry=registry)
    tokens.labels("m", "0").inc(7)
    tokens.labels("m", "1").inc(5)
    ttft = Histogram("vllm:time_to_first_token_seconds", "-", labels, registry=registry).labels("m", "0")
    ttft.observe(0.25)
    Gauge("vllm:cache_config_info", "-", ["block_size", "num_gpu_blocks"], registry=registry).labels("16", "100").set(1)
    assert read_figures(registry) == EngineFigures(
        running=2, kv_usage=0.5, kv_tokens=1600, output_tokens=12, ttft_sum_s=0.25, ttft_count=1
    )
