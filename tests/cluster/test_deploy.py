"""``tollway workers deploy`` on a Ray cluster that others have started, and where others run something too."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ground.ports import own_port
from tests.ground.ray_cluster import TOKEN, View, somebody_elses_ray, viewing

M = {"source": "-", "engine": "synthetic", "cpus_per_replica": 0.1}
THEIRS = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Theirs:
    async def __call__(self, request):
        import os
        return {"pid": os.getpid()}

app = Theirs.bind()
"""


@dataclass(frozen=True)
class Theirs:
    """A cluster that is not ours: the ports of its dashboard and of Serve's proxy, and where its files are."""

    dashboard_port: int
    port: int
    directory: Path

    @property
    def url(self) -> str:
        """Return the base URL of a gateway's provider."""
        return f"http://127.0.0.1:{self.port}"

    def put(self, *applications: dict[str, Any]) -> None:
        """Declare their own applications, as ``serve deploy`` does."""
        config = {"http_options": {"host": "127.0.0.1", "port": self.port}, "applications": applications}
        body, headers = json.dumps(config).encode(), {"content-type": "application/json"}
        url = f"http://127.0.0.1:{self.dashboard_port}/api/serve/applications/"
        request = urllib.request.Request(url, body, headers, method="PUT")
        urllib.request.urlopen(request, timeout=240).close()  # noqa: S310 - to loopback

    def running(self) -> dict[str, str]:
        """Return the status of every application."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.dashboard_port}/api/serve/applications/", timeout=60
        ) as reply:
            return {name: each["status"] for name, each in json.load(reply)["applications"].items()}

    def their_pid(self) -> int:
        """Return the process of their own replica."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/theirs", timeout=60) as reply:
            pid: int = json.load(reply)["pid"]
        return pid

    def tollway(self, *command: str, workers: dict[str, Any] | None = None) -> tuple[int, str]:
        """Run ``tollway workers`` and return its code and the last line of what it said."""
        options = ["--address", f"http://127.0.0.1:{self.dashboard_port}"]
        if workers is not None:
            config = self.directory / "tollway.yaml"
            config.write_text(json.dumps({"workers": workers}))  # YAML takes JSON
            options += ["--config", str(config), "--port", str(self.port)]
        run = [sys.executable, "-m", "gateway", "workers", *command, *options]
        done = subprocess.run(run, capture_output=True, text=True, timeout=600, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, (done.stdout + done.stderr).strip().rpartition("\n")[2]


@pytest.fixture(scope="module")
def theirs() -> Iterator[Theirs]:
    """Start a Ray with a dashboard, as an operator does, and an application on it."""
    port = own_port()
    options = (
        f"--dashboard-port={port}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
    )
    with somebody_elses_ray(*options, TOLLWAY_REPLICA_TOKEN=TOKEN) as (_, directory):
        (directory / "theirs.py").write_text(THEIRS)
        cluster = Theirs(port, own_port(), directory)
        cluster.put({"name": "theirs", "route_prefix": "/theirs", "import_path": "theirs:app"})
        # Serve begins anew to build what is still being built when others are declared.
        while cluster.running() != {"theirs": "RUNNING"}:
            time.sleep(0.1)
        yield cluster


async def ready(view: View, model: str, count: int, but: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the replicas of a model when there are so many, and none of those that were there before."""
    await view.until(lambda: len(view.ready(model)) == count and not but & view.ready(model).keys())
    return frozenset(view.ready(model))


@pytest.mark.timeout(600)
async def test_models_come_to_a_cluster_change_there_and_go_and_what_others_run_stays(theirs: Theirs) -> None:
    async def deploy(**workers: dict[str, Any]) -> None:
        code, said = await asyncio.to_thread(theirs.tollway, "deploy", workers=workers)
        assert (code, said) == (0, "tollway is ready")

    await deploy(m=M)
    pid = theirs.their_pid()
    async with viewing(theirs) as view:
        first = await ready(view, "m", 1)
        assert (await view.stream("m", 5)).whole

        await deploy(m=M)
        assert await ready(view, "m", 1) == first, "what is equal is left alone"

        await deploy(m={**M, "replicas": 2}, n=M)
        two = await ready(view, "m", 2)
        assert two > first, "another number is no upgrade"
        await ready(view, "n", 1)
        assert (await view.stream("n", 5)).whole

        autoscaling = {"min_replicas": 1, "max_replicas": 2, "downscale_delay_s": 0}
        await deploy(m={**M, "drain_s": 9, "autoscaling": autoscaling})
        await ready(view, "m", 1, but=two)
        await view.until(lambda: not view.listed("n"))
    assert theirs.tollway("remove")[0] == 0
    assert {name for name, status in theirs.running().items() if status != "DELETING"} == {"theirs"}
    await deploy(m=M)
    assert theirs.tollway("remove")[0] == 0
    assert theirs.their_pid() == pid, "theirs was never touched"


def test_a_name_that_others_have_is_refused(theirs: Theirs) -> None:
    code, said = theirs.tollway("deploy", workers={"theirs": M})
    assert code == 1
    assert said.endswith("has an application 'theirs' that is not Tollway's; rename the worker.")


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_model_that_cannot_start_is_one_sentence_and_is_tried_again(theirs: Theirs) -> None:
    """Its weights are no weights, which only the engine finds."""
    model = theirs.directory / "model"
    model.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, "vocab_size": 64}
    config |= {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "max_position_embeddings": 64}
    (model / "config.json").write_text(json.dumps(config))
    (model / "model.safetensors").touch()
    broken = {"m": {"source": str(model), "kv_cache_memory": "16MiB"}}
    not_started = "tollway: The replicas of m did not start: "
    code, said = theirs.tollway("deploy", workers=broken)
    assert (code, said) == (1, not_started + "error: unpack requires a buffer of 8 bytes")
    (model / "model.safetensors").write_bytes(bytes(16))
    code, again = theirs.tollway("deploy", workers=broken)
    assert (code, again) == (1, not_started + "ValidationError: Value error, Expecting value: line 1 column 1 (char 0)")
    assert theirs.tollway("remove")[0] == 0
