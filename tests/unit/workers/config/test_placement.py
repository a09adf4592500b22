"""What a replica asks of Ray. No GPU has run this: it is held against what Ray Serve accepts."""

from typing import Any

import pytest

from workers.config.placement import accelerator_type, ray_options
from workers.config.spec import ModelSpec

# Ray writes its own settings with what pydantic no longer wants.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.slow]


def options(**fields: object) -> dict[str, Any]:
    from ray import serve

    found = ray_options(ModelSpec.model_validate({"source": "org/name", **fields}))

    class Replica:
        """Stands for the real one."""

    serve.deployment(name="m", **found)(Replica)  # Ray Serve itself refuses what it would not place.
    return found


def test_a_replica_on_cpus_reserves_them() -> None:
    assert options(cpus_per_replica=0.5) == {"ray_actor_options": {"num_cpus": 0.5, "num_gpus": 0}}


def test_one_gpu_belongs_to_the_replica() -> None:
    assert options(gpus_per_replica=1) == {"ray_actor_options": {"num_cpus": 1.0, "num_gpus": 1}}


def test_a_named_gpu_is_asked_of_ray_by_its_label() -> None:
    assert options(accelerator="H100-80GB") == {
        "ray_actor_options": {"num_cpus": 1.0, "num_gpus": 1, "accelerator_type": "H100"}
    }


def test_tensor_parallelism_takes_a_bundle_per_gpu_on_one_node() -> None:
    assert options(tensor_parallel=4, accelerator="L4", cpus_per_replica=2) == {
        "ray_actor_options": {"num_cpus": 2.0, "num_gpus": 0},
        "placement_group_bundles": [
            {"CPU": 2.0, "GPU": 1.0, "accelerator_type:L4": 0.001},
            *[{"GPU": 1.0, "accelerator_type:L4": 0.001}] * 3,
        ],
        "placement_group_strategy": "STRICT_PACK",
    }


def test_a_pipeline_may_span_nodes() -> None:
    found = options(tensor_parallel=2, pipeline_parallel=2)
    assert [bundle["GPU"] for bundle in found["placement_group_bundles"]] == [1.0] * 4
    assert found["placement_group_strategy"] == "PACK"
    assert options(pipeline_parallel=2, placement="SPREAD")["placement_group_strategy"] == "SPREAD"


def test_copies_within_a_replica_are_processes_of_one_node() -> None:
    assert options(data_parallel=2, tensor_parallel=2) == {"ray_actor_options": {"num_cpus": 1.0, "num_gpus": 4}}


@pytest.mark.parametrize(
    ("accelerator", "label"),
    [
        ("A100-80GB", "A100"),
        ("H200-141GB", "H200"),
        ("L40S", "L40S"),
        ("T4", "T4"),
        ("RTX4090", "GeForce-RTX-4090"),
        ("A100-80G", "A100-80G"),
    ],
)
def test_a_gpu_is_labelled_as_ray_labels_its_nodes(accelerator: str, label: str) -> None:
    assert accelerator_type(accelerator) == label
