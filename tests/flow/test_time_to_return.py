"""A target that was away is back within ten seconds of its recovery, however long it was away and whatever it did.

In virtual time: requests come at a fixed interval before, during and after the outage, whether or not earlier ones
have ended.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulation.virtual_time import run_virtual
from tests.ground.in_memory import Exchange
from tests.ground.model import ScriptedModel
from tests.ground.script import Answer, error_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import Answered, virtual_gateway

BACK_WITHIN_S = 10.0
HEALTHY_S = 130.0
"""Before the outage: two requests at least."""
ROUTES: dict[str, dict[str, Any]] = {
    "cost": {},
    "ceilings": {"limits": {"ttft_ms": {"p95": 3000}}},
    "latency": {"objective": "latency"},
}


async def refuse(exchange: Exchange) -> None:
    exchange.refuse()


async def unreachable(exchange: Exchange) -> None:
    exchange.refuse(after_s=float("inf"))


async def slow_error(exchange: Exchange) -> None:
    """Answer 500 after two seconds."""
    await asyncio.sleep(2)
    await ScriptedUpstream().then(error_answer(500)).serve(exchange)


def answering(answer: Callable[[], Answer]) -> Callable[[Exchange], Any]:
    async def serve(exchange: Exchange) -> None:
        await ScriptedUpstream().then(answer()).serve(exchange)

    return serve


FAULTS: dict[str, Callable[[Exchange], Any]] = {
    "refused": refuse,
    "unreachable": unreachable,
    "silence": answering(lambda: Answer(raw=b"", stall_after=0)),
    "hangs up": answering(lambda: Answer(hang_up=True)),
    "reset": answering(lambda: Answer(hang_up=True, reset=True)),
    "500": answering(lambda: error_answer(500)),
    "slow 500": slow_error,
    "503": answering(lambda: error_answer(503)),
    "503 for a moment": answering(lambda: error_answer(503, retry_after_s=2)),
    "429": answering(lambda: error_answer(429)),
    "404": answering(lambda: error_answer(404)),
}
SHORT_AND_LONG = {"refused", "silence"}
"""Played under every objective: what a failed try costs is least, and most."""
EVERY = 5
"""Of a sample; all of it is a soak test."""


class Outage(ScriptedUpstream):
    """A healthy upstream but for one interval of the loop's time."""

    def __init__(self, fault: Callable[[Exchange], Any], ends_s: float) -> None:
        super().__init__(ScriptedModel(tokens=5, ttft_s=0.3, tpot_s=0.01))
        self._fault = fault
        self._ends_s = ends_s

    async def serve(self, exchange: Exchange) -> None:
        now_s = asyncio.get_running_loop().time()
        if HEALTHY_S <= now_s < self._ends_s:
            await self._fault(exchange)
        else:
            await super().serve(exchange)


def config(targets: int, route: dict[str, Any]) -> dict[str, Any]:
    names = [f"t{number}" for number in range(targets)]
    return {
        "providers": {
            name: {"type": "openai-compatible", "base_url": f"http://{name}.test/v1", "always_stream": True}
            for name in names
        },
        "models": {
            name: {"provider": name, "price": {"input": 1.0 + number, "output": 2.0 + number}}
            for number, name in enumerate(names)
        },
        "routes": {"auto": {"models": names, **route}},
    }


def cases() -> Iterable[Any]:
    numbers = itertools.count()
    for fault in FAULTS:
        for outage_s in (10.0, 60.0, 600.0):
            for every_s in (4.0, 60.0):
                for targets in (1, 3):
                    for route in ROUTES if targets > 1 and fault in SHORT_AND_LONG else ("cost",):
                        name = f"{fault}, {outage_s:.0f} s, every {every_s:.0f} s, {targets} targets, {route}"
                        marks = [pytest.mark.soak] if next(numbers) % EVERY else []
                        yield pytest.param((fault, outage_s, every_s), targets, route, id=name, marks=marks)


@pytest.mark.parametrize(("outage", "targets", "route"), list(cases()))
def test_target_is_back_ten_seconds_after_its_recovery(
    outage: tuple[str, float, float], targets: int, route: str, tmp_path: Path
) -> None:
    """The first request that comes then is answered by it. One case in five here, all of them in the soak.

    By cost those behind are, too. Under a ceiling, waits of the outage may count against it for a few calls more. By
    latency, others that were passed over for long take their turn now and then: one of the first goes to it.
    """
    fault, outage_s, every_s = outage
    ends_s = HEALTHY_S + outage_s

    async def scenario() -> list[Answered]:
        upstreams: dict[str, ScriptedUpstream] = {"http://t0.test": Outage(FAULTS[fault], ends_s)}
        for number in range(1, targets):
            # Slower, so that the first is everybody's choice whatever the objective.
            upstreams[f"http://t{number}.test"] = ScriptedUpstream(ScriptedModel(tokens=5, ttft_s=1.5, tpot_s=0.01))
        async with virtual_gateway(config(targets, ROUTES[route]), tmp_path, upstreams) as running:
            async with asyncio.TaskGroup() as group:
                calls = []
                while asyncio.get_running_loop().time() < ends_s + BACK_WITHIN_S + 3 * every_s:
                    body = f"request {len(calls)}"
                    messages = [{"role": "user", "content": body}]
                    calls.append(group.create_task(running.chat(messages=messages)))
                    await asyncio.sleep(every_s)
        return [call.result() for call in calls]

    answers = run_virtual(scenario())
    before = [each for each in answers if each.sent_at_s < HEALTHY_S]
    after = [each for each in answers if each.sent_at_s >= ends_s + BACK_WITHIN_S]
    assert {each.status for each in before} == {200}
    assert len(after) >= 3
    assert {each.status for each in after} == {200}
    served_by = [each.headers["x-tollway-target"] for each in after]
    if route == "latency":
        since = [each for each in answers if ends_s <= each.sent_at_s <= after[0].sent_at_s]
        assert "t0" in [each.headers["x-tollway-target"] for each in since]
    elif route == "ceilings":
        assert served_by[0] == "t0"
    else:
        assert served_by == ["t0"] * len(after)


LONG_ANSWER_S = 60.0


def recovered(
    config: dict[str, Any], upstreams: dict[str, ScriptedUpstream], path: Path, act: Callable[[Any], Any]
) -> Any:
    """Open the breaker of the model ``t0`` by three 503s, wait for its pause to end, and act."""

    async def scenario() -> Any:
        upstreams["http://t0.test"].then(*[error_answer(503)] * 3)
        async with virtual_gateway(config, path, upstreams, {"A": "a", "B": "b"}) as running:
            for _ in range(3):
                await running.chat(model="t0", key="b" if "keys" in config else None)
            assert running.gateway.pool.breaker_states()["t0"] == "open"
            await asyncio.sleep(BACK_WITHIN_S)
            return await act(running)

    return run_virtual(scenario())


@pytest.mark.parametrize("probed_by", ["a", "b"])
def test_target_is_back_with_the_first_token_of_its_probe(probed_by: str, tmp_path: Path) -> None:
    """It streams for a minute: meanwhile the others are served, whosever request the probe was."""
    setup = config(1, {}) | {"keys": [{"name": name, "secret": f"env:{name.upper()}"} for name in ("a", "b")]}
    healthy = ScriptedUpstream(ScriptedModel(tokens=60, ttft_s=0.3, tpot_s=LONG_ANSWER_S / 60))

    async def act(running: Any) -> list[Answered]:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(running.chat(key=probed_by))]
            for _ in range(12):
                await asyncio.sleep(1)
                calls.append(group.create_task(running.chat(key="b")))
        return [call.result() for call in calls]

    answers = recovered(setup, {"http://t0.test": healthy}, tmp_path, act)
    assert [each.status for each in answers] == [200] * 13
    assert [each.ttft_s for each in answers] == pytest.approx([0.3] * 13)


def test_ceiling_of_one_route_does_not_keep_a_target_from_the_others(tmp_path: Path) -> None:
    """Half a second to its first token is more than the fast route allows, and does not keep its breaker open."""
    setup = config(2, {})
    ceiling = {"limits": {"ttft_ms": {"p50": 300}}}
    setup["routes"] = {"fast": {"models": ["t0", "t1"], **ceiling}, "auto": {"models": ["t0"]}}
    cheap = ScriptedUpstream(ScriptedModel(tokens=5, ttft_s=0.5, tpot_s=0.01))
    dear = ScriptedUpstream(ScriptedModel(tokens=5, ttft_s=0.1, tpot_s=0.01))

    async def act(running: Any) -> tuple[list[Answered], list[Answered]]:
        async with asyncio.TaskGroup() as group:
            fast, auto = [], []
            for number in range(300):
                fast.append(group.create_task(running.chat(model="fast")))
                await asyncio.sleep(0.1)
                if number % 10 == 9:
                    auto.append(group.create_task(running.chat(model="auto")))
        return [call.result() for call in fast], [call.result() for call in auto]

    fast, auto = recovered(setup, {"http://t0.test": cheap, "http://t1.test": dear}, tmp_path, act)
    assert {each.status for each in fast} == {200}
    assert [each.status for each in auto] == [200] * 30
    assert sum(each.ttft_s > 0.3 for each in fast) < 0.1 * len(fast), "the fast route stays fast"
