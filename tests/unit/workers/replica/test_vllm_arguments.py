"""What of a spec becomes an argument or a variable of vLLM. Nothing here imports vLLM."""

import json
from typing import Any

import pytest

from workers.config.spec import ModelSpec
from workers.replica.vllm_engine import engine_arguments, engine_environment


def spec(**fields: object) -> ModelSpec:
    return ModelSpec.model_validate({"source": "org/name", **fields})


def pairs(arguments: list[str]) -> dict[str, str | None]:
    """Return the options with their values; none for a bare flag."""
    found: dict[str, str | None] = {}
    for index, argument in enumerate(arguments):
        if argument.startswith("--"):
            value = arguments[index + 1] if index + 1 < len(arguments) else "--"
            found[argument] = None if value.startswith("--") else value
    return found


def test_the_model_is_served_under_the_workers_name() -> None:
    options = pairs(engine_arguments("small", "/models/x", spec(dtype="float32")))
    assert options["--model"] == "/models/x"
    assert options["--served-model-name"] == "small"
    assert options["--dtype"] == "float32"
    assert "--enable-prefix-caching" in options
    assert "--enable-prompt-tokens-details" in options


def test_tools_are_enabled_by_their_parser_alone() -> None:
    assert "--enable-auto-tool-choice" not in pairs(engine_arguments("m", "x", spec()))
    options = pairs(engine_arguments("m", "x", spec(tool_parser="hermes")))
    assert options["--tool-call-parser"] == "hermes"
    assert "--enable-auto-tool-choice" in options


def test_further_arguments_come_last_so_that_they_win() -> None:
    further = {
        "max_model_len": 4096,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "override_generation_config": {"temperature": 0.2},
        "seed": None,
    }
    options = pairs(engine_arguments("m", "x", spec(engine_args=further)))
    assert options["--max-model-len"] == "4096"
    assert options["--enforce-eager"] is None
    assert options["--no-enable-prefix-caching"] is None
    assert "--enable-prefix-caching" not in options
    assert options["--override-generation-config"] == '{"temperature": 0.2}'
    assert "--seed" not in options


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"revision": "v2"}, {"--revision": "v2"}),
        ({"quantization": "fp8", "kv_cache_dtype": "fp8"}, {"--quantization": "fp8", "--kv-cache-dtype": "fp8"}),
        ({"max_model_len": 512}, {"--max-model-len": "512"}),
        ({"kv_cache_memory": "1GiB"}, {"--kv-cache-memory-bytes": "1073741824"}),
        ({"gpu_memory_utilization": 0.5}, {"--gpu-memory-utilization": "0.5"}),
        ({"prefix_caching": False}, {"--no-enable-prefix-caching": None}),
        ({"chunked_prefill": True}, {"--enable-chunked-prefill": None}),
        ({"cpu_offload": "4GiB"}, {"--cpu-offload-gb": "4.0"}),
        ({"chat_template": "/t.jinja"}, {"--chat-template": "/t.jinja"}),
        ({"reasoning_parser": "qwen3"}, {"--reasoning-parser": "qwen3"}),
        ({"task": "embed"}, {"--runner": "pooling", "--convert": "embed"}),
        ({"task": "classify"}, {"--runner": "pooling", "--convert": "classify"}),
        ({"data_parallel": 2}, {"--data-parallel-size": "2"}),
        (
            {"tensor_parallel": 2, "pipeline_parallel": 3},
            {
                "--tensor-parallel-size": "2",
                "--pipeline-parallel-size": "3",
                "--distributed-executor-backend": "ray",
            },
        ),
        (
            {"speculative": {"method": "ngram", "tokens": 3, "lookup_max": 4}},
            {"--speculative-config": '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}'},
        ),
        (
            {"lora": {"adapters": {"pirate": "/a"}, "max_rank": 32, "max_active": 2}},
            {
                "--enable-lora": None,
                "--max-lora-rank": "32",
                "--max-loras": "2",
                "--lora-modules": '{"name": "pirate", "path": "/a"}',
            },
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) and "--" not in next(iter(value)) else "",
)
def test_key_of_a_section_becomes_vllms_own_option(fields: dict[str, Any], expected: dict[str, str | None]) -> None:
    said = pairs(engine_arguments("m", "x", spec(**fields)))
    assert {option: said.get(option, "missing") for option in expected} == expected


def test_absent_key_is_left_to_vllm() -> None:
    """A short section is a short command line."""
    said = pairs(engine_arguments("m", "x", spec()))
    assert said.keys() == {
        "--model",
        "--served-model-name",
        "--host",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        "--enable-prefix-caching",
    }
    assert "--enable-prefix-caching" not in pairs(engine_arguments("m", "x", spec(task="embed")))


def test_every_adapter_and_name_is_a_word_of_its_own() -> None:
    lora = {"adapters": {"a": "/a", "b": "/b"}}
    arguments = engine_arguments("m", "x", spec(lora=lora, served_names=["org/m", "m2"]))
    at = arguments.index("--served-model-name")
    assert arguments[at + 1 : at + 5] == ["m", "org/m", "m2", "--host"]
    at = arguments.index("--lora-modules")
    assert [json.loads(word)["name"] for word in arguments[at + 1 : at + 3]] == ["a", "b"]


def test_adapters_are_loaded_at_run_time_only_where_it_is_allowed() -> None:
    name = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
    assert name not in engine_environment(spec(lora={"adapters": {"a": "/a"}}), 1)
    assert engine_environment(spec(lora={"at_run_time": True}), 1)[name] == "True"


def test_replicas_share_the_cores_of_a_machine() -> None:
    """Threads of two engines on one core wait for each other actively: both then crawl."""
    assert engine_environment(spec(replicas=2), 4)["OMP_NUM_THREADS"] == "2"
    assert engine_environment(spec(autoscaling={"max_replicas": 8}), 4)["OMP_NUM_THREADS"] == "1"
    assert engine_environment(spec(replicas=2).of_one_replica(), 4)["OMP_NUM_THREADS"] == "2"
    on_gpus = spec(gpus_per_replica=1, replicas=2).of_one_replica()
    assert on_gpus == spec(gpus_per_replica=1)
    assert "OMP_NUM_THREADS" not in engine_environment(on_gpus, 4), "vLLM and Ray know better"


def test_no_usage_report_leaves_the_machine() -> None:
    environment = engine_environment(spec(), 4)
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["VLLM_DO_NOT_TRACK"] == "1"
    assert environment["OMP_NUM_THREADS"] == "4"
    assert "TORCHDYNAMO_DISABLE" not in environment
    eager = engine_environment(spec(engine_args={"enforce_eager": True}), 4)
    assert eager["TORCHDYNAMO_DISABLE"] == "1", "nothing is compiled at a caller's cost"
