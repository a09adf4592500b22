"""Plans how many GPUs a model needs for so many requests of so many tokens. Pure arithmetic.

What vLLM measures when it starts on a GPU (activations, CUDA graphs) is estimated here; each estimate says from what.
"""

from dataclasses import dataclass
from typing import NamedTuple

from workers.errors import WorkerError
from workers.sizing import cache
from workers.sizing.architecture import Architecture
from workers.sizing.gpus import Gpu
from workers.sizing.parameters import weight_bytes, weight_bytes_per_gpu
from workers.sizing.precision import Precision

GIB = 2**30

# CUDA context, kernels, workspaces: 0.28 GiB (github.com/vllm-project/vllm/issues/15039), up to 1.8 (pull/10511 there);
# CUDA graphs: 0.1 to 1.6 GiB (github.com/vllm-project/vllm/pull/39559, github.com/gpustack/runner/pull/251).
_RUNTIME_BYTES = round(1.5 * GIB)
# NCCL and the buffers of the all-reduce, once GPUs work together (github.com/vllm-project/vllm/pull/10511).
_COLLECTIVE_BYTES = 1 * GIB
# vLLM's trial run samples from a full batch: Llama 3 8B with 256 sequences peaked at 1.26 GiB, with one GPU and with
# two (github.com/vllm-project/vllm/pull/10511): 41 bytes per sequence and vocabulary entry.
_SAMPLER_BYTES_PER_LOGIT = 41
_TENSOR_PARALLEL = (1, 2, 4, 8)
_MAX_PIPELINE = 16


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of the model, and the settings of vLLM that change the answer.

    ``batched_tokens`` and ``sequences`` are ``--max-num-batched-tokens`` and ``--max-num-seqs``; none is vLLM's
    default for a server on that GPU.
    """

    context: int
    concurrency: int
    kv_dtype: str = "auto"
    utilization: float = 0.92
    block_size: int = 16
    batched_tokens: int | None = None
    sequences: int | None = None


class Split(NamedTuple):
    """How many GPUs share each layer, and how many such groups follow one another."""

    tensor_parallel: int
    pipeline_parallel: int


@dataclass(frozen=True, slots=True)
class SizedReplica:
    """One engine: what its fullest GPU holds, and what fits.

    ``requests`` of the whole context fit at once; ``tokens`` is that (unrounded) times the context, as vLLM reports it.
    """

    split: Split
    weight_bytes_per_gpu: int
    overhead_bytes_per_gpu: int
    kv_bytes_per_gpu: int
    blocks: int
    blocks_per_request: int
    tokens: int
    requests: int

    @property
    def gpus(self) -> int:
        """Return how many GPUs it takes."""
        return self.split.tensor_parallel * self.split.pipeline_parallel


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """The fewest GPUs that carry the load in one precision; ``replica`` is none when no engine can, for ``reason``.

    ``requests_on_one_gpu`` is how many of the load's requests fit on a single GPU; 0 when the model does not.
    """

    dtype: str
    weight_bytes: int
    kv_bytes_per_token: int
    requests_on_one_gpu: int
    replica: SizedReplica | None
    replicas: int
    reason: str | None

    @property
    def gpus(self) -> int:
        """Return how many GPUs all replicas take; 0 when nothing fits."""
        return self.replicas * self.replica.gpus if self.replica is not None else 0


def replica(shape: Architecture, precision: Precision, gpu: Gpu, load: Workload, split: Split) -> SizedReplica:
    """Return what one engine holds; ``requests`` is 0 where not even one request of the whole context fits."""
    weights = weight_bytes_per_gpu(shape, precision, *split)
    overhead = _overhead(shape, precision, gpu, load, split)
    room = max(0, int(gpu.memory_bytes * load.utilization - weights - overhead))
    element = precision.cache_bytes(load.kv_dtype)
    size = load.block_size
    blocks = room // cache.block_bytes(shape, element, size, *split)
    # One batch is computed while the next is prepared, and one per further stage of a pipeline.
    in_flight = (split.pipeline_parallel + 1) * (load.batched_tokens or gpu.default_batched_tokens)
    needed = cache.blocks_per_request(shape, load.context, size, in_flight)
    return SizedReplica(
        split=split,
        weight_bytes_per_gpu=round(weights),
        overhead_bytes_per_gpu=round(overhead),
        kv_bytes_per_gpu=room,
        blocks=blocks,
        blocks_per_request=needed,
        tokens=blocks * load.context // needed,
        requests=blocks // needed,
    )


def plan(shape: Architecture, precision: Precision, gpu: Gpu, load: Workload) -> GpuPlan:
    """Find the fewest GPUs for a load: engines of 1, 2, 4 or 8 GPUs, pipelines of them, or several replicas.

    Among equals the shortest pipeline wins, then the smallest engine. Raises ``WorkerError`` when the context is longer
    than the model's.
    """
    if shape.max_context and load.context > shape.max_context:
        raise WorkerError(
            f"The model's context ends at {shape.max_context:,} tokens; ask for at most that with --context."
        )
    reason = None
    if precision.name == "bfloat16" and gpu.capability < 8:
        reason = f"{gpu.name} cannot compute in bfloat16 (compute capability {gpu.capability}, 8.0 is needed)"
    widths = [width for width in _TENSOR_PARALLEL if _divides(shape, width)]
    engines = [] if reason else [replica(shape, precision, gpu, load, split) for split in _splits(shape, widths)]
    best = min(
        (engine for engine in engines if engine.requests),
        key=lambda engine: (
            -(-load.concurrency // engine.requests) * engine.gpus,
            engine.split.pipeline_parallel,
            engine.split.tensor_parallel,
        ),
        default=None,
    )
    if best is None and reason is None:
        reason = f"not one request of {load.context:,} tokens fits on {engines[-1].gpus} GPUs"
    return GpuPlan(
        dtype=precision.name,
        weight_bytes=round(weight_bytes(shape, precision)),
        kv_bytes_per_token=cache.bytes_per_token(shape, precision.cache_bytes(load.kv_dtype)),
        requests_on_one_gpu=engines[0].requests if engines else 0,
        replica=best,
        replicas=-(-load.concurrency // best.requests) if best else 0,
        reason=reason,
    )


def _splits(shape: Architecture, widths: list[int]) -> list[Split]:
    """Return what may be tried: each width alone, then pipelines of the widest."""
    deepest = min(_MAX_PIPELINE, shape.layers)
    return [Split(width, 1) for width in widths] + [Split(widths[-1], stages) for stages in range(2, deepest + 1)]


def _divides(shape: Architecture, width: int) -> bool:
    """Return whether vLLM can split the model so: heads evenly, and key-value heads evenly or each to several GPUs."""
    if shape.heads % width or shape.mlp_width % width:
        return False
    return shape.latent is not None or shape.kv_heads % width == 0 or width % shape.kv_heads == 0


def _overhead(shape: Architecture, precision: Precision, gpu: Gpu, load: Workload, split: Split) -> float:
    """Estimate what a GPU holds besides weights and cache: the runtime, and the larger peak of vLLM's trial run.

    One peak is a batch in a layer (some copies of the hidden state, and the MLP's widest state), the other the sampler.
    """
    width = shape.mlp_width
    if (experts := shape.experts) is not None:
        width = max(width, experts.active * experts.width + experts.shared_width)
    per_token = 8 * shape.hidden + 3 * width / split.tensor_parallel
    batch = (load.batched_tokens or gpu.default_batched_tokens) * per_token * precision.element_bytes
    sampler = (load.sequences or gpu.default_sequences) * shape.vocabulary * _SAMPLER_BYTES_PER_LOGIT
    together = _COLLECTIVE_BYTES if split != (1, 1) else 0
    return _RUNTIME_BYTES + together + max(batch, sampler)
