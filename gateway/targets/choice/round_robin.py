"""Choose replicas in turn."""

from collections.abc import Sequence
from random import Random

from gateway.targets.choice.base import ReplicaView


class RoundRobin:
    """Blind to load: a yardstick for the others. The first turn is drawn, so that gateways do not march in step."""

    reads_prefixes = False

    def __init__(self, random: Random) -> None:
        self._turn = random.getrandbits(16)

    def choose(self, prompt_tokens: int, views: Sequence[ReplicaView], matched_tokens: Sequence[int]) -> int:  # noqa: ARG002 - the protocol's
        """Take the next."""
        self._turn += 1
        return self._turn % len(views)
