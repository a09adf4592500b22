"""Ray Serve applications: one per model, under ``/<name>``, and the directory of their replicas, under ``/tollway``.

The gateway asks the directory for the replicas' own addresses and speaks to those (ADR 0006). A model also answers at
``{base_url}/<name>/v1/...`` through Serve's proxy, and its engine's metrics at ``{base_url}/<name>/metrics``.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import msgspec
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from workers.cluster.autoscaling import REQUESTS, TTFT_MS, scale
from workers.cluster.directory import ANNOUNCE_S, Directory, DirectoryApp, ServedModel
from workers.config.placement import ray_options
from workers.config.spec import DIRECTORY, ModelSpec
from workers.errors import WorkerError
from workers.replica.app import ReplicaAddress, ReplicaApp

_HINT_HOLDS_S = 3.0
_CALL_S = 2.0
_AGAIN_S = 0.25
# What a replica needs after its streams have ended: its own port closes, then the engine.
_CLOSING_S = 15.0


class _Replica:
    """The class that Serve constructs; ``serve.ingress`` adds the ASGI app and runs its lifespan in the replica.

    Serve stops a replica by the lifespan's shutdown, so the app drains there.
    """

    app: ReplicaApp

    async def _run_asgi_lifespan_startup(self) -> None:
        """Do as Serve does, but raise the reason of a failure where Serve says that the log has it."""
        try:
            await super()._run_asgi_lifespan_startup()  # type: ignore[misc] # of the class that Serve makes of this one
        except RuntimeError as error:
            raise WorkerError(self.app.failure or error) from error

    async def check_health(self) -> None:
        """Raise when the engine cannot serve; after three times Serve replaces the replica."""
        await self.app.check_health()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the policy goes by."""
        requests, ttft_ms = self.app.demand()
        return {REQUESTS: requests, TTFT_MS: ttft_ms}

    async def wake(self) -> None:
        """Do nothing: that this call waits in a queue is what makes Serve start the first replica."""


class _DirectoryReplica:
    """The directory's class: HTTP for the gateways, calls for the replicas."""

    app: DirectoryApp

    async def announce(self, model: str, replica: str, url: str) -> None:
        """Enter or renew a replica."""
        self.app.directory.announce(model, replica, url)

    async def withdraw(self, model: str, replica: str) -> None:
        """Strike a replica off."""
        self.app.directory.withdraw(model, replica)


def application(name: str, model: str, spec: ModelSpec, version: str | None = None) -> serve.Application:
    """Build the Serve application of one model; for ``model`` see ``ReplicaApp``.

    Replicas of the same version stay; in a declarative configuration Serve has versions of its own.
    """
    ingress = serve.ingress(ReplicaApp(name, model, spec.of_one_replica(), partial(_address, name)))(_Replica)
    deployment = serve.deployment(
        name=name,
        **scale(spec),
        # Serve's own defaults are five at once and an unbounded queue.
        max_ongoing_requests=spec.max_ongoing_requests,
        max_queued_requests=spec.max_queued_requests,
        # An upgrade starts every new replica before it stops an old one.
        max_surge_percent=100,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=spec.drain_s + _CLOSING_S,
        health_check_period_s=1.0,
        # A start that failed once fails again (wrong argument, no memory): say so at once, not after three minutes.
        max_constructor_retry_count=1,
        **ray_options(spec),
    )(ingress)
    return deployment.options(version=version, _internal=True).bind()


def model_from(arguments: dict[str, Any]) -> serve.Application:
    """Build a model's application from the arguments that ``deploy`` put into Serve's configuration."""
    return application(arguments["name"], "", ModelSpec.model_validate(arguments["spec"]))


def directory_from(arguments: dict[str, Any]) -> serve.Application:
    """Build the directory's application likewise."""
    return directory_application(msgspec.convert(arguments["models"], dict[str, ServedModel]))


def directory_application(models: Mapping[str, ServedModel], version: str | None = None) -> serve.Application:
    """Build the directory's application for these models; one of the same version stays."""

    def make() -> DirectoryApp:
        return DirectoryApp(Directory(models), _Waker(), os.environ.get("TOLLWAY_REPLICA_TOKEN") or None)

    deployment = serve.deployment(
        name="directory",
        # Long polls of every gateway process, and the replicas' calls.
        max_ongoing_requests=2000,
        max_queued_requests=200,
        max_surge_percent=100,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=0.5,
        health_check_period_s=1.0,
        # Not a log line for every replica and second.
        logging_config={"enable_access_log": False},
        ray_actor_options={"num_cpus": 0},
    )(serve.ingress(make)(_DirectoryReplica))
    return deployment.options(version=version, _internal=True).bind()


class _Waker:
    """Ask Serve for a model at zero by a call that waits for its first replica: at most one for each model."""

    def __init__(self) -> None:
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._handles: dict[str, DeploymentHandle] = {}

    def __call__(self, model: str) -> None:
        if model not in self._calls:
            self._calls[model] = task = asyncio.create_task(self._call(model))
            task.add_done_callback(lambda _: self._calls.pop(model))

    async def _call(self, model: str) -> None:
        # The gateway asks again while it is true; a call that failed is then made again.
        with suppress(Exception):
            if model not in self._handles:
                self._handles[model] = await _handle(model, model)
            await asyncio.wait_for(self._handles[model].wake.remote(), _HINT_HOLDS_S)


def _address(model: str) -> ReplicaAddress:
    replica: str = serve.get_replica_context().replica_id.unique_id
    # The address by which this node joined the cluster: loopback where there is one node.
    return ReplicaAddress(replica, ray.util.get_node_ip_address(), partial(_announced, model, replica))


@asynccontextmanager
async def _announced(model: str, replica: str, url: str) -> AsyncIterator[None]:
    announced = asyncio.Event()

    async def forever() -> None:
        handle: DeploymentHandle | None = None
        while True:
            # Without a directory the replica serves all the same, and goes on trying.
            pause_s = _AGAIN_S
            with suppress(Exception):
                handle = handle or await _handle("directory", DIRECTORY)
                await asyncio.wait_for(handle.announce.remote(model, replica, url), _CALL_S)
                announced.set()
                pause_s = ANNOUNCE_S
            await asyncio.sleep(pause_s)

    task = asyncio.create_task(forever())
    try:
        # In an upgrade the old replicas go once this one has started: by then it should be known.
        with suppress(TimeoutError):
            await asyncio.wait_for(announced.wait(), _CALL_S)
        yield
    finally:
        task.cancel()
        with suppress(Exception):
            handle = await _handle("directory", DIRECTORY)
            await asyncio.wait_for(handle.withdraw.remote(model, replica), 0.5)


async def _handle(deployment: str, application: str) -> DeploymentHandle:
    # It asks the controller, which may be away: not on the engine's loop.
    return await asyncio.to_thread(serve.get_deployment_handle, deployment, application)
