"""The policies of replica choice: pure, seeded, and where each sends a request."""

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.targets.choice.base import ReplicaChoice, ReplicaView
from gateway.targets.choice.registry import CHOICES


def views(*loads: int, uncached: Sequence[int] = ()) -> list[ReplicaView]:
    return [ReplicaView(load, tokens) for load, tokens in zip_longest(loads, uncached, fillvalue=0)]


def policy(name: str, seed: int = 1) -> ReplicaChoice:
    return CHOICES[name](Random(seed))


def spread(choice: ReplicaChoice, seen: Sequence[ReplicaView], times: int = 600) -> Counter[int]:
    return Counter(choice.choose(100, seen, [0] * len(seen)) for _ in range(times))


VIEWS = st.lists(st.builds(ReplicaView, st.integers(0, 9), st.integers(0, 9999)), min_size=1, max_size=9)


@pytest.mark.parametrize("name", CHOICES)
@settings(deadline=None)  # the machine may be busy
@given(seen=VIEWS, seed=st.integers(0, 99), data=st.data())
def test_whatever_is_seen_one_of_the_replicas_is_chosen(
    name: str, seen: list[ReplicaView], seed: int, data: st.DataObject
) -> None:
    matched = data.draw(st.lists(st.integers(0, 100), min_size=len(seen), max_size=len(seen)))
    assert 0 <= policy(name, seed).choose(100, seen, matched) < len(seen)


@pytest.mark.parametrize("name", CHOICES)
def test_the_same_seed_makes_the_same_choices(name: str) -> None:
    seen = views(1, 1, 1, 1)
    assert [policy(name, 7).choose(9, seen, [0] * 4) for _ in range(3)] == [
        policy(name, 7).choose(9, seen, [0] * 4)
    ] * 3


@pytest.mark.parametrize("name", CHOICES)
def test_equal_replicas_get_equal_shares(name: str) -> None:
    """In a quiet hour no replica has all the traffic."""
    counts = spread(policy(name), views(0, 0, 0))
    assert all(150 < counts[index] < 250 for index in range(3))


@pytest.mark.parametrize("name", ["least_active", "round_robin", "power_of_two"])
def test_a_policy_that_reads_no_prefixes_needs_no_matches(name: str) -> None:
    assert not policy(name).reads_prefixes
    assert policy(name).choose(100, views(0, 0), ()) in {0, 1}


@settings(deadline=None)  # the machine may be busy
@given(seen=VIEWS)
def test_least_active_chooses_the_smallest_load(seen: list[ReplicaView]) -> None:
    chosen = policy("least_active").choose(100, seen, ())
    assert seen[chosen].load == min(view.load for view in seen)


def test_round_robin_takes_turns_whatever_the_load() -> None:
    choice = policy("round_robin")
    turns = [choice.choose(1, views(9, 0, 5), ()) for _ in range(6)]
    assert sorted(turns[:3]) == [0, 1, 2]
    assert turns[:3] == turns[3:]


def test_power_of_two_never_chooses_the_busiest_and_often_not_the_idlest() -> None:
    counts = spread(policy("power_of_two"), views(2, 1, 0))
    assert set(counts) == {1, 2}
    assert 150 < counts[1] < 250  # when the pair is (0, 1): a third of the time


def test_a_cached_prefix_outweighs_a_few_more_open_requests() -> None:
    assert policy("prefix").choose(1000, views(5, 0), [900, 0]) == 0


def test_a_cached_prefix_does_not_outweigh_a_long_queue() -> None:
    """A tenth of the prompt to compute is worth a batch ten times as large, no more."""
    seen = views(10, 0)
    assert policy("prefix").choose(1000, seen, [900, 0]) == 1
    assert policy("prefix").choose(1000, seen, [910, 0]) == 0
    assert policy("prefix").choose(1000, views(1, 0), [400, 0]) == 1


def test_prompts_sent_there_and_not_computed_yet_count_as_work_before_ours() -> None:
    assert policy("prefix").choose(1000, views(1, 1, uncached=[1000, 0]), [900, 0]) == 1


def test_smaller_load_of_equal_products_is_chosen() -> None:
    assert policy("prefix").choose(300, views(2, 1), [100, 0]) == 1  # 200 x 3 and 300 x 2


def test_a_prompt_that_is_cached_everywhere_goes_where_the_load_is_least() -> None:
    assert policy("prefix").choose(1000, views(3, 1, 2), [1000, 1000, 1000]) == 1
    assert policy("prefix").choose(1000, views(30, 0, uncached=[0, 5]), [1000, 1000]) == 1


@settings(deadline=None)  # the machine may be busy
@given(
    loads=st.lists(st.integers(0, 9), min_size=1, max_size=9),
    tokens=st.integers(0, 9999),
    seed=st.integers(0, 99),
)
def test_policy_without_shared_prefixes_and_queued_prompts_is_least_active(
    loads: list[int], tokens: int, seed: int
) -> None:
    seen, nothing = views(*loads), [0] * len(loads)
    assert policy("prefix", seed).choose(tokens, seen, nothing) == policy("least_active", seed).choose(tokens, seen, ())
