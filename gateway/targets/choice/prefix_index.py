"""Estimates which prompt prefixes each replica has in its KV cache.

An engine caches the keys and values of a prompt by blocks of tokens, each known by everything before it, and evicts
what was used longest ago. The gateway has no tokenizer and sees no evictions, so it keeps a likeness made of bytes:
a prompt is a chain of hashes, each over a chunk and the hash before it, so that two prompts have as many hashes in
common as chunks from their beginning. A replica's chain hashes are kept in the order of use, up to the tokens that
its cache holds. It may be wrong (another gateway's requests, generated text, an engine that was restarted under the
same name); then a prefix is computed that was thought to be there, and nothing else happens.

Chunks begin at 64 bytes, about one block of 16 tokens, and grow with the distance from the start: each is at most a
sixteenth of what precedes it. So a match is exact to within 6%, of short prompts to a block, and 128k tokens have
119 chunks, where chunks of one size would be thousands or too coarse. Their ends do not depend on the prompt's length.

Hashes are Python's own of bytes: SipHash under a key of this process, so no caller can forge a match, and at 512 KB
no dearer than reading the bytes. They mean nothing in another process.
"""

import re
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from gateway.formats.anthropic.conversation import BILLING_HEADER

DEFAULT_KV_TOKENS = 65_536
"""Taken for a cache of unknown size: rather small, for what is forgotten too late misleads."""

_FIRST_CHUNK_BYTES = 64
_GROWTH = 16
_LARGEST_BYTES = 1 << 30
_READ_FIRST = ("tools", "functions", "system", "messages", "prompt")
"""What the model reads, in the order in which most chat templates put it."""
_UNREAD = re.compile(rb"\s*(?:\[\s*\{[^{}]{0,64}?)?" + BILLING_HEADER.pattern)
"""The client's own at the front of a ``system``: it may differ in each call, and is not sent on to replicas."""


def _ends() -> tuple[int, ...]:
    ends = [_FIRST_CHUNK_BYTES]
    while ends[-1] < _LARGEST_BYTES:
        ends.append(ends[-1] + max(_FIRST_CHUNK_BYTES, ends[-1] // _GROWTH))
    return tuple(ends)


_ENDS = _ends()


class Prompt(Struct, frozen=True):
    """A prompt's fingerprint."""

    tokens: int
    """Estimated; spread evenly over the bytes, so that an image's megabyte counts as the image."""
    size_bytes: int
    chain: Sequence[int]
    """A hash for each whole chunk, the last one first. What is left at the end is too short to be looked for."""

    def tokens_in(self, chunks: int) -> int:
        """Return how many tokens the first so many chunks hold."""
        return _ENDS[chunks - 1] * self.tokens // self.size_bytes if chunks else 0


def fingerprint(model: str, members: Mapping[str, bytes], tokens: int) -> Prompt:
    """Read the raw members of a request's body, as ``Envelope.members`` has them; ``tokens`` is their estimated number.

    ``model`` is the name that the engine answers to: adapters of one model share no cache.
    """
    parts = {name: members[name] for name in _READ_FIRST if name in members}
    if (system := parts.get("system")) is not None and (unread := _UNREAD.match(system)) is not None:
        parts["system"] = system[unread.end() :]
    text = b"".join(parts.values())
    chain = []
    link, start, size = hash(model), 0, len(text)
    for end in _ENDS:
        if end > size:
            break
        link = hash((link, text[start:end]))
        chain.append(link)
        start = end
    return Prompt(tokens, size, chain[::-1])


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
