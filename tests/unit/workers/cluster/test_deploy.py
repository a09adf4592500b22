"""What ``tollway workers deploy`` asks a cluster for, and what it says when there is none."""

from pathlib import Path

import pytest
import yaml

from gateway.cli import main
from workers.config.spec import ModelSpec, load_workers

# Ray writes its own settings with what pydantic no longer wants.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
WORKERS = """
workers:
  m: {source: org/name, engine: synthetic, usd_per_hour: 2.5, autoscaling: {min_replicas: 0, max_replicas: 2}}
  large: {source: org/large, engine: synthetic, accelerator: H100-80GB, tensor_parallel: 4, kv_cache_memory: 8GiB}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tollway.yaml"
    path.write_text(WORKERS, encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_configuration_is_printed_as_serve_takes_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["workers", "deploy", "--config", str(config), "--print"]) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    from ray.serve.schema import ServeDeploySchema

    assert [each.route_prefix for each in ServeDeploySchema.model_validate(said).applications] == [
        "/tollway",
        "/m",
        "/large",
    ]
    directory, small, large = said["applications"]
    assert directory["args"] == {
        "models": {"m": {"serves": ["m"], "usd_per_hour": 2.5}, "large": {"serves": ["large"], "usd_per_hour": 0.0}}
    }
    specs = load_workers(config)
    assert ModelSpec.model_validate(large["args"]["spec"]) == specs["large"]
    assert small["args"]["spec"] == {"source": "org/name", "engine": "synthetic"}
    [scaled] = small["deployments"]
    assert (scaled["name"], scaled["autoscaling_config"]["max_replicas"]) == ("m", 2)
    assert scaled["autoscaling_config"]["policy"]["policy_function"] == "workers.cluster.autoscaling:ScalingPolicy"
    assert large["deployments"] == [{"name": "large", "num_replicas": 1}]


@pytest.mark.parametrize("command", [["deploy", "--config", "CONFIG"], ["remove"]])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:1", "Failed to connect to Ray at address: http://127.0.0.1:1."),
        ("127.0.0.1:1", "Got an unexpected address"),
    ],
)
@pytest.mark.slow
def test_a_cluster_that_cannot_be_reached_is_one_sentence(
    command: list[str], address: str, said: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("CONFIG", str(config)) for word in command]
    assert main(["workers", *words, "--address", address]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"tollway: The Ray dashboard at {address} cannot be asked: {said}")
    assert error.count("\n") == 1


def test_a_file_without_workers_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "tollway.yaml"
    empty.write_text("server: {port: 1}", encoding="utf-8")
    assert main(["workers", "deploy", "--config", str(empty)]) == 1
    assert "has no `workers:` section, so there is nothing to deploy" in capsys.readouterr().err
