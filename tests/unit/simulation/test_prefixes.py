"""What prompts have in common, and what modelled caches have of them."""

from itertools import takewhile
from random import Random

import pytest

from gateway.simulation.prefixes import LifetimeCache, LruCache, Prefix, PrefixTree, Run, text_of


def _prompts(random: Random) -> list[list[int]]:
    """Make prompts that begin like earlier ones, up to anywhere."""
    prompts: list[list[int]] = []
    fresh = 0
    for _ in range(30):
        before = random.choice(prompts) if prompts and random.random() < 0.8 else []
        new = random.randrange(1, 12)
        prompts.append(before[: random.randint(0, len(before))] + list(range(fresh, fresh + new)))
        fresh += new
    return prompts


def _runs(prompt: list[int], random: Random) -> list[Run]:
    """Write a prompt as runs, which need not be as long as they could be."""
    runs: list[Run] = []
    for token in prompt:
        if runs and runs[-1].end == token and random.random() < 0.7:
            runs[-1] = Run(runs[-1].start, token + 1)
        else:
            runs.append(Run(token, token + 1))
    return runs


def _in_common(one: list[int], other: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@pytest.mark.parametrize("seed", range(20))
def test_caches_find_the_longest_beginning_that_was_read_before(seed: int) -> None:
    """As comparing every prompt with every earlier one does."""
    random = Random(seed)
    prompts = _prompts(random)
    tree = PrefixTree()
    nodes = [tree.add(_runs(prompt, random)) for prompt in prompts]
    lifetime, lru = LifetimeCache(1e9), LruCache(10**9)
    for at, (prompt, node) in enumerate(zip(prompts, nodes, strict=True)):
        longest = max((_in_common(prompt, earlier) for earlier in prompts[:at]), default=0)
        assert node.end_tokens == len(prompt)
        assert lifetime.cached_tokens(node, at) == lru.cached_tokens(node) == longest
        lifetime.use(node, at)
        lru.use(node)


def _three() -> tuple[Prefix, Prefix, Prefix]:
    """Return a prompt of 100 tokens, one that goes on with it for 50 more, and another of 100."""
    tree = PrefixTree()
    return tree.add([Run(0, 100)]), tree.add([Run(0, 100), Run(500, 550)]), tree.add([Run(900, 1000)])


def test_lifetime_begins_anew_with_each_use() -> None:
    """A use of the longer prompt is one of the shorter."""
    short, long, _ = _three()
    cache = LifetimeCache(10)
    cache.use(short, 0)
    cache.use(long, 8)
    assert cache.cached_tokens(short, 18) == 100
    assert cache.cached_tokens(long, 18) == 150
    assert cache.cached_tokens(long, 18.1) == 0


def test_full_cache_forgets_the_end_of_a_prompt_before_its_beginning() -> None:
    """Of what was used longest ago."""
    short, long, other = _three()
    cache = LruCache(220)
    cache.use(long)
    cache.use(other)
    assert (cache.cached_tokens(long), cache.cached_tokens(short), cache.cached_tokens(other)) == (100, 100, 100)


def test_stand_in_texts_are_as_alike_as_the_prompts() -> None:
    """So that fingerprints of the text match where the prompts do."""
    short, long, other = map(text_of, _three())
    assert long.startswith(short)
    assert len(long) > len(short)
    assert not other.startswith(short[:3])
