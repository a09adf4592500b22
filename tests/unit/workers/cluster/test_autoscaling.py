"""How many replicas a model wants."""

from dataclasses import dataclass, field

import pytest

from workers.cluster.autoscaling import ScalingPolicy


@dataclass
class Reading:
    """What Serve would say."""

    requests: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    current_num_replicas: int = 1
    total_num_requests: float = 0

    @property
    def aggregated_metrics(self) -> dict[str, dict[object, float]]:
        return {"requests": dict(enumerate(self.requests)), "ttft_ms": dict(enumerate(self.ttft_ms))}


@pytest.mark.parametrize(
    ("reading", "wanted"),
    [
        (Reading(), 0),
        (Reading(requests=[0.001, 0]), 0),
        (Reading(requests=[0.5]), 1),
        (Reading(requests=[4, 4]), 2),
        (Reading(requests=[4, 4.2]), 3),
        (Reading(total_num_requests=1), 1),
        (Reading(requests=[1], ttft_ms=[150], current_num_replicas=2), 3),
        (Reading(requests=[1], ttft_ms=[90], current_num_replicas=2), 1),
        # The one that answered nobody has no TTFT.
        (Reading(requests=[1, 0], ttft_ms=[150, 0], current_num_replicas=2), 3),
        (Reading(requests=[1, 0], ttft_ms=[150, 40], current_num_replicas=2), 1),
        (Reading(requests=[40], ttft_ms=[150], current_num_replicas=2), 10),
    ],
)
def test_a_replica_for_each_so_many_requests_and_one_more_while_ttft_is_too_long(reading: Reading, wanted: int) -> None:
    assert ScalingPolicy(target_requests=4, target_ttft_ms=100)(reading)[0] == wanted


@pytest.mark.parametrize(("target", "requests", "wanted"), [(1000, 1, 1), (1000, 0.01, 0), (0.5, 2, 4), (1e9, 1, 1)])
def test_one_request_keeps_a_replica_whatever_the_target(target: float, requests: float, wanted: int) -> None:
    """Or its stream would be under way in a replica that is to go."""
    assert ScalingPolicy(target, None)(Reading(requests=[requests]))[0] == wanted


def test_ttft_does_not_matter_without_a_target() -> None:
    assert ScalingPolicy(4, None)(Reading(requests=[1], ttft_ms=[9000]))[0] == 1
