"""Decides how many replicas a model wants, from its engines' figures and from the calls that wait for it at zero.

Ray Serve's controller calls the policy about ten times a second between everything else it does, so nothing in it waits
for anything: the replicas push their figures (``record_autoscaling_stats``), and what asks for a model at zero is a
call in a Serve handle's queue, which Serve counts by itself. Delays and bounds are Serve's.
"""

from math import ceil
from typing import Protocol

from workers.config.spec import ModelSpec

REQUESTS, TTFT_MS = "requests", "ttft_ms"
"""The figures of a replica, by the names under which it reports them."""


class ScalingContext(Protocol):
    """What is read of Serve's ``AutoscalingContext``: the replicas, their figures, and the calls in Serve's queues."""

    current_num_replicas: int
    total_num_requests: float

    @property
    def aggregated_metrics(self) -> dict[str, dict[object, float]] | None:
        """The figures of each replica, averaged over the last seconds."""


class ScalingPolicy:
    """Want a replica for each ``target_requests``, and one more than there are while the TTFT is above its target."""

    def __init__(self, target_requests: float, target_ttft_ms: float | None) -> None:
        self._target_requests = target_requests
        self._target_ttft_ms = target_ttft_ms

    def __call__(self, context: ScalingContext) -> tuple[int, dict[str, object]]:
        """Return how many replicas are wanted, and no state."""
        figures = context.aggregated_metrics or {}
        # An average of a few seconds that has almost reached zero is zero: no request is open any more.
        wanted = ceil(round(sum(figures.get(REQUESTS, {}).values()), 1) / self._target_requests)
        if context.total_num_requests > 0:
            wanted = max(wanted, 1)
        # A replica that has answered nothing of late reports 0.
        ttfts_ms = [value for value in figures.get(TTFT_MS, {}).values() if value > 0]
        if self._target_ttft_ms is not None and ttfts_ms and sum(ttfts_ms) / len(ttfts_ms) > self._target_ttft_ms:
            wanted = max(wanted, context.current_num_replicas + 1)
        return wanted, {}


def scale(spec: ModelSpec) -> dict[str, object]:
    """Return Serve's options for the number of replicas. A model with ``min_replicas: 0`` starts at zero."""
    if (scaling := spec.autoscaling) is None:
        return {"num_replicas": spec.replicas}
    targets = {"target_requests": scaling.target_requests, "target_ttft_ms": scaling.target_ttft_ms}
    config = {
        "min_replicas": scaling.min_replicas,
        "max_replicas": scaling.max_replicas,
        # No `initial_replicas`: Serve would go back to it whenever its controller restarts.
        "target_ongoing_requests": scaling.target_requests,
        # Deprecated in favour of environment variables of every process of the cluster, which are not ours to set.
        "metrics_interval_s": 1.0,
        "look_back_period_s": 2.0,
        "upscale_delay_s": scaling.upscale_delay_s,
        "downscale_delay_s": scaling.downscale_delay_s,
        "downscale_to_zero_delay_s": scaling.to_zero_delay_s,
        "policy": {"policy_function": f"{__name__}:{ScalingPolicy.__name__}", "policy_kwargs": targets},
    }
    return {"autoscaling_config": config}
