"""Which targets a question for a prompt's tokens may reach, for how long, and that it leaves no trace in the pool."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.fleet import ListedModel, ListedReplica, LoadReport, Tally
from gateway.routes import count_tokens
from gateway.routing.base import Filter
from gateway.routing.registry import FILTERS
from gateway.targets.pool import Pool
from gateway.types import Call, TargetView
from tests.ground.cluster import clustered
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import Answer, error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream

ASKED = {"model": "auto", "messages": [{"role": "user", "content": "x" * 400}]}
COUNTED = json_answer({"count": 7})
NOWHERE = "http://127.0.0.1:9"


def vllm(*upstreams: ScriptedUpstream) -> dict[str, Any]:
    """Describe a route ``auto`` of own vLLM servers, named by their place, the first the cheapest."""
    names = [f"m{place}" for place in range(len(upstreams))]
    return {
        "providers": {
            name: {"type": "vllm", "base_url": f"{upstream.url}/v1"}
            for name, upstream in zip(names, upstreams, strict=True)
        },
        "models": {
            name: {"provider": name, "price": {"input": place + 1, "output": 1}} for place, name in enumerate(names)
        },
        "routes": {"auto": {"models": names}},
    }


async def count(running: RunningGateway) -> tuple[int, bool]:
    """Return the tokens, and whether they are marked as an estimate."""
    async with aiohttp.ClientSession() as client:
        async with client.post(f"{running.base_url}/messages/count_tokens", json=ASKED) as answer:
            assert answer.status == 200, await answer.text()
            return (await answer.json())["input_tokens"], "x-tollway-estimated" in answer.headers


class NotTheFirst(Filter):
    """Keeps every call from the first target."""

    fault = "route"

    def reject(self, call: Call, view: TargetView) -> str | None:  # noqa: ARG002 - the interface's signature
        return "it is the first" if view.target.id == "m0" else None


async def test_prompt_stays_with_the_targets_that_the_filters_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILTERS, "not_the_first", NotTheFirst)
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        second.on_path("/tokenize", COUNTED)
        async with running_gateway(vllm(first, second), tmp_path) as running:
            assert await count(running) == (7, False)
        assert not first.seen


async def test_silent_targets_are_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is that of the whole question: behind it there is an estimate, and no other target is asked."""
    monkeypatch.setattr(count_tokens, "TIMEOUT_S", 0.2)
    async with ScriptedUpstream() as first, ScriptedUpstream() as second, ScriptedUpstream() as third:
        upstreams = first, second, third
        for upstream in upstreams:
            upstream.on_path("/tokenize", Answer(stall_after=0))
        async with running_gateway(vllm(*upstreams), tmp_path) as running:
            assert (await count(running))[1]
        assert [len(upstream.seen) for upstream in upstreams] == [1, 0, 0]


async def test_count_takes_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a half-open breaker keeps its one pass, and no replica is believed to have read the prompt."""

    def fail(*_: object) -> None:
        raise AssertionError("a lease was taken")

    monkeypatch.setattr(Pool, "begin", fail)
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/tokenize", COUNTED)
        async with running_gateway(vllm(upstream), tmp_path) as running:
            assert await count(running) == (7, False)


async def test_idlest_replica_is_asked_without_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is asked while none is up."""
    monkeypatch.setattr(Pool, "begin", None)
    async with ScriptedUpstream() as busy, ScriptedUpstream() as idle:
        idle.on_path("/tokenize", COUNTED)
        async with running_gateway(clustered(NOWHERE), tmp_path) as running:
            listed = (ListedReplica("a", busy.url), ListedReplica("b", idle.url))
            replicas = running.gateway.pool.replicas
            made = replicas.listed(NOWHERE, {"own": ListedModel(listed, ("own",))})
            assert (await count(running))[1]
            for fleet, replica in made:
                in_flight = 3 if replica.url == busy.url else 1
                fleet.reported(replica, LoadReport(replica.id, "own", "ready", in_flight, 8, Tally(1, 1), Tally(1, 1)))
            assert await count(running) == (7, False)
        assert not busy.seen


async def test_target_with_an_open_breaker_is_not_asked(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as client:
        upstream.on_path("/v1/chat/completions", error_answer(503, retry_after_s=60))
        async with running_gateway(vllm(upstream), tmp_path) as running:
            async with client.post(f"{running.base_url}/chat/completions", json=ASKED) as answer:
                assert answer.status == 503
            asked = len(upstream.seen)
            assert (await count(running))[1]
        assert len(upstream.seen) == asked
