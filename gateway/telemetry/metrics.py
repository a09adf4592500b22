"""Every Prometheus metric of the gateway, with its unit and its labels.

Labels hold only what the configuration names (routes, targets) and what the code enumerates (outcomes, kinds, token
classes). A name behind a wildcard is the caller's choice, so all of them share the wildcard's own label: a caller
makes no series and cannot fill the memory with them.

What is counted is kept in ``figures``; prometheus-client writes it out when it is asked for. Its own counters take a
lock and several calls each, which for some twenty of them is more than all else that a request's accounting does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import asdict, astuple
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.fleet import FleetReport
from gateway.tariff import Usage
from gateway.telemetry import calibration
from gateway.telemetry.figures import Figures, Histogram, Name
from gateway.telemetry.replica_gauges import ReplicaGauges
from gateway.types import CallRecord, LedgerEntry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_TPOT_BUCKETS_S = (0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_DURATION_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)

NO_ROUTE_LABEL = "none"
OTHER_LABEL = "other"
"""For what the configuration does not name, as a target that a reload has removed and that still answers."""

TOKEN_CLASSES = ("input", "cached_input", "cache_write", "output", "reasoning")
"""Those that every target is shown with; any other once it was seen."""
_SHOWN_AT = tuple(Usage.__struct_fields__.index(f"{name}_tokens") for name in TOKEN_CLASSES)


class _Declared(Struct, frozen=True):
    """A metric: a counter, or with ``bounds`` a histogram."""

    name: str
    text: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()


_REQUESTS = _Declared(
    "tollway_requests",
    "Calls by route, outcome and HTTP status; route is 'none' when the call was refused before it had one.",
    ("route", "outcome", "status"),
)
_DURATION = _Declared(
    "tollway_request_duration_seconds",
    "From the request's arrival to the end of its answer.",
    ("route",),
    _DURATION_BUCKETS_S,
)
_OVERHEAD = _Declared(
    "tollway_gateway_overhead_seconds",
    "From the request's arrival to its first dispatch: the gateway's own part of TTFT.",
    (),
    _OVERHEAD_BUCKETS_S,
)
_ATTEMPTS = _Declared("tollway_attempts", "Tries at a target by outcome.", ("target", "outcome"))
_ERRORS = _Declared("tollway_upstream_errors", "Failed attempts by kind of error.", ("target", "kind"))
_TTFT = _Declared(
    "tollway_ttft_seconds", "From an attempt's dispatch to its first content.", ("target",), _TTFT_BUCKETS_S
)
_TPOT = _Declared(
    "tollway_tpot_seconds",
    "Time per output token: (last - first) / (output tokens - 1), a sample for each attempt.",
    ("target",),
    _TPOT_BUCKETS_S,
)
_ITL = _Declared(
    "tollway_itl_seconds",
    "Gaps between content-bearing chunks, a sample for each gap.",
    ("target",),
    _TPOT_BUCKETS_S,
)
_TOKENS = _Declared("tollway_tokens", "Tokens by disjoint class.", ("target", "class"))
_EXPECTED_CACHED = _Declared(
    "tollway_expected_cached_tokens",
    "Prompt tokens that were expected in the target's cache; tollway_tokens of class cached_input is what it reported.",
    ("target",),
)
_AUDIO = _Declared("tollway_audio_milliseconds", "Speech that was transcribed.", ("target",))
_SEARCHES = _Declared("tollway_web_searches", "Web searches that an upstream made for its answers.", ("target",))
_COST = _Declared("tollway_cost_nano_usd", "Cost in nano-dollars.", ("target",))
_BRIDGED = _Declared(
    "tollway_bridged_requests", "Calls served by another while the target had no replica.", ("target",)
)
_BRIDGE_COST = _Declared("tollway_bridge_cost_nano_usd", "What those calls cost, in nano-dollars.", ("target",))
_REFUSALS = _Declared(
    "tollway_http_refusals",
    "Requests refused before they were calls: no HTTP that can be understood, a foreign page, no such address.",
    ("status",),
)
_PREDICTED = _Declared(
    calibration.CALLS, "Calls whose prediction was compared with what was measured.", ("target", "quantity")
)
_COVERED = _Declared(
    calibration.COVERED,
    "Those that came in at or under the predicted quantile: of many, that share of them should.",
    ("target", "quantity", "share"),
)
_LOSS = _Declared(
    calibration.LOSS,
    "The pinball loss of those predictions, in the unit that the quantity's name ends with: lower is better.",
    ("target", "quantity", "share"),
)
_ALL = (
    _REQUESTS, _DURATION, _OVERHEAD, _ATTEMPTS, _ERRORS, _TTFT, _TPOT, _ITL, _TOKENS, _COST, _BRIDGED, _BRIDGE_COST,
    _AUDIO, _SEARCHES, _REFUSALS, _EXPECTED_CACHED, _PREDICTED, _COVERED, _LOSS,
)  # fmt: skip


class _Exposition(Collector):
    """Turns figures into what prometheus-client writes."""

    def __init__(self, read: Callable[[], Mapping[Name, Sequence[float]]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: names are not checked against those of other collectors, for there are none."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield one reading."""
        families = {each.name: _family(each) for each in _ALL}
        bounds = {each.name: each.bounds for each in _ALL}
        for (name, labels), numbers in self._read().items():
            family = families[name]
            if isinstance(family, CounterMetricFamily):
                family.add_metric(labels, numbers[0])
                continue
            *counts, total = numbers
            running, buckets = 0.0, []
            for bound, count in zip((*bounds[name], float("inf")), counts, strict=True):
                running += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), running))
            family.add_metric(labels, buckets=buckets, sum_value=total)
        return families.values()


def _family(declared: _Declared) -> CounterMetricFamily | HistogramMetricFamily:
    if declared.bounds:
        return HistogramMetricFamily(declared.name, declared.text, labels=declared.labels)
    return CounterMetricFamily(declared.name, declared.text, labels=declared.labels)


class _Reading(Collector):
    """What is kept, as it is by then, and gauges as they were read."""

    def __init__(self, kept: Collector, gauges: Iterable[Metric]) -> None:
        self._kept = kept
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        """Yield both."""
        return (*self._kept.collect(), *self._gauges)


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
    """Where one target's figures are kept."""

    def __init__(self, figures: Figures, label: str) -> None:
        self.label = label
        self.ttft = _histogram(figures, _TTFT, label)
        self.tpot = _histogram(figures, _TPOT, label)
        self.itl = _histogram(figures, _ITL, label)
        self.cost = figures.counter(_COST.name, (label,))
        self.tokens = [figures.counter(_TOKENS.name, (label, token_class)) for token_class in TOKEN_CLASSES]
        self.outcomes: dict[str, int] = {}


class _RouteSeries:
    """Where one route's figures are kept."""

    def __init__(self, figures: Figures, label: str) -> None:
        self.label = label
        self.duration = _histogram(figures, _DURATION, label)
        self.ends: dict[tuple[str, int], int] = {}


_Series = TypeVar("_Series", _TargetSeries, _RouteSeries)


def _histogram(figures: Figures, declared: _Declared, *labels: str) -> Histogram:
    return figures.histogram(declared.name, labels, declared.bounds)


class Metrics:
    """Keeps the metrics: the pipeline's observer. ``read`` gives the figures to export, by default those kept here.

    ``label_of``: the label of a route's or target's name; it is asked for every name that is no label itself.
    """

    def __init__(
        self,
        label_of: Callable[[str], str],
        figures: Figures | None = None,
        read: Callable[[], Mapping[Name, Sequence[float]]] | None = None,
    ) -> None:
        self._label_of = label_of
        self._figures = figures = figures or Figures()
        self._values = figures.values
        self._overhead = _histogram(figures, _OVERHEAD)
        self._targets: dict[str, _TargetSeries] = {}
        self._routes: dict[str, _RouteSeries] = {}
        self._uncompared: list[CallRecord] = []
        self.registry = CollectorRegistry()
        self._kept = _Exposition(read or figures.read)
        self._gauges: list[Collector] = []
        self.registry.register(self._kept)

    def watch(
        self, in_flight: Callable[[], Mapping[str, int]], breaker_states: Callable[[], Mapping[str, str]]
    ) -> None:
        """Export the pool's gauges too."""
        gauges = TargetGauges(
            in_flight, breaker_states, lambda target: self._find(self._targets, target, _TargetSeries).label
        )
        self._gauges.append(gauges)
        self.registry.register(gauges)

    def watch_replicas(self, report: Callable[[], Mapping[str, FleetReport]]) -> None:
        """Export what own replicas say, by target."""
        gauges = ReplicaGauges(report)
        self._gauges.append(gauges)
        self.registry.register(gauges)

    def reading(self) -> Callable[[], bytes]:
        """Read the pool, which is the event loop's, and return what writes everything in Prometheus' text format.

        Call that in a thread: with as many names as are kept it writes 3 MB, which takes half a second.
        """
        self._compare()
        gauges = [metric for each in self._gauges for metric in each.collect()]
        return lambda: generate_latest(_Reading(self._kept, gauges))

    def attempt_ended(self, entry: LedgerEntry, gaps_s: list[float]) -> None:
        """Count one attempt. The counters add what its ledger entry says, so that the two agree exactly."""
        series, values = self._find(self._targets, entry.target_id, _TargetSeries), self._values
        cell = series.outcomes.get(entry.outcome)
        if cell is None:
            cell = series.outcomes[entry.outcome] = self._figures.counter(_ATTEMPTS.name, (series.label, entry.outcome))
        values[cell] += 1.0
        if entry.error_kind is not None:
            values[self._figures.counter(_ERRORS.name, (series.label, entry.error_kind))] += 1.0
        if entry.ttft_ms is not None:
            series.ttft.observe(entry.ttft_ms / 1e3)
        if entry.tpot_ms is not None:
            series.tpot.observe(entry.tpot_ms / 1e3)
        if gaps_s:
            series.itl.observe_all(gaps_s)
        values[series.cost] += entry.cost_nano_usd
        amounts = astuple(entry.usage)
        for cell, at in zip(series.tokens, _SHOWN_AT, strict=True):
            values[cell] += amounts[at]
        if entry.expected_cached_tokens or any(amounts[3:8] + amounts[10:14]):
            self._count_rare(series.label, entry.usage, entry.expected_cached_tokens or 0)

    def _count_rare(self, label: str, usage: Usage, expected_cached_tokens: int) -> None:
        """Count what few targets report, and what was expected of long prompts."""
        if expected_cached_tokens:
            self._values[self._figures.counter(_EXPECTED_CACHED.name, (label,))] += expected_cached_tokens
        for name, amount in asdict(usage).items():
            token_class = name.removesuffix("_tokens")
            if amount and token_class != name and token_class not in TOKEN_CLASSES:
                self._values[self._figures.counter(_TOKENS.name, (label, token_class))] += amount
        if usage.audio_ms:
            self._values[self._figures.counter(_AUDIO.name, (label,))] += usage.audio_ms
        if usage.web_searches:
            self._values[self._figures.counter(_SEARCHES.name, (label,))] += usage.web_searches

    def call_ended(self, record: CallRecord) -> None:
        """Count one call."""
        series = self._find(self._routes, record.route or NO_ROUTE_LABEL, _RouteSeries)
        end = (record.outcome, record.status)
        cell = series.ends.get(end)
        if cell is None:
            cell = series.ends[end] = self._figures.counter(_REQUESTS.name, (series.label, end[0], str(end[1])))
        self._values[cell] += 1.0
        series.duration.observe(record.duration_ms / 1e3)
        if record.overhead_ms is not None:
            self._overhead.observe(record.overhead_ms / 1e3)
        if record.bridged_for is not None:
            self._count_bridge(record.bridged_for, record.cost_nano_usd)
        self._uncompared.append(record)
        if len(self._uncompared) >= calibration.BATCH:
            self._compare()

    def _count_bridge(self, bridged_for: str, cost_nano_usd: int) -> None:
        label = self._find(self._targets, bridged_for, _TargetSeries).label
        self._values[self._figures.counter(_BRIDGED.name, (label,))] += 1.0
        self._values[self._figures.counter(_BRIDGE_COST.name, (label,))] += cost_nano_usd

    def _compare(self) -> None:
        """Count how good the predictions of the latest calls were."""
        calibration.count(
            self._figures, self._uncompared, lambda target: self._find(self._targets, target, _TargetSeries).label
        )
        self._uncompared.clear()

    def refused(self, status: int) -> None:
        """Count a request that was no call yet."""
        self._values[self._figures.counter(_REFUSALS.name, (str(status),))] += 1.0

    def _find(self, kept: dict[str, _Series], name: str, make: Callable[[Figures, str], _Series]) -> _Series:
        """Return the series of a name, or of the label that stands for it."""
        series = kept.get(name)
        if series is None:
            label = self._label_of(name)
            series = kept.get(label)
            if series is None:
                series = kept[label] = make(self._figures, label)
        return series
