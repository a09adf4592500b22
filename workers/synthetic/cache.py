"""The synthetic engine's KV cache: blocks of tokens; those of a prompt are found again by a hash of their content.

As vLLM's: a block's hash covers all before it, a block that no request holds stays until its room is needed; the one
left longest ago goes first. Unlike vLLM's, a request takes the blocks of its whole length at once, so nothing is ever
taken away from a running request; and what was answered is not found again, only what was asked.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class BlockLease:
    """The blocks that one request holds."""

    cached_tokens: int
    hashes: list[int]
    """Of the prompt's full blocks, in order; the first ``found`` were there."""
    found: int
    plain: int
    """Held blocks that cannot be found by others."""
    stored: list[int]
    """Hashes of the blocks that others can find now."""


class BlockCache:
    """Blocks, some held by requests, some idle but known by their hash, the others empty."""

    def __init__(self, blocks: int, block_size: int, *, prefix_caching: bool) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self._holders: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._plain = 0

    @property
    def usage(self) -> float:
        """The part of the blocks that requests hold, from 0 to 1."""
        return self._held / self.blocks

    def fits(self, tokens: int) -> bool:
        """Return whether a request of so many tokens, read and made, could run were it alone."""
        return self._count(tokens) <= self.blocks

    def hashes(self, words: Sequence[str]) -> list[int]:
        """Return the hashes of the full blocks of a prompt: what ``take`` looks for."""
        found: list[int] = []
        before = 0
        for at in range(self.block_size, len(words) + 1, self.block_size):
            before = hash((before, *words[at - self.block_size : at]))
            found.append(before)
        return found

    def take(self, hashes: list[int], prompt_tokens: int, tokens: int) -> BlockLease | None:
        """Hold the blocks for a prompt and ``tokens`` in all; None when there is not enough room now."""
        # One token of a prompt is always read: the first of the answer comes from it.
        reusable = hashes[: (prompt_tokens - 1) // self.block_size] if self.prefix_caching else []
        found = next((at for at, one in enumerate(reusable) if not self._known(one)), len(reusable))
        plain = self._count(tokens) - found
        revived = sum(one in self._idle for one in hashes[:found])
        if self._held + revived + plain > self.blocks:
            return None
        for one in hashes[:found]:
            self._idle.pop(one, None)
            self._holders[one] = self._holders.get(one, 0) + 1
        self._plain += plain
        while self._held + len(self._idle) > self.blocks:
            self._idle.popitem(last=False)
        return BlockLease(found * self.block_size, hashes, found, plain, hashes[:found])

    def store(self, lease: BlockLease) -> None:
        """Let others find the prompt's blocks: it has been read."""
        if not self.prefix_caching:
            return
        for one in lease.hashes[lease.found :]:
            if not self._known(one):  # else another request has read the same meanwhile, and this copy stays unknown
                self._holders[one] = 1
                lease.stored.append(one)
                lease.plain -= 1
                self._plain -= 1

    def give_back(self, lease: BlockLease) -> None:
        """Hold the blocks no more; what others can find stays while there is room."""
        self._plain -= lease.plain
        for one in reversed(lease.stored):  # the end of a prompt goes before its beginning, which more prompts share
            self._holders[one] -= 1
            if not self._holders[one]:
                del self._holders[one]
                self._idle[one] = None

    @property
    def _held(self) -> int:
        return len(self._holders) + self._plain

    def _known(self, one: int) -> bool:
        return one in self._holders or one in self._idle

    def _count(self, tokens: int) -> int:
        return -(-tokens // self.block_size)
