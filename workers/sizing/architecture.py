"""Reads a model's shape from its ``config.json``. Pure: a mapping in, values out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from workers.errors import WorkerError

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: the cache keeps ``kv_rank + rope`` elements per token and layer, for all heads."""

    query_rank: int | None
    kv_rank: int
    nope: int
    rope: int
    value: int


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in ``layers`` of the layers; ``shared_width`` is what every token passes besides."""

    count: int
    active: int
    width: int
    shared_width: int
    layers: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder's shape.

    ``windows`` has one entry per layer: the tokens that its attention sees, or none for all of them. ``mlp_matrices``
    is 3 for a gated MLP. ``positions`` counts rows of a learned position table. ``small_per_layer`` are norms and
    biases. ``notes`` are for the reader of a sizing.
    """

    model_type: str
    vocabulary: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    mlp_width: int
    mlp_matrices: int
    experts: Experts | None
    latent: Latent | None
    tied: bool
    positions: int
    small_per_layer: int
    max_context: int
    dtype: str
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """Return the number of layers."""
        return len(self.windows)


class _Family(NamedTuple):
    """What a family's code fixes and its ``config.json`` does not say.

    ``biases`` are the matrices with a bias: q for query, key and value, o for attention's output, m for the MLP; none
    when the config tells. ``norms`` counts vectors of the hidden size per layer (a layer norm has two), ``head_norms``
    those of a head's size.
    """

    mlp_matrices: int = 3
    biases: str | None = None
    norms: int = 2
    head_norms: int = 0
    tied: bool = False
    positions: int | None = None
    defaults: Config = MappingProxyType({})


_GEMMA3 = {"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
_GPT = _Family(mlp_matrices=2, biases="qom", norms=4, tied=True)
_FAMILIES = {
    "llama": _Family(),
    "mistral": _Family(biases=""),
    "mixtral": _Family(biases="", defaults={"num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen2": _Family(biases="q"),
    "qwen2_moe": _Family(biases="q"),
    "qwen3": _Family(head_norms=2),
    "qwen3_moe": _Family(head_norms=2),
    "gemma": _Family(tied=True),
    "gemma2": _Family(tied=True, norms=4),
    "gemma3_text": _Family(tied=True, norms=4, head_norms=2, defaults=_GEMMA3),
    "phi": _Family(mlp_matrices=2, biases="qom"),
    "phi3": _Family(biases=""),
    "stablelm": _Family(norms=4),
    "persimmon": _Family(mlp_matrices=2, biases="qom", norms=4, head_norms=4),
    "glm": _Family(biases="q"),
    "glm4": _Family(biases="q", norms=4),
    "chatglm": _Family(biases="q"),
    "cohere": _Family(norms=1, tied=True),
    "olmo2": _Family(norms=4),
    "gpt_oss": _Family(biases="qom"),
    "starcoder2": _GPT,
    "gpt2": _GPT._replace(positions=0),
    "gpt_bigcode": _GPT._replace(positions=0),
    "gpt_neo": _GPT._replace(biases="om", positions=0),
    "gpt_neox": _GPT._replace(tied=False),
    "gptj": _GPT._replace(biases="m", norms=2, tied=False),
    # OPT's position table begins two rows late.
    "opt": _GPT._replace(positions=2),
    "bloom": _GPT,
    "mpt": _GPT._replace(biases="", norms=2),
    "falcon": _GPT._replace(biases=None),
    "deepseek_v2": _Family(biases=""),
    "deepseek_v3": _Family(biases=""),
}
# Kinds of layers whose state is not a cache of keys and values per token.
_STATEFUL = ("ssm_state_size", "state_size", "linear_num_key_heads", "rwkv_hidden_size", "mamba_d_state", "lru_width")

_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_VOCABULARY = ("padded_vocab_size", "vocab_size")
_WIDTH = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts")


def parse(config: Config) -> Architecture:
    """Read a decoder's shape from a parsed ``config.json``.

    Raises ``WorkerError``, in one sentence, for a model that is not such a decoder or a config that says too little.
    """
    notes: list[str] = []
    if isinstance(inner := config.get("text_config"), Mapping):
        outer = {key: config[key] for key in ("torch_dtype", "dtype", "tie_word_embeddings") if key in config}
        config = {**outer, "model_type": f"{config.get('model_type')}_text", **inner}
        notes.append("only the text model is counted, not the encoders for images or sound")
    name = str(config.get("model_type") or "")
    if config.get("is_encoder_decoder") or name in {"bert", "roberta", "whisper", "t5", "bart"}:
        raise WorkerError(
            f"{name or 'This model'} is not a decoder; `size` knows models that write text token by token."
        )
    if stateful := [key for key in _STATEFUL if config.get(key)]:
        raise WorkerError(f"{name} keeps a recurrent state ({stateful[0]}), which `size` cannot count yet.")
    family = _FAMILIES.get(name)
    if family is None:
        family = _Family()
        notes.append(f"model_type {name or '(none)'} is not known: counted as a gated decoder like Llama")
    config = {**family.defaults, **config}
    _require(config, name, (_HIDDEN, _LAYERS, _HEADS, _VOCABULARY))
    hidden, heads = _first(config, _HIDDEN), _first(config, _HEADS)
    experts = _experts(config)
    if experts is None or experts.layers < _first(config, _LAYERS):
        width = _first(config, _WIDTH) or _default_width(config, name, family, hidden)
    else:
        width = 0
    architecture = Architecture(
        model_type=name,
        vocabulary=_first(config, _VOCABULARY),
        hidden=hidden,
        heads=heads,
        kv_heads=_kv_heads(config, name, heads),
        head_dim=int(config.get("head_dim") or config.get("kv_channels") or hidden // heads),
        windows=_windows(config, name, _first(config, _LAYERS)),
        mlp_width=width,
        mlp_matrices=family.mlp_matrices,
        experts=experts,
        latent=_latent(config),
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        positions=0 if family.positions is None else family.positions + _first(config, _CONTEXT),
        small_per_layer=0,
        max_context=_first(config, _CONTEXT),
        dtype=str(config.get("torch_dtype") or config.get("dtype") or "bfloat16").removeprefix("torch."),
        notes=tuple(notes),
    )
    return replace(architecture, small_per_layer=_small(config, family, architecture))


def _first(config: Config, names: tuple[str, ...]) -> int:
    """Return the first of these members that holds a number, or 0."""
    return next((int(config[name]) for name in names if isinstance(config.get(name), (int, float))), 0)


def _require(config: Config, name: str, members: tuple[tuple[str, ...], ...]) -> None:
    missing = [names[-1] if names is _VOCABULARY else names[0] for names in members if not _first(config, names)]
    if missing:
        raise WorkerError(
            f"The config of model_type {name or '(none)'} does not say {', '.join(missing)}; "
            "add it to config.json, or use the config of the model's own repository."
        )


def _default_width(config: Config, name: str, family: _Family, hidden: int) -> int:
    if family.mlp_matrices == 2:
        return int(config.get("expansion_ratio") or 4) * hidden
    _require(config, name, (_WIDTH,))
    return 0


def _kv_heads(config: Config, name: str, heads: int) -> int:
    if name == "falcon" and config.get("new_decoder_architecture"):
        return int(config.get("num_kv_heads") or heads)
    if name in {"falcon", "gpt_bigcode"}:
        return 1 if config.get("multi_query", True) else heads
    if config.get("multi_query_attention"):
        return int(config["multi_query_group_num"])
    return int(config.get("num_key_value_heads") or config.get("num_kv_heads") or heads)


def _windows(config: Config, name: str, layers: int) -> tuple[int | None, ...]:
    """Return the window of each layer, as vLLM applies them."""
    window = config.get("sliding_window")
    if kinds := config.get("layer_types"):
        if unknown := sorted(set(kinds) - {"full_attention", "sliding_attention"}):
            raise WorkerError(f"{name} has layers of the kind {unknown[0]}, which `size` cannot count yet.")
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    if not window or config.get("use_sliding_window") is False:
        return (None,) * layers
    # Gemma 3: every sixth layer sees everything; Gemma 2 and gpt-oss: every second one; the others: none.
    every = config.get("sliding_window_pattern") or {"gemma2": 2, "gpt_oss": 2, "gemma3_text": 6}.get(name, 0)
    if every:
        return tuple(None if (layer + 1) % every == 0 else window for layer in range(layers))
    first = int(config.get("max_window_layers") or 0) if name.startswith("qwen") else 0
    return tuple(window if layer >= first else None for layer in range(layers))


def _latent(config: Config) -> Latent | None:
    if not config.get("kv_lora_rank"):
        return None
    return Latent(
        query_rank=config.get("q_lora_rank"),
        kv_rank=int(config["kv_lora_rank"]),
        nope=int(config["qk_nope_head_dim"]),
        rope=int(config["qk_rope_head_dim"]),
        value=int(config["v_head_dim"]),
    )


def _experts(config: Config) -> Experts | None:
    count = _first(config, _EXPERTS)
    if count < 2:
        return None
    layers = _first(config, _LAYERS)
    step = int(config.get("decoder_sparse_step") or config.get("moe_layer_freq") or 1)
    dense = int(config.get("first_k_dense_replace") or 0) + len(config.get("mlp_only_layers") or ())
    width = int(config.get("moe_intermediate_size") or _first(config, _WIDTH))
    shared = int(config.get("n_shared_experts") or 0) * width + int(config.get("shared_expert_intermediate_size") or 0)
    return Experts(
        count=count,
        active=int(config.get("num_experts_per_tok") or config.get("experts_per_token") or 1),
        width=width,
        shared_width=shared,
        layers=(layers - dense) // step,
    )


def _small(config: Config, family: _Family, shape: Architecture) -> int:
    """Count norms and biases of one layer."""
    biases = family.biases
    if biases is None:
        everything = config.get("bias") or config.get("use_bias")
        attention = config.get("attention_bias") or config.get("use_qkv_bias")
        biases = "qom" if everything else ("qo" if attention else "") + ("m" if config.get("mlp_bias") else "")
    if shape.latent is not None:
        return family.norms * shape.hidden + shape.latent.kv_rank + (shape.latent.query_rank or 0)
    one_norm = shape.model_type == "falcon" and not config.get("new_decoder_architecture")
    qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    return (
        (2 if one_norm else family.norms) * shape.hidden
        + family.head_norms * shape.head_dim
        + ("q" in biases) * qkv
        + ("o" in biases) * shape.hidden
        + ("m" in biases) * ((shape.mlp_matrices - 1) * shape.mlp_width + shape.hidden)
    )
