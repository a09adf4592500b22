"""Own replicas: found by their directory, chosen for each attempt, left when they die, bridged while there is none."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.discovery import cluster as discovery
from tests.ground.cluster import LocalCluster, clustered, local_cluster
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import until

pytestmark = pytest.mark.slow

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "count to five"}], "max_tokens": 5}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no replica for lost that says nothing for a while: this process, all of them in one, may stand still."""
    monkeypatch.setattr(discovery, "SILENCE_S", 60.0)
    monkeypatch.setattr(discovery, "FIRST_LINE_S", 60.0)


class Ground:
    """A cluster, a gateway before it and a client."""

    def __init__(self, cluster: LocalCluster, running: RunningGateway, client: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.running = running
        self.client = client

    async def chat(self, **members: Any) -> tuple[int, str, bytes]:
        """Return status, target and body."""
        url = f"{self.running.base_url}/chat/completions"
        async with self.client.post(url, json=CHAT | members) as answer:
            return answer.status, answer.headers.get("x-tollway-target", ""), await answer.read()

    def ready(self) -> int | None:
        """Return how many replicas the gateway would use; None until the directory has told it of the model."""
        fleet = self.fleet()
        return None if fleet is None else len(fleet.usable())

    def fleet(self) -> Any:
        """Return what the gateway knows of the replicas."""
        return self.running.gateway.pool.replicas.fleet(self.running.gateway.current.snapshot.targets["own"])

    async def gauge(self, line: str) -> float:
        """Return one sample of the gateway's metrics."""
        async with self.client.get(f"{self.running.url}/metrics") as answer:
            text = await answer.text()
        found = [each for each in text.splitlines() if each.startswith(f"{line} ")]
        assert found, line
        return float(found[0].rsplit(" ", 1)[1])


@asynccontextmanager
async def ground(tmp_path: Path, replicas: int = 0, bridge: str | None = None, **spec: Any) -> AsyncIterator[Ground]:
    """Run ``replicas`` replicas that the gateway has found by the time this yields."""
    async with local_cluster() as cluster:
        for _ in range(replicas):
            await cluster.add(**spec)
        config = clustered(cluster.url, bridge)
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            made = Ground(cluster, running, client)
            await until(lambda: made.ready() == replicas)
            yield made


async def test_requests_go_to_the_replicas_themselves(tmp_path: Path) -> None:
    """To each of them, straight: the directory's server sees none."""
    async with ground(tmp_path, 2, tpot_ms=5) as made:
        answers = await asyncio.gather(*(made.chat(stream=True) for _ in range(8)))
        assert {(status, target) for status, target, _ in answers} == {(200, "own")}
        assert all(len(replica.asked) == 4 for replica in made.cluster.replicas)


async def test_a_prompt_returns_to_the_replica_that_has_read_it(tmp_path: Path) -> None:
    """Conversations with the same beginning meet in one replica's cache; the usage shows it."""
    async with ground(tmp_path, 2, kv_blocks=1000, prefill_tokens_per_s=100_000) as made:
        beginning = "a system prompt of some length " * 100
        for number in range(8):
            messages = [{"role": "system", "content": beginning}, {"role": "user", "content": f"question {number}"}]
            status, _, body = await made.chat(messages=messages)
            assert status == 200
            cached = json.loads(body)["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert (cached > 400) == (number > 0)
        assert sorted(len(replica.asked) for replica in made.cluster.replicas) == [0, 8]


async def test_changing_line_of_a_client_costs_no_prefix_cache(tmp_path: Path) -> None:
    """Messages that differ in the client's billing header alone meet in one replica, and the engine has read them."""
    async with ground(tmp_path, 2, kv_blocks=1000, prefill_tokens_per_s=100_000) as made:
        for form in ("blocks", "text"):
            beginning = f"a system prompt as {form} " * 100
            for number in range(4):
                line = f"x-anthropic-billing-header: cc_version=2.1.{number}; cch={number:05};"
                blocks = [{"type": "text", "text": each} for each in (line, beginning)]
                asked = CHAT | {"system": blocks if form == "blocks" else f"{line}\n{beginning}"}
                async with made.client.post(f"{made.running.base_url}/messages", json=asked) as answer:
                    assert answer.status == 200, await answer.text()
                    cached = (await answer.json())["usage"]["cache_read_input_tokens"]
                assert (cached > 400) == (number > 0), (form, number)


async def test_a_dead_replica_costs_no_request(tmp_path: Path) -> None:
    """Killed without a word: those that meet it go to another replica of the same model; none fails."""
    async with ground(tmp_path, 3) as made:
        made.cluster.replicas[0].kill()
        answers = await asyncio.gather(*(made.chat(stream=bool(number % 2)) for number in range(30)))
        assert {(status, target) for status, target, _ in answers} == {(200, "own")}
        await until(lambda: made.ready() == 2)


async def test_replica_that_dies_within_streams_ends_them_in_an_error_and_is_left(tmp_path: Path) -> None:
    """Its streams end in an error event without an end marker; those of the other go on, and so do new calls."""
    async with ground(tmp_path, 2, tpot_ms=20) as made:
        calls = [asyncio.create_task(made.chat(stream=True, max_tokens=30, ignore_eos=True)) for _ in range(6)]

        def all_have_begun() -> bool:
            usable = made.fleet().usable()
            return len(usable) == 2 and all(each.in_flight == 3 and not each.uncached_tokens for each in usable)

        await until(all_have_begun)
        made.cluster.replicas[0].kill()
        bodies = [body for _, _, body in await asyncio.gather(*calls)]
        broken = [body for body in bodies if b"[DONE]" not in body]
        assert len(broken) == 3
        assert all(b'"upstream_cut"' in body for body in broken)
        assert (await made.chat())[:2] == (200, "own")
        assert {row.outcome: row.attempts for row in await made.running.totals()} == {"ok": 4, "cut": 3}


async def test_a_draining_replica_gets_no_new_requests(tmp_path: Path) -> None:
    """Its own go on to their end."""
    async with ground(tmp_path, 2, tpot_ms=20) as made:
        first = asyncio.create_task(made.chat(stream=True, max_tokens=40, ignore_eos=True))
        await until(lambda: any(replica.load.in_flight for replica in made.cluster.replicas))
        busy, other = sorted(made.cluster.replicas, key=lambda each: -each.load.in_flight)
        busy.drain()
        await until(lambda: made.ready() == 1)
        answers = await asyncio.gather(*(made.chat() for _ in range(10)))
        assert {status for status, _, _ in answers} == {200}
        assert (len(busy.asked), len(other.asked)) == (1, 10)
        assert b"[DONE]" in (await first)[2]


async def test_lone_draining_replica_serves_and_another_is_wanted(tmp_path: Path) -> None:
    """Nothing wants one before: a model at rest goes to zero."""
    async with ground(tmp_path, 1) as made:
        [last] = made.cluster.replicas
        last.drain()
        await until(lambda: not any(each.is_ready for each in made.fleet().replicas.values()))
        assert (made.fleet().wanted(), made.cluster.woken) == (0, [])
        assert (await made.chat())[:2] == (200, "own")
        await until(lambda: made.cluster.woken == ["own"])


async def test_the_last_view_stays_while_the_directory_is_away(tmp_path: Path) -> None:
    async with ground(tmp_path, 2) as made:
        made.cluster.close_directory()
        answers = await asyncio.gather(*(made.chat() for _ in range(10)))
        assert {(status, target) for status, target, _ in answers} == {(200, "own")}
        made.cluster.replicas[0].kill()
        assert {(await made.chat())[0] for _ in range(10)} == {200}


async def test_full_replicas_answer_503_with_retry_after(tmp_path: Path) -> None:
    """Nothing queues without limit: one request each, and the third caller is told when to come back."""
    async with local_cluster() as cluster:
        for _ in range(2):
            await cluster.add(limit=1, tpot_ms=30)
        async with running_gateway(clustered(cluster.url), tmp_path) as running, aiohttp.ClientSession() as client:
            made = Ground(cluster, running, client)
            await until(lambda: made.ready() == 2)
            busy = [asyncio.create_task(made.chat(max_tokens=20, ignore_eos=True)) for _ in range(2)]
            await until(lambda: all(replica.load.in_flight for replica in cluster.replicas))
            async with client.post(f"{running.base_url}/chat/completions", json=CHAT) as refused:
                assert (refused.status, refused.headers["retry-after"]) == (503, "1")
                assert "as many requests as they take" in await refused.text()
            assert {status for status, _, _ in await asyncio.gather(*busy)} == {200}
            # By their own count, and by the gateway's, which their next line brings up to date.
            await until(lambda: not any(replica.load.in_flight for replica in cluster.replicas))
            await until(lambda: not any(each.requests for each in made.fleet().usable()))
            assert (await made.chat())[0] == 200


async def test_a_model_at_zero_is_bridged_until_a_replica_is_ready(tmp_path: Path) -> None:
    """The next target serves and the cluster is asked for a replica; then traffic returns. What it cost is known."""
    async with ScriptedUpstream() as other, ground(tmp_path, 0, other.url) as made:
        async with made.client.post(f"{made.running.base_url}/chat/completions", json=CHAT) as answer:
            assert (answer.status, answer.headers["x-tollway-target"]) == (200, "bridge")
            assert "own has no replica ready" in answer.headers["x-tollway-reason"]
            call_id = answer.headers["x-tollway-request-id"]
        await until(lambda: "own" in made.cluster.woken)
        assert await made.gauge('tollway_bridged_requests_total{target="own"}') == 1
        spent = await made.gauge('tollway_bridge_cost_nano_usd_total{target="own"}')
        assert spent == await made.gauge('tollway_cost_nano_usd_total{target="bridge"}') > 0
        await made.cluster.add()
        await until(lambda: made.ready() == 1)
        assert (await made.chat())[:2] == (200, "own")
        assert await made.gauge('tollway_bridged_requests_total{target="own"}') == 1
        async with made.client.get(f"{made.running.base_url}/requests/{call_id}") as told:
            assert (await told.json())["bridged_for"] == "own"


async def test_request_without_another_target_waits_for_the_first_replica(tmp_path: Path) -> None:
    async with ground(tmp_path) as made:
        call = asyncio.create_task(made.chat())
        await until(lambda: "own" in made.cluster.woken)
        assert not call.done()
        await made.cluster.add()
        assert (await call)[:2] == (200, "own")


async def test_a_request_waits_for_a_replica_no_longer_than_configured(tmp_path: Path) -> None:
    async with local_cluster() as cluster:
        config = clustered(cluster.url)
        config["timeouts"]["cold_start_s"] = 0.3
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            await until(lambda: running.gateway.pool.replicas.fleets(cluster.url).keys() == {"own"})
            async with client.post(f"{running.base_url}/chat/completions", json=CHAT) as refused:
                assert refused.status == 503
                assert int(refused.headers["retry-after"]) >= 1


async def test_the_price_of_tokens_is_measured(tmp_path: Path) -> None:
    """Average price: the replicas' hours over the tokens that they counted; and the counts are the ledger's."""
    async with ground(tmp_path, 2, tpot_ms=2) as made:
        for _ in range(4):
            await made.chat(max_tokens=50, ignore_eos=True)
        lines = [json.loads(replica.load.line())["total"] for replica in made.cluster.replicas]
        tokens = sum(line["prompt_tokens"] + line["output_tokens"] for line in lines)
        rows = await made.running.totals()
        assert tokens == sum(row.input_tokens + row.cached_input_tokens + row.output_tokens for row in rows)
        await until(lambda: made.fleet().lately().output_tokens == 200)
        assert await made.gauge('tollway_replica_usd_per_hour{target="own"}') == pytest.approx(7.2)
        marginal = await made.gauge('tollway_replica_usd_per_mtok{kind="marginal",target="own"}')
        busy_s = sum(line["busy_s"] for line in lines)
        assert marginal == pytest.approx(3.6 / 3600 * busy_s / tokens * 1e6, rel=0.02)


@pytest.mark.parametrize("direct", [True, False], ids=["no directory there", "told not to ask"])
async def test_requests_go_through_the_proxy_without_a_directory(tmp_path: Path, direct: bool) -> None:
    """Another's applications on Ray Serve, or a gateway that cannot reach replicas."""
    async with ScriptedUpstream() as proxy:
        config = clustered(proxy.url)
        config["providers"]["cluster"]["direct"] = direct
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            async with client.post(f"{running.base_url}/chat/completions", json=CHAT) as answer:
                assert answer.status == 200
                assert answer.headers["x-tollway-target"] == "own"
    asked = {seen.path.partition("?")[0] for seen in proxy.seen}
    assert "/own/v1/chat/completions" in asked
    assert ("/tollway/replicas" in asked) == direct


async def test_a_request_that_ends_engines_ends_three_of_them_on_used_connections_too(tmp_path: Path) -> None:
    """A connection that breaks under it looks like one that was closed already, and the second try is refused."""
    async with ground(tmp_path, 6) as made:
        while not all(each.asked for each in made.cluster.replicas):
            await asyncio.gather(*(made.chat(stream=True) for _ in range(12)))
        for each in made.cluster.replicas:
            each.asked.clear()
            each.dies_of_requests = True
        assert (await made.chat())[0] == 503
        assert sum(bool(each.asked) for each in made.cluster.replicas) == 3
