"""Which prompts of a trace begin alike, and what of a prompt a modelled cache has.

The prompts of a trace make one tree, built before anything runs: a node is a run of tokens that no prompt leaves in the
middle, and a prompt is the path from the root to its node. So a cache remembers nodes, and what it has of a prompt is
found by going up from the prompt's node to the first that it knows.

Text has no part in it: a token is a number, equal numbers are equal text behind an equal beginning.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from math import inf
from typing import NamedTuple

_TEXT_BYTES_PER_TOKEN = 1 / 16
"""The stand-in text of a prompt is short, and as alike as the prompts are: prefix fingerprints are made of it."""


class Run(NamedTuple):
    """The tokens numbered from ``start`` on, ``end`` itself outside."""

    start: int
    end: int


class Prefix:
    """A node of the tree: the prompt that ends here, or the part that several have in common."""

    __slots__ = ("children", "end_tokens", "number", "parent", "runs", "text")

    def __init__(self, parent: "Prefix | None", runs: Sequence[Run], number: int) -> None:
        self.parent = parent
        self.runs = runs
        self.number = number
        self.children: dict[int, Prefix] = {}
        """By the first token."""
        self.end_tokens: int = (0 if parent is None else parent.end_tokens) + length(runs)
        """From the beginning of the prompt to the end of this node."""
        self.text: str | None = None

    def path(self) -> "Iterator[Prefix]":
        """Yield this node and those before it, but for the root, which is nothing."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


class PrefixTree:
    """The prompts of one trace."""

    def __init__(self) -> None:
        self.root = Prefix(None, (), 0)
        self._nodes = 0

    def add(self, runs: Sequence[Run]) -> Prefix:
        """Return the node of a prompt. Nodes returned before stay what they are, whatever is added."""
        node = self.root
        while runs:
            child = node.children.get(runs[0].start)
            if child is None:
                child = node.children[runs[0].start] = self._made(node, runs)
                return child
            shared = in_common(child.runs, runs)
            if shared < length(child.runs):
                child = self._split(child, shared)
            runs = behind(runs, shared)
            node = child
        return node

    def _split(self, child: Prefix, at_tokens: int) -> Prefix:
        """Put a node before this one that ends after so many of its tokens."""
        before = child.parent or self.root
        middle = before.children[child.runs[0].start] = self._made(before, first(child.runs, at_tokens))
        child.runs = behind(child.runs, at_tokens)
        child.parent = middle
        middle.children[child.runs[0].start] = child
        return middle

    def _made(self, parent: Prefix, runs: Sequence[Run]) -> Prefix:
        self._nodes += 1
        return Prefix(parent, runs, self._nodes)


def text_of(prompt: Prefix) -> str:
    """Return a text that is as long as the prompt, in proportion, and begins like those that it begins like."""
    parts = []
    for node in prompt.path():
        if node.text is None:
            tokens = node.end_tokens - (node.parent.end_tokens if node.parent is not None else 0)
            word = f"{node.number:x}."
            size = max(len(word), int(tokens * _TEXT_BYTES_PER_TOKEN))
            node.text = (word * (size // len(word) + 1))[:size]
        parts.append(node.text)
    return "".join(reversed(parts))


def length(runs: Sequence[Run]) -> int:
    """Count the tokens."""
    return sum(run.end - run.start for run in runs)


def in_common(one: Sequence[Run], other: Sequence[Run]) -> int:
    """Count the tokens from the beginning that are the same."""
    shared = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine.start != theirs.start:
            break
        shared += min(mine.end, theirs.end) - mine.start
        if mine.end != theirs.end:
            return shared + _continued(one, other, shared)
    return shared


def _continued(one: Sequence[Run], other: Sequence[Run], shared: int) -> int:
    """Count on behind a place where a run of one ends and that of the other does not: the next may go on with it."""
    rest, others = behind(one, shared), behind(other, shared)
    return in_common(rest, others) if rest and others and rest[0].start == others[0].start else 0


def first(runs: Sequence[Run], tokens: int) -> list[Run]:
    """Return the first so many tokens."""
    kept = []
    for run in runs:
        if tokens <= 0:
            break
        kept.append(Run(run.start, min(run.end, run.start + tokens)))
        tokens -= run.end - run.start
    return kept


def behind(runs: Sequence[Run], tokens: int) -> list[Run]:
    """Return what is behind the first so many tokens."""
    kept = []
    for run in runs:
        size = run.end - run.start
        if tokens < size:
            kept.append(Run(run.start + max(0, tokens), run.end))
        tokens -= size
    return kept


class LifetimeCache:
    """A provider's prompt cache: it has what was used within its lifetime, and each use renews that."""

    def __init__(self, lifetime_s: float) -> None:
        self._lifetime_s = lifetime_s
        self._used_at_s: dict[Prefix, float] = {}

    def cached_tokens(self, prompt: Prefix, now_s: float) -> int:
        """Return how much of the prompt is there, from its beginning."""
        since_s = now_s - self._lifetime_s
        used_at_s = self._used_at_s
        return next((node.end_tokens for node in prompt.path() if used_at_s.get(node, -inf) >= since_s), 0)

    def use(self, prompt: Prefix, now_s: float) -> None:
        """Note that the prompt was read now."""
        self._used_at_s |= dict.fromkeys(prompt.path(), now_s)


class LruCache:
    """A replica's prefix cache: so many tokens, the ones used longest ago leave first, the ends of prompts before."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity_tokens = capacity_tokens
        self._tokens = 0
        self._nodes: OrderedDict[Prefix, int] = OrderedDict()

    def cached_tokens(self, prompt: Prefix) -> int:
        """Return how much of the prompt is there, from its beginning."""
        return next((node.end_tokens for node in prompt.path() if node in self._nodes), 0)

    def use(self, prompt: Prefix) -> None:
        """Note that the prompt was read now."""
        for node in prompt.path():
            if node in self._nodes:
                self._nodes.move_to_end(node)
            else:
                tokens = node.end_tokens - (node.parent.end_tokens if node.parent is not None else 0)
                self._nodes[node] = tokens
                self._tokens += tokens
        while self._tokens > self._capacity_tokens:
            self._tokens -= self._nodes.popitem(last=False)[1]
