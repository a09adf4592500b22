"""Choose the replica with the fewest open requests."""

from collections.abc import Sequence
from random import Random

from gateway.targets.choice.base import ReplicaView


class LeastActive:
    """The smallest load; ties at random, or the first replica would have all the traffic of a quiet hour."""

    reads_prefixes = False

    def __init__(self, random: Random) -> None:
        self._random = random

    def choose(self, prompt_tokens: int, views: Sequence[ReplicaView], matched_tokens: Sequence[int]) -> int:  # noqa: ARG002 - the protocol's
        """Look at every replica."""
        return min(range(len(views)), key=lambda index: (views[index].load, self._random.random()))
