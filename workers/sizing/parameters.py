"""Counts a model's parameters, and the bytes that they take in each precision."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from workers.sizing.architecture import Architecture
from workers.sizing.precision import Precision


@dataclass(frozen=True, slots=True)
class Parameters:
    """A model's parameters by what quantisation does to them.

    ``linear`` can be quantised; ``kept`` (norms, biases, routers) and the two tables usually stay at 16 bits. ``head``
    is 0 when it is the embedding. ``absorbed`` is a second copy that vLLM makes of latent attention's up-projection.
    ``active`` is what one token passes through.
    """

    linear: int
    kept: int
    embedding: int
    head: int
    absorbed: int
    active: int

    @property
    def total(self) -> int:
        """Return what a model card counts."""
        return self.linear + self.kept + self.embedding + self.head


class Matrix(NamedTuple):
    """A linear layer, named as Llama's and DeepSeek's files name theirs; all experts of a layer are one of it.

    ``active`` is what one token passes through; ``replicated``: each GPU of a tensor-parallel group has it whole.
    """

    name: str
    parameters: int
    active: int
    replicated: bool = False


def matrices(shape: Architecture) -> Iterator[Matrix]:
    """Yield every linear layer of a model, its head left out; layers with experts come last."""
    attention = tuple(_attention(shape))
    moe_layers = 0 if shape.experts is None else shape.experts.layers
    for layer in range(shape.layers):
        block = f"model.layers.{layer}"
        for name, parameters, replicated in attention:
            yield Matrix(f"{block}.self_attn.{name}", parameters, parameters, replicated)
        for projection in ("gate_proj", "up_proj", "down_proj")[3 - shape.mlp_matrices :]:
            if (experts := shape.experts) is None or layer < shape.layers - moe_layers:
                yield Matrix(f"{block}.mlp.{projection}", dense := shape.hidden * shape.mlp_width, dense)
                continue
            each, shared = shape.hidden * experts.width, shape.hidden * experts.shared_width
            yield Matrix(f"{block}.mlp.experts.0.{projection}", each * experts.count, each * experts.active)
            if shared:
                yield Matrix(f"{block}.mlp.shared_experts.{projection}", shared, shared)


def _attention(shape: Architecture) -> Iterator[tuple[str, int, bool]]:
    """Yield one layer's attention: name, parameters, and whether each GPU holds them whole."""
    if (latent := shape.latent) is None:
        for name, heads in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads), ("o", shape.heads)):
            yield f"{name}_proj", shape.hidden * heads * shape.head_dim, False
        return
    query_out = shape.heads * (latent.nope + latent.rope)
    if latent.query_rank is None:
        yield "q_proj", shape.hidden * query_out, False
    else:
        yield "q_a_proj", shape.hidden * latent.query_rank, True
        yield "q_b_proj", latent.query_rank * query_out, False
    yield "kv_a_proj_with_mqa", shape.hidden * (latent.kv_rank + latent.rope), True
    yield "kv_b_proj", latent.kv_rank * shape.heads * (latent.nope + latent.value), False
    yield "o_proj", shape.heads * latent.value * shape.hidden, False


def count(shape: Architecture) -> Parameters:
    """Count the parameters of a model."""
    every = tuple(matrices(shape))
    router = 0
    if (experts := shape.experts) is not None:
        router = experts.layers * shape.hidden * (experts.count + (1 if experts.shared_width else 0))
    kept = shape.layers * shape.small_per_layer + router + 2 * shape.hidden
    embedding = (shape.vocabulary + shape.positions) * shape.hidden
    head = 0 if shape.tied else shape.vocabulary * shape.hidden
    return Parameters(
        linear=sum(matrix.parameters for matrix in every),
        kept=kept,
        embedding=embedding,
        head=head,
        absorbed=sum(matrix.parameters for matrix in every if matrix.name.endswith(".kv_b_proj")),
        active=sum(matrix.active for matrix in every) + kept + embedding + head,
    )


class _Held(NamedTuple):
    """Bytes of a model by how they are dealt to GPUs: split by both, by stages only, and the two tables."""

    split: float
    whole: float
    embedding: float
    head: float


@functools.lru_cache(maxsize=64)
def _held(shape: Architecture, precision: Precision) -> _Held:
    counted, row = count(shape), shape.hidden
    split = whole = 0.0
    for matrix in matrices(shape):
        held = matrix.parameters * precision.bytes_of(matrix.name, row)
        if matrix.replicated:
            whole += held
        else:
            split += held
    return _Held(
        split + counted.absorbed * precision.element_bytes,
        whole + counted.kept * precision.element_bytes,
        counted.embedding * precision.bytes_of("model.embed_tokens", row, table=True),
        counted.head * precision.bytes_of("lm_head", row, table=True),
    )


def weight_bytes(shape: Architecture, precision: Precision) -> float:
    """Return the bytes of all weights on one GPU."""
    return sum(_held(shape, precision))


def weight_bytes_per_gpu(
    shape: Architecture, precision: Precision, tensor_parallel: int, pipeline_parallel: int
) -> float:
    """Return the bytes of weights on the fullest GPU of a replica: layers are dealt evenly, tables go to the ends."""
    held = _held(shape, precision)
    tables = (held.embedding, held.head)
    table = sum(tables) if pipeline_parallel == 1 else max(tables)
    return (held.split / pipeline_parallel + table) / tensor_parallel + held.whole / pipeline_parallel
