"""A model's spec as a Ray Serve application: one application per model, under ``/<name>``.

The gateway finds a model at ``{base_url}/<name>/v1/...``, and its engine's metrics at ``{base_url}/<name>/metrics``.
"""

from ray import serve

from workers.replica import ReplicaApp
from workers.spec import ModelSpec

# Streams that run when a replica is stopped get this long to end.
_DRAIN_S = 10.0


class _Replica:
    """The class that Serve constructs; ``serve.ingress`` adds the ASGI app and runs its lifespan in the replica."""

    app: ReplicaApp

    async def check_health(self) -> None:
        """Raise when the engine cannot serve; after three times Serve replaces the replica."""
        await self.app.check_health()


def application(name: str, model: str, spec: ModelSpec) -> serve.Application:
    """Build the Serve application of one model; ``model`` is what ``models.prepare`` returned for its source."""
    ingress = serve.ingress(ReplicaApp(name, model, spec))(_Replica)
    deployment = serve.deployment(
        name=name,
        num_replicas=spec.replicas,
        # Serve's own defaults are five at once and an unbounded queue.
        max_ongoing_requests=spec.max_ongoing_requests,
        max_queued_requests=spec.max_queued_requests,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=_DRAIN_S,
        health_check_period_s=2.0,
        # A start that failed once fails again (wrong argument, no memory): say so at once, not after three minutes.
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": spec.cpus_per_replica, "num_gpus": spec.gpus_per_replica},
    )(ingress)
    return deployment.bind()
