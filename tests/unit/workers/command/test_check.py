"""What cannot start or fit is found before anything starts, by place and in one sentence each."""

import json
from pathlib import Path
from typing import Any

import pytest

from workers.command import check as checks
from workers.command.check import check, check_file, require_startable
from workers.config.fields import VLLM_NAMES
from workers.errors import WorkerError
from workers.replica.catalogue import Catalogue
from workers.sizing.fit import longest_request
from workers.sizing.machine import Machine, this_machine
from workers.sizing.plan import GIB

EXAMPLES = Path(__file__).parents[4] / "deploy"
LARGE = Machine(cpus=64, gpus=8, memory_bytes=1024 * GIB, available_bytes=1000 * GIB)
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 2048,
    "torch_dtype": "float32",
}
ADAPTER: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
ANY: dict[str, Any] = {"kind": None, "choices": []}
KNOWN = Catalogue(
    dict.fromkeys(VLLM_NAMES, ANY)
    | {
        "load_format": ANY,
        "hf_overrides": ANY,
        "max_num_seqs": {"kind": "int", "choices": []},
        "enforce_eager": {"kind": "flag", "choices": []},
        "scheduling_policy": {"kind": None, "choices": ["fcfs", "priority"]},
        "kv_cache_dtype": {"kind": None, "choices": ["auto", "fp8"]},
    },
    frozenset({"LlamaForCausalLM"}),
    frozenset({"hermes"}),
    frozenset({"qwen3"}),
)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let vLLM know a handful of names, whether it is installed or not; nothing is prepared on this machine."""
    monkeypatch.setattr(checks, "read_catalogue", lambda: KNOWN)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def model_at(directory: Path, **changes: object) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | changes), encoding="utf-8")
    (directory / "model.safetensors").touch()
    return str(directory)


def adapter_at(directory: Path, **changes: object) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(ADAPTER | changes), encoding="utf-8")
    (directory / "adapter_model.safetensors").touch()
    return str(directory)


def found(tmp_path: Path, machine: Machine | None = LARGE, notes: list[str] | None = None, **spec: object) -> list[str]:
    """Return the problems of one model, of a good directory unless ``source`` says another."""
    spec = {"source": model_at(tmp_path / "model"), "kv_cache_memory": "1GiB", **spec}
    config = tmp_path / "tollway.yaml"
    config.write_text(f"# a comment\nworkers:\n  m:\n    {json.dumps(spec)}\n", encoding="utf-8")
    return check_file(config, machine, [].append if notes is None else notes.append)


def test_a_good_model_has_no_problem(tmp_path: Path) -> None:
    assert found(tmp_path) == []


def test_the_size_is_that_of_the_config_as_vllm_overrides_it(tmp_path: Path) -> None:
    """One layer of four: a block takes a quarter of the memory. An object takes the place of the whole old one."""
    override = {"num_hidden_layers": 1, "rope_parameters": {"factor": 2.0}}
    source = model_at(tmp_path / "scaled", rope_parameters={"rope_type": "yarn", "factor": 1.0})
    figures: dict[str, Any] = {"source": source, "kv_cache_memory": "5MiB", "max_model_len": 2048}
    (problem,) = found(tmp_path, **figures)
    assert "holds 10 blocks of 128; a request of 2,048 tokens needs 16" in problem
    assert found(tmp_path, **figures, engine_args={"hf_overrides": override}) == []
    (problem,) = found(tmp_path, **figures | {"max_model_len": 4096}, engine_args={"hf_overrides": override})
    assert "4,096 is beyond the model's 2,048 tokens" in problem


def test_nested_config_is_overridden_only_where_it_is_named(tmp_path: Path) -> None:
    """With its rope still of the kind that reaches further, 4,096 tokens are not beyond the model."""
    within = CONFIG | {"rope_parameters": {"rope_type": "yarn", "factor": 1.0}}
    source = model_at(tmp_path / "nested", text_config=within)
    figures: dict[str, Any] = {"source": source, "kv_cache_memory": "5MiB", "max_model_len": 4096}
    override = {"text_config": {"num_hidden_layers": 1, "rope_parameters": {"factor": 2.0}}}
    (problem,) = found(tmp_path, **figures)
    assert "holds 10 blocks of 128; a request of 4,096 tokens needs 32" in problem
    assert found(tmp_path, **figures, engine_args={"hf_overrides": override}) == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"engine_args": {"max_num_seq": 4}}, "vLLM has no argument 'max_num_seq'; did you mean 'max_num_seqs'?"),
        ({"engine_args": {"max_num_seqs": "many"}}, "vLLM's max_num_seqs is a number, not 'many'"),
        ({"engine_args": {"enforce_eager": "yes"}}, "vLLM's enforce_eager is a flag: true or false, not 'yes'"),
        ({"engine_args": {"scheduling_policy": "fcf"}}, "cannot be 'fcf'; did you mean 'fcfs'?"),
        ({"kv_cache_dtype": "fp9"}, "workers.m.kv_cache_dtype: vLLM's kv_cache_dtype cannot be 'fp9'"),
        ({"tool_parser": "hermess"}, "vLLM has no tool parser 'hermess'; did you mean 'hermes'?"),
        ({"reasoning_parser": "qwen"}, "vLLM has no reasoning parser 'qwen'; did you mean 'qwen3'?"),
        ({"source": "/nowhere/at/all"}, "workers.m.source: /nowhere/at/all does not exist"),
        ({"source": "bundled:llama"}, "There is no bundled model 'llama'; there is "),
        ({"source": "s3://bucket/model"}, "needs vLLM's extra `runai`"),
        ({"source": "/nowhere/model.gguf"}, "/nowhere/model.gguf: No such file or directory"),
        ({"chat_template": "./nowhere.jinja"}, "nowhere.jinja does not exist"),
        ({"max_model_len": 4096}, "workers.m.max_model_len: 4,096 is beyond the model's 2,048 tokens"),
        ({"engine_args": {"max_model_len": 4096}}, "workers.m.max_model_len: 4,096 is beyond the model's 2,048 tokens"),
        ({"engine_args": {"max-model-len": 4096}}, "workers.m.max_model_len: 4,096 is beyond the model's 2,048 tokens"),
        ({"kv_cache_memory": "2MiB"}, "2.0MiB holds 4 blocks of 128; a request of 2,048 tokens needs 16"),
        ({"tensor_parallel": 3}, "workers.m.tensor_parallel: 3 does not divide the model's 8 attention heads"),
        ({"pipeline_parallel": 5}, "workers.m.pipeline_parallel: 5 is more than the model's 4 layers"),
        ({"lora": {"adapters": {"pirate": "/nowhere"}}}, "workers.m.lora.adapters.pirate: /nowhere does not exist"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, spec: dict[str, Any], said: str) -> None:
    (problem,) = found(tmp_path, **spec)
    assert said in problem
    line = 3 if {"max_model_len", "max-model-len"} & set(spec.get("engine_args", {})) else 4
    assert problem.startswith(f"{tmp_path / 'tollway.yaml'}:{line}: workers.m")
    assert "\n" not in problem


def test_a_directory_without_a_config_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (problem,) = found(tmp_path, source=str(tmp_path / "empty"))
    assert "it has no config.json" in problem


def test_a_directory_without_weights_is_no_model(tmp_path: Path) -> None:
    """As a download that broke off leaves it."""
    source = Path(model_at(tmp_path / "broken"))
    (source / "model.safetensors").unlink()
    (problem,) = found(tmp_path, source=str(source))
    assert "has a config.json, but no weights" in problem
    assert found(tmp_path, source=str(source), engine_args={"load_format": "dummy"}) == []


@pytest.mark.parametrize(("text", "said"), [("{", "cannot be read as JSON"), ("[1]", "must be a JSON object")])
def test_a_config_that_is_none_is_named(tmp_path: Path, text: str, said: str) -> None:
    source = Path(model_at(tmp_path / "odd"))
    (source / "config.json").write_text(text, encoding="utf-8")
    (problem,) = found(tmp_path, source=str(source))
    assert said in problem


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": 1},
        {"rope_scaling": "x"},
        {"text_config": [1]},
        {"quantization_config": [1]},
        {"max_position_embeddings": None},
    ],
    ids=str,
)
def test_a_config_with_odd_values_is_a_note(tmp_path: Path, changes: dict[str, Any]) -> None:
    notes: list[str] = []
    assert found(tmp_path, source=model_at(tmp_path / "odd", **changes), accelerator="L4", notes=notes) == []
    assert "config.json was not understood" in notes[0]


def test_an_architecture_that_vllm_lacks_is_named(tmp_path: Path) -> None:
    (problem,) = found(tmp_path, source=model_at(tmp_path / "odd", architectures=["OddForCausalLM"]))
    assert "vLLM does not know the architecture OddForCausalLM" in problem
    own_code = model_at(tmp_path / "own", architectures=["OddForCausalLM"], auto_map={"AutoModel": "odd.Odd"})
    assert found(tmp_path, source=own_code) == [], "its repository brings the code"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 32}, "has rank 32, above `lora.max_rank` 16"),
        ({"rank_pattern": {"q_proj": 64}}, "has rank 64, above `lora.max_rank` 16"),
        ({"use_dora": True}, "uses use_dora, which vLLM does not serve"),
        ({"r": None}, "needs r, lora_alpha and target_modules"),
        ({"r": "8"}, "its ranks must be whole numbers"),
        ({"rank_pattern": ["q_proj"]}, "its ranks must be whole numbers"),
        ({"bias": "all"}, "uses bias, which vLLM does not serve"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save, which vLLM does not serve"),
    ],
)
def test_an_adapter_that_vllm_would_refuse_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    adapter = adapter_at(tmp_path / "adapter", **changes)
    (problem,) = found(tmp_path, lora={"adapters": {"pirate": adapter}})
    assert said in problem
    assert "workers.m.lora.adapters.pirate" in problem


def test_an_adapter_needs_its_two_files(tmp_path: Path) -> None:
    adapter = Path(adapter_at(tmp_path / "adapter"))
    assert found(tmp_path, lora={"adapters": {"pirate": str(adapter)}}) == []
    (adapter / "adapter_model.safetensors").unlink()
    (problem,) = found(tmp_path, lora={"adapters": {"pirate": str(adapter)}})
    assert "has no adapter_model.safetensors" in problem
    (adapter / "adapter_config.json").unlink()
    (problem,) = found(tmp_path, lora={"adapters": {"pirate": str(adapter)}})
    assert "it has no adapter_config.json" in problem


@pytest.mark.parametrize(
    ("machine", "spec", "said"),
    [
        ({"cpus": 1}, {"replicas": 3}, "reserve 3 CPUs and this machine has 1"),
        ({"gpus": 1}, {"tensor_parallel": 2}, "need 2 GPUs and this machine has 1"),
        ({"gpus": 0}, {"accelerator": "L4"}, "need 1 GPUs and this machine has none"),
        ({"available_bytes": 2 * GIB}, {"replicas": 2}, "GiB of memory and 2.0 are free"),
        ({"available_bytes": 900 * GIB}, {"kv_cache_memory": None}, "without `kv_cache_memory`, m takes most"),
    ],
)
def test_demand_beyond_the_machine_is_named(
    tmp_path: Path, machine: dict[str, int], spec: dict[str, Any], said: str
) -> None:
    """On a cluster elsewhere it is no problem of this machine."""
    small = Machine(
        **{"cpus": 64, "gpus": 8, "memory_bytes": 1024 * GIB, "available_bytes": 1000 * GIB, **machine},
    )
    (problem,) = found(tmp_path, small, **spec)
    assert said in problem
    assert found(tmp_path, None, **spec) == []


def test_replicas_at_zero_must_fit_once(tmp_path: Path) -> None:
    small = Machine(cpus=64, gpus=0, memory_bytes=2 * GIB, available_bytes=GIB)
    (problem,) = found(tmp_path, small, autoscaling={"min_replicas": 0, "max_replicas": 4})
    assert "GiB of memory" in problem


LARGE = {
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}


def test_quantised_weights_fit_where_those_in_16_bits_do_not(tmp_path: Path) -> None:
    packed = {"quant_method": "awq", "bits": 4, "group_size": 128}
    quantised = model_at(tmp_path / "quantised", **LARGE, quantization_config=packed)
    assert found(tmp_path, source=quantised, accelerator="H100-80GB", kv_cache_memory=None) == []


def test_weights_and_cache_must_fit_the_named_gpu(tmp_path: Path) -> None:
    """70B parameters in bfloat16 are 140 GB: not on one H100, but on four."""
    large = model_at(tmp_path / "large", **LARGE)
    (problem,) = found(tmp_path, source=large, accelerator="H100-80GB", kv_cache_memory=None)
    assert "does not fit on 1 x H100-80GB: weights and runtime take" in problem
    assert found(tmp_path, source=large, accelerator="H100-80GB", tensor_parallel=4, kv_cache_memory=None) == []


def test_unknown_gpu_is_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    assert found(tmp_path, notes=notes, accelerator="V100") == []
    assert "memory was not checked" in notes[0]


def test_a_model_that_is_not_here_yet_is_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    assert found(tmp_path, notes=notes, source="bundled:all-minilm-l6-v2") == []
    assert notes == ["m: the model is not on this machine yet; its size was not checked."]


def test_check_without_vllm_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "read_catalogue", lambda: None)
    notes: list[str] = []
    assert found(tmp_path, notes=notes, engine_args={"max_num_seq": 1}) == []
    assert "vLLM is not installed here" in notes[0]


def test_the_synthetic_engine_needs_no_model(tmp_path: Path) -> None:
    notes: list[str] = []
    assert found(tmp_path, notes=notes, source="anything", engine="synthetic", kv_cache_memory=None) == []
    assert notes == []


def test_every_problem_of_a_file_is_reported_and_a_start_names_the_first(tmp_path: Path) -> None:
    config = tmp_path / "tollway.yaml"
    config.write_text("workers:\n  a: {source: /nowhere/a}\n  b: {source: /nowhere/b}\n", encoding="utf-8")
    assert len(check_file(config, None, [].append)) == 2
    with pytest.raises(
        WorkerError, match=r"tollway\.yaml:2: workers\.a\.source: /nowhere/a does not exist\. \(\d more:"
    ):
        require_startable(config)
    require_startable(config, engine="synthetic")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    assert check(tmp_path / "missing.yaml") == [f"{tmp_path / 'missing.yaml'}: No such file or directory."]


def test_machine_is_left_out_where_ray_runs_on_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "tollway.yaml"
    config.write_text("workers: {m: {source: x, engine: synthetic, cpus_per_replica: 100000}}", encoding="utf-8")
    assert "CPUs" in check(config)[0]
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", "http://10.0.0.1:8265")
    assert check(config) == []


def test_this_machine_is_measured() -> None:
    machine = this_machine()
    assert machine.cpus >= 1
    assert 0 < machine.available_bytes <= machine.memory_bytes


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "yarn", "factor": 4}}, None),
        ({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "llama3", "factor": 8}}, 4096),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({}, None),
    ],
)
def test_the_longest_request_is_read_where_it_is_plain(config: dict[str, Any], tokens: int | None) -> None:
    assert longest_request(config) == tokens
