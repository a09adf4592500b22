"""The directory, Serve's controller and Ray's control store may each be killed: tokens do not pass through them."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ground.ray_cluster import Cluster, callers, running_cluster, viewing
from workers.command.run import READY

WORKERS = {"m": {"source": "-", "engine": "synthetic", "cpus_per_replica": 0.1, "replicas": 2}}


async def test_a_killed_directory_comes_back_with_all_replicas_and_never_says_there_are_none(cluster: Cluster) -> None:
    async with viewing(cluster) as view:
        await view.until(lambda: len(view.ready("m")) == len(view.listed("m")) == 2)
        before, version = set(view.listed("m")), view._version
        view.views.clear()
        async with callers(view, "m", 4, 50) as done:
            begun = time.monotonic()
            [pid] = cluster.pids("ray::ServeReplica:tollway")
            os.kill(pid, signal.SIGKILL)
            await view.until(lambda: view._version != version)
            back_s = time.monotonic() - begun
            # One that was late to announce itself follows; those who hear it go on using it.
            await view.until(lambda: set(view.listed("m")) == before)
        print(f"the directory was back in {back_s:.1f} s; {len(view.failed)} of {len(done)} streams failed")
        assert view.views
        assert all(models["m"] for models in view.views)
        assert view.failed == []


async def test_a_killed_controller_comes_back_and_replaces_replicas_again(cluster: Cluster) -> None:
    async with viewing(cluster) as view:
        await view.until(lambda: len(view.ready("m")) == 2)
        [controller] = cluster.pids("ray::ServeController")
        async with callers(view, "m", 4, 50) as done:
            os.kill(controller, signal.SIGKILL)
            begun = time.monotonic()
            # Nothing tells of another's process.
            while cluster.pids("ray::ServeController") in ([], [controller]):
                await asyncio.sleep(0.05)
            back_s = time.monotonic() - begun
        assert view.gone == {}
        print(f"the controller was back in {back_s:.1f} s; {len(view.failed)} of {len(done)} streams failed")
        assert view.failed == []
        victim, url = next(iter(view.listed("m").items()))
        os.kill(cluster.pid_of("ray::ServeReplica:m", url), signal.SIGKILL)
        await view.until(lambda: victim in view.gone and len(view.ready("m")) == 2)


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Cluster]:
    """Run a cluster that its test may ruin."""
    with running_cluster(tmp_path, WORKERS) as running:
        yield running


@pytest.mark.parametrize("seconds", [5, pytest.param(75, marks=pytest.mark.soak)])
async def test_streams_and_new_requests_outlive_the_control_store(doomed: Cluster, seconds: int) -> None:
    """By default Ray's processes would follow it after a minute."""
    async with viewing(doomed) as view:
        await view.until(lambda: len(view.ready("m")) == 2)
        long = asyncio.create_task(view.stream("m", seconds * 200))
        [pid] = doomed.pids("gcs_server")
        os.kill(pid, signal.SIGKILL)
        async with callers(view, "m", 4, 50) as done:
            await asyncio.wait({long})
        print(f"{len(view.failed)} of {len(done) + 1} streams failed in {seconds} s without a control store")
        assert long.result().whole
        assert len(done) > 20
        assert view.failed == []
        assert view.gone == {}
    # About ten, most of them waits of Ray's own; forty if Serve's controller, which cannot go, is waited for.
    assert await asyncio.to_thread(doomed.stop) < 35


@pytest.mark.soak
async def test_a_node_that_is_slow_to_start_is_waited_for(tmp_path: Path) -> None:
    """By default Ray gives up after half a minute, which a busy machine may need."""
    cluster = Cluster(tmp_path, WORKERS)
    try:
        # Nothing tells of another's process.
        while not (found := cluster.pids("raylet")):
            await asyncio.sleep(0.01)
        os.kill(found[0], signal.SIGSTOP)
        await asyncio.sleep(45)
        os.kill(found[0], signal.SIGCONT)
        await asyncio.to_thread(cluster.wait_until_it_says, READY)
    finally:
        cluster.stop()
