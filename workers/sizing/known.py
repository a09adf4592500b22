"""Well-known architectures by name: the members of their ``config.json`` that a sizing reads.

Each entry names the repository on huggingface.co whose ``config.json`` it is from; docs/guide/sizing.md says which
were compared with published figures.
"""

import difflib
from typing import Any, NamedTuple

from workers.errors import WorkerError


class Known(NamedTuple):
    """A model's source, as a repository on huggingface.co, and its config."""

    source: str
    config: dict[str, Any]


def _decoder(kind: str, *sizes: int, **more: Any) -> dict[str, Any]:
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    return {"model_type": kind, **dict(zip(names, sizes, strict=True)), **more}


def _grouped(kind: str, *sizes: int, **more: Any) -> dict[str, Any]:
    *start, kv_heads, width, context = sizes
    return _decoder(kind, *start, context, num_key_value_heads=kv_heads, intermediate_size=width, **more)


def _gpt2(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return _decoder("gpt2", 50257, hidden, layers, heads, 1024, torch_dtype="float32")


def _opt(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return _decoder("opt", 50272, hidden, layers, heads, 2048, ffn_dim=4 * hidden, torch_dtype="float16")


def _deepseek(kind: str, *sizes: int, **more: Any) -> dict[str, Any]:
    more |= {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    return _decoder(kind, *sizes, 163840, **more)


def _gpt_oss(layers: int, experts: int) -> dict[str, Any]:
    sizes = (201088, 2880, layers, 64, 8, 2880, 131072)
    more = {"head_dim": 64, "num_local_experts": experts, "num_experts_per_tok": 4, "sliding_window": 128}
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    quantised = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    return _grouped("gpt_oss", *sizes, quantization_config=quantised, **more)


_V3: dict[str, Any] = {
    "q_lora_rank": 1536,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
_V2: dict[str, Any] = {"n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1}
_QWEN3_MOE: dict[str, Any] = {"num_experts": 128, "num_experts_per_tok": 8, "head_dim": 128}
_MIXTRAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
_HALF = {"torch_dtype": "float16"}
_TIED = {"tie_word_embeddings": True}

KNOWN = {
    "llama-2-7b": Known("meta-llama/Llama-2-7b-hf", _grouped("llama", 32000, 4096, 32, 32, 32, 11008, 4096, **_HALF)),
    "llama-2-13b": Known("meta-llama/Llama-2-13b-hf", _grouped("llama", 32000, 5120, 40, 40, 40, 13824, 4096, **_HALF)),
    "llama-2-70b": Known("meta-llama/Llama-2-70b-hf", _grouped("llama", 32000, 8192, 80, 64, 8, 28672, 4096, **_HALF)),
    "codellama-34b": Known("codellama/CodeLlama-34b-hf", _grouped("llama", 32000, 8192, 48, 64, 8, 22016, 16384)),
    "llama-3-8b": Known("meta-llama/Meta-Llama-3-8B", _grouped("llama", 128256, 4096, 32, 32, 8, 14336, 8192)),
    "llama-3-70b": Known("meta-llama/Meta-Llama-3-70B", _grouped("llama", 128256, 8192, 80, 64, 8, 28672, 8192)),
    "llama-3.1-8b": Known("meta-llama/Llama-3.1-8B", _grouped("llama", 128256, 4096, 32, 32, 8, 14336, 131072)),
    "llama-3.1-70b": Known("meta-llama/Llama-3.1-70B", _grouped("llama", 128256, 8192, 80, 64, 8, 28672, 131072)),
    "llama-3.1-405b": Known("meta-llama/Llama-3.1-405B", _grouped("llama", 128256, 16384, 126, 128, 8, 53248, 131072)),
    "llama-3.2-1b": Known("meta-llama/Llama-3.2-1B", _grouped("llama", 128256, 2048, 16, 32, 8, 8192, 131072, **_TIED)),
    "llama-3.2-3b": Known("meta-llama/Llama-3.2-3B", _grouped("llama", 128256, 3072, 28, 24, 8, 8192, 131072, **_TIED)),
    "smollm2-135m": Known("HuggingFaceTB/SmolLM2-135M", _grouped("llama", 49152, 576, 30, 9, 3, 1536, 8192, **_TIED)),
    "mistral-7b": Known(
        "mistralai/Mistral-7B-v0.1", _grouped("mistral", 32000, 4096, 32, 32, 8, 14336, 32768, sliding_window=4096)
    ),
    "mistral-7b-v0.3": Known("mistralai/Mistral-7B-v0.3", _grouped("mistral", 32768, 4096, 32, 32, 8, 14336, 32768)),
    "mixtral-8x7b": Known(
        "mistralai/Mixtral-8x7B-v0.1", _grouped("mixtral", 32000, 4096, 32, 32, 8, 14336, 32768, **_MIXTRAL)
    ),
    "mixtral-8x22b": Known(
        "mistralai/Mixtral-8x22B-v0.1", _grouped("mixtral", 32000, 6144, 56, 48, 8, 16384, 65536, **_MIXTRAL)
    ),
    "qwen2.5-7b": Known("Qwen/Qwen2.5-7B", _grouped("qwen2", 152064, 3584, 28, 28, 4, 18944, 131072)),
    "qwen2.5-32b": Known("Qwen/Qwen2.5-32B", _grouped("qwen2", 152064, 5120, 64, 40, 8, 27648, 131072)),
    "qwen2.5-72b": Known("Qwen/Qwen2.5-72B", _grouped("qwen2", 152064, 8192, 80, 64, 8, 29568, 131072)),
    "qwen3-8b": Known("Qwen/Qwen3-8B", _grouped("qwen3", 151936, 4096, 36, 32, 8, 12288, 40960, head_dim=128)),
    "qwen3-32b": Known("Qwen/Qwen3-32B", _grouped("qwen3", 151936, 5120, 64, 64, 8, 25600, 40960, head_dim=128)),
    "qwen3-30b-a3b": Known(
        "Qwen/Qwen3-30B-A3B",
        _grouped("qwen3_moe", 151936, 2048, 48, 32, 4, 6144, 40960, moe_intermediate_size=768, **_QWEN3_MOE),
    ),
    "qwen3-235b-a22b": Known(
        "Qwen/Qwen3-235B-A22B",
        _grouped("qwen3_moe", 151936, 4096, 94, 64, 4, 12288, 40960, moe_intermediate_size=1536, **_QWEN3_MOE),
    ),
    "gemma-7b": Known("google/gemma-7b", _grouped("gemma", 256000, 3072, 28, 16, 16, 24576, 8192, head_dim=256)),
    "gemma-2-9b": Known(
        "google/gemma-2-9b", _grouped("gemma2", 256000, 3584, 42, 16, 8, 14336, 8192, head_dim=256, sliding_window=4096)
    ),
    "gemma-2-27b": Known(
        "google/gemma-2-27b",
        _grouped("gemma2", 256000, 4608, 46, 32, 16, 36864, 8192, head_dim=128, sliding_window=4096),
    ),
    "gemma-3-27b": Known(
        "google/gemma-3-27b-pt",
        _grouped("gemma3_text", 262208, 5376, 62, 32, 16, 21504, 131072, head_dim=128, sliding_window=1024),
    ),
    "falcon-7b": Known("tiiuae/falcon-7b", _decoder("falcon", 65024, 4544, 32, 71, 2048)),
    "falcon-40b": Known(
        "tiiuae/falcon-40b",
        _decoder("falcon", 65024, 8192, 60, 128, 2048, num_kv_heads=8, new_decoder_architecture=True),
    ),
    "deepseek-v2": Known(
        "deepseek-ai/DeepSeek-V2",
        _deepseek(
            "deepseek_v2",
            102400,
            5120,
            60,
            128,
            q_lora_rank=1536,
            intermediate_size=12288,
            moe_intermediate_size=1536,
            n_routed_experts=160,
            **_V2,
        ),
    ),
    "deepseek-v2-lite": Known(
        "deepseek-ai/DeepSeek-V2-Lite",
        _deepseek(
            "deepseek_v2",
            102400,
            2048,
            27,
            16,
            intermediate_size=10944,
            moe_intermediate_size=1408,
            n_routed_experts=64,
            **_V2,
        ),
    ),
    "deepseek-v3": Known("deepseek-ai/DeepSeek-V3", _deepseek("deepseek_v3", 129280, 7168, 61, 128, **_V3)),
    "gpt-oss-20b": Known("openai/gpt-oss-20b", _gpt_oss(24, 32)),
    "gpt-oss-120b": Known("openai/gpt-oss-120b", _gpt_oss(36, 128)),
    "phi-2": Known("microsoft/phi-2", _decoder("phi", 51200, 2560, 32, 32, 2048, intermediate_size=10240, **_HALF)),
    "phi-3-mini": Known(
        "microsoft/Phi-3-mini-4k-instruct", _grouped("phi3", 32064, 3072, 32, 32, 32, 8192, 4096, sliding_window=2047)
    ),
    "phi-4": Known("microsoft/phi-4", _grouped("phi3", 100352, 5120, 40, 40, 10, 17920, 16384)),
    "gpt2": Known("openai-community/gpt2", _gpt2(768, 12, 12)),
    "gpt2-xl": Known("openai-community/gpt2-xl", _gpt2(1600, 48, 25)),
    "opt-6.7b": Known("facebook/opt-6.7b", _opt(4096, 32, 32)),
    "opt-13b": Known("facebook/opt-13b", _opt(5120, 40, 40)),
    "opt-66b": Known("facebook/opt-66b", _opt(9216, 64, 72)),
    "gpt-j-6b": Known("EleutherAI/gpt-j-6b", _decoder("gptj", 50400, 4096, 28, 16, 2048)),
    "gpt-neox-20b": Known(
        "EleutherAI/gpt-neox-20b", _decoder("gpt_neox", 50432, 6144, 44, 64, 2048, intermediate_size=24576, **_HALF)
    ),
    "pythia-12b": Known(
        "EleutherAI/pythia-12b", _decoder("gpt_neox", 50688, 5120, 36, 40, 2048, intermediate_size=20480, **_HALF)
    ),
    "bloom": Known("bigscience/bloom", _decoder("bloom", 250880, 14336, 70, 112, 2048)),
    "mpt-7b": Known("mosaicml/mpt-7b", _decoder("mpt", 50432, 4096, 32, 32, 2048, expansion_ratio=4)),
    "starcoder": Known(
        "bigcode/starcoder", _decoder("gpt_bigcode", 49152, 6144, 40, 48, 8192, n_inner=24576, multi_query=True)
    ),
}


def known_named(name: str) -> Known:
    """Return the architecture of that name. Raises ``WorkerError`` with the nearest names."""
    if (found := KNOWN.get(name.lower())) is not None:
        return found
    near = difflib.get_close_matches(name.lower().rpartition("/")[2], KNOWN, n=5, cutoff=0.4) or list(KNOWN)[:5]
    raise WorkerError(
        f"There is no architecture {name!r} in the table, and no config.json there; "
        f"the nearest are {', '.join(near)}, or give a directory with a config.json."
    )
