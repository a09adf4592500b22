"""Choose the less busy of two replicas drawn at random."""

from collections.abc import Sequence
from random import Random

from gateway.targets.choice.base import ReplicaView


class PowerOfTwo:
    """Where many gateways see the same stale loads, looking at two only keeps them from all choosing the same one."""

    reads_prefixes = False

    def __init__(self, random: Random) -> None:
        self._random = random

    def choose(self, prompt_tokens: int, views: Sequence[ReplicaView], matched_tokens: Sequence[int]) -> int:  # noqa: ARG002 - the protocol's
        """Compare loads; of two alike, the one drawn first."""
        two = self._random.sample(range(len(views)), min(2, len(views)))
        return min(two, key=lambda index: views[index].load)
