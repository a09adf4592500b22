"""Wrong or odd ``workers:`` sections, as people write them: one sentence each, at its line, before anything starts."""

from pathlib import Path

import pytest

from workers.config.spec import load_workers
from workers.errors import WorkerError

OF_A_MODEL: dict[str, str] = {
    # What YAML 1.1 makes of plain text.
    "replicas: yes": "replicas: YAML reads this as true; write a number",
    "replicas: off": "replicas: YAML reads this as false; write a number",
    "replicas: 010": "YAML reads 010 as 8; write the number itself, or quotes",
    "replicas: 1:30": "YAML reads 1:30 as 90; write the number itself, or quotes",
    "drain_s: 1:30": "YAML reads 1:30 as 90; write the number itself, or quotes",
    "drain_s: 1:30.5": "YAML reads 1:30.5 as 90.5; write the number itself, or quotes",
    "drain_s: on": "drain_s: YAML reads this as true; write a number",
    "usd_per_hour: no": "usd_per_hour: YAML reads this as false; write a number",
    "cpus_per_replica: yes": "cpus_per_replica: YAML reads this as true; write a number",
    "gpus_per_replica: yes": "gpus_per_replica: YAML reads this as true; write a number",
    "max_model_len: on": "max_model_len: YAML reads this as true; write a number",
    "kv_cache_memory: yes": "kv_cache_memory: YAML reads this as true; write a number",
    "autoscaling: {max_replicas: on}": "autoscaling.max_replicas: YAML reads this as true; write a number",
    "lora: {max_rank: yes}": "lora.max_rank: YAML reads this as true; write a number",
    "synthetic: {max_running: yes}": "synthetic.max_running: YAML reads this as true; write a number",
    "synthetic: {faults: {fail_every: yes}}": "synthetic.faults.fail_every: YAML reads this as true; write a number",
    "revision: 2024-01-01": "revision: YAML reads this as the date 2024-01-01; write it in quotes",
    "revision: 1.10": "revision: YAML reads this as the number 1.1; write it in quotes",
    "quantization: 8": "quantization: YAML reads this as the number 8; write it in quotes",
    "tool_parser: no": "tool_parser: YAML reads this as the boolean false; write it in quotes",
    "reasoning_parser: 3": "reasoning_parser: YAML reads this as the number 3; write it in quotes",
    "chat_template: 5": "chat_template: YAML reads this as the number 5; write it in quotes",
    "accelerator: 4090": "accelerator: YAML reads this as the number 4090; write it in quotes",
    "dtype: 16": "dtype: YAML reads this as the number 16; write it in quotes",
    "task: on": "task: YAML reads this as the boolean true; write it in quotes",
    "served_names: [1.5]": "served_names.0: YAML reads this as the number 1.5; write it in quotes",
    "served_names: [a, on]": "served_names.1: YAML reads this as the boolean true; write it in quotes",
    "lora: {adapters: {1: /x}}": "lora.adapters.1: YAML reads this as the number 1; write it in quotes",
    "lora: {adapters: {a: 1}}": "lora.adapters.a: YAML reads this as the number 1; write it in quotes",
    # Numbers out of bounds.
    "replicas: 0": "replicas: input should be greater than or equal to 1",
    "replicas: -1": "replicas: input should be greater than or equal to 1",
    "replicas: 2.5": "replicas: input should be a valid integer",
    "replicas: 10001": "replicas: input should be less than or equal to 10000",
    "{replicas: 1000000000000000000000000000000, cpus_per_replica: 0}": "replicas: input should be less than or equal",
    "autoscaling: {max_replicas: 0}": "autoscaling.max_replicas: input should be greater than or equal to 1",
    "autoscaling: {max_replicas: 1000000}": "autoscaling.max_replicas: input should be less than or equal to 10000",
    "autoscaling: {min_replicas: -1, max_replicas: 1}": "autoscaling.min_replicas: input should be greater than",
    "autoscaling: {min_replicas: 3, max_replicas: 2}": "min_replicas is larger than max_replicas",
    "autoscaling: {min_replicas: 1}": "autoscaling.max_replicas: is missing",
    "autoscaling: {max_replicas: 2, target_requests: 0}": "target_requests: input should be greater than 0",
    "autoscaling: {max_replicas: 2, target_requests: .nan}": "target_requests: input should be a finite number",
    "autoscaling: {max_replicas: 2, target_ttft_ms: -5}": "target_ttft_ms: input should be greater than 0",
    "autoscaling: {max_replicas: 2, upscale_delay_s: -1}": "upscale_delay_s: input should be greater than",
    "autoscaling: {max_replicas: 2, downscale_delay_s: 1e9}": "downscale_delay_s: ",
    "autoscaling: {max_replicas: 2, to_zero_delay_s: .inf}": "to_zero_delay_s: input should be a finite number",
    "autoscaling: 3": "autoscaling: should be a mapping of keys to values",
    "drain_s: 0": "drain_s: input should be greater than 0",
    "drain_s: -30": "drain_s: input should be greater than 0",
    "drain_s: 1000000": "drain_s: input should be less than or equal to 604800",
    "drain_s: 10m": "drain_s: input should be a valid number",
    "usd_per_hour: -1": "usd_per_hour: input should be greater than or equal to 0",
    "usd_per_hour: .inf": "usd_per_hour: input should be a finite number",
    "usd_per_hour: $2": "usd_per_hour: input should be a valid number",
    "usd_per_hour: 10000000": "usd_per_hour: input should be less than or equal to 1000000",
    "tensor_parallel: 0": "tensor_parallel: input should be greater than or equal to 1",
    "tensor_parallel: 2000": "tensor_parallel: input should be less than or equal to 1024",
    "pipeline_parallel: -2": "pipeline_parallel: input should be greater than or equal to 1",
    "data_parallel: 1.5": "data_parallel: input should be a valid integer",
    "cpus_per_replica: -1": "cpus_per_replica: input should be greater than or equal to 0",
    "cpus_per_replica: 1000000": "cpus_per_replica: input should be less than or equal to 100000",
    "gpus_per_replica: -1": "gpus_per_replica: input should be greater than or equal to 0",
    "gpus_per_replica: 5000": "gpus_per_replica: input should be less than or equal to 1024",
    "gpus_per_replica: 0.5": "gpus_per_replica: input should be a valid integer",
    "max_ongoing_requests: 0": "max_ongoing_requests: input should be greater than or equal to 1",
    "max_ongoing_requests: 10000000": "max_ongoing_requests: input should be less than or equal to 1000000",
    "max_queued_requests: -1": "max_queued_requests: input should be greater than or equal to 0",
    "max_queued_requests: many": "max_queued_requests: input should be a valid integer",
    "max_model_len: 0": "max_model_len: input should be greater than or equal to 1",
    "max_model_len: 8k": "max_model_len: input should be a valid integer",
    "gpu_memory_utilization: 0": "gpu_memory_utilization: input should be greater than 0",
    "gpu_memory_utilization: 90": "gpu_memory_utilization: input should be less than or equal to 1",
    "kv_cache_memory: much": "kv_cache_memory: could not parse value and unit",
    "kv_cache_memory: 0": "kv_cache_memory: input should be greater than 0",
    "cpu_offload: -1GiB": "cpu_offload: ",
    "lora: {max_rank: 7}": "lora.max_rank: 7 is none of 1, 8, 16",
    "lora: {max_active: 0}": "lora.max_active: input should be greater than or equal to 1",
    "speculative: {method: ngram, tokens: 0}": "speculative.tokens: input should be greater than or equal to 1",
    "speculative: {method: ngram}": "speculative.tokens: is missing",
    "speculative: {tokens: 3}": "say a `method` that needs no model, such as ngram, or the draft `model`",
    # Words that are none, and keys that are missing, empty, misspelt or of another kind.
    "engine: ollama": "engine: 'ollama' is none of vllm, synthetic",
    "engine: VLLM": "engine: 'VLLM' is none of vllm, synthetic",
    "engine:": "engine: None is none of vllm, synthetic",
    "task: embedd": "task: 'embedd' is none of generate, embed, classify, transcribe; did you mean 'embed'?",
    "dtype: fp16": "dtype: 'fp16' is none of auto, float32, float16, bfloat16",
    "placement: pack": "placement: 'pack' is none of",
    "replica: 2": "replica: there is no such key; did you mean 'replicas'?",
    "tensor_parallel_size: 2": "tensor_parallel_size: there is no such key; did you mean 'tensor_parallel'?",
    "port: 8000": "port: there is no such key; known: source",
    "replicas: [1]": "replicas: input should be a valid integer",
    "replicas: {min: 1}": "replicas: input should be a valid integer",
    "replicas:": "replicas: is empty",
    "prefix_caching: 3": "prefix_caching: input should be a valid boolean",
    "engine_args: [enforce_eager]": "engine_args: should be a mapping of keys to values",
    "engine_args: {model: x}": "engine_args cannot set `model`, which the replica sets itself",
    "engine_args: {port: 1}": "engine_args cannot set `port`, which the replica sets itself",
    "engine_args: {tensor-parallel-size: 2}": "say `tensor_parallel` and not engine_args.tensor-parallel-size",
    "{max_model_len: 8, engine_args: {max_model_len: 9}}": "`max_model_len` is said again by engine_args.max_model_len",
    "{replicas: 2, autoscaling: {max_replicas: 3}}": "give `replicas` or `autoscaling`, not both",
    "{gpus_per_replica: 3, tensor_parallel: 2}": "gpus_per_replica is 3, but tensor_parallel x",
    "{accelerator: L4, gpus_per_replica: 0}": "an `accelerator` is named, but gpus_per_replica is 0",
    "served_names: m2": "served_names: input should be a valid tuple",
    "served_names: [a b]": "'a b' is no name",
    "served_names: [m]": "the name 'm' is served twice, by 'm' too",
    "served_names: [tollway]": "the name 'tollway' is taken by the directory of replicas",
    "lora: {adapters: {m: /x}}": "the name 'm' is served twice, by 'm' too",
    "lora: [a]": "lora: should be a mapping of keys to values",
    "synthetic: {tpot: 1}": "synthetic.tpot: there is no such key",
    "synthetic: {start_s: .inf}": "synthetic.start_s: input should be a finite number",
}
"""What is written beside ``source``, and what is said of it."""

WHOLE: dict[str, str] = {
    "workers: {on: {source: x}}": "workers.True: YAML reads this as the boolean true; write it in quotes",
    "workers: {1: {source: x}}": "workers.1: YAML reads this as the number 1; write it in quotes",
    "workers: {2024-01-01: {source: x}}": "workers.2024-01-01: YAML reads this as the date 2024-01-01; write it in quo",
    "workers: {1:30: {source: x}}": "YAML reads 1:30 as 90; write the number itself, or quotes",
    "workers: {M: {source: x}}": "workers.M: a worker's name is 1 to 63 of a-z",
    "workers: {../m: {source: x}}": "workers.../m: a worker's name is 1 to 63 of a-z",
    "workers: {m: }": "workers.m: is empty",
    "workers: {m: {}}": "workers.m.source: is missing",
    "workers: {m: {source: }}": "workers.m.source: is empty",
    "workers: {m: {source: ''}}": "workers.m.source: string should have at least 1 character",
    "workers: {m: {source: 1}}": "workers.m.source: YAML reads this as the number 1; write it in quotes",
    "workers: {m: {sources: x}}": "workers.m.sources: there is no such key; did you mean 'source'?",
    "workers: {m: {source: [x]}}": "workers.m.source: input should be a valid string",
    "workers: {m: x}": "workers.m: should be a mapping of keys to values",
    "workers: {m: [x]}": "workers.m: should be a mapping of keys to values",
    "workers: [m]": "workers: should be a mapping of keys to values",
    "workers: 3": "workers: should be a mapping of keys to values",
    "workers: {a: {source: x}, b: {source: y, served_names: [a]}}": "'a' is served twice, by 'a' too",
    "workers: {tollway: {source: x}}": "the name 'tollway' is taken by the directory of replicas",
}


@pytest.mark.parametrize(("text", "said"), OF_A_MODEL.items(), ids=OF_A_MODEL)
def test_wrong_worker_is_one_sentence_at_its_line(text: str, said: str, tmp_path: Path) -> None:
    said_of_it = f"<<: {text}" if text.startswith("{") else text
    refused(tmp_path, f"workers:\n  m:\n    source: x\n    {said_of_it}\n", said)


@pytest.mark.parametrize(("text", "said"), WHOLE.items(), ids=WHOLE)
def test_wrong_section_is_one_sentence_at_its_line(text: str, said: str, tmp_path: Path) -> None:
    refused(tmp_path, text, said)


def refused(directory: Path, text: str, said: str) -> None:
    file = directory / "tollway.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(WorkerError) as caught:
        load_workers(file)
    sentence = str(caught.value)
    assert sentence.startswith(f"{file}:")
    assert said in sentence
    assert "\n" not in sentence
