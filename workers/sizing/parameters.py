"""How many parameters a model has, and the bytes they take in each precision."""

from dataclasses import dataclass

from workers.sizing.architecture import Architecture

DTYPES = ("float32", "float16", "bfloat16", "int8", "fp8", "fp4")
_SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "half": "float16", "nvfp4": "fp4"}


@dataclass(frozen=True, slots=True)
class Parameters:
    """A model's parameters by what quantisation does to them.

    ``linear`` can be quantised; ``kept`` (norms, biases, routers) and the two tables stay at 16 bits. ``head`` is 0
    when it is the embedding. ``absorbed`` is a second copy that vLLM makes of latent attention's up-projection.
    ``replicated`` is the part of ``linear`` that every GPU of a tensor-parallel group holds. ``active`` is what one
    token passes through.
    """

    linear: int
    kept: int
    embedding: int
    head: int
    absorbed: int
    replicated: int
    active: int

    @property
    def total(self) -> int:
        """Return what a model card counts."""
        return self.linear + self.kept + self.embedding + self.head


def dtype_named(name: str) -> str | None:
    """Return the precision that a name or its usual short form means, or none."""
    full = _SHORT.get(name.lower(), name.lower())
    return full if full in DTYPES else None


def activation_bytes(dtype: str) -> int:
    """Return the bytes of one element of activations, and of a KV cache that is not quantised."""
    return 4 if dtype == "float32" else 2


def count(shape: Architecture) -> Parameters:
    """Count the parameters of a model."""
    attention, replicated, absorbed = _attention(shape)
    matrix = shape.hidden * shape.mlp_matrices
    sparse, active, router = 0, 0, 0
    moe_layers = 0
    if (experts := shape.experts) is not None:
        moe_layers = experts.layers
        sparse = moe_layers * matrix * (experts.count * experts.width + experts.shared_width)
        active = moe_layers * matrix * (experts.active * experts.width + experts.shared_width)
        router = moe_layers * shape.hidden * (experts.count + (1 if experts.shared_width else 0))
    dense = (shape.layers - moe_layers) * matrix * shape.mlp_width
    kept = shape.layers * shape.small_per_layer + router + 2 * shape.hidden
    embedding = (shape.vocabulary + shape.positions) * shape.hidden
    head = 0 if shape.tied else shape.vocabulary * shape.hidden
    linear = shape.layers * attention + dense + sparse
    return Parameters(
        linear=linear,
        kept=kept,
        embedding=embedding,
        head=head,
        absorbed=shape.layers * absorbed,
        replicated=shape.layers * replicated,
        active=linear - sparse + active + kept + embedding + head,
    )


def _attention(shape: Architecture) -> tuple[int, int, int]:
    """Return one layer's attention parameters, those that each GPU holds whole, and those that are held twice."""
    if (latent := shape.latent) is None:
        query = shape.hidden * shape.heads * shape.head_dim
        return 2 * query + 2 * shape.hidden * shape.kv_heads * shape.head_dim, 0, 0
    query_out = shape.heads * (latent.nope + latent.rope)
    down = shape.hidden * (latent.kv_rank + latent.rope)
    up = latent.kv_rank * shape.heads * (latent.nope + latent.value)
    output = shape.heads * latent.value * shape.hidden
    if latent.query_rank is None:
        return shape.hidden * query_out + down + up + output, down, up
    down += shape.hidden * latent.query_rank
    return latent.query_rank * query_out + down + up + output, down, up


def linear_bytes(parameters: int, dtype: str, row: int) -> float:
    """Return the bytes of quantisable parameters, scales included; ``row`` is the length of a row.

    int8 has a float32 scale per row, fp8 one per block of 128 x 128, fp4 (NVFP4) an 8-bit scale per 16 elements.
    """
    per_parameter = {"float32": 4.0, "int8": 1 + 4 / row, "fp8": 1 + 4 / 128**2, "fp4": 0.5 + 1 / 16}.get(dtype, 2.0)
    return parameters * per_parameter


def weight_bytes(parameters: Parameters, dtype: str, row: int) -> float:
    """Return the bytes of all weights on one GPU."""
    kept = parameters.kept + parameters.embedding + parameters.head + parameters.absorbed
    return linear_bytes(parameters.linear, dtype, row) + kept * activation_bytes(dtype)


def weight_bytes_per_gpu(
    parameters: Parameters, dtype: str, row: int, tensor_parallel: int, pipeline_parallel: int
) -> float:
    """Return the bytes of weights on the fullest GPU of a replica: layers are dealt evenly, tables go to the ends."""
    element = activation_bytes(dtype)
    split = linear_bytes(parameters.linear - parameters.replicated, dtype, row) + parameters.absorbed * element
    whole = linear_bytes(parameters.replicated, dtype, row) + parameters.kept * element
    tables = (parameters.embedding, parameters.head)
    table = (sum(tables) if pipeline_parallel == 1 else max(tables)) * element
    return (split / pipeline_parallel + table) / tensor_parallel + whole / pipeline_parallel
