"""Checks whether a configuration's models fit: the cores, GPUs and memory of a machine, or the memory of a named GPU.

Counts only what is certain (weights, KV cache, an engine's own processes), so that what is refused here could not have
run; what passes may still be tight. The arithmetic is ``sizing``'s.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ByteSize

from workers.config.spec import ModelSpec
from workers.errors import WorkerError
from workers.replica.vllm_engine import Option
from workers.sizing import cache
from workers.sizing.architecture import Architecture, parse
from workers.sizing.gpus import Gpu, gpu_named
from workers.sizing.machine import Machine
from workers.sizing.parameters import weight_bytes
from workers.sizing.plan import GIB, Split, Workload, replica
from workers.sizing.precision import PLAIN, Precision, precision_named, stored

# Server and engine process of the smallest models (vLLM 0.32 for CPUs) held this much beside weights and cache.
_ENGINE_BYTES = GIB // 2
# vLLM's defaults: of memory in use, and tokens of a block on a CPU and on a GPU.
_UTILIZATION = 0.92
_CPU_BLOCK, _GPU_BLOCK = 128, 16
# Rotary position scalings that do not change how long vLLM lets a request be.
_PLAIN_ROPE = frozenset({None, "default", "llama3", "mrope", "proportional"})


@dataclass(frozen=True, slots=True)
class Model:
    """A worker as ``check`` has found it: spec, options of vLLM, and its config and directory where they are known."""

    name: str
    spec: ModelSpec
    options: Mapping[str, Option]
    config: Mapping[str, Any]
    directory: Path | None

    def number(self, option: str, default: int) -> int:
        """Return an option that is a whole number, or the default."""
        value = self.options.get(option)
        return value if isinstance(value, int) else default

    @property
    def shape(self) -> Architecture | None:
        """Return the model's shape, or none when it is not a decoder that ``size`` can read."""
        try:
            return parse(self.config) if self.config else None
        except (WorkerError, KeyError, TypeError, ValueError):
            return None

    @property
    def precision(self) -> Precision | None:
        """Return the precision of the weights, or none when it cannot be counted."""
        try:
            quantised = stored(self.config)
        except WorkerError:
            return None
        if quantised is not None or (method := self.options.get("quantization")) is None:
            return quantised or self._unquantised
        # What vLLM makes of 16-bit weights as it loads them.
        return next((PLAIN[name] for name in ("fp8", "int8") if str(method).startswith(name)), None)

    @property
    def _unquantised(self) -> Precision | None:
        said = str(self.config.get("torch_dtype") or self.config.get("dtype") or "bfloat16")
        # vLLM's own choice is never 32 bits.
        auto = "bfloat16" if said == "float32" else said
        asked = str(self.options.get("dtype", "auto"))
        return precision_named(auto if asked == "auto" else asked)


def of_the_model(model: Model) -> Iterator[tuple[str, str]]:
    """Yield what the model itself cannot do, by field: its longest request, its split, what its cache must hold."""
    longest = longest_request(model.config)
    context = model.number("max_model_len", longest or 0)
    if longest and context > longest:
        yield "max_model_len", f"{context:,} is beyond the model's {longest:,} tokens"
    if (shape := model.shape) is None:
        return
    tensor, stages = model.number("tensor_parallel_size", 1), model.number("pipeline_parallel_size", 1)
    if shape.heads % tensor:
        yield "tensor_parallel", f"{tensor} does not divide the model's {shape.heads} attention heads"
    elif shape.latent is None and shape.kv_heads % tensor and tensor % shape.kv_heads:
        yield "tensor_parallel", f"{tensor} does not go with the model's {shape.kv_heads} key-value heads"
    elif stages > shape.layers:
        yield "pipeline_parallel", f"{stages} is more than the model's {shape.layers} layers"
    elif memory := model.number("kv_cache_memory_bytes", 0):
        block = model.number("block_size", _GPU_BLOCK if model.spec.gpus_per_replica else _CPU_BLOCK)
        element = (model.precision or PLAIN["bfloat16"]).cache_bytes(_kv_dtype(model))
        held = memory // cache.block_bytes(shape, element, block, tensor, stages)
        needed = cache.blocks_per_request(shape, context, block, model.number("max_num_batched_tokens", 2048))
        if held < needed:
            size = ByteSize(memory).human_readable()
            yield (
                "kv_cache_memory",
                f"{size} holds {held:,} blocks of {block}; a request of {context:,} tokens needs {needed:,}",
            )


def longest_request(config: Mapping[str, Any]) -> int | None:
    """Return the tokens of the longest request that a config allows, or none when it is not plain to see."""
    config = {**config, **(config.get("text_config") or {})}
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) not in _PLAIN_ROPE:
        return None
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions")
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def of_the_gpu(model: Model) -> Iterator[str]:
    """Yield whether one request fits on the GPUs that the spec names. Raises ``WorkerError`` for an unknown GPU."""
    accelerator, shape, precision = model.spec.accelerator, model.shape, model.precision
    if accelerator is None or shape is None or precision is None or model.options.get("cpu_offload_gb"):
        return
    gpu = gpu_named(accelerator)
    context = model.number("max_model_len", shape.max_context)
    split = Split(model.number("tensor_parallel_size", 1), model.number("pipeline_parallel_size", 1))
    said = model.options.get("gpu_memory_utilization")
    utilization = said if isinstance(said, float) else _UTILIZATION
    engine = replica(shape, precision, gpu, Workload(context, 1, _kv_dtype(model), utilization), split)
    if not engine.requests:
        yield _too_large_for(gpu, engine.weight_bytes_per_gpu + engine.overhead_bytes_per_gpu, context, split)


def _too_large_for(gpu: Gpu, fixed_bytes: int, context: int, split: Split) -> str:
    gpus = split.tensor_parallel * split.pipeline_parallel
    return (
        f"does not fit on {gpus} x {gpu.name}: weights and runtime take {fixed_bytes / GIB:.1f} of "
        f"{gpu.memory_bytes / GIB:.1f} GiB on each, and not one request of {context:,} tokens fits beside them"
    )


def of_the_machine(models: list[Model], machine: Machine) -> Iterator[str]:
    """Yield what all replicas that start together need and this machine does not have."""
    starting = [model for model in models for _ in range(_first_replicas(model.spec))]
    cpus = sum(model.spec.cpus_per_replica for model in starting)
    if cpus > machine.cpus:
        yield f"the replicas reserve {cpus:g} CPUs and this machine has {machine.cpus}; lower `cpus_per_replica`"
    gpus = sum(model.spec.gpus_per_replica for model in starting)
    if gpus > machine.gpus:
        yield f"the replicas need {gpus} GPUs and this machine has {machine.gpus or 'none'}"
    on_cpu = [model for model in starting if model.spec.engine == "vllm" and not model.spec.gpus_per_replica]
    needed = sum(_memory_on_cpu(model, machine) for model in on_cpu)
    if needed > machine.available_bytes:
        greedy = [model.name for model in on_cpu if not model.number("kv_cache_memory_bytes", 0)]
        hint = f"; without `kv_cache_memory`, {greedy[0]} takes most of the machine" if greedy else ""
        yield (
            f"the replicas need {needed / GIB:.1f} GiB of memory and {machine.available_bytes / GIB:.1f} are free{hint}"
        )


def _first_replicas(spec: ModelSpec) -> int:
    # A model that begins at zero still has to fit when it is wanted.
    return spec.replicas if spec.autoscaling is None else max(1, spec.autoscaling.min_replicas)


def _memory_on_cpu(model: Model, machine: Machine) -> int:
    said = model.options.get("gpu_memory_utilization")
    if not (memory := model.number("kv_cache_memory_bytes", 0)):
        # vLLM takes this part of the whole machine then, and fills it with cache.
        return round(machine.memory_bytes * (said if isinstance(said, float) else _UTILIZATION))
    return _ENGINE_BYTES + memory + _weights(model)


def _weights(model: Model) -> int:
    if (shape := model.shape) is not None and (precision := model.precision) is not None:
        return round(weight_bytes(shape, precision))
    files = model.directory.glob("*.safetensors") if model.directory is not None else ()
    return sum(file.stat().st_size for file in files)


def _kv_dtype(model: Model) -> str:
    """Return the KV cache's precision in ``size``'s words: ``auto`` is the file's own."""
    said = str(model.options.get("kv_cache_dtype", "auto"))
    return "fp8" if said.startswith("fp8") else said
