"""The GPUs for a load: laws that hold for any model, and the cases that laws do not show."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.errors import WorkerError
from workers.sizing.architecture import Architecture, parse
from workers.sizing.cache import bytes_per_token
from workers.sizing.gpus import GPUS
from workers.sizing.known import KNOWN
from workers.sizing.parameters import count, weight_bytes
from workers.sizing.plan import GpuPlan, Split, Workload, plan, replica
from workers.sizing.precision import PLAIN


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.sampled_from([1, 2, 4, 8]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 4, 8]))
    config = {
        "model_type": draw(st.sampled_from(["llama", "gemma2", "mistral"])),
        "vocab_size": draw(st.integers(1_000, 256_000)),
        "num_hidden_layers": draw(st.integers(2, 100)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "hidden_size": 128 * heads,
        "intermediate_size": 512 * heads,
        "max_position_embeddings": 2**20,
    }
    if draw(st.booleans()):
        config["sliding_window"] = draw(st.integers(128, 8192))
    return config


def needed(plan: GpuPlan) -> float:
    return plan.gpus or float("inf")


CONTEXTS = st.integers(1, 2**18)
ANY_GPU = st.sampled_from(sorted(GPUS))


PAIRS = st.tuples(CONTEXTS, CONTEXTS).map(sorted)
COUNTS = st.tuples(st.integers(1, 200), st.integers(1, 200)).map(sorted)


@settings(max_examples=150, deadline=None)
@given(configs(), ANY_GPU, PAIRS, COUNTS)
def test_more_context_and_more_requests_never_fit_on_fewer_gpus(
    config: dict[str, Any], gpu: str, contexts: list[int], counts: list[int]
) -> None:
    shape, (less, more), (few, many) = parse(config), contexts, counts
    small = plan(shape, PLAIN["float16"], GPUS[gpu], Workload(less, few))
    assert needed(plan(shape, PLAIN["float16"], GPUS[gpu], Workload(more, few))) >= needed(small)
    assert needed(plan(shape, PLAIN["float16"], GPUS[gpu], Workload(less, many))) >= needed(small)


@settings(max_examples=100, deadline=None)
@given(configs())
def test_a_narrower_precision_never_takes_more_memory(config: dict[str, Any]) -> None:
    shape = parse(config)
    sizes = [weight_bytes(shape, precision) for precision in PLAIN.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == sizes[2]


@settings(max_examples=100, deadline=None)
@given(configs())
def test_grouped_queries_never_take_more_cache_than_a_head_each(config: dict[str, Any]) -> None:
    every = {**config, "num_key_value_heads": config["num_attention_heads"]}
    assert bytes_per_token(parse(config), 2) <= bytes_per_token(parse(every), 2)


@settings(max_examples=100, deadline=None)
@given(configs(), ANY_GPU, CONTEXTS, st.integers(1, 200))
def test_a_plan_carries_its_load_within_the_memory(
    config: dict[str, Any], gpu: str, context: int, requests: int
) -> None:
    load = Workload(context, requests)
    for made in (plan(parse(config), precision, GPUS[gpu], load) for precision in PLAIN.values()):
        if (engine := made.replica) is not None:
            assert made.replicas * engine.requests >= requests
            held = engine.weight_bytes_per_gpu + engine.overhead_bytes_per_gpu + engine.kv_bytes_per_gpu
            assert held <= GPUS[gpu].memory_bytes * load.utilization + 2
            assert config["num_attention_heads"] % engine.split.tensor_parallel == 0


def shape(name: str) -> Architecture:
    return parse(KNOWN[name].config)


def test_the_smallest_tensor_parallel_size_that_fits_is_taken() -> None:
    made = plan(shape("llama-3.1-70b"), PLAIN["bfloat16"], GPUS["H100-80GB"], Workload(8192, 1))
    assert made.replica is not None
    assert made.replica.split == (4, 1)
    assert made.requests_on_one_gpu == 0


def test_heads_that_cannot_be_divided_make_a_pipeline() -> None:
    """Falcon 7B has 71 heads: no tensor parallelism."""
    made = plan(shape("falcon-7b"), PLAIN["float32"], GPUS["T4"], Workload(2048, 1))
    assert made.replica is not None
    assert made.replica.split.tensor_parallel == 1
    assert made.replica.split.pipeline_parallel > 1


def test_a_model_larger_than_eight_gpus_spans_machines() -> None:
    made = plan(shape("llama-3.1-405b"), PLAIN["bfloat16"], GPUS["H100-80GB"], Workload(8192, 1))
    assert made.replica is not None
    assert made.replica.split == (8, 2)


def test_model_that_fits_nowhere_says_so() -> None:
    made = plan(shape("deepseek-v3"), PLAIN["float32"], GPUS["T4"], Workload(8192, 1))
    assert (made.gpus, made.replica) == (0, None)
    assert made.reason == "not one request of 8,192 tokens fits on 128 GPUs"


def test_an_old_gpu_does_not_compute_in_bfloat16() -> None:
    reasons = {
        name: plan(shape("opt-6.7b"), each, GPUS["T4"], Workload(2048, 1)).reason for name, each in PLAIN.items()
    }
    assert reasons.pop("bfloat16") == "T4 cannot compute in bfloat16 (compute capability 7.5, 8.0 is needed)"
    assert set(reasons.values()) == {None}


def test_an_fp8_cache_holds_twice_the_tokens() -> None:
    made = [
        plan(shape("llama-3-8b"), PLAIN["bfloat16"], GPUS["L4"], Workload(8192, 1, kv_dtype=kind))
        for kind in ("auto", "fp8")
    ]
    tokens = [one.replica.tokens for one in made if one.replica is not None]
    assert tokens[1] == pytest.approx(2 * tokens[0], rel=0.01)


def test_one_long_request_that_does_not_fit_beside_the_weights_takes_more_gpus() -> None:
    """The weights leave room for some blocks on one GPU, and not for a whole request."""
    made = plan(shape("llama-3.1-8b"), PLAIN["bfloat16"], GPUS["L40S"], Workload(131072, 3))
    assert made.replica is not None
    assert made.requests_on_one_gpu == 1
    alone = plan(shape("qwen2.5-7b"), PLAIN["bfloat16"], GPUS["L4"], Workload(131072, 1))
    assert alone.requests_on_one_gpu == 0
    assert alone.gpus == 2


def test_layers_with_a_window_also_keep_the_batches_that_are_computed() -> None:
    """A batch is larger by vLLM's default on larger GPUs, and a pipeline has more of them under way."""
    model, load = shape("mistral-7b"), Workload(32768, 1)
    held = {
        (name, split): replica(model, PLAIN["float16"], GPUS[name], load, Split(*split)).blocks_per_request
        for name, split in [("L4", (2, 1)), ("L4", (2, 2)), ("H100-80GB", (1, 1)), ("B200-180GB", (1, 1))]
    }
    window = 4095
    assert list(held.values()) == [-(-(window + tokens) // 16) + 1 for tokens in (2 * 2048, 3 * 2048, 2 * 8192)] + [
        2049
    ]


def test_latent_attention_holds_its_up_projection_twice() -> None:
    model = shape("deepseek-v3")
    parameters = count(model)
    assert parameters.absorbed == 61 * 512 * 128 * (128 + 128)
    assert weight_bytes(model, PLAIN["float32"]) == 4 * (parameters.total + parameters.absorbed)


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(WorkerError, match="ends at 4,096 tokens"):
        plan(shape("llama-2-7b"), PLAIN["float16"], GPUS["L4"], Workload(8192, 1))
