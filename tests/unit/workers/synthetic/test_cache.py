"""The synthetic engine's cache: whatever comes and goes, its blocks are neither lost nor held twice."""

from hypothesis import given
from hypothesis import strategies as st

from workers.synthetic.cache import BlockCache, BlockLease

_BLOCKS, _SIZE = 8, 2
# Few different words, so that prompts begin alike; an index above those of the held leases takes a new one.
_STEPS = st.lists(st.tuples(st.integers(0, 5), st.lists(st.sampled_from("ab"), min_size=1, max_size=8)), max_size=60)


@given(_STEPS, st.booleans())
def test_blocks_are_neither_lost_nor_held_twice(steps: list[tuple[int, list[str]]], caching: bool) -> None:
    cache = BlockCache(_BLOCKS, _SIZE, prefix_caching=caching)
    held: list[BlockLease] = []
    for index, prompt in steps:
        if index < len(held):
            cache.give_back(held.pop(index))
        elif (lease := cache.take(cache.hashes(prompt), len(prompt), len(prompt) + 1)) is not None:
            assert lease.cached_tokens < len(prompt)
            cache.store(lease)
            held.append(lease)
        shared = {one for lease in held for one in lease.stored}
        assert cache.usage * _BLOCKS == len(shared) + sum(lease.plain for lease in held)
        assert cache.usage <= 1
    for lease in held:
        cache.give_back(lease)
    assert cache.usage == 0
    assert cache.take([], 1, _BLOCKS * _SIZE) is not None, "all of it can be had again"
