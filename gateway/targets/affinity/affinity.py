"""Expects, for one call, what each target has cached of its prompt; learns how well that comes true.

What should be there is the rules' (``provider_caches``) or, for listed replicas, the index of their own caches. How
often it is there is learnt for each target, from the share that it reports over the share that should have been
there: load balancers of providers send a conversation to another machine, and caches are evicted early. Reports count
less with every later one and with age. A target that has never reported a cached token though some were due is priced
and timed as if it had none, and is given the benefit of the doubt again as what was learnt fades.
"""

from math import exp2
from typing import NamedTuple

from gateway.prompt_cache import PromptCache
from gateway.targets.affinity.prompt import Prompt, fingerprint
from gateway.targets.affinity.provider_caches import Match, ProviderCaches, ends_of
from gateway.tariff import Amounts
from gateway.types import Call, Expected, Sample, Target

LEAST_TOKENS = 512
"""Shorter prompts are not looked up: most caches keep none, and what little the others keep is worth less than that."""
_LARGEST_BYTES = 8_000_000
"""Longer bodies are images, or no prompt that any model reads: hashing them would hold the event loop up."""
_PRIOR_CALLS = 2.0
"""What the documentation promises counts for as many reports."""
_KEPT_PER_REPORT = 15 / 16
_HALF_LIFE_NS = 1_800_000_000_000
_ENOUGH_CALLS = 1.9
"""From so many reports on (the second, a moment after the first) they count alone."""


class Hits:
    """How much of what should be cached at a target was."""

    __slots__ = ("_at_ns", "_calls", "_hits", "reported")

    def __init__(self) -> None:
        self._calls = self._hits = 0.0
        self.reported = False
        """The target has reported a cached token."""
        self._at_ns = 0

    def probability(self, promise: float, now_ns: int) -> float | None:
        """Return what share to expect; None: it has never been seen to report any."""
        faded = exp2((self._at_ns - now_ns) / _HALF_LIFE_NS)
        calls, hits = self._calls * faded, self._hits * faded
        if calls >= _ENOUGH_CALLS:
            return hits / calls if hits else None
        return (_PRIOR_CALLS * promise + hits) / (_PRIOR_CALLS + calls)

    def add(self, share: float, now_ns: int) -> None:
        """Learn one report."""
        keep = _KEPT_PER_REPORT * exp2((self._at_ns - now_ns) / _HALF_LIFE_NS)
        self._calls = self._calls * keep + 1.0
        self._hits = self._hits * keep + share
        self._at_ns = now_ns


class LongPrompt(NamedTuple):
    """A call's prompt while targets are looked at; the text is not kept."""

    prompt: Prompt
    text: bytes


Looked = LongPrompt | None
"""None: the prompt is too short to be looked up."""


class Sent(NamedTuple):
    """What is kept of a prompt from the plan to the end of its attempt (``Expected.note``)."""

    prompt: Prompt
    cache: int | None
    """Of a provider; None: the index of own replicas remembers it."""


def long_prompt(call: Call) -> LongPrompt | None:
    """Read the prompt of a call; None: it is no text, or too large to be looked at."""
    members, envelope = call.envelope.members, call.envelope
    if len(envelope.body) > _LARGEST_BYTES or not envelope.endpoint.has_tokens:
        return None
    prompt, text = fingerprint(members, call.input_tokens_estimate)
    return LongPrompt(prompt, text) if prompt.chain else None


class Affinity:
    """Of all targets; how well each keeps its promise is kept with what else is known of it."""

    def __init__(self) -> None:
        self.caches = ProviderCaches()

    def expect(self, target: Target, hits: Hits, long: LongPrompt, now_ns: int) -> Expected | None:
        """Say what a provider will read of a prompt, and how; None: nothing is known of its cache."""
        rules = target.prompt_cache
        if rules is None:
            return None
        prompt = long.prompt
        key = prompt.cache_key if rules.keyed else 0
        cache = hash((target.pool, target.base_url, target.upstream_model, key))
        match = self.caches.match(cache, prompt, long.text, rules, now_ns) or Match(0, prompt.tokens)
        return _expected(prompt, match, rules, hits.probability(rules.promise, now_ns), Sent(prompt, cache))


class Reading:
    """One attempt that sends a long prompt: what its target does with it is learnt."""

    def __init__(self, target: Target, affinity: Affinity, hits: Hits, expected: Expected, began_at_ns: int) -> None:
        self._rules = target.prompt_cache
        self._caches = affinity.caches
        self._hits = hits
        self._expected = expected
        self._sent: Sent = expected.note
        self._began_at_ns = began_at_ns
        self._is_noted = False

    def begun(self, now_ns: int) -> None:
        """Note, once, that the target has read the prompt: that it answers."""
        if self._is_noted:
            return
        self._is_noted = True
        rules, (prompt, cache) = self._rules, self._sent
        if cache is not None and rules is not None:
            used_ns = self._began_at_ns if rules.counts_from == "start" else now_ns
            self._caches.remember(cache, prompt, rules, used_ns)

    def ended(self, sample: Sample, now_ns: int) -> None:
        """Learn from what the target reports to have read."""
        if sample.ok:
            self.begun(now_ns)  # the answer came in one piece
        if sample.cached_tokens is None or not sample.input_tokens:
            return
        rules, (prompt, cache) = self._rules, self._sent
        if cache is not None and rules is not None:
            self._caches.count(cache, prompt, rules, sample.input_tokens, sample.kept_tokens)
        if matched := self._expected.matched_tokens:
            due = matched / max(1, self._expected.reads.read_tokens)
            self._hits.add(min(1.0, sample.cached_tokens / sample.input_tokens / due), now_ns)


def expect_of_replicas(hits: Hits, prompt: Prompt, matched_tokens: int, promise: float, now_ns: int) -> Expected:
    """Say what own replicas will read of a prompt, if the one that holds most of it takes it."""
    p = hits.probability(promise, now_ns)
    cached = round(matched_tokens * (p or 0.0))
    return Expected(
        reads=Amounts(input_tokens=prompt.tokens - cached, cached_input_tokens=cached),
        cached_tokens=None if p is None else cached,
        matched_tokens=matched_tokens,
        note=Sent(prompt, None),
    )


def _expected(prompt: Prompt, match: Match, rules: PromptCache, p: float | None, sent: Sent) -> Expected:
    matched = match.cached - match.cached % rules.grain_tokens
    if matched < rules.minimum_tokens:
        matched = 0
    cached, total = round(matched * (p or 0.0)), round(match.tokens)
    written = written_1h = 0
    ends = ends_of(prompt, rules)
    if rules.bills_writes and p is not None and ends:
        kept = round(ends[-1].size_bytes / prompt.size_bytes * total) if rules.match == "mark" else total
        written = max(0, kept - cached) if kept >= rules.minimum_tokens else 0
        if ends[-1].for_an_hour:
            written, written_1h = 0, written
    return Expected(
        reads=Amounts(
            input_tokens=max(0, total - cached - written - written_1h),
            cached_input_tokens=cached,
            cache_write_tokens=written,
            cache_write_1h_tokens=written_1h,
        ),
        cached_tokens=None if p is None else cached,
        matched_tokens=matched,
        note=sent,
    )
