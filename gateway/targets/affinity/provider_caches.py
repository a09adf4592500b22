"""Follows what the caches of upstreams that are no replicas of ours hold, by their documented rules.

Whatever was sent with one credential to one model is one cache. Of each prompt the links of its chain are kept and its
ends, with the tokens that the upstream counted up to there: so the next turn of a conversation is known to the token.
All is forgotten with its lifetime, and what was used longest ago when there is too much. Hashes only, no text.
"""

from bisect import bisect_left
from collections import OrderedDict
from typing import NamedTuple

from gateway.prompt_cache import PromptCache
from gateway.targets.affinity.prompt import CHUNK_ENDS, End, Prompt

MAX_LINKS = 65_536
"""Some 20 MB; a conversation of 100k tokens has 115."""
_MAX_SIZES = 64
"""Conversations that begin alike may end in one chunk in so many places."""
_HOUR_NS = 3_600_000_000_000


class Match(NamedTuple):
    """What of a prompt was found, in tokens."""

    cached: int
    tokens: float
    """All of the prompt, by the same count."""


class _Link:
    __slots__ = ("expires_ns", "sizes")

    def __init__(self) -> None:
        self.expires_ns = 0
        self.sizes: OrderedDict[int, None] = OrderedDict()
        """In bytes: where prompts end within the chunk behind."""


class _Kept(NamedTuple):
    """A place where a prompt ended."""

    expires_ns: int
    estimated: int
    """Tokens up to there."""
    counted: int
    """The same, by the upstream once it has said so."""


class ProviderCaches:
    """Those of all upstreams; a call costs time in proportion to its chain, whatever is kept."""

    def __init__(self) -> None:
        self._links: OrderedDict[int, _Link] = OrderedDict()
        self._ends: OrderedDict[int, _Kept] = OrderedDict()

    def match(self, cache: int, prompt: Prompt, text: bytes, rules: PromptCache, now_ns: int) -> Match | None:
        """Find the most of a prompt that a cache should hold; None: nothing."""
        links, chain, is_mark = self._links, prompt.chain, rules.match == "mark"
        limit = prompt.size_bytes if not is_mark else prompt.marks[-1].size_bytes if prompt.marks else 0

        def lives(link: int) -> bool:
            known = links.get(hash((cache, link)))
            return known is not None and known.expires_ns > now_ns

        common = len(chain) - bisect_left(chain, True, key=lives)
        for chunks in range(common, 0, -1):
            link, start = chain[-chunks], CHUNK_ENDS[chunks - 1]
            for size in sorted(links[hash((cache, link))].sizes, reverse=True):
                if size > limit:
                    continue
                kept = self._ends.get(hash((cache, link, size, hash(text[start:size]))))
                if kept is not None and kept.expires_ns > now_ns:
                    rest = max(0, prompt.tokens - kept.estimated)
                    return Match(kept.counted, kept.counted + rest * kept.counted / max(1, kept.estimated))
            if rules.match == "longest":
                return Match(prompt.tokens_to(start), prompt.tokens)
        return None

    def remember(self, cache: int, prompt: Prompt, rules: PromptCache, used_ns: int) -> None:
        """Note that the upstream has read this prompt."""
        ends = ends_of(prompt, rules)
        if not ends:
            return
        usual_ns = used_ns + round(rules.lifetime_s * 1e9)
        latest_ns = max(usual_ns, used_ns + _HOUR_NS) if any(end.for_an_hour for end in ends) else usual_ns
        links = self._links
        # From the end: a link is younger than those that follow it, and goes after them.
        for link in prompt.chain[len(prompt.chain) - ends[-1].chunks :] if rules.match == "mark" else prompt.chain:
            key = hash((cache, link))
            known = links.get(key)
            if known is None:
                known = links[key] = _Link()
            else:
                links.move_to_end(key)
            known.expires_ns = max(known.expires_ns, latest_ns)
        for end in ends:
            if end.chunks and (known := links.get(hash((cache, prompt.chain[-end.chunks])))) is not None:
                known.sizes[end.size_bytes] = None
                known.sizes.move_to_end(end.size_bytes)
                if len(known.sizes) > _MAX_SIZES:
                    known.sizes.popitem(last=False)
                expires_ns = max(usual_ns, used_ns + _HOUR_NS) if end.for_an_hour else usual_ns
                tokens = prompt.tokens_to(end.size_bytes)
                key = _end_key(cache, prompt, end)
                counted = self._ends[key].counted if key in self._ends else tokens
                self._ends[key] = _Kept(expires_ns, tokens, counted)
                self._ends.move_to_end(key)
        while len(links) > MAX_LINKS:
            links.popitem(last=False)
        while len(self._ends) > MAX_LINKS // 4:
            self._ends.popitem(last=False)

    def count(self, cache: int, prompt: Prompt, rules: PromptCache, read_tokens: int, kept_tokens: int) -> None:
        """Take over what the upstream counted: the prompt, and of that what it keeps (0: it does not say)."""
        ends = ends_of(prompt, rules)
        for end in ends:
            key = _end_key(cache, prompt, end)
            if (kept := self._ends.get(key)) is not None:
                counted = read_tokens * end.size_bytes // prompt.size_bytes
                if rules.match == "mark" and end is ends[-1] and kept_tokens:
                    counted = kept_tokens
                elif rules.match != "mark":
                    counted = read_tokens
                self._ends[key] = kept._replace(counted=counted)


def ends_of(prompt: Prompt, rules: PromptCache) -> tuple[End, ...]:
    """Return where a prompt's cached beginnings end, in order."""
    if rules.match == "mark":
        return prompt.marks
    return () if prompt.end is None else (prompt.end,)


def _end_key(cache: int, prompt: Prompt, end: End) -> int:
    link = prompt.chain[-end.chunks] if end.chunks else 0
    return hash((cache, link, end.size_bytes, end.tail))
