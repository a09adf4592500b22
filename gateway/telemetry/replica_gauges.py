"""Prometheus gauges of own replicas, by their own reports: number, load, speed, and the real cost of their tokens."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.fleet import FleetReport

_NANO = 1e9


class ReplicaGauges(Collector):
    """Reads a report of every target with own replicas when Prometheus asks."""

    def __init__(self, report: Callable[[], Mapping[str, FleetReport]]) -> None:
        self._report = report

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield one reading."""
        reports = self._report()
        states = GaugeMetricFamily("tollway_replicas", "Own replicas by state.", labels=["target", "state"])
        requests = GaugeMetricFamily(
            "tollway_replica_requests",
            "Requests that the engines work on (running), that wait in them (waiting), or that want a replica while "
            "none is ready (wanted).",
            labels=["target", "state"],
        )
        kv = GaugeMetricFamily("tollway_replica_kv_usage", "KV cache in use, the fullest replica's.", labels=["target"])
        speed = GaugeMetricFamily(
            "tollway_replica_tokens_per_second",
            "Tokens per second over the last minute: prompt tokens computed (prefill), read from the cache (cached), "
            "and written (decode).",
            labels=["target", "phase"],
        )
        busy = GaugeMetricFamily(
            "tollway_replica_utilisation", "Part of the last minute with a request to work on.", labels=["target"]
        )
        hour = GaugeMetricFamily(
            "tollway_replica_usd_per_hour", "Price of the replicas that are up.", labels=["target"]
        )
        mtok = GaugeMetricFamily(
            "tollway_replica_usd_per_mtok",
            "USD per 1M tokens read and written in the last minute: of busy time (marginal), of all time (average).",
            labels=["target", "kind"],
        )
        for target, each in reports.items():
            for state, count in each.replicas.items():
                states.add_metric([target, state], count)
            for state, count in (("running", each.running), ("waiting", each.waiting), ("wanted", each.wanted)):
                requests.add_metric([target, state], count)
            if each.kv_usage is not None:
                kv.add_metric([target], each.kv_usage)
            speed.add_metric([target, "prefill"], each.prefill_tokens_per_s)
            speed.add_metric([target, "cached"], each.cached_tokens_per_s)
            speed.add_metric([target, "decode"], each.decode_tokens_per_s)
            busy.add_metric([target], each.utilisation)
            hour.add_metric([target], each.nano_usd_per_hour / _NANO)
            for kind, price in (
                ("marginal", each.marginal_nano_usd_per_mtok),
                ("average", each.average_nano_usd_per_mtok),
            ):
                if price is not None:
                    mtok.add_metric([target, kind], price / _NANO)
        return states, requests, kv, speed, busy, hour, mtok
