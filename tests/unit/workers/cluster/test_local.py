"""What Serve is asked for when the models change, and when one of them does not come up."""

from types import SimpleNamespace
from typing import Any

import pytest

from workers.cluster import local as cluster
from workers.config.spec import ModelSpec, read_workers
from workers.errors import WorkerError

Model = tuple[str, ModelSpec]


def models(**specs: dict[str, Any]) -> dict[str, Model]:
    section = {name: {"source": "x", "engine": "synthetic", **spec} for name, spec in specs.items()}
    return {name: ("", spec) for name, spec in read_workers(section)[0].items()}


@pytest.fixture
def versions() -> dict[str, str]:
    """Note the version that each model was last run in."""
    return {}


REFUSED = 13
"""A model that works on so many requests at once does not come up; of four replicas one does not."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> list[str]:
    """Stand in for Serve: no engine here fails by itself."""
    serve = pytest.importorskip("ray.serve")
    said: list[str] = []
    applications: dict[str, SimpleNamespace] = {}

    def run_many(targets: list[Any], *, wait_for_applications_running: bool = True) -> None:
        for name, deployment in [(target.name, target.target._bound_deployment) for target in targets]:
            said.append(f"run {name} {deployment.num_replicas}")
            versions[name] = deployment.version
            status, message = "RUNNING", ""
            if deployment.max_ongoing_requests == REFUSED:
                status = "DEPLOY_FAILED"
            elif deployment.num_replicas == 4:
                status, message = "DEPLOYING", "A replica failed to start. Error:\nWorkerError: no memory"
            applications[name] = SimpleNamespace(status=status, deployments={name: SimpleNamespace(message=message)})
            if wait_for_applications_running and status == "DEPLOY_FAILED":
                raise RuntimeError("it did not come up")

    monkeypatch.setattr(serve, "run", lambda *_, name, **__: said.append(f"run {name}"))
    monkeypatch.setattr(serve, "run_many", run_many)
    monkeypatch.setattr(serve, "delete", lambda name, **_: said.append(f"delete {name}"))
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))
    return said


def test_model_that_failed_to_start_is_deleted_once_it_is_unconfigured(told: list[str]) -> None:
    running: dict[str, cluster.Deployed | None] = {}
    cluster.deploy(models(a={}), running, told.append)
    with pytest.raises(WorkerError, match="replicas of b did not start"):
        cluster.deploy(models(a={}, b={"max_ongoing_requests": REFUSED}), running, told.append)
    told.clear()
    cluster.deploy(models(a={}), running, told.append)
    assert told == ["run tollway", "stopping b", "delete b"]


def test_an_upgrade_that_did_not_come_up_is_taken_back(told: list[str]) -> None:
    running: dict[str, cluster.Deployed | None] = {}
    cluster.deploy(models(a={}), running, told.append)
    with pytest.raises(WorkerError, match="replicas of a did not start"):
        cluster.deploy(models(a={"max_ongoing_requests": REFUSED}), running, told.append)
    told.clear()
    cluster.deploy(models(a={}), running, told.append)
    assert [line for line in told if line.startswith("run")] == ["run tollway", "run a 1"]
    told.clear()
    cluster.deploy(models(a={}), running, told.append)
    assert told == ["run tollway"]


@pytest.mark.slow
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
    assert "a: 2 replicas" in told
    assert "upgrading b (this takes room for as many replicas again)" in told


def test_a_replica_too_many_is_taken_back(told: list[str], versions: dict[str, str]) -> None:
    """Where others run, Serve would try it for ever."""
    running: dict[str, cluster.Deployed | None] = {}
    cluster.deploy(models(a={}), running, told.append)
    first = dict(versions)
    told.clear()
    with pytest.raises(WorkerError, match="replicas of a did not start: no memory"):
        cluster.deploy(models(a={"replicas": 4}), running, told.append)
    assert told == ["run tollway", "a: 4 replicas", "run a 4", "run a 1"]
    assert versions == first
    cluster.deploy(models(a={"replicas": 2}), running, told.append)
    assert versions == first
