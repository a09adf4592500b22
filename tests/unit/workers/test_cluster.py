"""What Serve is told when the models change, and when one of them does not come up."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from workers import cluster
from workers.errors import WorkerError
from workers.spec import ModelSpec, parse_workers

Model = tuple[str, ModelSpec]


def models(**specs: dict[str, Any]) -> dict[str, Model]:
    section = {name: {"source": "x", "engine": "synthetic", **spec} for name, spec in specs.items()}
    return {name: ("", spec) for name, spec in parse_workers(section).items()}


@pytest.fixture
def versions() -> dict[str, str]:
    """Note the version that each model was last run in."""
    return {}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> Iterator[list[str]]:
    """Stand in for Serve, where a model with four replicas does not come up: no engine here fails by itself."""
    serve = pytest.importorskip("ray.serve")
    said: list[str] = []

    def run_many(targets: list[Any]) -> None:
        for target in targets:
            said.append(f"run {target.name}")
            versions[target.name] = target.target._bound_deployment.version
            if target.target._bound_deployment.num_replicas == 4:
                raise RuntimeError("it did not come up")

    monkeypatch.setattr(serve, "run", lambda *_, name, **__: said.append(f"run {name}"))
    monkeypatch.setattr(serve, "run_many", run_many)
    monkeypatch.setattr(serve, "delete", lambda name, **_: said.append(f"delete {name}"))
    failed = SimpleNamespace(status="DEPLOY_FAILED", deployments={})
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"a": failed, "b": failed}))
    return said


def test_a_model_that_did_not_come_up_goes_when_it_is_taken_back(told: list[str]) -> None:
    running: dict[str, cluster.Deployed | None] = {}
    cluster.deploy(models(a={}), running, told.append)
    with pytest.raises(WorkerError, match="replicas of b did not start"):
        cluster.deploy(models(a={}, b={"replicas": 4}), running, told.append)
    told.clear()
    cluster.deploy(models(a={}), running, told.append)
    assert told == ["run tollway", "stopping b", "delete b"]


def test_an_upgrade_that_did_not_come_up_is_taken_back(told: list[str]) -> None:
    running: dict[str, cluster.Deployed | None] = {}
    cluster.deploy(models(a={}), running, told.append)
    with pytest.raises(WorkerError, match="replicas of a did not start"):
        cluster.deploy(models(a={"replicas": 4}), running, told.append)
    told.clear()
    cluster.deploy(models(a={}), running, told.append)
    assert [line for line in told if line.startswith("run")] == ["run tollway", "run a"]
    told.clear()
    cluster.deploy(models(a={}), running, told.append)
    assert told == []


def test_another_number_of_replicas_or_another_price_leaves_those_that_run(
    told: list[str], versions: dict[str, str]
) -> None:
    running: dict[str, cluster.Deployed | None] = {}
    cluster.deploy(models(a={}, b={}), running, told.append)
    first = dict(versions)
    told.clear()
    cluster.deploy(models(a={"replicas": 2, "usd_per_hour": 3}, b={"drain_s": 5}), running, told.append)
    assert versions["a"] == first["a"]
    assert versions["b"] != first["b"]
    assert "a shall have 2 replicas" in told
    assert "upgrading b (this takes room for as many replicas again)" in told
