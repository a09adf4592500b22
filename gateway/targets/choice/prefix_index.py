"""Estimates which prompt prefixes each replica has in its KV cache.

An engine caches the keys and values of a prompt by blocks of tokens, each known by everything before it, and evicts
what was used longest ago. The gateway has no tokenizer and sees no evictions, so it keeps a likeness made of bytes:
a replica's chain hashes (``affinity.prompt``) in the order of use, up to the tokens that its cache holds. It may be
wrong (another gateway's requests, generated text, an engine that was restarted under the same name); then a prefix is
computed that was thought to be there, and nothing else happens.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from gateway.targets.affinity.prompt import Prompt

DEFAULT_KV_TOKENS = 65_536
"""Taken for a cache of unknown size: rather small, for what is forgotten too late misleads."""


class PrefixIndex:
    """The prefixes of one model's replicas. A call costs time in proportion to its chain, whatever is kept."""

    def __init__(self) -> None:
        self._caches: dict[str, _Cache] = {}

    def match(self, prompt: Prompt, replica_ids: Iterable[str]) -> list[int]:
        """Return for each replica how many of the prompt's tokens its cache is believed to hold."""
        return [
            0 if (cache := self._caches.get(replica_id)) is None else prompt.tokens_in(cache.match(prompt.chain))
            for replica_id in replica_ids
        ]

    def remember(self, replica_id: str, prompt: Prompt) -> None:
        """Note that the replica is computing this prompt, or has."""
        self._cache_of(replica_id).remember(prompt)

    def resize(self, replica_id: str, kv_tokens: int | None) -> None:
        """Note the capacity of the replica's cache; None: unknown."""
        self._cache_of(replica_id).resize(DEFAULT_KV_TOKENS if kv_tokens is None else kv_tokens)

    def forget(self, replica_id: str) -> None:
        """Drop all that is known of a replica: it is gone, or has begun anew."""
        self._caches.pop(replica_id, None)

    def _cache_of(self, replica_id: str) -> "_Cache":
        cache = self._caches.get(replica_id)
        if cache is None:
            cache = self._caches[replica_id] = _Cache()
        return cache


class _Cache:
    """The links of one replica, the one used longest ago first.

    A chain is entered from its end, so a link is always younger than those that follow it and goes after them: if a
    link is here, so are all before it. That is how engines evict, and lets ``match`` halve instead of walk.
    """

    __slots__ = ("_capacity", "_links", "_tokens")

    def __init__(self) -> None:
        self._links: OrderedDict[int, int] = OrderedDict()
        """Link -> the tokens of its chunk, at least one: so there are never more links than tokens."""
        self._tokens = 0
        self._capacity = DEFAULT_KV_TOKENS

    def match(self, chain: Sequence[int]) -> int:
        """Return the number of links from the beginning that are here."""
        return len(chain) - bisect_left(chain, True, key=self._links.__contains__)

    def remember(self, prompt: Prompt) -> None:
        links = self._links
        for number, link in zip(range(len(prompt.chain), 0, -1), prompt.chain, strict=True):
            if link in links:
                links.move_to_end(link)
            else:
                links[link] = tokens = max(1, prompt.tokens_in(number) - prompt.tokens_in(number - 1))
                self._tokens += tokens
        self._evict()

    def resize(self, capacity: int) -> None:
        self._capacity = capacity
        self._evict()

    def _evict(self) -> None:
        while self._tokens > self._capacity:
            self._tokens -= self._links.popitem(last=False)[1]
