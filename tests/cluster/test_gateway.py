"""The gateway before a real Ray Serve: callers notice nothing of replicas that come, go and die."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.ground.cluster import clustered
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.own_time import own_time
from tests.ground.ray_cluster import BEARER, Cluster
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import until

ENGINE = {"source": "-", "engine": "synthetic", "cpus_per_replica": 0.1}
QUICK = {"min_replicas": 0, "max_replicas": 1, "upscale_delay_s": 0.5, "downscale_delay_s": 1, "to_zero_delay_s": 2}
WORKERS = {
    "own": {**ENGINE, "replicas": 2},
    "seldom": {**ENGINE, "autoscaling": QUICK},
}


class Callers:
    """What the callers of one gateway got."""

    def __init__(self, running: RunningGateway, client: aiohttp.ClientSession) -> None:
        self.running = running
        self.client = client
        self.answers: list[tuple[int, str, bool]] = []
        """Status, target, and whether the stream came to its end."""

    async def ask(self, model: str, tokens: int = 20) -> tuple[int, str, bool]:
        body = {"model": model, "messages": [{"role": "user", "content": "go on"}], "stream": True}
        wanted = {"max_tokens": tokens, "ignore_eos": True}
        async with self.client.post(f"{self.running.base_url}/chat/completions", json=body | wanted) as reply:
            text = await reply.read()
            answer = (reply.status, reply.headers.get("x-tollway-target", ""), b"[DONE]" in text)
        self.answers.append(answer)
        return answer

    def failed(self) -> int:
        return sum(1 for status, _, whole in self.answers if status != 200 or not whole)

    def ready(self, model: str) -> int:
        fleet = self.running.gateway.pool.replicas.fleet(self.running.gateway.current.snapshot.targets[model])
        return 0 if fleet is None else len(fleet.usable())

    @asynccontextmanager
    async def asking(self, model: str, count: int) -> AsyncIterator[None]:
        """Have so many callers ask again and again."""
        stop = asyncio.Event()

        async def again() -> None:
            while not stop.is_set():
                await self.ask(model)

        tasks = [asyncio.create_task(again()) for _ in range(count)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)


@asynccontextmanager
async def callers(cluster: Cluster, tmp_path: Path, bridge: str) -> AsyncIterator[Callers]:
    config: dict[str, Any] = clustered(cluster.url, bridge)
    config["providers"]["cluster"]["api_key"] = "env:TOKEN"
    config["models"]["seldom"] = config["models"]["own"]
    config["timeouts"] |= {"cold_start_s": 60, "total_s": 120}
    config["routes"]["sometimes"] = {"models": ["seldom", "bridge"]}
    token = BEARER["authorization"].removeprefix("Bearer ")
    async with running_gateway(config, tmp_path, environ={"TOKEN": token}) as running:
        async with aiohttp.ClientSession() as client:
            yield Callers(running, client)


async def test_a_killed_replica_costs_the_streams_it_had_and_nothing_else(cluster: Cluster, tmp_path: Path) -> None:
    """Whoever had seen no byte of it is served by the other; the view is right well within 1.5 s."""
    async with ScriptedUpstream() as bridge, callers(cluster, tmp_path, bridge.url) as made:
        await until(lambda: made.ready("own") == 2)
        async with made.asking("own", 8):
            await until(lambda: len(made.answers) > 20)
            victim = next(iter(made.running.gateway.pool.replicas.fleets(cluster.url)["own"].replicas.values()))
            pid = cluster.pid_of("ray::ServeReplica:own", victim.url)
            async with own_time() as own:
                killed_at = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                await until(lambda: made.ready("own") == 1)
                seen_s, seen_own_s = time.monotonic() - killed_at, own.s
            await until(lambda: made.ready("own") == 2)
            back_s = time.monotonic() - killed_at
        refused = [status for status, _, _ in made.answers if status != 200]
        print(
            f"out of view in {seen_s * 1e3:.0f} ms, replaced in {back_s:.1f} s; of {len(made.answers)} streams "
            f"{made.failed()} broke, {len(refused)} failed before a byte"
        )
        assert seen_own_s < 1.5
        assert refused == []
        # Those that it was sending: at most the eight that were under way.
        assert made.failed() <= 8
        assert {target for _, target, _ in made.answers} == {"own"}


async def test_streams_and_calls_outlive_serves_controller(cluster: Cluster, tmp_path: Path) -> None:
    async with ScriptedUpstream() as bridge, callers(cluster, tmp_path, bridge.url) as made:
        await until(lambda: made.ready("own") == 2)
        async with made.asking("own", 4):
            [controller] = cluster.pids("ray::ServeController")
            os.kill(controller, signal.SIGKILL)
            # A look goes through all processes, in the loop of the gateway and its callers: not all the time.
            while cluster.pids("ray::ServeController") in ([], [controller]):
                await asyncio.sleep(0.05)
            count = len(made.answers)
            await until(lambda: len(made.answers) > count + 20)
        assert made.failed() == 0
        await until(lambda: made.ready("own") == 2)


async def test_a_model_at_zero_is_bridged_started_used_and_let_go(cluster: Cluster, tmp_path: Path) -> None:
    """No call fails: the next target serves until a replica is there, then traffic returns."""
    async with ScriptedUpstream() as bridge, callers(cluster, tmp_path, bridge.url) as made:
        await until(lambda: "seldom" in made.running.gateway.pool.replicas.fleets(cluster.url))
        assert made.ready("seldom") == 0
        begun = time.monotonic()
        async with made.asking("sometimes", 2):
            await until(lambda: any(target == "seldom" for _, target, _ in made.answers))
            returned_s = time.monotonic() - begun
            assert made.answers[0][1] == "bridge"
            count = len(made.answers)
            await until(lambda: len(made.answers) > count + 20)
            await until(lambda: {target for _, target, _ in made.answers[-10:]} == {"seldom"})
        async with made.client.get(f"{made.running.url}/metrics") as page:
            metrics = await page.text()
        bridged = [target for _, target, _ in made.answers].count("bridge")
        print(f"{bridged} calls bridged in {returned_s:.1f} s; {made.failed()} of {len(made.answers)} failed")
        assert f'tollway_bridged_requests_total{{target="seldom"}} {float(bridged)}' in metrics
        assert made.failed() == 0
        await until(lambda: made.ready("seldom") == 0)
        # With nothing else to serve it, a call waits for the replica.
        assert (await made.ask("seldom"))[:2] == (200, "seldom")
