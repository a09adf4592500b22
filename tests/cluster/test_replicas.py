"""Replicas on their own ports: what they say is true, an upgrade loses nothing, and a killed one is gone at once."""

import asyncio
import os
import signal
import time

import aiohttp

from tests.ground.own_time import own_time
from tests.ground.ray_cluster import Cluster, Stream, callers, viewing

ENGINE = {"source": "-", "engine": "synthetic", "cpus_per_replica": 0.1}
WORKERS = {
    "told": {**ENGINE, "usd_per_hour": 0.08, "max_ongoing_requests": 5, "max_queued_requests": 1},
    "upgraded": {**ENGINE, "replicas": 2, "drain_s": 60},
    "killed": {**ENGINE, "replicas": 2},
    "scaled": ENGINE,
}


async def test_reports_of_directory_and_replica_are_true(cluster: Cluster) -> None:
    async with viewing(cluster) as view:
        await view.until(lambda: bool(view.ready("told")))
        [replica] = view.listed("told")
        assert view.models["told"]["serves"] == ["told"]
        assert view.models["told"]["usd_per_hour"] == 0.08
        before = view.lines[replica]["total"]
        # Five seconds each: they have to be there still when this process gets to look.
        streams = [asyncio.create_task(view.stream("told", 1000)) for _ in range(6)]
        await view.until(lambda: view.lines[replica]["in_flight"] == 6)
        assert view.lines[replica]["limit"] == 6
        await view.until(lambda: view.lines[replica]["running"] == 6)
        refused = await view.stream("told", 1)
        assert refused.broken.startswith("503")
        assert all(stream.whole for stream in await asyncio.gather(*streams))
        await view.until(lambda: view.lines[replica]["in_flight"] == 0)
        after = view.lines[replica]["total"]
        assert after["output_tokens"] - before["output_tokens"] == 6000
        assert 0 < after["busy_s"] - before["busy_s"] <= after["up_s"] - before["up_s"]


async def test_request_without_the_clusters_token_is_refused(cluster: Cluster) -> None:
    async with viewing(cluster) as view, aiohttp.ClientSession() as stranger:
        await view.until(lambda: bool(view.ready("told")))
        [url] = view.listed("told").values()
        for place in ("/tollway/replicas", "/told/v1/models", "/told/tollway/load"):
            async with stranger.get(cluster.url + place) as refused, view.session.get(cluster.url + place) as told:
                assert (refused.status, told.status) == (401, 200)
        async with stranger.get(f"{url}/v1/models") as refused:
            assert refused.status == 401


async def test_requests_through_serves_proxy_are_counted_too(cluster: Cluster) -> None:
    async with viewing(cluster) as view:
        await view.until(lambda: bool(view.ready("told")))
        [replica] = view.listed("told")
        before = view.lines[replica]["total"]["busy_s"]
        assert (await view.stream("told", 100, f"{cluster.url}/told")).whole
        await view.until(lambda: view.lines[replica]["total"]["busy_s"] > before)


async def test_an_upgrade_under_streams_loses_none_and_leaves_no_gap(cluster: Cluster) -> None:
    async with viewing(cluster) as view:
        await view.until(lambda: len(view.ready("upgraded")) == 2)
        old = view.listed("upgraded")

        async def until_it_drains(replica: str, tokens: int) -> list[Stream]:
            streams = []
            while replica in view.ready("upgraded"):
                streams.append(await view.stream("upgraded", tokens, old[replica]))
            return streams

        # Three to seven seconds each, so that they do not end together.
        long = [asyncio.create_task(until_it_drains(each, 600 + 100 * n)) for n, each in enumerate([*old] * 4)]
        async with callers(view, "upgraded", 4, 20) as short:
            begun = time.monotonic()
            slower = {**WORKERS["upgraded"], "synthetic": {"ttft_ms": 60}}
            reloading = asyncio.create_task(cluster.reload({**WORKERS, "upgraded": slower}))
            # The old ones drain one after another, and the last one's line may be read before the last new one's first.
            await view.until(lambda: len(now := view.ready("upgraded")) == 2 and not now.keys() & old.keys())
            upgraded_s = time.monotonic() - begun
            assert {view.lines[each]["state"] for each in old if each in view.lines} <= {"draining"}
            assert not all(caller.done() for caller in long), "the old replicas have to wait for somebody"
            assert all(stream.whole for streams in await asyncio.gather(*long) for stream in streams)
            await view.until(lambda: not set(view.listed("upgraded")) & set(old))
            await reloading
        assert all(models["upgraded"] for models in view.views)
        print(f"upgrade in {upgraded_s:.1f} s: {len(view.failed)} of {len(long) + len(short)} streams failed")
        assert len(short) > 20
        assert view.failed == []


async def test_more_replicas_start_beside_those_that_run_and_another_price_touches_none(cluster: Cluster) -> None:
    """Replicas that an upgrade would replace take as much room again, and with it their cache would go."""
    async with viewing(cluster) as view:
        await view.until(lambda: len(view.ready("scaled")) == 1)
        first = set(view.ready("scaled"))
        await cluster.reload({**WORKERS, "scaled": {**ENGINE, "replicas": 2, "usd_per_hour": 3}})
        await view.until(lambda: len(view.ready("scaled")) == 2 and view.models["scaled"]["usd_per_hour"] == 3)
        assert first < set(view.ready("scaled"))


async def test_a_killed_replica_is_gone_at_once_and_replaced(cluster: Cluster) -> None:
    async with viewing(cluster) as view:
        await view.until(lambda: len(view.ready("killed")) == 2)
        victim, url = next(iter(view.listed("killed").items()))
        long = [asyncio.create_task(view.stream("killed", 20_000, url)) for _ in range(3)]
        await view.until(lambda: view.lines[victim]["in_flight"] == 3)
        pid = cluster.pid_of("ray::ServeReplica:killed", url)
        async with own_time() as own:
            killed_at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            await view.until(lambda: victim in view.gone)
            heard_s, heard_own_s = view.gone[victim] - killed_at, own.s
            broken = await asyncio.gather(*long)
            broken_s, broken_own_s = time.monotonic() - killed_at, own.s
        assert all(stream.broken and not stream.read.done for stream in broken)
        view.failed.clear()
        async with callers(view, "killed", 4, 20) as others:
            await view.until(lambda: victim not in view.listed("killed"))
            struck_off_s = time.monotonic() - killed_at
            await view.until(lambda: len(view.ready("killed")) == 2)
            replaced_s = time.monotonic() - killed_at
        print(
            f"lease broken in {heard_s * 1000:.0f} ms, its {len(broken)} streams in {broken_s * 1000:.0f} ms, out of "
            f"the directory in {struck_off_s:.1f} s, replaced in {replaced_s:.1f} s; "
            f"{len(view.failed)} of {len(others)} other streams failed"
        )
        assert heard_own_s < 1.5
        assert broken_own_s < 1.5
        # Three by the contract, of which the directory's own tests tell; what it is not told it lists for good.
        assert struck_off_s < 30
        assert view.failed == []
