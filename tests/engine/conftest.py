"""The real thing: ``tollway up`` with vLLM replicas under Ray Serve on this machine's CPU, twice for the whole session.

Once as ``make up`` starts it, once with all models of the examples. The first start on a machine fetches and converts
the model (about a minute); every start of a replica takes about a minute, most of it on one core.
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
import yaml

from tests.ground.ports import own_port

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "deploy" / "examples"
_START_S = 1800
_WRITE_WHISPER = """
import sys
from pathlib import Path
from tests.families.catalogue import FAMILIES
from tests.families.checkpoint import write
write(next(family for family in FAMILIES if family.name == "Whisper"), Path(sys.argv[1]))
"""


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


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what lives here, and give it the time that a start takes: the first test pays for it."""
    item.add_marker(pytest.mark.engine)
    item.add_marker(pytest.mark.timeout(_START_S + 60))


@contextmanager
def up(config: Path, directory: Path, model: str) -> Iterator[Running]:
    """Run ``tollway up`` on free ports with ``directory`` as its own, and end it."""
    log = directory / "log"
    port, workers_port = own_port(), own_port()
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


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory in which the adapter of ``several-models.yaml`` is where the example says."""
    home = tmp_path_factory.mktemp("home")
    make = [sys.executable, str(EXAMPLES / "make_adapter.py"), "bundled:smollm2-135m-instruct"]
    subprocess.run([*make, "build/adapters/pirate"], cwd=home, check=True, capture_output=True)
    return home


@pytest.fixture(scope="session")
def several(home: Path) -> Iterator[Running]:
    """Start ``several-models.yaml`` as ``make up-several`` does."""
    with up(EXAMPLES / "several-models.yaml", home, "smollm2") as started:
        yield started


@pytest.fixture(scope="session")
def interview(home: Path) -> Iterator[Running]:
    """Start ``interview.yaml`` with a Whisper of random weights."""
    config = yaml.safe_load((EXAMPLES / "interview.yaml").read_text(encoding="utf-8"))
    subprocess.run([sys.executable, "-c", _WRITE_WHISPER, str(home / "whisper")], check=True, cwd=ROOT)
    config["workers"]["whisper"]["source"] = str(home / "whisper")
    file = home / "tollway.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    with up(file, home, "smollm2") as started:
        yield started
