"""The open model families, each as a tiny config that keeps what is typical of the real one.

Kept are the layout (grouped or multi-query attention, ALiBi, partial or scaled rotary embedding, windows, experts,
latent attention, tied embeddings, biases) and the constants; the sizes are shrunk. Each row names real models of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Endpoint = Literal["completions", "chat", "embeddings", "classify", "transcriptions"]

VOCABULARY = 512
CONTEXT = 256


@dataclass(frozen=True, slots=True)
class Family:
    """One row: ``architecture`` is the class that the real ``config.json`` names, ``kind`` transformers' model type.

    Without a ``kind`` transformers cannot write the model. ``registered``: vLLM's own registry has the architecture.
    ``refused``: part of the reason why vLLM does not serve it here; none: it does. The run asserts both.
    ``transformers_name`` is the class there, if it has another name.
    """

    name: str
    models: tuple[str, ...]
    architecture: str
    kind: str | None
    config: Mapping[str, Any] = field(default_factory=dict)
    endpoint: Endpoint = "completions"
    dtype: Literal["float32", "bfloat16"] = "float32"
    registered: bool = True
    refused: str | None = None
    transformers_name: str | None = None


_TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    # Far from zero, so that the likeliest token is so by more than rounding.
    "initializer_range": 0.2,
}


def _config(**more: Any) -> dict[str, Any]:
    return {**_TINY, **more}


def _gated(kv_heads: int, **more: Any) -> dict[str, Any]:
    return _config(intermediate_size=256, num_key_value_heads=kv_heads, **more)


_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
_LATENT = {
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    # These four as they are in the real ones: the kernels know no others.
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_ENCODER = _config(intermediate_size=256, type_vocab_size=2, position_embedding_type="absolute")

FAMILIES = (
    Family("Llama 1", ("huggyllama/llama-7b",), "LlamaForCausalLM", "llama", _gated(4, rms_norm_eps=1e-6)),
    Family(
        "Llama 2",
        ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-70b-chat-hf"),
        "LlamaForCausalLM",
        "llama",
        _gated(2, rms_norm_eps=1e-5),
        "chat",
    ),
    Family(
        "Llama 3.2",
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        "LlamaForCausalLM",
        "llama",
        _gated(2, rope_theta=500000.0, rope_scaling=_LLAMA3_ROPE, tie_word_embeddings=True),
        "chat",
    ),
    Family(
        "Code Llama",
        ("codellama/CodeLlama-7b-hf", "codellama/CodeLlama-34b-hf"),
        "LlamaForCausalLM",
        "llama",
        _gated(2, rope_theta=1000000.0, vocab_size=VOCABULARY + 16),
    ),
    Family(
        "Alpaca, UniversalNER",
        ("Universal-NER/UniNER-7B-all",),
        "LlamaForCausalLM",
        "llama",
        _gated(4, vocab_size=VOCABULARY + 1),
    ),
    Family("OpenLLaMA", ("openlm-research/open_llama_7b",), "LlamaForCausalLM", "llama", _gated(4, rms_norm_eps=1e-6)),
    Family("XGen", ("Salesforce/xgen-7b-8k-base",), "LlamaForCausalLM", "llama", _gated(4, rms_norm_eps=1e-6)),
    Family(
        "Mistral (window)",
        ("mistralai/Mistral-7B-v0.1",),
        "MistralForCausalLM",
        "mistral",
        _gated(2, sliding_window=16, rope_theta=10000.0),
    ),
    Family(
        "Mistral",
        ("mistralai/Mistral-7B-Instruct-v0.3",),
        "MistralForCausalLM",
        "mistral",
        _gated(2, sliding_window=None, rope_theta=1000000.0, head_dim=32),
        "chat",
    ),
    Family(
        "Zephyr",
        ("HuggingFaceH4/zephyr-7b-beta",),
        "MistralForCausalLM",
        "mistral",
        _gated(2, sliding_window=4096, pad_token_id=2),
        "chat",
    ),
    Family(
        "Mixtral",
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x22B-v0.1"),
        "MixtralForCausalLM",
        "mixtral",
        _gated(2, num_local_experts=8, num_experts_per_tok=2, rope_theta=1000000.0),
        "chat",
    ),
    Family(
        "Falcon 7B",
        ("tiiuae/falcon-7b", "tiiuae/falcon-7b-instruct"),
        "FalconForCausalLM",
        "falcon",
        _config(multi_query=True, parallel_attn=True, bias=False, alibi=False, new_decoder_architecture=False),
    ),
    Family(
        "Falcon 40B",
        ("tiiuae/falcon-40b", "tiiuae/falcon-40b-instruct"),
        "FalconForCausalLM",
        "falcon",
        _config(num_kv_heads=2, new_decoder_architecture=True, parallel_attn=True, bias=False, alibi=False),
    ),
    Family(
        "Falcon RW",
        ("tiiuae/falcon-rw-1b",),
        "FalconForCausalLM",
        "falcon",
        _config(multi_query=False, parallel_attn=False, bias=True, alibi=True, new_decoder_architecture=False),
    ),
    Family(
        "MPT",
        ("mosaicml/mpt-7b", "mosaicml/mpt-30b", "mosaicml/mpt-7b-storywriter"),
        "MPTForCausalLM",
        "mpt",
        {"vocab_size": VOCABULARY, "d_model": 128, "n_layers": 2, "n_heads": 4, "max_seq_len": CONTEXT},
        transformers_name="MptForCausalLM",
        registered=False,
        refused="not supported anymore",
    ),
    Family(
        "Gemma",
        ("google/gemma-2b-it", "google/gemma-7b"),
        "GemmaForCausalLM",
        "gemma",
        _gated(1, head_dim=64, hidden_activation="gelu_pytorch_tanh"),
        "chat",
    ),
    Family(
        "Gemma 2",
        ("google/gemma-2-9b-it",),
        "Gemma2ForCausalLM",
        "gemma2",
        _gated(2, head_dim=32, query_pre_attn_scalar=32, sliding_window=16),
        "chat",
    ),
    Family(
        "Gemma 3",
        ("google/gemma-3-1b-it",),
        "Gemma3ForCausalLM",
        "gemma3_text",
        _gated(1, head_dim=64, query_pre_attn_scalar=64, sliding_window=16),
        "chat",
    ),
    Family("BLOOM", ("bigscience/bloom", "bigscience/bloomz-7b1"), "BloomForCausalLM", "bloom", _config()),
    Family(
        "OPT",
        ("facebook/opt-125m", "facebook/opt-66b"),
        "OPTForCausalLM",
        "opt",
        _config(ffn_dim=256, word_embed_proj_dim=128, init_std=0.2),
    ),
    Family("GPT-2", ("openai-community/gpt2", "openai-community/gpt2-xl"), "GPT2LMHeadModel", "gpt2", _config()),
    Family(
        "Cerebras-GPT",
        ("cerebras/Cerebras-GPT-111M", "cerebras/Cerebras-GPT-13B"),
        "GPT2LMHeadModel",
        "gpt2",
        _config(activation_function="gelu", n_inner=512),
    ),
    Family(
        "BioMedLM",
        ("stanford-crfm/BioMedLM",),
        "GPT2LMHeadModel",
        "gpt2",
        _config(scale_attn_by_inverse_layer_idx=True),
        refused="assert not config.scale_attn_by_inverse_layer_idx",
    ),
    Family(
        "GPT-Neo",
        ("EleutherAI/gpt-neo-2.7B",),
        "GPTNeoForCausalLM",
        "gpt_neo",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": CONTEXT,
        },
        registered=False,
        refused="are not supported for now",
    ),
    Family(
        "GPT-NeoX",
        ("EleutherAI/gpt-neox-20b",),
        "GPTNeoXForCausalLM",
        "gpt_neox",
        _config(intermediate_size=512, rotary_pct=0.25, hidden_act="gelu_fast"),
    ),
    Family(
        "Pythia",
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-12b"),
        "GPTNeoXForCausalLM",
        "gpt_neox",
        _config(intermediate_size=512, rotary_pct=0.25, use_parallel_residual=True),
    ),
    Family(
        "RedPajama",
        ("togethercomputer/RedPajama-INCITE-Chat-3B-v1", "togethercomputer/RedPajama-INCITE-7B-Base"),
        "GPTNeoXForCausalLM",
        "gpt_neox",
        _config(intermediate_size=512, rotary_pct=1.0, use_parallel_residual=False),
        "chat",
    ),
    Family(
        "Dolly",
        ("databricks/dolly-v2-3b", "databricks/dolly-v2-12b"),
        "GPTNeoXForCausalLM",
        "gpt_neox",
        _config(intermediate_size=512, rotary_pct=0.25, vocab_size=VOCABULARY + 16),
    ),
    Family(
        "GPT-J",
        ("EleutherAI/gpt-j-6b",),
        "GPTJForCausalLM",
        "gptj",
        _config(rotary_dim=16),
    ),
    Family(
        "StableLM alpha",
        ("stabilityai/stablelm-base-alpha-7b", "stabilityai/stablelm-tuned-alpha-7b"),
        "GPTNeoXForCausalLM",
        "gpt_neox",
        _config(intermediate_size=512, rotary_pct=0.25, use_parallel_residual=True, rope_theta=10000.0),
    ),
    Family(
        "StableLM 2",
        ("stabilityai/stablelm-3b-4e1t", "stabilityai/stablelm-2-1_6b"),
        "StableLmForCausalLM",
        "stablelm",
        _gated(4, partial_rotary_factor=0.25, use_qkv_bias=True),
    ),
    Family(
        "StarCoder",
        ("bigcode/starcoder", "bigcode/santacoder"),
        "GPTBigCodeForCausalLM",
        "gpt_bigcode",
        _config(multi_query=True, n_inner=512),
    ),
    Family(
        "StarCoder2",
        ("bigcode/starcoder2-7b",),
        "Starcoder2ForCausalLM",
        "starcoder2",
        _gated(2, use_bias=True, sliding_window=None),
    ),
    Family(
        "GLM-4",
        ("THUDM/glm-4-9b-chat-hf",),
        "GlmForCausalLM",
        "glm",
        _gated(2, head_dim=32, attention_bias=True, partial_rotary_factor=0.5),
        "chat",
    ),
    Family(
        "GLM-4-0414",
        ("THUDM/GLM-4-9B-0414",),
        "Glm4ForCausalLM",
        "glm4",
        _gated(2, head_dim=32, attention_bias=True, partial_rotary_factor=0.5),
        "chat",
    ),
    Family(
        "Persimmon",
        ("adept/persimmon-8b-base",),
        "PersimmonForCausalLM",
        "persimmon",
        _config(intermediate_size=512, partial_rotary_factor=0.5, qk_layernorm=True),
        registered=False,
    ),
    Family("Grok", ("xai-org/grok-1",), "Grok1ModelForCausalLM", None, registered=False, refused="no such model"),
    Family("Qwen 1", ("Qwen/Qwen-7B-Chat",), "QWenLMHeadModel", None, registered=False, refused="no such model"),
    Family(
        "Qwen2.5",
        ("Qwen/Qwen2.5-7B-Instruct",),
        "Qwen2ForCausalLM",
        "qwen2",
        _gated(2, rope_theta=1000000.0, rms_norm_eps=1e-6),
        "chat",
    ),
    Family(
        "Qwen1.5 MoE",
        ("Qwen/Qwen1.5-MoE-A2.7B-Chat",),
        "Qwen2MoeForCausalLM",
        "qwen2_moe",
        _gated(4, **{**_EXPERTS, "norm_topk_prob": False}, shared_expert_intermediate_size=128),
        "chat",
    ),
    Family(
        "Qwen3",
        ("Qwen/Qwen3-8B",),
        "Qwen3ForCausalLM",
        "qwen3",
        _gated(2, head_dim=32, rope_theta=1000000.0),
        "chat",
    ),
    Family(
        "Qwen3 MoE",
        ("Qwen/Qwen3-30B-A3B",),
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        _gated(2, head_dim=32, **_EXPERTS),
        "chat",
    ),
    Family(
        "DeepSeek LLM",
        ("deepseek-ai/deepseek-llm-7b-chat", "deepseek-ai/deepseek-coder-6.7b-base"),
        "LlamaForCausalLM",
        "llama",
        _gated(4, rms_norm_eps=1e-6, vocab_size=VOCABULARY + 128),
        "chat",
    ),
    Family(
        "DeepSeek V2",
        ("deepseek-ai/DeepSeek-V2-Lite-Chat",),
        "DeepseekV2ForCausalLM",
        "deepseek_v2",
        _gated(4, **_LATENT, q_lora_rank=None, topk_method="greedy"),
        "chat",
        dtype="bfloat16",
    ),
    Family(
        "DeepSeek V3",
        ("deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1"),
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        _gated(4, **_LATENT, q_lora_rank=32, topk_method="noaux_tc", scoring_func="sigmoid"),
        "chat",
        dtype="bfloat16",
    ),
    Family(
        "Phi-2",
        ("microsoft/phi-2", "microsoft/phi-1_5"),
        "PhiForCausalLM",
        "phi",
        _config(intermediate_size=512, partial_rotary_factor=0.4),
    ),
    Family(
        "Phi-3, Phi-4",
        ("microsoft/Phi-3-mini-4k-instruct", "microsoft/phi-4"),
        "Phi3ForCausalLM",
        "phi3",
        _gated(4, pad_token_id=0, sliding_window=None),
        "chat",
    ),
    Family(
        "FLAN-T5",
        ("google/flan-t5-xl",),
        "T5ForConditionalGeneration",
        "t5",
        {"vocab_size": VOCABULARY, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4},
        registered=False,
        refused="position_ids not found",
    ),
    Family(
        "BART",
        ("facebook/bart-large-cnn",),
        "BartForConditionalGeneration",
        "bart",
        {"vocab_size": VOCABULARY, "d_model": 128, "encoder_layers": 2, "decoder_layers": 2},
        registered=False,
        refused="position_ids not found",
    ),
    Family(
        "CTRL",
        ("Salesforce/ctrl",),
        "CTRLLMHeadModel",
        "ctrl",
        {"vocab_size": VOCABULARY, "n_embd": 128, "n_layer": 2, "n_head": 4, "dff": 256, "n_positions": CONTEXT},
        registered=False,
    ),
    Family(
        "Whisper",
        ("openai/whisper-tiny", "openai/whisper-large-v3"),
        "WhisperForConditionalGeneration",
        "whisper",
        {
            "d_model": 128,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 256,
            "decoder_ffn_dim": 256,
            "max_target_positions": CONTEXT,
            "init_std": 0.2,
        },
        "transcriptions",
    ),
    Family(
        "BERT embeddings",
        ("sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5"),
        "BertModel",
        "bert",
        _ENCODER,
        "embeddings",
    ),
    Family(
        "XLM-RoBERTa embeddings",
        ("intfloat/multilingual-e5-small", "BAAI/bge-m3"),
        "XLMRobertaModel",
        "xlm-roberta",
        {**_ENCODER, "type_vocab_size": 1, "max_position_embeddings": CONTEXT + 2},
        "embeddings",
    ),
    Family(
        "FinBERT classification",
        ("ProsusAI/finbert", "yiyanghkust/finbert-tone"),
        "BertForSequenceClassification",
        "bert",
        {**_ENCODER, "id2label": {0: "positive", 1: "negative", 2: "neutral"}},
        "classify",
    ),
)
