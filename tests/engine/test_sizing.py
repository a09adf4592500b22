"""``tollway size`` against vLLM's own report (the labels of ``cache_config_info``) on tiny models without weights.

One process starts vLLM once per model: under a minute for all, and half a minute more for each architecture that vLLM
has not seen on this machine before.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workers.sizing.architecture import parse
from workers.sizing.cache import block_bytes, blocks_per_request, bytes_per_token

_CACHE_BYTES = 64 * 2**20
_CONTEXT = 1024
_BATCHED_TOKENS = 256
_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "max_position_embeddings": _CONTEXT,
}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 64,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "grouped": {**_TINY, "model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "window": {**_TINY, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 128},
    "alternating": {**_TINY, "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "sliding_window": 128},
    "latent": {**_TINY, "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], **_LATENT},
}


def report(directories: list[str]) -> None:
    """Start vLLM on each directory and print what it says of its cache, a line of JSON for each."""
    from vllm import LLM

    for directory in directories:
        llm = LLM(
            model=directory,
            # The CPU kernels for latent attention have no float32.
            dtype="bfloat16",
            skip_tokenizer_init=True,
            load_format="dummy",
            enforce_eager=True,
            max_model_len=_CONTEXT,
            kv_cache_memory_bytes=_CACHE_BYTES,
            max_num_batched_tokens=_BATCHED_TOKENS,
            max_num_seqs=8,
        )
        config = llm.llm_engine.vllm_config
        said = {**config.cache_config.metrics_info(), "max_in_flight_tokens": config.max_in_flight_tokens}
        print(f"REPORT {Path(directory).name} {json.dumps(said)}", flush=True)
        del llm


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what vLLM says of each model."""
    base = tmp_path_factory.mktemp("tiny")
    for name, config in CONFIGS.items():
        (base / name).mkdir()
        (base / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    offline = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, *(str(base / name) for name in CONFIGS)],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    assert len(lines) == len(CONFIGS), done.stdout[-2000:] + done.stderr[-4000:]
    return {name: json.loads(said) for _, name, said in lines}


@pytest.mark.parametrize("name", CONFIGS)
def test_blocks_and_tokens_are_those_that_vllm_reports(name: str, reports: dict[str, dict[str, Any]]) -> None:
    said, shape = reports[name], parse(CONFIGS[name])
    block_size = int(said["block_size"])
    blocks = _CACHE_BYTES // block_bytes(shape, 2, block_size)
    held = blocks_per_request(shape, _CONTEXT, block_size, said["max_in_flight_tokens"])
    assert blocks == pytest.approx(int(said["num_gpu_blocks"]), rel=0.03)
    assert blocks / held == pytest.approx(float(said["kv_cache_max_concurrency"]), rel=0.03)
    assert blocks * _CONTEXT // held == pytest.approx(int(said["kv_cache_size_tokens"]), rel=0.03)


@pytest.mark.parametrize("name", ["grouped", "latent"])
def test_the_bytes_of_a_token_are_those_that_vllm_reports(name: str, reports: dict[str, dict[str, Any]]) -> None:
    reported = _CACHE_BYTES / int(reports[name]["kv_cache_size_tokens"])
    assert bytes_per_token(parse(CONFIGS[name]), 2) == pytest.approx(reported, rel=0.03)


if __name__ == "__main__":
    report(sys.argv[1:])
