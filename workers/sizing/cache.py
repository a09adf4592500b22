"""Computes how large the KV cache of a request is, in the blocks that vLLM gives out.

The rules are those of vLLM 0.32 (``v1/kv_cache_interface.py``, ``v1/core/kv_cache_utils.py``); a test compares.
"""

from collections import Counter
from dataclasses import dataclass

from workers.sizing.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Group:
    """Layers with one block table. A block holds ``block_size`` tokens of up to ``layers`` layers of each group."""

    window: int | None
    layers: int


def groups(shape: Architecture) -> list[Group]:
    """Return the groups that vLLM makes of a model's layers: all of the same size, a rest is padded."""
    kinds = Counter(shape.windows)
    smallest, largest = min(kinds.values()), max(kinds.values())
    size = largest if largest < smallest * 1.5 else smallest
    return [Group(window, size) for window, layers in kinds.items() for _ in range(-(-layers // size))]


def bytes_per_token_and_layer(shape: Architecture, element_bytes: int, tensor_parallel: int = 1) -> int:
    """Return what one layer keeps of one token on one GPU. A latent, or the last key-value head, is not split."""
    if shape.latent is not None:
        return (shape.latent.kv_rank + shape.latent.rope) * element_bytes
    return 2 * max(1, shape.kv_heads // tensor_parallel) * shape.head_dim * element_bytes


def bytes_per_token(shape: Architecture, element_bytes: int) -> int:
    """Return what all layers keep of a token that all of them still see."""
    return shape.layers * bytes_per_token_and_layer(shape, element_bytes)


def block_bytes(
    shape: Architecture, element_bytes: int, block_size: int, tensor_parallel: int = 1, pipeline_parallel: int = 1
) -> int:
    """Return the bytes of one block on one GPU."""
    layers = -(-groups(shape)[0].layers // pipeline_parallel)
    return layers * block_size * bytes_per_token_and_layer(shape, element_bytes, tensor_parallel)


def blocks_per_request(shape: Architecture, context: int, block_size: int, tokens_in_flight: int) -> int:
    """Return the blocks that a request of ``context`` tokens holds at most, over all groups.

    A layer with a window keeps the window and what is being computed, which may begin within a block.
    """
    blocks = 0
    for group in groups(shape):
        if group.window is None:
            blocks += -(-context // block_size)
        else:
            kept = min(group.window - 1 + tokens_in_flight, context)
            blocks += -(-kept // block_size) + 1
    return blocks
