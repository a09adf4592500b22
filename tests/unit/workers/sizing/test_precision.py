"""What the weights of a quantised file take, by what its ``quantization_config`` says."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from workers.errors import WorkerError
from workers.sizing.architecture import parse
from workers.sizing.config_file import read_config
from workers.sizing.known import KNOWN
from workers.sizing.parameters import count, matrices, weight_bytes
from workers.sizing.plan import GIB
from workers.sizing.precision import PLAIN, Precision, stored

LLAMA = KNOWN["llama-3.1-8b"].config
Quantised = dict[str, Any]


def compressed(form: str, weights: Quantised, **more: Any) -> Quantised:
    group = {"targets": ["Linear"], "weights": weights}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}, **more}


def of(quantised: Quantised) -> Precision:
    precision = stored({**LLAMA, "quantization_config": quantised})
    assert precision is not None
    return precision


GROUP = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
MXFP4 = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}
CHANNEL = {"num_bits": 8, "type": "float", "strategy": "channel"}
BLOCK = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}
QUARK = {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}
ROW = 32 / 4096
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


@pytest.mark.parametrize(
    ("quantised", "bits"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}, 8 + 32 / 128**2),
        ({"quant_method": "fp8", "activation_scheme": "static"}, 8),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, 8 + ROW),
        ({"quant_method": "mxfp8"}, 8.25),
        # A dense model has no experts, and vLLM reads mxfp4 for those alone.
        ({"quant_method": "mxfp4"}, 16),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, 4 + 20 / 128),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, 4 + 20 / 64),
        (GPTQ | {"desc_act": True}, 4 + 20 / 128),
        (GPTQ | {"bits": 8, "group_size": 32}, 8 + 24 / 32),
        (GPTQ | {"group_size": -1}, 4 + 20 / 4096),
        (GPTQ | {"dynamic": {"-:.*layers": {}}}, 16),
        (GPTQ | {"dynamic": {"+:.*layers": {"bits": 8}}}, 8 + 24 / 128),
        ({"quant_method": "auto-round", "bits": 2, "group_size": 32}, 2 + 18 / 32),
        (compressed("pack-quantized", GROUP), 4 + 16 / 128),
        (compressed("pack-quantized", GROUP | {"symmetric": False}), 4 + 20 / 128),
        (compressed("float-quantized", CHANNEL), 8 + ROW),
        (compressed("float-quantized", CHANNEL | {"strategy": "tensor"}), 8),
        (compressed("float-quantized", BLOCK), 8 + 32 / 128**2),
        (compressed("float-quantized", BLOCK | {"block_structure": "128x128"}), 8 + 32 / 128**2),
        (compressed("int-quantized", CHANNEL | {"type": "int"}), 8 + ROW),
        (compressed("nvfp4-pack-quantized", NVFP4), 4.5),
        (compressed("mxfp4-pack-quantized", MXFP4), 4.25),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, 4.5),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}}, 8),
        ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "nvfp4"}}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4.126953125),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8 + ROW),
        ({"quant_method": "quark", "global_quant_config": QUARK}, 8),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}, 8 + ROW),
    ],
    ids=str,
)
def test_quantised_weights_take_the_bits_of_their_file(quantised: Quantised, bits: float) -> None:
    """``torch_dtype`` beside it is of the rest, which stays at 16 bits: vLLM makes no 32 of it."""
    parameters = count(parse(LLAMA))
    rest = parameters.kept + parameters.embedding + parameters.head
    expected = pytest.approx(parameters.linear * bits / 8 + rest * 2)
    for beside in ("float16", "bfloat16", "float32", None):
        assert weight_bytes(parse({**LLAMA, "torch_dtype": beside}), of(quantised)) == expected


ATTENTION = [f"model.layers.{layer}.self_attn" for layer in range(32)]


@pytest.mark.parametrize(
    "kept",
    [
        {"modules_to_not_convert": ["self_attn"]},
        {"ignored_layers": ["model.layers.*.self_attn"]},
        {"ignored_layers": ["model.layers.*.self_attn*"]},
        {"exclude_modules": ["*self_attn*"]},
        {"ignore": [f"{each}.{matrix}_proj" for each in ATTENTION for matrix in "qkvo"]},
        {"ignore": [f"{each}.{matrix}_proj" for each in ATTENTION for matrix in ("qkv", "o")]},
        {"ignore": ["re:.*self_attn.*", "lm_head", "re:visual.*"]},
        {"ignore": ["re:model\\.language_model\\.layers.*self_attn.*", "re:.*vision_tower.*"]},
        {"ignore": ["language_model.model.layers.*.self_attn", "multi_modal_projector"]},
    ],
    ids=lambda kept: str(kept)[:60],
)
def test_modules_that_are_not_converted_stay_at_16_bits(kept: dict[str, Any]) -> None:
    precision = of({"quant_method": "fp8", **kept})
    widths = {(".self_attn." in each.name, precision.bytes_of(each.name, 1)) for each in matrices(parse(LLAMA))}
    assert widths == {(True, 2), (False, 1)}


def test_each_group_of_compressed_tensors_has_its_own_width() -> None:
    groups = {
        "group_0": {"targets": ["re:.*self_attn.*"], "weights": CHANNEL, "format": "float-quantized"},
        "group_1": {"targets": ["re:.*mlp.*"], "weights": NVFP4, "format": "nvfp4-pack-quantized"},
    }
    mixed = of({"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups})
    assert mixed.bytes_of("model.layers.3.self_attn.q_proj", 32) == 9 / 8
    assert mixed.bytes_of("model.layers.3.mlp.up_proj", 32) == 4.5 / 8


@pytest.mark.parametrize("at", ["quantization_config", "compression_config"])
def test_precision_of_a_model_with_images_is_that_of_its_text(at: str) -> None:
    inside = {"model_type": "llava", "text_config": {**LLAMA, at: {"quant_method": "fp8"}}}
    beside = {"model_type": "llava", "text_config": LLAMA, at: {"quant_method": "fp8"}}
    assert [found.name for config in (inside, beside) if (found := stored(config))] == ["fp8", "fp8"]


def test_quantised_head_is_counted_so() -> None:
    saved = weight_bytes(parse(LLAMA), of(GPTQ)) - weight_bytes(parse(LLAMA), of(GPTQ | {"lm_head": True}))
    assert saved == pytest.approx(count(parse(LLAMA)).head * (2 - (4 + 20 / 128) / 8))


@pytest.mark.parametrize(
    ("quantised", "element"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, 1),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}, 1),
        (compressed("float-quantized", CHANNEL, kv_cache_scheme={"num_bits": 8, "type": "float"}), 1),
        ({"quant_method": "fp8"}, 2),
    ],
    ids=str,
)
def test_cache_is_as_narrow_as_the_file_says(quantised: Quantised, element: int) -> None:
    """As with vLLM's ``auto``; a cache that is asked for in 16 bits stays so."""
    assert [of(quantised).cache_bytes(kind) for kind in ("auto", "fp8", "bfloat16")] == [element, 1, 2]


@pytest.mark.parametrize(
    ("quantised", "said"),
    [
        ({"quant_method": "aqlm"}, "quantised by 'aqlm'"),
        ({"bits": 4}, "quantised by '(no quant_method)'"),
        ({"quant_method": "modelopt", "quant_algo": "FP3"}, "quantised by 'modelopt'"),
        ({"quant_method": "bitsandbytes"}, "quantised by 'bitsandbytes'"),
        ({"quant_method": "gptq"}, "of gptq has a missing or odd member: 'w_bit'"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "of fp8 has a missing or odd member"),
        ({"quant_method": "gptq", "bits": float("inf")}, "of gptq has a missing or odd member"),
        ({"quant_method": "fp8", "ignored_layers": ["re:("]}, "names modules by 're:('"),
    ],
    ids=str,
)
def test_unknown_quantisation_is_an_error(quantised: Quantised, said: str) -> None:
    with pytest.raises(WorkerError) as caught:
        weight_bytes(parse(LLAMA), of(quantised))
    assert said in str(caught.value)


KIMI_KEEPS = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"]
KIMI_K2 = {
    **KNOWN["deepseek-v3"].config,
    "vocab_size": 163840,
    "num_attention_heads": 64,
    "n_routed_experts": 384,
    "first_k_dense_replace": 1,
    "quantization_config": compressed("pack-quantized", GROUP | {"group_size": 32}, ignore=KIMI_KEEPS),
}
LLAMA_AWQ = {**LLAMA, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}


@pytest.mark.parametrize(
    ("config", "published_bytes", "source"),
    [
        (KNOWN["gpt-oss-20b"].config, 12.8 * GIB, "arXiv 2508.10925, table 1"),
        (KNOWN["gpt-oss-120b"].config, 60.8 * GIB, "arXiv 2508.10925, table 1"),
        (LLAMA_AWQ, 5.73e9, "huggingface.co/hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"),
        (KIMI_K2, 594e9, "huggingface.co/moonshotai/Kimi-K2-Thinking"),
    ],
    ids=["gpt-oss-20b", "gpt-oss-120b", "llama-awq", "kimi-k2-thinking"],
)
def test_quantised_weights_have_the_published_size(config: Quantised, published_bytes: float, source: str) -> None:
    """These figures are from memory of their sources. A file has no second copy of latent attention's projection."""
    shape, precision = parse(config), stored(config)
    assert precision is not None
    assert weight_bytes(shape, precision) - count(shape).absorbed * 2 == pytest.approx(published_bytes, rel=0.02), (
        source
    )


def sized(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["size", *arguments, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_size_counts_the_precision_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSeek-V3 is stored in fp8; in 16 bits, which its makers do not offer, it would take 24 GPUs."""
    asked = ("deepseek-v3", "--gpu", "H100-80GB", "--context", "32k")
    for more, expected in (((), ("fp8", 16)), (("--dtype", "bf16"), ("bfloat16", 24))):
        chosen = sized(capsys, *asked, *more)["chosen"]
        assert (chosen["dtype"], chosen["gpus"]) == expected


def test_size_lists_the_file_before_the_usual_precisions(capsys: pytest.CaptureFixture[str]) -> None:
    answer = sized(capsys, "gpt-oss-20b", "--gpu", "H100-80GB", "--context", "32k")
    assert [row["dtype"] for row in answer["precisions"]] == ["mxfp4", *PLAIN]


def test_size_says_what_vllm_cannot_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**LLAMA, "quantization_config": {"load_in_4bit": True}}), encoding="utf-8")
    assert "no reader for bitsandbytes" in sized(capsys, str(file), "--gpu", "L4", "--context", "8k")["notes"][0]


def test_precision_is_read_from_the_file_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside), encoding="utf-8")
    precision = stored(read_config(tmp_path / "config.json"))
    assert precision is not None
    assert precision.name == "fp8"
