"""Every Prometheus metric of the gateway, with its unit and its labels.

Labels hold only what the configuration names (routes, targets) and what the code enumerates (outcomes, kinds, token
classes). Names behind a wildcard are the caller's choice, so only so many names become labels, the rest ``other``:
a caller cannot fill the memory with series. Label children are looked up once and kept, since that is what costs.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.types import CallRecord, LedgerEntry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_TPOT_BUCKETS_S = (0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_DURATION_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)

_MAX_NAMES = 500
_REST = "other"

TOKEN_CLASSES = ("input", "cached_input", "cache_write", "output", "reasoning")


class TargetGauges(Collector):
    """Reads gauges from the pool when Prometheus asks, so that requests need not set them."""

    def __init__(
        self,
        in_flight: Callable[[], Mapping[str, int]],
        breaker_states: Callable[[], Mapping[str, str]],
        label_of: Callable[[str], str],
    ) -> None:
        self._in_flight = in_flight
        self._breaker_states = breaker_states
        self._label_of = label_of

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield one reading."""
        running = GaugeMetricFamily("tollway_in_flight_requests", "Attempts running now.", labels=["target"])
        counts: dict[str, int] = {}
        for target, count in self._in_flight().items():
            label = self._label_of(target)
            counts[label] = counts.get(label, 0) + count
        for label, count in counts.items():
            running.add_metric([label], count)
        yield running
        breaker = GaugeMetricFamily(
            "tollway_breaker_state", "1 for the state that the target's breaker is in.", labels=["target", "state"]
        )
        for target, current in self._breaker_states().items():
            if self._label_of(target) != target:
                continue
            for state in ("closed", "half_open", "open"):
                breaker.add_metric([target, state], float(state == current))
        yield breaker


class _TargetSeries:
    """The label children of one target."""

    def __init__(self, metrics: "Metrics", target: str) -> None:
        self.label = target
        self.ttft = metrics.ttft.labels(target)
        self.tpot = metrics.tpot.labels(target)
        self.itl = metrics.itl.labels(target)
        self.cost = metrics.cost.labels(target)
        self.tokens = [metrics.tokens.labels(target, token_class) for token_class in TOKEN_CLASSES]


class Metrics:
    """Declares the metrics and keeps them: the pipeline's observer."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tollway_requests",
            "Calls by route, outcome and HTTP status; route is 'none' when the call was refused before it had one.",
            ["route", "outcome", "status"],
            registry=registry,
        )
        self.duration = Histogram(
            "tollway_request_duration_seconds",
            "From the request's arrival to the end of its answer.",
            ["route"],
            buckets=_DURATION_BUCKETS_S,
            registry=registry,
        )
        self.overhead = Histogram(
            "tollway_gateway_overhead_seconds",
            "From the request's arrival to its first dispatch: the gateway's own part of TTFT.",
            buckets=_OVERHEAD_BUCKETS_S,
            registry=registry,
        )
        self.attempts = Counter(
            "tollway_attempts", "Tries at a target by outcome.", ["target", "outcome"], registry=registry
        )
        self.upstream_errors = Counter(
            "tollway_upstream_errors", "Failed attempts by kind of error.", ["target", "kind"], registry=registry
        )
        self.ttft = Histogram(
            "tollway_ttft_seconds",
            "From an attempt's dispatch to its first content.",
            ["target"],
            buckets=_TTFT_BUCKETS_S,
            registry=registry,
        )
        self.tpot = Histogram(
            "tollway_tpot_seconds",
            "Time per output token: (last - first) / (output tokens - 1), a sample for each attempt.",
            ["target"],
            buckets=_TPOT_BUCKETS_S,
            registry=registry,
        )
        self.itl = Histogram(
            "tollway_itl_seconds",
            "Gaps between content-bearing chunks, a sample for each gap.",
            ["target"],
            buckets=_TPOT_BUCKETS_S,
            registry=registry,
        )
        self.tokens = Counter("tollway_tokens", "Tokens by disjoint class.", ["target", "class"], registry=registry)
        self.cost = Counter("tollway_cost_nano_usd", "Cost in nano-dollars.", ["target"], registry=registry)
        self._targets: dict[str, _TargetSeries] = {}
        self._routes: set[str] = set()

    def watch(
        self, in_flight: Callable[[], Mapping[str, int]], breaker_states: Callable[[], Mapping[str, str]]
    ) -> None:
        """Export the pool's gauges too."""
        self.registry.register(TargetGauges(in_flight, breaker_states, lambda target: self._series_of(target).label))

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def attempt_ended(self, entry: LedgerEntry, gaps_ms: list[float]) -> None:
        """Count one attempt. The counters add what its ledger entry says, so that the two agree exactly."""
        series = self._series_of(entry.target_id)
        self.attempts.labels(series.label, entry.outcome).inc()
        if entry.error_kind is not None:
            self.upstream_errors.labels(series.label, entry.error_kind).inc()
        if entry.ttft_ms is not None:
            series.ttft.observe(entry.ttft_ms / 1e3)
        if entry.tpot_ms is not None:
            series.tpot.observe(entry.tpot_ms / 1e3)
        for gap_ms in gaps_ms:
            series.itl.observe(gap_ms / 1e3)
        usage = entry.usage
        counts = (
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
        )
        for child, count in zip(series.tokens, counts, strict=True):
            if count:
                child.inc(count)
        series.cost.inc(entry.cost_nano_usd)

    def call_ended(self, record: CallRecord) -> None:
        """Count one call."""
        route = record.route or "none"
        if route not in self._routes:
            if len(self._routes) < _MAX_NAMES:
                self._routes.add(route)
            else:
                route = _REST
        self.requests.labels(route, record.outcome, str(record.status)).inc()
        self.duration.labels(route).observe(record.duration_ms / 1e3)
        if record.overhead_ms is not None:
            self.overhead.observe(record.overhead_ms / 1e3)

    def _series_of(self, target_id: str) -> _TargetSeries:
        series = self._targets.get(target_id)
        if series is None:
            if len(self._targets) >= _MAX_NAMES and target_id != _REST:
                return self._series_of(_REST)
            series = self._targets[target_id] = _TargetSeries(self, target_id)
        return series
