"""Choose by cached prefix and load together.

A replica that has a prompt's beginning in its KV cache computes only the rest, so requests that share one should meet
there; but if all do, they queue there while others idle. Both are weighed by one product: the prompt tokens that the
replica has still to compute before our first token (those sent before and not computed yet, and what it lacks of
ours) times the requests it then has open. A product needs no weights: scaling either factor scales every replica's
score alike. (LMetric, arXiv 2603.15202.) The more is cached, the longer a queue is worth joining: at a match of 90%
one ten times as long. Where nothing is shared, it is least-active with an eye on queued prefill.
"""

from collections.abc import Sequence
from random import Random

from gateway.targets.choice.base import ReplicaView


class PrefixAware:
    """The smallest ``new prefill tokens x (load + 1)``; ties by load, then at random."""

    reads_prefixes = True

    def __init__(self, random: Random) -> None:
        self._random = random

    def choose(self, prompt_tokens: int, views: Sequence[ReplicaView], matched_tokens: Sequence[int]) -> int:
        """Score every replica."""

        def rank(index: int) -> tuple[int, int, float]:
            view = views[index]
            # At least one token is always computed; with none, no load would ever count.
            new_tokens = view.uncached_tokens + max(1, prompt_tokens - matched_tokens[index])
            return new_tokens * (view.load + 1), view.load, self._random.random()

        return min(range(len(views)), key=rank)
