"""What ``tollway up`` decides before and after the processes run: the configuration, the words, the first error."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from workers.cluster.children import Child
from workers.command import up
from workers.errors import WorkerError

CONFIG = """
server: {port: 8080}
providers:
  cluster: {type: ray-serve, base_url: "http://127.0.0.1:8000"}
  far: {type: ray-serve, base_url: "http://10.0.0.7:8000"}
  openai: {type: openai}
routes:
  auto: {models: [m]}
workers:
  m: {source: "bundled:x"}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_a_configuration_that_fits_is_used_as_it_is(config: Path, tmp_path: Path) -> None:
    assert up._effective_config(config, None, 8000, tmp_path) == config
    assert up._effective_config(config, "vllm", 8000, tmp_path) == config


def test_another_port_reaches_the_gateway_but_not_what_is_far_away(config: Path, tmp_path: Path) -> None:
    made = yaml.safe_load(up._effective_config(config, None, 8123, tmp_path).read_text("utf-8"))
    assert made["providers"]["cluster"]["base_url"] == "http://127.0.0.1:8123"
    assert made["providers"]["far"]["base_url"] == "http://10.0.0.7:8000"


def test_another_engine_is_every_workers(config: Path, tmp_path: Path) -> None:
    made = yaml.safe_load(up._effective_config(config, "synthetic", 8000, tmp_path).read_text("utf-8"))
    assert made["workers"]["m"]["engine"] == "synthetic"
    assert made["routes"] == {"auto": {"models": ["m"]}}


@pytest.mark.parametrize(
    ("models", "name"),
    [
        ("routes: {auto: {models: [m]}}", "auto"),
        ("models: {gpt: {provider: openai}, mine: {provider: cluster, upstream: m}}", "mine"),
        ("models: {gpt: {provider: openai}, m: {provider: cluster}}", "m"),
        ("", "m"),
    ],
)
def test_the_first_route_is_what_is_asked_for_and_else_the_first_model_of_our_own(
    config: Path, models: str, name: str
) -> None:
    config.write_text(CONFIG.replace("routes:\n  auto: {models: [m]}", models), encoding="utf-8")
    assert up._callable_name(config) == name


def test_the_printed_commands_are_whole() -> None:
    text = up._farewell(8123, "auto")
    command = shlex.split(text[text.index("curl") : text.index("from openai")].replace("\\\n", " "))
    assert command[1] == "http://127.0.0.1:8123/v1/chat/completions"
    assert json.loads(command[-1])["model"] == "auto"
    snippet = text[text.index("from openai") : text.index("  Metrics")]
    ast.parse(re.sub(r"^  ", "", snippet, flags=re.MULTILINE))


def test_a_child_that_ends_by_itself_is_reported_with_the_first_error_of_its_log(tmp_path: Path) -> None:
    said = "(EngineCore pid=7) ValueError: Available memory is too small\ntollway: The replicas of m did not start: x"
    child = Child(["sh", "-c", f"echo '{said}'; exit 1"], tmp_path / "log", {})
    child._process.wait()
    with pytest.raises(WorkerError) as caught:
        up._require_alive(("workers", child))
    assert str(caught.value).startswith("The replicas of m did not start: x")
    assert str(caught.value).endswith("ValueError: Available memory is too small")
    child.stop(0)
