"""Ceilings move traffic: to the dearer target while the cheap one is too slow, and back when it has recovered."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.simulation.virtual_time import EPOCH_NS, run_virtual
from tests.ground.builders import chat_body
from tests.ground.configs import two_models
from tests.ground.gateway import running_gateway
from tests.ground.model import ScriptedModel
from tests.ground.script import error_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import Answered, VirtualGateway, virtual_gateway

FAST_TTFT_S, SLOW_TTFT_S = 0.1, 2.0
FAST_TPOT_S, SLOW_TPOT_S = 0.01, 0.2
CEILINGS: dict[str, dict[str, Any]] = {"ttft": {"ttft_ms": {"p95": 500}}, "tpot": {"tpot_ms": {"p95": 50}}}
SLOWDOWNS: dict[str, Callable[[ScriptedModel], None]] = {
    "ttft": lambda model: setattr(model, "ttft_s", SLOW_TTFT_S),
    "tpot": lambda model: setattr(model, "tpot_s", SLOW_TPOT_S),
}
REQUEST_EVERY_S = 0.5
PROBE_EVERY_S = 10.0
"""The pool's interval (targets.pool)."""


def _fast() -> ScriptedModel:
    return ScriptedModel(tokens=10, ttft_s=FAST_TTFT_S, tpot_s=FAST_TPOT_S)


class Ground:
    """Two upstreams and traffic over them, in virtual time."""

    def __init__(self) -> None:
        self.cheap = ScriptedUpstream(_fast())
        self.dear = ScriptedUpstream(_fast())

    def gateway(self, path: Path, **route: Any) -> AbstractAsyncContextManager[VirtualGateway]:
        """Run a gateway whose route ``auto`` has the models ``cheap`` and ``dear``."""
        origins = {"http://cheap.test": self.cheap, "http://dear.test": self.dear}
        return virtual_gateway(two_models(*origins, **route), path, origins)


async def _traffic(running: VirtualGateway, seconds: float) -> list[Answered]:
    """Send a request every half second, whether or not earlier ones have ended, and wait for all."""
    async with asyncio.TaskGroup() as group:
        calls = []
        for _ in range(round(seconds / REQUEST_EVERY_S)):
            calls.append(group.create_task(running.chat()))
            await asyncio.sleep(REQUEST_EVERY_S)
    return [call.result() for call in calls]


def _targets(running: VirtualGateway, since_s: float = 0.0, until_s: float = 1e9) -> list[tuple[float, str, str]]:
    """Read off the ledger when which target was tried, and how that ended."""
    entries = sorted(running.ledger.entries, key=lambda entry: entry.started_at_ns)
    at_s = [(entry.started_at_ns - EPOCH_NS) / 1e9 for entry in entries]
    return [(at, e.target_id, e.outcome) for at, e in zip(at_s, entries, strict=True) if since_s <= at < until_s]


@pytest.mark.parametrize("measure", ["ttft", "tpot"])
def test_traffic_moves_to_the_dear_target_and_back(measure: str, tmp_path: Path) -> None:
    """Slow for a minute: within five seconds only probes go to the cheap target; recovered: within fifteen all do."""

    async def scenario() -> None:
        ground = Ground()
        async with ground.gateway(tmp_path, limits=CEILINGS[measure]) as running:
            clock = asyncio.get_running_loop().time
            answers = await _traffic(running, 30)
            slow_at_s = clock()
            SLOWDOWNS[measure](ground.cheap.model)
            answers += await _traffic(running, 60)
            fast_at_s = clock()
            ground.cheap.model.ttft_s, ground.cheap.model.tpot_s = FAST_TTFT_S, FAST_TPOT_S
            answers += await _traffic(running, 60)
            assert {answer.status for answer in answers} == {200}
            assert all(answer.stream.done for answer in answers)

            assert {target for _, target, _ in _targets(running, until_s=slow_at_s)} == {"cheap"}
            slow = _targets(running, slow_at_s, fast_at_s)
            moved_at_s = next(at for at, target, _ in slow if target == "dear")
            assert moved_at_s - slow_at_s <= 5
            probes = [at for at, target, _ in slow if target == "cheap" and at > moved_at_s]
            assert 1 <= len(probes) <= (fast_at_s - moved_at_s) / PROBE_EVERY_S + 1
            recovered = _targets(running, fast_at_s)
            last_dear_s = max(at for at, target, _ in recovered if target == "dear")
            assert last_dear_s - fast_at_s <= PROBE_EVERY_S + 5

    run_virtual(scenario())


def test_an_answer_without_a_stream_says_nothing_of_ttft(tmp_path: Path) -> None:
    """Whole answers take longer than the ceiling on the first token: streams stay where they are."""

    async def scenario() -> None:
        ground = Ground()
        ground.cheap.model.tokens = 60
        async with ground.gateway(tmp_path, limits=CEILINGS["ttft"]) as running:
            for stream in (True, False, False, False, True):
                assert (await running.chat(stream=stream)).headers["x-tollway-target"] == "cheap"
            measured = [entry.ttft_ms for entry in running.ledger.entries]
            assert measured == [pytest.approx(1000 * FAST_TTFT_S), None, None, None, pytest.approx(1000 * FAST_TTFT_S)]
            assert [record.ttft_ms is None for record in running.ledger.records] == [False, True, True, True, False]

    run_virtual(scenario())


def test_a_probe_that_is_still_too_slow_costs_its_caller_the_ceiling(tmp_path: Path) -> None:
    """The caller of such a probe gets the other target's answer about a ceiling later, not a slow target's later."""

    async def scenario() -> None:
        ground = Ground()
        async with ground.gateway(tmp_path, limits=CEILINGS["ttft"]) as running:
            await _traffic(running, 10)
            ground.cheap.model.ttft_s = 3.0
            await _traffic(running, 20)
            settled_s = asyncio.get_running_loop().time()
            answers = await _traffic(running, 40)
            probes = [at for at, target, _ in _targets(running, settled_s) if target == "cheap"]
            assert len(probes) >= 3
            assert {outcome for _, target, outcome in _targets(running, settled_s) if target == "cheap"} == {"timeout"}
            late = [answer for answer in answers if answer.ttft_s > FAST_TTFT_S + 0.001]
            assert [answer.sent_at_s for answer in late] == pytest.approx(probes)
            assert [answer.ttft_s for answer in late] == pytest.approx([0.5 + FAST_TTFT_S] * len(late), abs=0.001)
            assert {answer.headers["x-tollway-reason"] for answer in late} == {"fallback: cheap upstream_timeout"}
            assert running.gateway.pool.breaker_states()["cheap"] == "closed"  # slow is not broken

    run_virtual(scenario())


def test_one_call_probes_a_half_open_breaker(tmp_path: Path) -> None:
    """Of twenty calls at the moment a breaker may be tried again, one reaches the target; the rest go elsewhere."""

    async def scenario() -> None:
        ground = Ground()
        async with ground.gateway(tmp_path) as running:
            ground.cheap.then(*[error_answer(503)] * 3)
            for _ in range(3):
                assert (await running.chat()).headers["x-tollway-target"] == "dear"
            assert running.gateway.pool.breaker_states()["cheap"] == "open"
            await asyncio.sleep(1.0)
            assert running.gateway.pool.breaker_states()["cheap"] == "half_open"
            answers = await asyncio.gather(*[running.chat() for _ in range(20)])
            targets = [answer.headers["x-tollway-target"] for answer in answers]
            assert (targets.count("cheap"), targets.count("dear")) == (1, 19)
            assert len(ground.cheap.seen) == 4
            assert running.gateway.pool.breaker_states()["cheap"] == "closed"
            assert (await running.chat()).headers["x-tollway-target"] == "cheap"

    run_virtual(scenario())


def test_caller_that_waits_for_retry_after_is_served(tmp_path: Path) -> None:
    """Retry-After is in whole seconds; what is left of the breaker's pause is not."""

    async def scenario() -> None:
        ground = Ground()
        ground.cheap.then(error_answer(429, retry_after_s=3))
        ground.dear.then(error_answer(429, retry_after_s=3))
        async with ground.gateway(tmp_path) as running:
            assert (await running.chat()).headers["retry-after"] == "3"
            await asyncio.sleep(0.6)
            refused = await running.chat()
            assert (refused.status, refused.headers["retry-after"]) == (503, "3")
            await asyncio.sleep(3)
            assert (await running.chat()).status == 200

    run_virtual(scenario())


def test_a_route_that_rejects_names_the_ceilings(tmp_path: Path) -> None:
    """Both targets too slow: 503 with what each was predicted and when to retry; once they are fast, calls pass."""

    async def scenario() -> None:
        ground = Ground()
        ground.cheap.model.ttft_s = ground.dear.model.ttft_s = SLOW_TTFT_S
        async with ground.gateway(tmp_path, limits=CEILINGS["ttft"], when_none_fits="reject") as running:
            statuses = []
            while 503 not in statuses:
                refused = await running.chat()
                statuses.append(refused.status)
            assert statuses[:-1] in ([200], [200, 200]), "what was never measured is tried once"
            error = json.loads(refused.body)["error"]
            assert error["code"] == "no_target_available"
            assert "cheap: ttft p95 2000 ms over 500 ms" in error["message"]
            assert "dear: ttft p95 2000 ms over 500 ms" in error["message"]
            assert int(refused.headers["retry-after"]) == PROBE_EVERY_S
            assert not [e for e in running.ledger.entries if e.call_id == refused.headers["x-tollway-request-id"]]
            assert running.ledger.records[-1].error_kind == "no_target"

            ground.cheap.model.ttft_s = FAST_TTFT_S
            await _traffic(running, PROBE_EVERY_S + 10)
            assert {answer.status for answer in await _traffic(running, 10)} == {200}

    run_virtual(scenario())


def test_a_ceiling_on_cost_outweighs_the_objective(tmp_path: Path) -> None:
    """The faster target costs more than a request may: it is not even tried; if both do, the refusal says so."""

    async def scenario(limit_usd: float, path: Path) -> list[Answered]:
        ground = Ground()
        ground.cheap.model.tokens = ground.dear.model.tokens = 100
        ground.dear.model.ttft_s = 0.01
        path.mkdir()
        limits = {"usd_per_request": limit_usd}
        async with ground.gateway(path, limits=limits, objective="latency", when_none_fits="reject") as running:
            return [await running.chat() for _ in range(5)]

    def targets(answers: list[Answered]) -> set[str]:
        return {answer.headers.get("x-tollway-target", "none") for answer in answers}

    # 100 tokens at 2 and 20 USD per million, and a prompt of a few.
    assert targets(run_virtual(scenario(0.001, tmp_path / "between"))) == {"cheap"}
    assert "dear" in targets(run_virtual(scenario(0.1, tmp_path / "above")))
    *_, refused = run_virtual(scenario(0.00001, tmp_path / "below"))
    assert refused.status == 503
    message = json.loads(refused.body)["error"]["message"]
    assert "cheap: cost $0.0005" in message  # predicted, for 256 tokens: a price list is never tried out
    assert "dear: cost $0.005" in message
    assert "over $0.000010" in message


def test_ceiling_on_cost_that_a_route_insists_on_lets_nothing_through(tmp_path: Path) -> None:
    """Of eighty calls none is sent, and each record says what was considered and by what it was ruled out."""

    async def scenario() -> None:
        ground = Ground()
        ground.cheap.alive = False
        limits = {"usd_per_request": 0.002}
        async with ground.gateway(tmp_path, limits=limits, when_none_fits="reject") as running:
            for _ in range(80):
                answered = await running.chat()
                assert answered.status == 503
                await asyncio.sleep(REQUEST_EVERY_S)
        assert ground.dear.seen == []
        assert {entry.cost_nano_usd for entry in running.ledger.entries} == {0}
        refused = [record for record in running.ledger.records if not record.attempt_ids]
        assert refused
        assert {each.target_id for record in refused for each in record.considered} == {"dear"}
        assert {each.target_id for record in refused for each in record.dropped} == {"cheap"}

    run_virtual(scenario())


@pytest.mark.slow
async def test_traffic_moves_and_returns_over_real_sockets(tmp_path: Path) -> None:
    """The same once with real time and real connections, watched in the ledger's database."""
    async with ScriptedUpstream(_fast()) as cheap, ScriptedUpstream(_fast()) as dear:
        config = two_models(cheap.url, dear.url, limits=CEILINGS["ttft"])
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:

            async def until(target: str, in_a_row: int) -> list[str]:
                """Call one after the other until that target has answered so often in a row; return who answered."""
                answered: list[str] = []
                while answered[-in_a_row:] != [target] * in_a_row:
                    body = json.loads(chat_body(stream=True, max_tokens=2))
                    async with client.post(f"{running.base_url}/chat/completions", json=body) as answer:
                        assert answer.status == 200
                        assert b"[DONE]" in await answer.read()
                        answered.append(answer.headers["x-tollway-target"])
                return answered

            healthy = await until("cheap", 10)
            cheap.model.ttft_s = 2 * CEILINGS["ttft"]["ttft_ms"]["p95"] / 1000
            slow = await until("dear", 10)
            cheap.model.ttft_s = FAST_TTFT_S
            recovered = await until("cheap", 10)
            totals = {(row.target_id, row.outcome): row.attempts for row in await running.totals()}
    # That ten in a row came is the move and the return; how soon they come is stated above, where no machine is slow.
    answered = [*healthy, *slow, *recovered]
    assert totals["cheap", "ok"] == answered.count("cheap")
    assert totals["dear", "ok"] == answered.count("dear")
