"""Fingerprints of prompts, and the index of what replicas have cached, against a naive model."""

import json
from collections.abc import Mapping
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.formats.openai.decode import CHAT
from gateway.targets.affinity.prompt import Prompt, fingerprint
from gateway.targets.choice.prefix_index import DEFAULT_KV_TOKENS, PrefixIndex

KIB = 1024
LINE = rb'"x-anthropic-billing-header: cc_version=2; cch=%b;\n\n'
BILLED = b'[{"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=%b;"}, '


def prompt(text: bytes, model: str = "m", tokens: int | None = None) -> Prompt:
    return fingerprint({"messages": text}, len(text) // 4 if tokens is None else tokens)[0].chain_of(model)


def varied(size: int) -> bytes:
    return b"".join(b"%07d " % number for number in range(size // 8))


def matched(index: PrefixIndex, wanted: Prompt, *replica_ids: str) -> list[int]:
    return index.match(wanted, replica_ids or ("a",))


@pytest.mark.parametrize("size", [64, 200, KIB, 8 * KIB, 512 * KIB])
def test_match_is_exact_to_a_block_or_a_sixteenth(size: int) -> None:
    index = PrefixIndex()
    index.resize("a", 10**6)
    index.remember("a", prompt(varied(size)))
    (tokens,) = matched(index, prompt(varied(size) + b"and what follows" * 4))
    assert size // 4 - max(16, size // 4 // 16) <= tokens <= size // 4


def test_a_long_prompt_has_a_short_chain() -> None:
    """128k tokens at four bytes each."""
    assert len(prompt(varied(512 * KIB)).chain) == 119


@settings(deadline=None)  # the machine may be busy
@given(shared=st.integers(0, 5000), one=st.binary(max_size=300), other=st.binary(max_size=300))
def test_two_prompts_share_what_they_have_in_common_and_no_more(shared: int, one: bytes, other: bytes) -> None:
    texts = varied(5000)[:shared] + one, varied(5000)[:shared] + other
    known, wanted = (prompt(text, tokens=len(text)) for text in texts)
    index = PrefixIndex()
    index.remember("a", known)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
    assert common - max(64, common / 16) < matched(index, wanted)[0] <= common or common == 0


def test_a_conversation_goes_on_where_it_was() -> None:
    """What a caller's JSON closes with does not hide the turns before it."""
    messages = [
        {"role": "system", "content": varied(2 * KIB).decode()},
        {"role": "user", "content": "How far is it? " * 9},
    ]
    index = PrefixIndex()
    index.remember("a", prompt(json.dumps(messages).encode()))
    messages += [{"role": "assistant", "content": "Far."}, {"role": "user", "content": "How long?"}]
    wanted = prompt(json.dumps(messages).encode())
    assert matched(index, wanted)[0] > 0.85 * wanted.tokens


def test_names_of_models_are_worlds_apart() -> None:
    index = PrefixIndex()
    index.remember("a", prompt(varied(KIB), model="base"))
    assert matched(index, prompt(varied(KIB), model="pirate")) == [0]
    assert matched(index, prompt(varied(KIB), model="base")) == [256]


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({"tools": varied(KIB), "messages": b"one" * 99}, {"messages": b"two" * 99, "tools": varied(KIB)}, True),
        ({"tools": b"one" * 99, "messages": varied(KIB)}, {"tools": b"two" * 99, "messages": varied(KIB)}, False),
        ({"messages": varied(KIB), "system": b"one" * 99}, {"system": b"two" * 99, "messages": varied(KIB)}, False),
        ({"system": varied(KIB), "messages": b"one" * 99}, {"messages": b"two" * 99, "system": varied(KIB)}, True),
        ({"system": BILLED % b"one" + varied(KIB)}, {"system": BILLED % b"another" + varied(KIB)}, True),
        ({"system": LINE % b"one" + varied(KIB)}, {"system": LINE % b"another" + varied(KIB)}, True),
        ({"prompt": varied(KIB), "seed": b"1"}, {"seed": b"2", "prompt": varied(KIB)}, True),
    ],
    ids=[
        "tools shared",
        "tools differ",
        "system differs",
        "system shared",
        "billing header differs",
        "billing line differs",
        "other members",
    ],
)
def test_tools_come_before_messages_and_what_the_model_does_not_read_does_not_count(
    first: Mapping[str, bytes], second: Mapping[str, bytes], *, shared: bool
) -> None:
    index = PrefixIndex()
    index.remember("a", fingerprint(first, 400)[0])
    assert (index.match(fingerprint(second, 400)[0], ["a"])[0] > 200) is shared


def test_a_fingerprint_is_made_of_an_envelopes_raw_members() -> None:
    content = "word " * 100
    envelope = CHAT.decode(json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode())
    assert len(fingerprint(envelope.members, 100)[0].chain) == len(envelope.members["messages"]) // 64


def test_an_images_bytes_count_as_its_tokens() -> None:
    """A picture of a megabyte does not push everything else out of a cache that it takes a hundredth of."""
    index = PrefixIndex()
    index.resize("a", 100_000)
    text = prompt(varied(200 * KIB))
    index.remember("a", text)
    index.remember("a", prompt(b"picture" * 150_000, tokens=1_000))
    assert matched(index, text)[0] > 0.9 * text.tokens


def test_prefix_used_longest_ago_is_forgotten_first() -> None:
    index = PrefixIndex()
    index.resize("a", 600)
    one, two, three = (prompt(name + varied(KIB)) for name in (b"one-----", b"two-----", b"three---"))
    for used in (one, two, one, three):
        index.remember("a", used)
    assert [matched(index, used)[0] > 200 for used in (one, two, three)] == [True, False, True]


def test_prompts_that_weigh_nothing_are_not_kept_without_end() -> None:
    index = PrefixIndex()
    index.resize("a", 100)
    for number in range(50):
        index.remember("a", prompt(b"%09d" % number + varied(KIB), tokens=1))
    assert len(index._caches["a"]._links) == 100


def test_a_prefix_outlives_what_follows_it() -> None:
    index = PrefixIndex()
    index.remember("a", prompt(varied(4 * KIB)))
    index.resize("a", 512)
    (tokens,) = matched(index, prompt(varied(4 * KIB)))
    assert 512 - 128 <= tokens <= 512


def test_a_replica_that_says_no_capacity_has_the_default_one() -> None:
    index = PrefixIndex()
    for number in range(2 * DEFAULT_KV_TOKENS // 1000):
        index.remember("a", prompt(b"%09d" % number + varied(4000)))
    newest, oldest = (prompt(b"%09d" % number + varied(4000)) for number in (2 * DEFAULT_KV_TOKENS // 1000 - 1, 0))
    assert matched(index, newest)[0] > 900
    assert matched(index, oldest) == [0]
    index.resize("a", None)
    assert matched(index, newest)[0] > 900


_TEXTS = [varied(KIB)[:cut] + tail for cut in (0, 64, 500, 1000) for tail in (b"", b"x" * 300, b"y" * 2000)]


class Naive:
    """Prefixes as whole tuples in a list, the one used longest ago first."""

    def __init__(self) -> None:
        self.capacity = DEFAULT_KV_TOKENS
        self.held: list[tuple[tuple[int, ...], int]] = []

    def remember(self, used: Prompt) -> None:
        known = dict(self.held)
        chain, lengths = used.chain[::-1], range(len(used.chain), 0, -1)
        prefixes = {tuple(chain[:n]): max(1, used.tokens_in(n) - used.tokens_in(n - 1)) for n in lengths}
        self.held = [item for item in self.held if item[0] not in prefixes]
        self.held += [(prefix, known.get(prefix, tokens)) for prefix, tokens in prefixes.items()]
        self.shrink()

    def shrink(self) -> None:
        while sum(tokens for _, tokens in self.held) > self.capacity:
            self.held.pop(0)

    def match(self, wanted: Prompt) -> int:
        known = dict(self.held)
        chain, longest = wanted.chain[::-1], 0
        while longest < len(chain) and tuple(chain[: longest + 1]) in known:
            longest += 1
        return wanted.tokens_in(longest)


class IndexBesideModel(RuleBasedStateMachine):
    """Whatever is remembered, resized and forgotten, the index says what the naive model says."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.models = {name: Naive() for name in "abc"}

    @rule(name=st.sampled_from("abc"), text=st.sampled_from(_TEXTS), tokens=st.integers(0, 900))
    def remember(self, name: str, text: bytes, tokens: int) -> None:
        self.index.remember(name, prompt(text, tokens=tokens))
        self.models[name].remember(prompt(text, tokens=tokens))

    @rule(name=st.sampled_from("abc"), kv_tokens=st.sampled_from([None, 0]) | st.integers(0, 1500))
    def resize(self, name: str, kv_tokens: int | None) -> None:
        self.index.resize(name, kv_tokens)
        self.models[name].capacity = DEFAULT_KV_TOKENS if kv_tokens is None else kv_tokens
        self.models[name].shrink()

    @rule(name=st.sampled_from("abc"))
    def forget(self, name: str) -> None:
        self.index.forget(name)
        self.models[name] = Naive()

    @invariant()
    def agrees(self) -> None:
        for text in _TEXTS:
            wanted = prompt(text)
            assert self.index.match(wanted, "abc") == [self.models[name].match(wanted) for name in "abc"]

    @invariant()
    def holds_no_more_than_it_may(self) -> None:
        for name, cache in self.index._caches.items():
            assert len(cache._links) <= sum(cache._links.values()) == cache._tokens <= self.models[name].capacity


TestIndexBesideModel = IndexBesideModel.TestCase
TestIndexBesideModel.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
