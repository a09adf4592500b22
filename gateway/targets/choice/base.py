"""The interface of a policy that chooses a replica. Policies read values and keep no clock, socket or task."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class ReplicaView(NamedTuple):
    """One replica that has room, as it is known at the moment of choice."""

    load: int
    """Requests open there, ours and others'."""
    uncached_tokens: int
    """Prompt tokens sent there and believed not in its cache, of requests that have no first token yet."""


class ReplicaChoice(Protocol):
    """Chooses a replica. One instance serves one model, so it may count; what is random comes from outside."""

    @property
    def reads_prefixes(self) -> bool:
        """Whether ``matched_tokens`` matter: without them, no prompt has to be fingerprinted."""

    def choose(self, prompt_tokens: int, views: Sequence[ReplicaView], matched_tokens: Sequence[int]) -> int:
        """Return the index of one of ``views``, which must not be empty.

        ``matched_tokens`` says for each how much of the prompt its cache is believed to hold; it may be empty for a
        policy that does not read prefixes.
        """
