"""Reads an engine's figures from its Prometheus registry in this process, by vLLM's metric names.

The synthetic engine uses the same names, so one reader serves both. Only the metrics named here are collected: a
registry of vLLM's has hundreds of samples.
"""

from math import prod

from prometheus_client import REGISTRY, CollectorRegistry

from workers.engine import EngineFigures

_FIELDS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
    "vllm:generation_tokens_total": "output_tokens",
    "vllm:time_to_first_token_seconds_sum": "ttft_sum_s",
    "vllm:time_to_first_token_seconds_count": "ttft_count",
}
# An info metric: what it says is in its labels.
_CACHE_CONFIG = "vllm:cache_config_info"


def read_figures(registry: CollectorRegistry = REGISTRY) -> EngineFigures:
    """Read what is there; several engines behind one app are summed, their KV usage is the highest."""
    found: dict[str, float] = {}
    for metric in registry.restricted_registry([*_FIELDS, _CACHE_CONFIG]).collect():
        for sample in metric.samples:
            if sample.name == _CACHE_CONFIG:
                field, value = "kv_tokens", _capacity(sample.labels)
            elif sample.name in _FIELDS:
                field, value = _FIELDS[sample.name], sample.value
            else:
                continue
            before = found.get(field, 0.0)
            found[field] = max(before, value) if field == "kv_usage" else before + value
    return EngineFigures(**found)


def _capacity(labels: dict[str, str]) -> float:
    # Blocks that are not known yet are the word None.
    sizes = [labels.get("block_size", ""), labels.get("num_gpu_blocks", "")]
    return float(prod(int(size) for size in sizes)) if all(size.isdigit() for size in sizes) else 0.0
