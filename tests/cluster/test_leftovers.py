"""Leftovers of a killed run are ended; the Ray of another run is left alone and not asked."""

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ground.ports import own_port
from tests.ground.ray_cluster import running_cluster, somebody_elses_ray, viewing, wait_until_it_says
from workers.cluster.children import Child, _session
from workers.command.leftovers import end_leftovers
from workers.replica.ports import is_free

WORKERS = {"m": {"source": "-", "engine": "synthetic", "cpus_per_replica": 0.1}}


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """Run a Ray that is not ours, and name it where Ray looks for one: in the environment and in its own file."""
    with somebody_elses_ray("--include-dashboard=false") as (head, directory):
        monkeypatch.setenv("RAY_TMPDIR", str(directory))
        monkeypatch.setenv("RAY_ADDRESS", (directory / "ray" / "ray_current_cluster").read_text())
        yield head


async def test_foreign_ray_is_left_alone_and_not_asked(foreign: Child, tmp_path: Path) -> None:
    before = _session(foreign._process.pid)
    with running_cluster(tmp_path, WORKERS) as cluster:
        async with viewing(cluster) as view:
            await view.until(lambda: len(view.ready("m")) == 1)
            assert (await view.stream("m", 5)).whole
        assert len(cluster.pids("gcs_server")) == len(cluster.pids("ray::ServeController")) == 1
        assert "[tollway] RAY_ADDRESS is left out" in (tmp_path / "log").read_text()
    assert _session(foreign._process.pid) == before


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_leftovers_of_a_killed_run_make_way_for_the_next(tmp_path: Path) -> None:
    """The gateway would keep its port for ever, and agents of Ray their memory.

    Alone, for the next is whatever starts first: workers of another test would be it.
    """
    ports = own_port(), own_port()
    config = tmp_path / "tollway.yaml"
    provider = {"type": "ray-serve", "base_url": f"http://127.0.0.1:{ports[1]}"}
    model = {"provider": "cluster", "context": 8192, "hardware": {"name": "cpu", "usd_per_hour": 0.1}}
    # YAML takes JSON.
    config.write_text(json.dumps({"providers": {"cluster": provider}, "models": {"m": model}, "workers": WORKERS}))
    with up(config, ports, tmp_path / "killed") as killed:
        children = Path(f"/proc/{killed._process.pid}/task/{killed._process.pid}/children").read_text().split()
        old = {pid for child in children for pid in _session(int(child))}
        assert len(old) > 5
        for pid in (killed._process.pid, int(children[0])):
            os.kill(pid, signal.SIGKILL)
        assert not is_free(ports[0])
        with up(config, ports, tmp_path / "next") as following:
            assert "ending what a killed run has left" in following.log.read_text()
            assert {pid for pid in old if Path(f"/proc/{pid}/exe").exists()} == set()
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/v1/models", timeout=10) as reply:
                assert [each["id"] for each in json.load(reply)["data"]] == ["m"]
    assert following.exit_code == 0


@contextmanager
def up(config: Path, ports: tuple[int, int], log: Path) -> Iterator[Child]:
    """Run ``tollway up`` until it is up and the context is left; what it leaves, killed, is ended then."""
    command = [sys.executable, "-m", "gateway", "up", "--config", str(config), "--until-stdin-closes"]
    options = ["--port", str(ports[0]), "--workers-port", str(ports[1])]
    child = Child([*command, *options], log, {"PYTHONUNBUFFERED": "1", "XDG_STATE_HOME": str(config.parent)})
    try:
        wait_until_it_says(child, "Tollway is up")
        yield child
    finally:
        child.stop(60)
        end_leftovers(print)
