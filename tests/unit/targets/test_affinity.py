"""What is known of a prompt in caches: where it ends, by which rules, how often that comes true, and what follows."""

import json
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from gateway.prompt_cache import PromptCache, cache_lookup, read_rules
from gateway.targets.affinity.affinity import Hits
from gateway.targets.affinity.prompt import fingerprint
from gateway.targets.affinity.provider_caches import MAX_LINKS, ProviderCaches
from gateway.targets.pool import Pool
from gateway.types import Sample
from tests.ground.builders import build_call, build_envelope, build_route, build_target
from tests.unit.targets.test_pool import HandClock
from tests.unit.targets.test_replicas import TARGET as OWN
from tests.unit.targets.test_replicas import book

MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
RULES = PromptCache(match="end", minimum_tokens=64, lifetime_s=60, promise=0.8)


def text(said: str, mark: dict[str, Any] | None = None, *, first: bool = False) -> dict[str, Any]:
    """Write a message with one block of text; the mark stands last in it, or first as in sorted JSON."""
    block = {**(mark or {}), "type": "text", "text": said} if first else {"type": "text", "text": said, **(mark or {})}
    return {"role": "user", "content": [block]}


def prompt_of(*messages: dict[str, Any], **members: Any) -> Any:
    raw = {name: json.dumps(each).encode() for name, each in {"messages": messages, **members}.items()}
    return fingerprint(raw, 1000)


@pytest.mark.parametrize("first", [False, True])
def test_mark_is_no_part_of_what_is_compared(first: bool) -> None:
    """In the next turn it stands at another message."""
    marked, plain = text("one " * 99, MARK, first=first), text("one " * 99)
    assert prompt_of(marked, text("two"))[1] == prompt_of(plain, text("two"))[1]
    assert prompt_of(marked)[0].chain == prompt_of(plain)[0].chain


@pytest.mark.parametrize("said", ['"cache_control"', '"cache_control": {"type": "ephemeral"}', "cache_control"])
def test_text_that_reads_like_a_mark_is_none(said: str) -> None:
    assert prompt_of(text(said))[0].marks == ()


def test_body_of_nothing_but_marks_is_not_taken_apart() -> None:
    """Half a million of them would take the event loop half a second."""
    prompt, said = fingerprint({"messages": b'{"cache_control":{}},' * 300}, 1000)
    assert prompt.marks == ()
    assert said.count(b"cache_control") == 300


def test_marks_know_their_lifetime() -> None:
    prompt, _ = prompt_of(text("one", HOUR), text("two", MARK), text("three"))
    assert [mark.for_an_hour for mark in prompt.marks] == [True, False]
    assert prompt.marks[0].size_bytes < prompt.marks[1].size_bytes < prompt.size_bytes
    whole, _ = prompt_of(text("one"), cache_control=HOUR["cache_control"])
    assert [mark.size_bytes for mark in whole.marks] == [whole.end.size_bytes]


@pytest.mark.parametrize("match", ["end", "longest"])
def test_next_turn_is_known_to_the_token(match: Literal["end", "longest"]) -> None:
    rules = replace(RULES, match=match)
    caches, turns = ProviderCaches(), [text(f"{number} " * 300) for number in range(3)]
    prompt, _ = prompt_of(*turns[:2])
    caches.remember(1, prompt, rules, 0)
    caches.count(1, prompt, rules, 1234, 0)
    following, said = prompt_of(*turns)
    found = caches.match(1, following, said, rules, 1)
    assert found is not None
    assert found.cached == 1234
    assert caches.match(2, following, said, rules, 1) is None
    assert caches.match(1, following, said, rules, 61_000_000_000) is None


def test_many_conversations_that_begin_alike_are_all_known() -> None:
    """Fifty agents with one system prompt: their first turns end in the same chunk."""
    caches, shared = ProviderCaches(), text("the same for all " * 2000)
    agents = [[shared, text(f"agent {number}")] for number in range(50)]
    for agent in agents:
        caches.remember(1, prompt_of(*agent)[0], RULES, 0)
    for agent in agents:
        assert caches.match(1, *prompt_of(*agent, text("and on")), RULES, 1) is not None


def test_links_are_bounded() -> None:
    caches = ProviderCaches()
    for number in range(700):
        caches.remember(1, prompt_of(text(f"{number} " * 60_000))[0], RULES, number)
    assert len(caches._links) <= MAX_LINKS
    assert caches.match(1, *prompt_of(text("0 " * 60_000), text("on")), RULES, 1) is None


def test_reports_count_alone_after_two_and_fade() -> None:
    hits, hour_ns = Hits(), 3_600_000_000_000
    assert hits.probability(0.8, 0) == 0.8
    for _ in range(2):
        hits.add(0.5, 0)
    assert hits.probability(0.8, 0) == pytest.approx(0.5)
    faded = hits.probability(0.8, 10 * hour_ns)
    assert faded == pytest.approx(0.8, abs=0.01)
    silent = Hits()
    for _ in range(2):
        silent.add(0.0, 0)
    assert silent.probability(0.8, 0) is None
    assert silent.probability(0.8, 10 * hour_ns) == pytest.approx(0.8, abs=0.01)


def test_ttft_follows_what_is_not_cached() -> None:
    """Ten seconds for a cold prompt of 20,000 tokens, one for the next turn of which 2,000 are new."""
    clock, rules = HandClock(), cache_lookup()("openai", "gpt-6")
    pool, target = Pool(clock), build_target(prompt_cache=rules)
    messages: list[dict[str, Any]] = []

    def turn(said: str) -> Any:
        messages.append(text(said))
        members = {"messages": json.dumps(messages).encode()}
        envelope = build_envelope(members=members, content_bytes=len(members["messages"]))
        return build_call(envelope, build_route(target), input_tokens_estimate=len(members["messages"]) // 4)

    def answer(call: Any, cached: int, ttft_ms: float) -> None:
        (view,) = pool.view(call)
        tokens = call.input_tokens_estimate
        sample = Sample(
            ok=True, trips_breaker=False, input_tokens=tokens, cached_tokens=cached, output_tokens=5,
            ttft_ms=ttft_ms, tpot_ms=None,
        )  # fmt: skip
        pool.begin(target, call, view.expected).end(sample)

    read = 0
    for number in range(8):
        cold = number % 4 == 0
        if cold:
            messages.clear()
            read = 0
        call = turn(f"{number} " * (40_000 if cold else 4_000))
        answer(call, read, (call.input_tokens_estimate - read) / 2)
        read = call.input_tokens_estimate
    call = turn("more " * 1_600)
    (view,) = pool.view(call)
    assert view.expected is not None
    assert view.ttft_ms is not None
    assert view.expected.uncached_tokens < 0.15 * call.input_tokens_estimate
    assert view.ttft_ms.p50 == pytest.approx(view.expected.uncached_tokens / 2, rel=0.3)
    messages.clear()
    call = turn("new " * 20_000)
    (view,) = pool.view(call)
    assert view.ttft_ms is not None
    assert view.ttft_ms.p50 == pytest.approx(call.input_tokens_estimate / 2, rel=0.3)


def test_own_replica_is_expected_to_hold_what_it_has_read() -> None:
    """A single one, too; its reports correct the expectation, and an adapter of the model shares nothing."""
    replicas, _, _ = book("a")
    pool, target = Pool(HandClock(), replicas=replicas), replace(OWN, prompt_cache=cache_lookup()("ray-serve", "own"))
    members = {"messages": json.dumps([text("read this " * 800)]).encode()}
    call = build_call(build_envelope(members=members), build_route(target), input_tokens_estimate=2000)
    for expected in (0, pytest.approx(1000, rel=0.1), pytest.approx(1300, rel=0.1)):  # promised a half, then learnt
        (view,) = pool.view(call)
        assert view.expected is not None
        assert view.expected.cached_tokens == expected
        assert view.expected.uncached_tokens == 2000 - view.expected.cached_tokens
        pool.begin(target, call, view.expected).end(
            Sample(
                ok=True,
                trips_breaker=False,
                input_tokens=2000,
                cached_tokens=1950,
                output_tokens=5,
                ttft_ms=9.0,
                tpot_ms=None,
            )
        )


def test_every_rule_is_dated_and_some_rule_fits_everything() -> None:
    rules = read_rules()
    assert all(rule.source and rule.date.year >= 2026 and 0 <= rule.promise < 1 for rule in rules)
    assert rules[-1].fits("anything", "any/model:1")
    assert rules[-1].promise == 0


@pytest.mark.parametrize(
    ("provider", "model", "match", "minimum"),
    [
        ("anthropic", "claude-opus-4-5-20251101", "mark", 4096),
        ("anthropic", "claude-opus-5-5", "mark", 512),
        ("anthropic", "claude-sonnet-4-5", "mark", 1024),
        ("openrouter", "anthropic/claude-opus-4.7", "mark", 2048),
        ("openai", "gpt-5.5", "longest", 1024),
        ("openai", "gpt-5.6-mini", "end", 1024),
        ("openai", "gpt-4o", "longest", 1024),
        ("openrouter", "meta/llama", "longest", 1024),
    ],
)
def test_rule_of_a_model(provider: str, model: str, match: str, minimum: int) -> None:
    rules = cache_lookup()(provider, model)
    assert (rules.match, rules.minimum_tokens) == (match, minimum)
