"""Works out what a replica asks of Ray: CPUs, GPUs of a kind, and how those of one replica are placed on nodes. Pure.

No GPU has run this yet: it is checked against what Ray Serve accepts, not against hardware.
"""

from typing import Any

from workers.config.spec import ModelSpec

# Nodes label themselves by NVIDIA's name of the GPU. The sizes of an A100 have labels too, but nodes do not set them.
_RAY_NAMES = {"RTX4090": "GeForce-RTX-4090"}


def uses_bundles(spec: ModelSpec) -> bool:
    """Return whether a replica's GPUs are bundles of a placement group, one rank of the engine in each.

    Copies within one replica (``data_parallel``) are processes of one node, so their GPUs belong to the replica itself.
    """
    return spec.gpus_per_replica > 1 and spec.data_parallel == 1


def ray_options(spec: ModelSpec) -> dict[str, Any]:
    """Return the options of ``serve.deployment`` that place one replica.

    The replica itself lives in the first bundle and leaves its GPU to the engine's first rank.
    """
    kind = None if spec.accelerator is None else accelerator_type(spec.accelerator)
    if not uses_bundles(spec):
        actor = {"num_cpus": spec.cpus_per_replica, "num_gpus": spec.gpus_per_replica}
        return {"ray_actor_options": actor | ({"accelerator_type": kind} if kind else {})}
    gpu = {"GPU": 1.0} | ({f"accelerator_type:{kind}": 0.001} if kind else {})
    return {
        "ray_actor_options": {"num_cpus": spec.cpus_per_replica, "num_gpus": 0},
        "placement_group_bundles": [{"CPU": spec.cpus_per_replica, **gpu}, *[gpu] * (spec.ranks - 1)],
        "placement_group_strategy": spec.placement or ("STRICT_PACK" if spec.pipeline_parallel == 1 else "PACK"),
    }


def accelerator_type(accelerator: str) -> str:
    """Return the label of Ray's nodes with a GPU that is named as in ``tollway size`` (``A100-80GB``), or as in Ray."""
    plain = accelerator.partition("-")[0] if accelerator.endswith("GB") else accelerator
    return _RAY_NAMES.get(plain, plain)
