"""Exports the synthetic engine's figures under vLLM's metric names."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from workers.synthetic.engine import SyntheticEngine, SyntheticHistogram

_LABELS = ("model_name", "engine")


class SyntheticMetrics(Collector):
    """Read an engine's figures when they are asked for; nothing is counted twice."""

    def __init__(self, name: str, engine: SyntheticEngine) -> None:
        self._engine = engine
        self._values = (name, "0")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def page(self) -> bytes:
        """Return the page for ``/metrics``."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """See ``Collector.collect``."""
        now = self._engine.figures()
        cache = self._engine.cache
        yield self._gauge("num_requests_running", "Requests that are being worked on.", now.running)
        yield self._gauge("num_requests_waiting", "Requests that wait for a place.", now.waiting)
        yield self._gauge("kv_cache_usage_perc", "The part of the cache that is held; 1 is all.", now.kv_usage)
        looked_up = now.prompt_tokens if cache.prefix_caching else 0
        yield self._counter("prefix_cache_queries", "Prompt tokens that were looked up in the cache.", looked_up)
        yield self._counter("prefix_cache_hits", "Of those the ones that were found.", now.cached_tokens)
        yield self._counter("prompt_tokens", "Prompt tokens read, cached ones included.", now.prompt_tokens)
        yield self._counter("generation_tokens", "Tokens produced.", now.output_tokens)
        yield self._histogram("time_to_first_token_seconds", "From arrival to the first token.", self._engine.ttft)
        yield self._histogram("inter_token_latency_seconds", "Between two tokens of a request.", self._engine.gaps)
        config = {
            "block_size": str(cache.block_size),
            "num_gpu_blocks": str(cache.blocks),
            "enable_prefix_caching": str(cache.prefix_caching),
            "engine": "0",
        }
        info = GaugeMetricFamily("vllm:cache_config_info", "The cache's size and ways.", labels=list(config))
        info.add_metric(list(config.values()), 1)
        yield info

    def _gauge(self, name: str, meaning: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", meaning, labels=_LABELS)
        family.add_metric(self._values, value)
        return family

    def _counter(self, name: str, meaning: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", meaning, labels=_LABELS)
        family.add_metric(self._values, value)
        return family

    def _histogram(self, name: str, meaning: str, histogram: SyntheticHistogram) -> Metric:
        family = HistogramMetricFamily(f"vllm:{name}", meaning, labels=_LABELS)
        family.add_metric(self._values, histogram.cumulated(), histogram.sum)
        return family
