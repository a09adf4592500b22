"""What is counted from a config against what makers, papers and vLLM's own logs have published.

Each figure says whether its source was opened or is from memory; docs/guide/sizing.md lists those that were.
"""

import pytest

from workers.sizing.architecture import Architecture, parse
from workers.sizing.cache import bytes_per_token, bytes_per_token_and_layer
from workers.sizing.gpus import GPUS
from workers.sizing.known import KNOWN
from workers.sizing.parameters import count, weight_bytes, weight_bytes_per_gpu
from workers.sizing.plan import GIB, Split, Workload, replica
from workers.sizing.precision import PLAIN


def shape(name: str) -> Architecture:
    return parse(KNOWN[name].config)


@pytest.mark.parametrize(
    ("name", "billions", "source"),
    [
        ("llama-3.2-1b", 1.23, "github.com/meta-llama/llama-models, models/llama3_2/MODEL_CARD.md"),
        ("llama-3.2-3b", 3.21, "github.com/meta-llama/llama-models, models/llama3_2/MODEL_CARD.md"),
        ("llama-3.1-8b", 8, "huggingface.co/blog/llama31"),
        ("llama-3.1-70b", 70, "huggingface.co/blog/llama31"),
        ("llama-3.1-405b", 405, "huggingface.co/blog/llama31"),
        ("mixtral-8x7b", 47, "arXiv 2401.04088, abstract"),
        ("qwen2.5-7b", 7.616, "huggingface.co/datasets/OALL/requests_v2, Qwen/Qwen2.5-7B"),
        ("qwen3-235b-a22b", 235, "docs.vllm.ai/projects/ascend, tutorials/models/Qwen3-235B-A22B"),
        ("deepseek-v2", 236, "github.com/deepseek-ai/DeepSeek-V2, README.md"),
        ("deepseek-v2-lite", 16, "github.com/deepseek-ai/DeepSeek-V2, README.md"),
        ("deepseek-v3", 671, "github.com/deepseek-ai/DeepSeek-V3, README_WEIGHTS.md"),
        ("gpt-j-6b", 6.053381344, "github.com/kingoflolz/mesh-transformer-jax, README.md"),
        ("gpt-neox-20b", 20, "huggingface.co/docs/transformers/v4.36.0/model_doc/gpt_neox"),
        ("bloom", 176, "github.com/bigscience-workshop/model_card, README.md"),
        ("starcoder", 15.5, "huggingface.co/spaces/bigcode/README"),
    ],
)
def test_parameters_are_the_published_ones(name: str, billions: float, source: str) -> None:
    """The sources were opened on 2026-11-22."""
    assert count(shape(name)).total / 1e9 == pytest.approx(billions, rel=0.05), source


@pytest.mark.parametrize(
    ("name", "billions", "source"),
    [
        ("llama-3-8b", 8.03, "huggingface.co/meta-llama/Meta-Llama-3-8B"),
        ("llama-3-70b", 70.6, "huggingface.co/meta-llama/Meta-Llama-3-70B"),
        ("llama-2-7b", 6.74, "huggingface.co/meta-llama/Llama-2-7b-hf"),
        ("mistral-7b", 7.24, "huggingface.co/mistralai/Mistral-7B-v0.1"),
        ("mixtral-8x22b", 141, "mistral.ai/news/mixtral-8x22b"),
        ("qwen2.5-72b", 72.7, "huggingface.co/Qwen/Qwen2.5-72B"),
        ("qwen3-30b-a3b", 30.5, "huggingface.co/Qwen/Qwen3-30B-A3B"),
        ("gemma-7b", 8.54, "arXiv 2403.08295, table 2"),
        ("gemma-2-9b", 9.24, "arXiv 2408.00118, table 2"),
        ("gemma-2-27b", 27.2, "arXiv 2408.00118, table 2"),
        ("gemma-3-27b", 27.0, "arXiv 2503.19786, table 1, without the vision encoder"),
        ("falcon-7b", 7, "huggingface.co/tiiuae/falcon-7b"),
        ("falcon-40b", 40, "huggingface.co/tiiuae/falcon-40b"),
        ("phi-2", 2.7, "huggingface.co/microsoft/phi-2"),
        ("phi-3-mini", 3.8, "arXiv 2404.14219"),
        ("gpt2", 0.124, "huggingface.co/openai-community/gpt2"),
        ("opt-13b", 13, "arXiv 2205.01068"),
        ("pythia-12b", 11.85, "huggingface.co/EleutherAI/pythia-12b"),
        ("mpt-7b", 6.7, "huggingface.co/mosaicml/mpt-7b"),
    ],
)
def test_parameters_are_those_remembered_of_the_model_card(name: str, billions: float, source: str) -> None:
    """These sources were not opened: the figures are from memory of them."""
    assert count(shape(name)).total / 1e9 == pytest.approx(billions, rel=0.05), source


@pytest.mark.parametrize(
    ("name", "billions", "source"),
    [
        ("mixtral-8x7b", 13, "opened: arXiv 2401.04088, abstract"),
        ("qwen3-235b-a22b", 22, "opened: docs.vllm.ai/projects/ascend, tutorials/models/Qwen3-235B-A22B"),
        ("deepseek-v2", 21, "opened: github.com/deepseek-ai/DeepSeek-V2, README.md"),
        ("deepseek-v3", 36.7, "opened: github.com/deepseek-ai/DeepSeek-V3, README_WEIGHTS.md"),
        ("mixtral-8x22b", 39, "from memory: mistral.ai/news/mixtral-8x22b"),
        ("qwen3-30b-a3b", 3.3, "from memory: huggingface.co/Qwen/Qwen3-30B-A3B"),
    ],
)
def test_a_token_passes_the_published_number_of_active_parameters(name: str, billions: float, source: str) -> None:
    assert count(shape(name)).active / 1e9 == pytest.approx(billions, rel=0.05), source


def test_a_token_passes_the_published_parameters_of_deepseek_v2_lite_without_its_table() -> None:
    """2.4 billion in github.com/deepseek-ai/DeepSeek-V2; we count the embedding, of which a token reads one row."""
    model = shape("deepseek-v2-lite")
    assert (count(model).active - 102_400 * model.hidden) / 1e9 == pytest.approx(2.4, rel=0.05)


@pytest.mark.parametrize(
    ("name", "published_bytes", "source"),
    [
        ("llama-3.1-8b", 0.125 * GIB / 1024, "opened: huggingface.co/blog/llama31, 1k tokens"),
        ("llama-3.1-70b", 0.313 * GIB / 1024, "opened: huggingface.co/blog/llama31, 1k tokens"),
        # Of the first release, which held each of the 8 key-value heads twice (github.com/ollama/ollama/issues/6303).
        ("llama-3.1-405b", 0.984 * GIB / 1024 / 2, "opened: huggingface.co/blog/llama31, 1k tokens"),
        ("falcon-40b", 240 * 2**20 / 2048, "opened: huggingface.co/blog/falcon, 2,048 tokens"),
        ("mpt-7b", 1.1e9 / 2048, "opened: huggingface.co/blog/falcon, 2,048 tokens"),
        ("deepseek-v3", 68.6 * 1024, "opened: openclawradar.com/article/kv-cache-architecture-evolution-gpt2-mamba"),
        ("gpt2-xl", 300 * 1024, "opened: openclawradar.com/article/kv-cache-architecture-evolution-gpt2-mamba"),
        ("llama-3-8b", 128 * 1024, "opened: openclawradar.com/article/kv-cache-architecture-evolution-gpt2-mamba"),
        ("qwen2.5-72b", 327_680, "from memory: arXiv 2505.09343, table 1"),
        ("opt-13b", 800 * 1024, "from memory: arXiv 2309.06180, section 3"),
        (
            "llama-2-7b",
            2 * GIB / 4096,
            "from memory: NVIDIA, Mastering LLM Techniques: Inference Optimization: 2 GB for 4,096 tokens",
        ),
    ],
)
def test_the_cache_of_a_token_has_the_published_size(name: str, published_bytes: float, source: str) -> None:
    assert bytes_per_token(shape(name), 2) == pytest.approx(published_bytes, rel=0.05), source


@pytest.mark.parametrize(
    ("name", "precision", "published_bytes", "source"),
    [
        ("llama-3.1-8b", "float16", 16e9, "huggingface.co/blog/llama31"),
        ("llama-3.1-70b", "float16", 140e9, "huggingface.co/blog/llama31"),
        ("llama-3.1-405b", "float16", 810e9, "huggingface.co/blog/llama31"),
        ("llama-3.1-70b", "fp8", 70e9, "huggingface.co/blog/llama31"),
        ("llama-3.1-405b", "fp8", 405e9, "huggingface.co/blog/llama31"),
        ("mixtral-8x7b", "float16", 90e9, "huggingface.co/blog/mixtral"),
        ("bloom", "bfloat16", 329 * GIB, "github.com/bigscience-workshop/model_card, README.md"),
    ],
)
def test_weights_have_the_published_size(name: str, precision: str, published_bytes: float, source: str) -> None:
    """The sources were opened on 2026-11-22."""
    assert weight_bytes(shape(name), PLAIN[precision]) == pytest.approx(published_bytes, rel=0.05), source


def test_the_cache_of_a_token_is_that_of_vllms_log_with_four_gpus() -> None:
    """Qwen3-235B-A22B: 178,880 tokens in 8.11 GiB on each of four (github.com/vllm-project/vllm/issues/21348)."""
    model = shape("qwen3-235b-a22b")
    per_gpu = model.layers * bytes_per_token_and_layer(model, 2, tensor_parallel=4)
    assert per_gpu == pytest.approx(8.11 * GIB / 178_880, rel=0.03)


@pytest.mark.parametrize(("tensor_parallel", "gib"), [(1, 14.96), (2, 7.48)])
def test_weights_per_gpu_are_those_of_vllms_log(tensor_parallel: int, gib: float) -> None:
    """Llama 3 8B: github.com/vllm-project/vllm/pull/10511."""
    held = weight_bytes_per_gpu(shape("llama-3-8b"), PLAIN["bfloat16"], tensor_parallel, 1)
    assert held / GIB == pytest.approx(gib, rel=0.01)


def test_int8_weights_are_those_of_vllms_log() -> None:
    """Llama 3.1 70B in w8a8 took 67.72 GiB: github.com/vllm-project/vllm/pull/12569 (from memory)."""
    assert weight_bytes(shape("llama-3.1-70b"), PLAIN["int8"]) / GIB == pytest.approx(67.72, rel=0.01)


def test_the_room_for_the_cache_is_near_that_of_vllms_log() -> None:
    """Llama 3 8B on an H100 at 0.90 with 256 sequences left 53.29 GiB: github.com/vllm-project/vllm/pull/10511."""
    load = Workload(context=8192, concurrency=1, utilization=0.90, batched_tokens=8192, sequences=256)
    engine = replica(shape("llama-3-8b"), PLAIN["bfloat16"], GPUS["H100-80GB"], load, Split(1, 1))
    assert engine.kv_bytes_per_gpu / GIB == pytest.approx(53.29, rel=0.03)
