"""What is probably cached of a prompt decides where a turn goes, and its predicted cost: the ledger shows it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.formats.anthropic.decode import MESSAGES
from gateway.formats.openai.decode import CHAT
from gateway.simulation.virtual_time import run_virtual
from gateway.types import CallRecord, LedgerEntry
from tests.ground.caching import Cache, caching_upstream
from tests.ground.virtual_gateway import VirtualGateway, virtual_gateway

A, B = "http://a.test", "http://b.test"
PRICE = {"input": 3.0, "cached_input": 0.3, "cache_write": 3.75, "output": 15.0}
TURNS = 5
Play = Callable[[VirtualGateway], Awaitable[None]]


class Agent:
    """A session whose prompt grows with every turn."""

    def __init__(self, name: str = "one", endpoint: Any = CHAT, **members: Any) -> None:
        self.messages: list[dict[str, Any]] = [{"role": "user", "content": f"{name}: " + "read all of this " * 600}]
        self._endpoint = endpoint
        self._members = members
        self.tools: list[dict[str, Any]] = [_tool("look")]

    async def turn(self, running: VirtualGateway, **members: Any) -> tuple[CallRecord, LedgerEntry]:
        """Send one, and return what the ledger has of it."""
        messages = [dict(each) for each in self.messages]
        if self._endpoint is MESSAGES:  # as Claude Code marks: the two last ones of the user
            for message in messages:
                message["content"] = [{"type": "text", "text": message["content"]}]
            for message in [each for each in messages if each["role"] == "user"][-2:]:
                message["content"][0]["cache_control"] = {"type": "ephemeral"}
            members = {"max_tokens": 100, "tools": None, **members}
        else:
            members = {"tools": self.tools, **members}
        body = {name: each for name, each in {**self._members, **members}.items() if each is not None}
        answered = await running.chat(endpoint=self._endpoint, messages=messages, stream=False, **body)
        assert answered.status == 200, answered.body
        self.messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "and on " * 60}]
        record = running.ledger.records[-1]
        return record, next(each for each in running.ledger.entries if each.attempt_id == record.attempt_ids[-1])


def _tool(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"path": {"type": "string", "description": "where to look " * 20}}}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def config(*, kind: str = "openai", upstream: str = "gpt-6", b_price: dict[str, float] | None = None) -> dict[str, Any]:
    """Describe a route over one model at two providers of a type."""
    suffix = "" if kind == "anthropic" else "/v1"
    model = {"upstream": upstream, "price": PRICE}
    return {
        "providers": {
            "one": {"type": kind, "base_url": A + suffix, "api_key": "env:ONE"},
            "two": {"type": kind, "base_url": B + suffix, "api_key": "env:TWO"},
        },
        "models": {"a": {"provider": "one", **model}, "b": {"provider": "two", **model, "price": b_price or PRICE}},
        "routes": {"auto": {"models": ["a", "b"], "objective": "cost"}},
    }


def played(setup: dict[str, Any], path: Path, a: Cache, b: Cache, play: Play) -> VirtualGateway:
    """Run a scenario in virtual time."""
    at = "/v1/messages" if setup["providers"]["one"]["type"] == "anthropic" else "/v1/chat/completions"

    async def scenario() -> VirtualGateway:
        upstreams = {A: caching_upstream(a, at), B: caching_upstream(b, at)}
        async with virtual_gateway(setup, path, upstreams, {"ONE": "k1", "TWO": "k2"}) as running:
            await play(running)
            return running

    return run_virtual(scenario())


def predicted(record: CallRecord, target_id: str) -> float:
    return next(each.prediction.cost_nano_usd.p50 for each in record.considered if each.target_id == target_id)


@pytest.mark.parametrize(("factor", "winner"), [(0.9, "a"), (0.5, "a"), (0.05, "b")])
def test_warm_target_keeps_a_turn_unless_another_is_cheaper_all_the_same(
    factor: float, winner: str, tmp_path: Path
) -> None:
    """B's price falls to a part of A's while a session is warm at A: what counts is what the turn would cost."""
    setup = config(b_price={name: round(each * factor, 6) for name, each in PRICE.items()})
    setup["routes"]["a-only"] = {"models": ["a"]}

    async def play(running: VirtualGateway) -> None:
        agent = Agent()
        for _ in range(3):
            await agent.turn(running, model="a-only")
        record, entry = await agent.turn(running, model="auto")
        assert record.target_id == winner
        assert predicted(record, "a") < 0.35 * PRICE["input"] * record.input_tokens_estimate * 1e3
        if winner == "a":
            assert entry.expected_cached_tokens is not None
            assert entry.usage.cached_input_tokens > 0.8 * entry.usage.read_tokens
            await agent.turn(running, model="auto")
            assert running.ledger.records[-1].target_id == "a"

    played(setup, tmp_path, Cache(), Cache(), play)


@pytest.mark.parametrize(
    ("kind", "upstream", "endpoint"),
    [("openai", "gpt-6", CHAT), ("anthropic", "claude-sonnet-4-5", MESSAGES), ("deepseek", "deepseek-v4-pro", CHAT)],
)
def test_predicted_cost_of_a_turn_is_its_bill(kind: str, upstream: str, endpoint: Any, tmp_path: Path) -> None:
    """Once an answer was seen, the median error of a session's turns is below 5%."""
    errors = []

    async def play(running: VirtualGateway) -> None:
        agent = Agent(endpoint=endpoint)
        for _ in range(20):
            record, entry = await agent.turn(running)
            assert record.target_id is not None
            errors.append(abs(predicted(record, record.target_id) / entry.cost_nano_usd - 1))
            await asyncio.sleep(20)

    cache = Cache(bills_writes=kind == "openai")
    played(config(kind=kind, upstream=upstream), tmp_path, cache, Cache(), play)
    later = sorted(errors[3:])
    assert later[len(later) // 2] < 0.05, errors


def test_target_that_reports_no_cached_tokens_is_priced_in_full(tmp_path: Path) -> None:
    """Whether it has a cache is not known: after a few turns nothing is expected of it, and nothing is claimed."""

    async def play(running: VirtualGateway) -> None:
        agent = Agent()
        for _ in range(TURNS):
            record, entry = await agent.turn(running, model="a")
        assert record.considered[0].prediction.cached_tokens is None
        assert entry.expected_cached_tokens is None
        assert predicted(record, "a") == pytest.approx(entry.cost_nano_usd, rel=0.05)

    played(config(), tmp_path, Cache(reports=False), Cache(), play)


def test_unknown_cache_counts_once_it_reports(tmp_path: Path) -> None:
    """Of a compatible server nothing is assumed, and no prompt read for its sake, until it reports a cached token."""
    expected: list[Any] = []

    async def play(running: VirtualGateway) -> None:
        agent = Agent()
        expected.extend([(await agent.turn(running, model="a"))[1].expected_cached_tokens for _ in range(TURNS)])

    played(config(kind="openai-compatible"), tmp_path, Cache(), Cache(), play)
    assert expected[:4] == [None, None, 0, 0], "the third prompt is the first to be remembered"
    assert 0 < expected[4] <= expected[-1]


@pytest.mark.parametrize(("pause_s", "is_warm"), [(1_700, True), (1_900, False)])
def test_cache_is_forgotten_after_its_lifetime(pause_s: float, is_warm: bool, tmp_path: Path) -> None:
    async def play(running: VirtualGateway) -> None:
        agent = Agent()
        for _ in range(3):
            await agent.turn(running, model="a")
        await asyncio.sleep(pause_s)
        _, entry = await agent.turn(running, model="a")
        assert bool(entry.expected_cached_tokens) is is_warm
        assert bool(entry.usage.cached_input_tokens) is is_warm

    played(config(), tmp_path, Cache(lifetime_s=1_800), Cache(), play)


@pytest.mark.parametrize("change", ["tools", "key", "credential", "first message", "salt"])
def test_prompt_that_begins_otherwise_is_not_cached(change: str, tmp_path: Path) -> None:
    """Tools stand first in a prompt; a cache is its account's, and looked up by the caller's own key for it."""

    async def play(running: VirtualGateway) -> None:
        agent = Agent(prompt_cache_key="mine")
        for _ in range(3):
            _, entry = await agent.turn(running, model="a")
        assert entry.expected_cached_tokens
        members: dict[str, Any] = {"model": "a"}
        if change == "tools":
            agent.tools = [_tool("write"), *agent.tools]
        elif change == "key":
            members["prompt_cache_key"] = "another"
        elif change == "credential":
            members["model"] = "b"
        elif change == "salt":
            members["cache_salt"] = "another"
        else:
            agent.messages[0] = {"role": "user", "content": "two: " + agent.messages[0]["content"]}
        _, entry = await agent.turn(running, **members)
        assert entry.expected_cached_tokens == 0

    kind = "mistral" if change == "salt" else "openai"
    played(config(kind=kind), tmp_path, Cache(), Cache(), play)


def test_short_prompt_is_not_looked_up(tmp_path: Path) -> None:
    async def play(running: VirtualGateway) -> None:
        await running.chat(model="a", messages=[{"role": "user", "content": "hi"}], stream=False)
        assert running.ledger.entries[-1].expected_cached_tokens is None
        assert running.ledger.records[-1].considered[0].prediction.cached_tokens is None

    played(config(), tmp_path, Cache(), Cache(), play)


@pytest.mark.parametrize(("patience", "session", "asked"), [(100, "warm", "a"), (100, "new", "b"), (2, "warm", "b")])
def test_exploration_begins_with_new_sessions(
    patience: int, session: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B was never measured: the next new session finds out, not a turn that A has cached, unless none ever comes."""
    monkeypatch.setattr("gateway.targets.pool.PROBE_EVERY_WARM", patience)
    setup = config()
    setup["routes"]["auto"]["objective"] = "latency"
    setup["routes"]["a-only"] = {"models": ["a"]}

    async def play(running: VirtualGateway) -> None:
        agent = Agent()
        for _ in range(3):
            await agent.turn(running, model="a-only")
        first, _ = await (agent if session == "warm" else Agent("two")).turn(running, model="auto")
        second, _ = await agent.turn(running, model="auto")
        assert (second if patience == 2 else first).target_id == asked

    played(setup, tmp_path, Cache(), Cache(), play)
