"""Fingerprints of prompts: so much of two as is alike from the beginning can be told from hashes alone.

A prompt is a chain of hashes, each over a chunk and the hash before it, so that two prompts have as many hashes in
common as chunks from their beginning. Chunks begin at 64 bytes, about one block of 16 tokens, and grow with the
distance from the start: each is at most a sixteenth of what precedes it. So a match is exact to within 6%, of short
prompts to a block, and 128k tokens have 119 chunks, where chunks of one size would be thousands or too coarse. Their
ends do not depend on the prompt's length.

Beside the chain, a prompt's own *ends* are known to the byte: where its messages end, and where clients of Anthropic's
dialect set ``cache_control``. The next turn of a conversation goes on behind them. The marks themselves are taken out
of what is hashed, for in the next turn they stand at other messages.

Hashes are Python's own of bytes: SipHash under a key of this process, so no caller can forge a match, and at 512 KB
no dearer than reading the bytes. They mean nothing in another process.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from gateway.formats.anthropic.conversation import BILLING_HEADER

_FIRST_CHUNK_BYTES = 64
_GROWTH = 16
_LARGEST_BYTES = 1 << 30
_READ_FIRST = ("tools", "functions", "system", "instructions", "messages", "input", "prompt")
"""What the model reads, in the order in which most chat templates put it."""
_UNREAD = re.compile(rb"\s*(?:\[\s*\{[^{}]{0,64}?)?" + BILLING_HEADER.pattern)
"""The client's own at the front of a ``system``: it may differ in each call, and is not sent on to replicas."""
_MARK = b'"cache_control"'
_HOUR = b'"1h"'
_MOST_MARKS = 4
"""Anthropic takes no more; of a body with more the last ones count."""
_MOST_LOOKED_AT = 256
"""A body that has the word more often is no client's: reading each would hold the event loop up."""
_BETWEEN = b" \t\r\n,"
_CLOSING = b' \t\r\n]"'


def _chunk_ends() -> tuple[int, ...]:
    ends = [_FIRST_CHUNK_BYTES]
    while ends[-1] < _LARGEST_BYTES:
        ends.append(ends[-1] + max(_FIRST_CHUNK_BYTES, ends[-1] // _GROWTH))
    return tuple(ends)


CHUNK_ENDS = _chunk_ends()


class End(NamedTuple):
    """A place in a prompt where one that goes on with it may begin to differ."""

    size_bytes: int
    chunks: int
    """Whole ones before it."""
    tail: int
    """The hash of what lies between."""
    for_an_hour: bool = False


class Prompt(Struct, frozen=True):
    """A prompt's fingerprint."""

    tokens: int
    """Estimated; spread evenly over the bytes, so that an image's megabyte counts as the image."""
    size_bytes: int
    chain: Sequence[int]
    """A hash for each whole chunk, the last one first. What is left at the end is too short to be looked for."""
    end: End | None = None
    """Of its messages, before what JSON closes with."""
    marks: tuple[End, ...] = ()
    """Its ``cache_control`` marks in order."""
    cache_key: int = 0
    """The hash of its ``prompt_cache_key``."""

    def tokens_in(self, chunks: int) -> int:
        """Return how many tokens the first so many chunks hold."""
        return CHUNK_ENDS[chunks - 1] * self.tokens // self.size_bytes if chunks else 0

    def tokens_to(self, size_bytes: int) -> int:
        """Return how many tokens the first so many bytes hold."""
        return size_bytes * self.tokens // self.size_bytes

    def chain_of(self, model: str) -> "Prompt":
        """Return it as one of a model, by the name that the engine answers to: adapters of a model share no cache."""
        return Prompt(self.tokens, self.size_bytes, [hash((model, link)) for link in self.chain])


def fingerprint(members: Mapping[str, bytes], tokens: int) -> tuple[Prompt, bytes]:
    """Read the raw members of a request's body, as ``Envelope.members`` has them; ``tokens`` is their estimated number.

    Returns the text that was hashed, too, for looking up ends that others left in it.
    """
    parts = {name: members[name] for name in _READ_FIRST if name in members}
    if (system := parts.get("system")) is not None and (unread := _UNREAD.match(system)) is not None:
        parts["system"] = system[unread.end() :]
    text, marks = _without_marks(b"".join(parts.values()))
    # Prompts with another salt share nothing (vLLM, ``cache_salt``).
    chain, link, start, size = [], hash(members.get("cache_salt")), 0, len(text)
    for chunk_end in CHUNK_ENDS:
        if chunk_end > size:
            break
        link = hash((link, text[start:chunk_end]))
        chain.append(link)
        start = chunk_end
    end = _end_at(text, len(text.rstrip(_CLOSING)), len(chain))
    if (whole := members.get("cache_control", b"null")) != b"null":  # marks the last block of all
        marks.append((end.size_bytes, _HOUR in whole))
    return Prompt(
        tokens,
        size,
        chain[::-1],
        end,
        tuple([_end_at(text, at, len(chain), for_an_hour=hour) for at, hour in marks[-_MOST_MARKS:]]),
        hash(members.get("prompt_cache_key")),
    ), text


def _end_at(text: bytes, size: int, chunks: int, *, for_an_hour: bool = False) -> End:
    while chunks and CHUNK_ENDS[chunks - 1] > size:
        chunks -= 1
    start = CHUNK_ENDS[chunks - 1] if chunks else 0
    return End(size, chunks, hash(text[start:size]), for_an_hour)


def _without_marks(text: bytes) -> tuple[bytes, list[tuple[int, bool]]]:
    """Take the marks out; return where they stood in what is left, and whether each is for an hour.

    Within a JSON string the mark's own quotes are escaped, so no text is taken for one.
    """
    if not 0 < text.count(_MARK) <= _MOST_LOOKED_AT:
        return text, []
    first, *others = text.split(_MARK)
    kept, size, marks = [first.rstrip(_BETWEEN)], len(first.rstrip(_BETWEEN)), []
    for number, part in enumerate(others, 1):
        mark, brace, rest = part.partition(b"}")
        if not brace or b"{" not in mark:  # ``null``, or a text that reads like it
            rest = part
        else:
            marks.append((size, _HOUR in mark))
        if kept[-1].endswith(b"{"):  # it was the first member
            rest = rest.lstrip(_BETWEEN)
        if number < len(others):
            rest = rest.rstrip(_BETWEEN)
        kept.append(rest)
        size += len(rest)
    return b"".join(kept), marks
