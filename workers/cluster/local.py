"""Starts a local Ray with Serve, deploys the configured models on it, and stops all of it when the ``with`` block ends.

All of it listens on loopback only, with one exception that Ray 2.60 does not let us close: each replica's gRPC port
binds every interface. A token that is made anew for each run keeps others out of it.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from workers.cluster.children import has_child
from workers.cluster.directory import listed
from workers.config.spec import DIRECTORY, ModelSpec
from workers.errors import WorkerError
from workers.replica.causes import FAILED, STOP_FILE, not_started
from workers.replica.models import Report

if TYPE_CHECKING:
    from ray.serve import RunTarget
    from ray.serve.schema import ApplicationStatusOverview

# Serve passes requests by HTTP, not through the object store, so a small one does.
_OBJECT_STORE_BYTES = 128 * 1024 * 1024
_LOOK_S = 0.2


def ray_environment() -> dict[str, str]:
    """Return the variables that must be set before Ray is imported: loopback, a fresh token, no usage report."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray runs its workers at niceness 15, where any other process on the machine starves the engine.
        "RAY_worker_niceness": "0",
        # A control store that is away takes the whole cluster with it after this time, a minute by default.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        # How long the control store may take to say its port, and a node to be known to it: 30 seconds by default,
        # which are short on a machine that is busy.
        "RAY_gcs_server_port_wait_time_s": "120",
        "RAY_raylet_start_wait_time_s": "120",
        # Serve kills a proxy that is not up after three of these, and its start with it: a new process that imports
        # much, for which 15 seconds (5 by default) are short on a machine that is busy.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }


@contextmanager
def local_cluster(port: int, temp_dir: Path) -> Iterator[None]:
    """Run Ray and Serve's HTTP proxy on 127.0.0.1:``port``; everything has ended when the context is left.

    ``temp_dir`` takes Ray's session files and sockets; its path must be short (a socket's path has at most 107 bytes).
    """
    stop_file = temp_dir / "stopping"
    os.environ.update({**ray_environment(), STOP_FILE: str(stop_file)})
    # Another Ray's: neither ours nor an engine's own processes may join it.
    os.environ.pop("RAY_ADDRESS", None)
    # Imported late: Ray reads the variables above on import.
    import ray
    from ray import serve

    try:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=True,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(temp_dir),
        )
    except Exception as error:
        ray.shutdown()
        raise WorkerError(f"Ray did not start: {str(error).strip().partition(chr(10))[0]}") from error
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield
    finally:
        # Replicas wait for long streams when they are scaled down or upgraded, but not when everything ends.
        stop_file.touch()
        # Without Ray's control store, Serve would wait half a minute for its controller.
        if has_child("gcs_server"):
            serve.shutdown()
        ray.shutdown()


Models = Mapping[str, tuple[str, ModelSpec]]
"""Name -> what to load, spec."""


class Deployed(NamedTuple):
    """A model that the cluster runs; its replicas stay as long as ``version`` does."""

    model: str
    spec: ModelSpec
    version: str

    def of(self, model: str, spec: ModelSpec) -> "Deployed":
        """Return its replacement: of the same version if a replica of it would be the same."""
        same = (model, _of_one(spec)) == (self.model, _of_one(self.spec))
        return Deployed(model, spec, self.version if same else _new_version())


def _of_one(spec: ModelSpec) -> tuple[ModelSpec, bool]:
    # A replica reports to Serve's autoscaler only if there was one when it started.
    return spec.of_one_replica(), spec.autoscaling is None


def deploy(models: Models, running: MutableMapping[str, Deployed | None], report: Report) -> None:
    """Make the cluster run these models, one Serve application each, and return when all can serve.

    ``running`` is what it runs (none for what did not come up) and is kept up to date: empty at first. What is equal
    there is left alone; where only the number of replicas differs, some come or go; what else differs is upgraded
    without a gap, what is no longer wanted drains and goes. Raises ``WorkerError`` when a model does not come up; the
    replicas it had before then go on.
    """
    from ray import serve

    from workers.cluster.app import directory_application

    known = listed({name: spec for name, (_, spec) in models.items()})
    version = hashlib.sha256(msgspec.json.encode(known)).hexdigest()
    serve.run(directory_application(known, version), name=DIRECTORY, route_prefix=f"/{DIRECTORY}")
    for name in set(running) - set(models):
        report(f"stopping {name}")
        serve.delete(name, _blocking=False)
        del running[name]
    # One start after another, for an engine that starts takes what it finds free; but upgrades all at once, for each
    # ends only when the old replicas have.
    upgraded: dict[str, Deployed] = {}
    for name, (model, spec) in models.items():
        if (before := running.get(name)) is None:
            report(f"starting {_replicas(spec)} of {name} ({spec.engine})")
            running[name] = None
            started = Deployed(model, spec, _new_version())
            _run({name: started})
            running[name] = started
            report(f"{name} is ready")
        elif (after := before.of(model, spec)) == before:
            continue
        elif after.version == before.version:
            report(f"{name}: {_replicas(spec)}")
            _scale(name, before, after)
            running[name] = after
        else:
            report(f"upgrading {name} (this takes room for as many replicas again)")
            upgraded[name] = after
    if upgraded:
        running.update(dict.fromkeys(upgraded))
        _run(upgraded)
        running.update(upgraded)


def _new_version() -> str:
    return secrets.token_hex(8)


def _scale(name: str, before: Deployed, after: Deployed) -> None:
    """Change the number of a model's replicas; if one does not start, take that back and raise ``WorkerError``."""
    from ray import serve

    serve.run_many([_target(name, after)], wait_for_applications_running=False)
    while (application := serve.status().applications[name]).status != "RUNNING":
        said = _messages(application)
        if FAILED in said:
            serve.run_many([_target(name, before)], wait_for_applications_running=False)
            raise not_started(name, said)
        time.sleep(_LOOK_S)


def _run(models: Mapping[str, Deployed]) -> None:
    from ray import serve

    try:
        serve.run_many([_target(name, deployed) for name, deployed in models.items()])
    except RuntimeError as error:
        applications = serve.status().applications
        name = next((name for name in models if applications[name].status == "DEPLOY_FAILED"), next(iter(models)))
        raise not_started(name, _messages(applications[name]) or str(error)) from error


def _target(name: str, deployed: Deployed) -> "RunTarget":
    from ray import serve

    from workers.cluster.app import application

    return serve.RunTarget(application(name, *deployed), name, f"/{name}")


def _messages(application: "ApplicationStatusOverview") -> str:
    return "\n".join(deployment.message for deployment in application.deployments.values())


def _replicas(spec: ModelSpec) -> str:
    if spec.autoscaling is not None:
        return f"{spec.autoscaling.min_replicas} to {spec.autoscaling.max_replicas} replicas"
    return "1 replica" if spec.replicas == 1 else f"{spec.replicas} replicas"
