"""Reads in which precision a model's weights are stored, from ``quantization_config`` in its ``config.json``. Pure.

A precision says for each matrix how many bits one parameter takes, its share of the scales included. What a method
means is read as vLLM 0.32 reads it (``vllm/model_executor/layers/quantization``); what vLLM has no reader for, and
neither has this file, is an error and no guess.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workers.errors import WorkerError

Config = Mapping[str, Any]

_LINEAR = "Linear"
_EXPERTS = "mlp.experts"
_FLOAT32_BITS, _FLOAT16_BITS = 32, 16


@dataclass(frozen=True, slots=True)
class Rule:
    """What matrices named by ``targets`` take: ``bits`` per parameter, and ``row_bits`` once per row."""

    targets: tuple[str, ...]
    bits: float
    row_bits: float = 0


@dataclass(frozen=True, slots=True)
class Precision:
    """How weights are stored.

    The first rule with a matching target decides; what ``kept`` names, norms, routers, and both tables unless a rule
    names them, stay at ``element_bytes``, as activations do. ``kv_bytes`` is one element of the KV cache.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    kept: tuple[str, ...] = ()
    element_bytes: int = 2
    fp8_cache: bool = False
    notes: tuple[str, ...] = ()

    def bytes_of(self, matrix: str, row: int, *, table: bool = False) -> float:
        """Return the bytes of one parameter of a matrix, by its full name; ``row`` is the length of a row."""
        if not _names(self.kept, matrix):
            for rule in self.rules:
                if (_LINEAR in rule.targets and not table) or _names(rule.targets, matrix):
                    return (rule.bits + rule.row_bits / row) / 8
        return self.element_bytes

    def cache_bytes(self, kv_dtype: str) -> int:
        """Return the bytes of an element of the KV cache; ``auto`` is what the file says, or 16 bits."""
        return 1 if kv_dtype == "fp8" or (kv_dtype == "auto" and self.fp8_cache) else self.element_bytes


def _all(bits: float, row_bits: float = 0) -> tuple[Rule, ...]:
    return (Rule((_LINEAR,), bits, row_bits),)


_FP8 = _all(8 + 32 / 128**2)
_FP8_ROWS = _all(8, _FLOAT32_BITS)
_FP8_TENSOR = _all(8)
_INT8 = _all(8, _FLOAT32_BITS)
_NVFP4 = _all(4 + 8 / 16)
_MXFP4 = _all(4 + 8 / 32)
_MXFP8 = _all(8 + 8 / 32)
_INT4 = _all(4 + _FLOAT16_BITS / 128)

PLAIN = {
    precision.name: precision
    for precision in (
        Precision("float32", element_bytes=4),
        Precision("float16"),
        Precision("bfloat16"),
        Precision("int8", _INT8),
        Precision("fp8", _FP8),
        Precision("fp4", _NVFP4),
    )
}
"""What ``--dtype`` can ask for: int8 has a scale per row, fp8 one per block of 128 x 128, fp4 (NVFP4) one per 16."""
_SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "half": "float16", "nvfp4": "fp4"}
_SHORT |= {"float": "float32", "float8_e4m3fn": "fp8", "float8": "fp8"}


def precision_named(name: str) -> Precision | None:
    """Return the precision that a name or its usual short form means, or none."""
    return PLAIN.get(_SHORT.get(name.lower(), name.lower()))


def stored(config: Config) -> Precision | None:
    """Return the precision that a config's ``quantization_config`` describes, or none without one.

    ``compression_config`` is what older compressed-tensors files call it; of a model with several parts, the text
    model's own comes first. Raises ``WorkerError`` for a method that is not known, with what to do instead.
    """
    text = config.get("text_config")
    holders = (text, config) if isinstance(text, Mapping) else (config,)
    said = next((q for each in holders for key in _KEYS if (q := each.get(key))), None)
    if said is None:
        return None
    if not isinstance(said, Mapping):
        raise TypeError("quantization_config is not an object")
    method = _method(said)
    reader = _METHODS.get(method)
    try:
        found = reader(said) if reader is not None else None
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise WorkerError(f"The quantization_config of {method} has a missing or odd member: {error}.") from error
    if found is None:
        raise WorkerError(
            f"The weights are quantised by {method!r} in a way that `size` does not know; say which of "
            f"{', '.join(PLAIN)} is nearest, with --dtype."
        )
    return found


_KEYS = ("quantization_config", "compression_config")


def _method(said: Config) -> str:
    if isinstance(method := said.get("quant_method"), str) and method:
        return method.lower()
    if said.get("load_in_4bit") or said.get("load_in_8bit"):
        return "bitsandbytes"  # files of before transformers 4.34 do not name it
    if isinstance(said.get("producer"), Mapping) or "quant_algo" in said:
        return "modelopt"
    return "compressed-tensors" if "config_groups" in said else "(no quant_method)"


_KEPT = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules", "exclude", "llm_int8_skip_modules")


def _kept(said: Config) -> tuple[str, ...]:
    """Return the modules that stay as they were, whatever a method calls the list."""
    return tuple(str(each) for name in _KEPT for each in said.get(name) or ())


def _fp8(said: Config) -> Precision:
    """DeepSeek's and transformers' fine-grained fp8: a float32 scale per block, or one per matrix."""
    rules = _FP8_TENSOR
    if block := said.get("weight_block_size"):
        rules = _all(8 + _FLOAT32_BITS / _area(block))
    experts = said.get("store_dtype") or said.get("expert_dtype")
    if experts in {"mxfp4", "fp4"}:
        rules = (Rule((_EXPERTS,), _MXFP4[0].bits), *rules)
    return Precision("fp8", rules, _kept(said))


def _area(block: Any) -> int:
    """Return how many parameters share the scale of a block: ``[128, 128]``, or ``128x128`` (compressed-tensors)."""
    rows, columns = map(int, block.split("x") if isinstance(block, str) else block)
    return rows * columns


def _integers(said: Config) -> Precision:
    """AWQ, GPTQ and what packs like them: a group has a scale of 16 bits and a zero of ``bits``."""
    bits = int(said.get("bits") or said["w_bit"])
    group = int(said.get("group_size") or said.get("q_group_size") or 128)
    rules = [_packed((_LINEAR,), bits, group)]
    if said.get("lm_head") is True:
        rules.append(_packed(("lm_head",), bits, group))
    left: list[str] = []
    # GPTQModel's: "-:pattern" is left as it was, any other has bits of its own.
    for pattern, own in (said.get("dynamic") or {}).items():
        named = f"re:.*(?:{pattern.removeprefix('+:').removeprefix('-:')})"
        if pattern.startswith("-:"):
            left.append(named)
        else:
            rules.insert(0, _packed((named,), int(own.get("bits", bits)), int(own.get("group_size", group))))
    return Precision(f"int{bits}", tuple(rules), (*_kept(said), *left))


def _packed(targets: tuple[str, ...], bits: int, group: int) -> Rule:
    scale = _FLOAT16_BITS + bits
    return Rule(targets, bits + scale / group) if group > 0 else Rule(targets, bits, scale)


def _compressed_tensors(said: Config) -> Precision:
    """Each group has its targets; a scale belongs to a row, a group, a block or the whole matrix."""
    rules = []
    names = []
    for group in said["config_groups"].values():
        targets = tuple(str(target) for target in group["targets"])
        if (weights := group.get("weights")) is None:
            continue
        bits, per = int(weights["num_bits"]), weights.get("group_size")
        form = str(group.get("format") or said.get("format") or "")
        strategy = weights.get("strategy") or ("group" if per else "tensor")
        floats = weights.get("type") == "float"
        scale = 8 if form.startswith(("nvfp4", "mxfp")) or (floats and bits == 4) else _FLOAT16_BITS
        zero = 0 if weights.get("symmetric", True) else bits
        if strategy in {"group", "tensor_group"} and per and int(per) > 0:
            rules.append(Rule(targets, bits + (scale + zero) / int(per)))
        elif strategy == "block" and (block := weights.get("block_structure")):
            rules.append(Rule(targets, bits + _FLOAT32_BITS / _area(block)))
        else:
            rules.append(Rule(targets, bits, 0 if strategy == "tensor" else _FLOAT32_BITS))
        names.append(("mxfp" if form.startswith("mxfp") else "nvfp" if bits == 4 else "fp") if floats else "int")
        names[-1] += str(bits)
    cache = said.get("kv_cache_scheme") or {}
    return Precision(
        "+".join(dict.fromkeys(names)) or "bfloat16",
        tuple(rules),
        _kept(said),
        fp8_cache=cache.get("num_bits") == 8,
    )


def _mxfp4(said: Config) -> Precision:
    """gpt-oss: vLLM's reader knows experts only; all else stays as it was."""
    return Precision("mxfp4", (Rule((_EXPERTS,), _MXFP4[0].bits),), _kept(said))


_ALGORITHMS = {
    "FP8": _FP8_TENSOR,
    "FP8_PER_CHANNEL_PER_TOKEN": _FP8_ROWS,
    "FP8_PB_WO": _FP8,
    "NVFP4": _NVFP4,
    "NVFP4_AWQ": _NVFP4,
    "W4A16_NVFP4": _NVFP4,
    "W4A8_NVFP4_FP8": _NVFP4,
    "MXFP8": _MXFP8,
    "MXFP4": _MXFP4,
    "W4A8_MXFP4_FP8": _MXFP4,
    "W4A16_AWQ": _INT4,
    "W4A8_AWQ": _INT4,
    "W4A16": _INT4,
    "INT4_AWQ": _INT4,
    "W8A8_SQ_PER_CHANNEL": _INT8,
    "W8A16": _INT8,
}


def _modelopt(said: Config) -> Precision | None:
    """NVIDIA's Model Optimizer: one algorithm, or a table of one per layer."""
    said = {**said, **(said.get("quantization") or {})}
    algorithm = str(said["quant_algo"]).upper()
    cache = said.get("kv_cache_scheme") or {}
    fp8_cache = str(said.get("kv_cache_quant_algo") or "").upper() == "FP8" or cache.get("num_bits") == 8
    if algorithm == "MIXED_PRECISION":
        layers = said["quantized_layers"]
        algorithms = {name: str(layer["quant_algo"]).upper() for name, layer in layers.items()}
        if unknown := set(algorithms.values()) - set(_ALGORITHMS):
            raise ValueError(f"quant_algo {min(unknown)}")
        bits = {each: _ALGORITHMS[each][0] for each in algorithms.values()}
        rules = tuple(
            Rule(tuple(name for name, own in algorithms.items() if own == each), rule.bits, rule.row_bits)
            for each, rule in bits.items()
        )
        return Precision("+".join(each.lower() for each in bits), rules, _kept(said), fp8_cache=fp8_cache)
    rules = _ALGORITHMS.get(algorithm, ())
    return Precision(_name_of(rules[0].bits), rules, _kept(said), fp8_cache=fp8_cache) if rules else None


def _name_of(bits: float) -> str:
    names = {_NVFP4[0].bits: "nvfp4", _MXFP4[0].bits: "mxfp4", _MXFP8[0].bits: "mxfp8", _INT4[0].bits: "int4"}
    return names.get(bits, "fp8")


def _bitsandbytes(said: Config) -> Precision | None:
    """NF4 and FP4 have a float32 scale per 64, itself in 8 bits with double quantisation (arXiv 2305.14314)."""
    note = ("vLLM 0.32 has no reader for bitsandbytes: another form of the model is needed to serve it",)
    if said.get("load_in_4bit") or said.get("_load_in_4bit"):
        scale = 8 / 64 + 32 / (64 * 256) if said.get("bnb_4bit_use_double_quant") else 32 / 64
        return Precision("bnb-4bit", _all(4 + scale), _kept(said), notes=note)
    if said.get("load_in_8bit") or said.get("_load_in_8bit"):
        return Precision("bnb-8bit", _INT8, _kept(said), notes=note)
    return None


def _quark(said: Config) -> Precision | None:
    """AMD's Quark: a data type and how far a scale reaches (``qscheme``)."""
    weight = (said.get("global_quant_config") or {}).get("weight")
    weight = weight[-1] if isinstance(weight, list) else weight
    if not isinstance(weight, Mapping):
        return None
    kind, scheme = str(weight.get("dtype")), str(weight.get("qscheme"))
    bits = {"fp8_e4m3": 8, "fp8_e5m2": 8, "int8": 8, "uint8": 8, "fp4": 4, "int4": 4, "uint4": 4}.get(kind)
    if bits is None:
        return None
    if scheme == "per_group":
        scale = 8 if weight.get("scale_format") == "e8m0" else _FLOAT16_BITS
        rules = _all(bits + scale / int(weight["group_size"]))
    else:
        rules = _all(bits, _FLOAT32_BITS if scheme == "per_channel" else 0)
    name = "mxfp4" if kind == "fp4" and weight.get("scale_format") == "e8m0" else kind.partition("_")[0]
    return Precision(name, rules, _kept(said))


def _torchao(said: Config) -> Precision | None:
    """PyTorch's: the name of a configuration says the type, its data the group."""
    kind = (said.get("quant_type") or {}).get("default")
    if not isinstance(kind, Mapping):
        return None
    name, data = str(kind.get("_type")), kind.get("_data") or {}
    if name.startswith("Int4"):
        return Precision("int4", _all(4 + 2 * _FLOAT16_BITS / int(data.get("group_size") or 128)), _kept(said))
    if name.startswith(("Int8", "Float8")):
        return Precision("int8" if name.startswith("Int8") else "fp8", _INT8, _kept(said))
    return None


def _rows(said: Config) -> Precision:
    return Precision("fp8", _FP8_ROWS, _kept(said))


_METHODS: Mapping[str, Callable[[Config], Precision | None]] = {
    "fp8": _fp8,
    "deepseek_v4_fp8": _fp8,
    "fbgemm_fp8": _rows,
    "mxfp4": _mxfp4,
    "gpt_oss_mxfp4": _mxfp4,
    "mxfp8": lambda said: Precision("mxfp8", _MXFP8, _kept(said)),
    **dict.fromkeys(("awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "moe_wna16"), _integers),
    **dict.fromkeys(("auto-round", "intel/auto-round", "inc"), _integers),
    "compressed-tensors": _compressed_tensors,
    "compressed_tensors": _compressed_tensors,
    **dict.fromkeys(("modelopt", "modelopt_fp4", "modelopt_mixed", "modelopt_mxfp8"), _modelopt),
    "nvfp4": lambda said: Precision("nvfp4", _NVFP4, _kept(said)),
    "bitsandbytes": _bitsandbytes,
    "quark": _quark,
    "torchao": _torchao,
}


def _names(patterns: tuple[str, ...], matrix: str) -> bool:
    return any(pattern.search(matrix) for pattern in _patterns(patterns))


@functools.lru_cache(maxsize=64)
def _patterns(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(_compiled(patterns))


def _compiled(patterns: tuple[str, ...]) -> Iterator[re.Pattern[str]]:
    """Turn names, globs and ``re:`` expressions into patterns on the names that ``parameters`` gives to matrices.

    A name stands for all that is below it. Fused matrices are named by their parts there, and every family's expert
    blocks ``mlp``.
    """
    for pattern in patterns:
        if pattern == _LINEAR:
            continue
        plain = pattern
        for theirs, ours in _SPELLINGS.items():
            plain = plain.replace(theirs, ours)
        if plain.startswith("re:"):
            text = f"^(?:{plain[3:]})"
        else:
            text = re.escape(plain.removesuffix(".weight")).replace(r"\*", ".*").replace(r"\?", ".")
            for fused, parts in _FUSED.items():
                text = re.sub(rf"(?<![a-z_]){fused}", parts, text)
            text = rf"(?:^|\.){text}" + ("" if plain.endswith("*") else r"(?:\.|$)")
        try:
            yield re.compile(text)
        except re.error as error:
            raise WorkerError(f"The quantization_config names modules by {pattern!r}: {error}.") from error


_SPELLINGS = {
    "language_model\\.model\\.": "model\\.",
    "language_model.model.": "model.",
    "model\\.language_model\\.": "model\\.",
    "model.language_model.": "model.",
    "language_model.lm_head": "lm_head",
    "block_sparse_moe": "mlp",
    "feed_forward": "mlp",
    "self_attention": "self_attn",
    "shared_expert.": "shared_experts.",
}
_FUSED = {"qkv_proj": "[qkv]_proj", "gate_up_proj": "(?:gate|up)_proj"}
