"""The real thing, once for the whole session: ``tollway up`` with a vLLM replica under Ray Serve on this machine's CPU.

The first start on a machine fetches and converts the model (about a minute); every start takes one to two minutes.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from workers.replica.ports import free_port

ROOT = Path(__file__).parents[2]
_START_S = 1800


@dataclass(frozen=True, slots=True)
class Running:
    """Where a running Tollway is reached.

    ``gateway``: the gateway, without ``/v1``. ``worker``: the model at the workers' proxy, past the gateway, without
    ``/v1``. ``model``: its name at both. ``route``: the route in front of it. ``state``: the gateway's state directory.
    """

    gateway: str
    worker: str
    model: str
    route: str
    state: Path


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives here, and give it the time that a start takes: the first test pays for it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.timeout(_START_S + 60))


@contextmanager
def up(config: Path, directory: Path, model: str) -> Iterator[Running]:
    """Run ``tollway up`` on free ports with ``directory`` as its own, and end it."""
    log = directory / "log"
    port, workers_port = free_port(18080), free_port(18000)
    command = [str(Path(sys.executable).with_name("tollway")), "up", "--config", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--workers-port", str(workers_port), "--until-stdin-closes"],
            # It closes when this process ends, in whatever way: then everything stops too.
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, "XDG_STATE_HOME": str(directory)},
        )
        try:
            deadline = time.monotonic() + _START_S
            while "Tollway is up" not in log.read_text(encoding="utf-8"):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"tollway up did not come up:\n{log.read_text(encoding='utf-8')}")
                time.sleep(0.5)
            yield Running(
                gateway=f"http://127.0.0.1:{port}",
                worker=f"http://127.0.0.1:{workers_port}/{model}",
                model=model,
                route="auto",
                state=directory / "tollway",
            )
        finally:
            process.send_signal(signal.SIGINT)
            if process.stdin is not None:
                process.stdin.close()
            process.wait(90)
    assert process.returncode == 0, log.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start everything with the quickstart's configuration, and end it after the last test."""
    config = ROOT / "deploy" / "quickstart" / "tollway.yaml"
    with up(config, tmp_path_factory.mktemp("up"), "smollm2") as started:
        yield started
