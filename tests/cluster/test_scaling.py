"""Replicas follow what the engines say, and a model at zero follows who wants it; no request goes through Serve."""

import asyncio
import time

from tests.ground.ray_cluster import Cluster, View, callers, viewing

ENGINE = {"source": "-", "engine": "synthetic", "cpus_per_replica": 0.1}
QUICK = {"max_replicas": 2, "upscale_delay_s": 0.5, "downscale_delay_s": 1, "to_zero_delay_s": 2}
WORKERS = {
    "idle": {**ENGINE, "autoscaling": {**QUICK, "min_replicas": 0, "target_requests": 4}},
    "late": {
        **ENGINE,
        "autoscaling": {**QUICK, "min_replicas": 1, "target_requests": 100, "target_ttft_ms": 40},
        "synthetic": {"ttft_ms": 60},
    },
}


async def test_a_model_goes_from_zero_to_two_replicas_and_back_as_it_is_wanted(cluster: Cluster) -> None:
    async with viewing(cluster) as view:
        await view.until(lambda: "idle" in view.models)
        assert view.listed("idle") == {}
        took_s = {"from zero": await wanted_until_there(cluster, view, "idle")}
        async with callers(view, "idle", 8, 100) as done:
            took_s["to two"] = await view.until(lambda: len(view.ready("idle")) == 2)
            served = len(done)
            await view.until(lambda: len(done) > served + 20)
        kept = asyncio.create_task(view.stream("idle", 2000))
        took_s["to one"] = await view.until(lambda: len(view.ready("idle")) == 1)
        assert (await kept).whole
        took_s["to zero"] = await view.until(lambda: not view.listed("idle"))
        took_s["from zero again"] = await wanted_until_there(cluster, view, "idle")
        print(
            ", ".join(f"{step} in {s:.1f} s" for step, s in took_s.items()), f"{len(view.failed)} of {len(done)} failed"
        )
        assert (await view.stream("idle", 5)).whole
        assert view.failed == []


async def test_a_model_grows_while_its_first_tokens_come_too_late(cluster: Cluster) -> None:
    async with viewing(cluster) as view:
        await view.until(lambda: len(view.ready("late")) == 1)
        async with callers(view, "late", 1, 5):
            await view.until(lambda: len(view.ready("late")) == 2)
            assert min(line["ttft_ms"] or 60 for line in view.lines.values() if line["model"] == "late") > 40
        assert view.failed == []


async def wanted_until_there(cluster: Cluster, view: View, model: str) -> float:
    """Say every second that a request waits, as a gateway does, and return how long a replica took to be ready."""
    begun = time.monotonic()
    there = asyncio.create_task(view.until(lambda: bool(view.ready(model))))
    while not there.done():
        hint = {"gateway": "test", "waiting": {model: 1}}
        async with view.session.post(f"{cluster.url}/tollway/demand", json=hint) as reply:
            assert reply.status == 204
        await asyncio.wait({there}, timeout=1)
    return time.monotonic() - begun
