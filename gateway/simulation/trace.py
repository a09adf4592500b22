"""Reads traces: files of requests without text, a row each. Everything is read and checked before anything runs.

A file whose name ends in ``.csv`` is one of Azure's (``TIMESTAMP,ContextTokens,GeneratedTokens``); any other has a JSON
object in each line: ``t`` (seconds), ``in`` and ``out`` (tokens), and where it is known ``session``, ``cap`` (the most
that may be written), ``took`` (seconds until the answer's end, as recorded; ``api_s`` is read too), and what of the
prompt was there before: ``shared``, the tokens from its beginning that the last prompt of the session began with, or
``blocks``, ranges of numbered blocks (``[[1, 155], [3789, 3800]]``, numbered within the session where there is one).
Mooncake's own names are read too: ``timestamp`` (ms), ``input_length``,
``output_length``, ``hash_ids``. Instead of a file, ``poisson:RATE,IN,OUT`` makes requests up.

Sources: github.com/Azure/AzurePublicDataset, AzureLLMInferenceDataset2023; github.com/kvcache-ai/Mooncake,
FAST25-release/traces.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from gateway.simulation.prefixes import Prefix, PrefixTree, Run, first, length

_MAX_TOKENS = 10_000_000
_MAX_S = 366 * 86_400
_MADE_REQUESTS = 1_000
_FRESH = 1 << 60
"""Numbers from here on are no file's: tokens that no other prompt has."""

Tokens = Annotated[int, Meta(ge=1, le=_MAX_TOKENS)]


class Row(Struct, frozen=True, kw_only=True):
    """One request of a trace."""

    at_s: float
    """From the first one."""
    input_tokens: int
    output_tokens: int
    session: str | None = None
    cap: int | None = None
    took_s: float | None = None
    """Until its end, when it was recorded."""
    prompt: Prefix

    @property
    def written_tokens(self) -> int:
        """What is written under the cap."""
        return self.output_tokens if self.cap is None else min(self.cap, self.output_tokens)


class TraceError(Exception):
    """What is wrong with a trace, in one sentence."""


class _Line(Struct):
    at: Annotated[float, Meta(ge=0, le=_MAX_S)] = msgspec.field(name="t", default=-1.0)
    read: Tokens = msgspec.field(name="in", default=0)
    wrote: Annotated[int, Meta(ge=0, le=_MAX_TOKENS)] = msgspec.field(name="out", default=-1)
    session: str | None = None
    cap: Tokens | None = None
    took: Annotated[float, Meta(ge=0, le=_MAX_S)] | None = None
    api_s: Annotated[float, Meta(ge=0, le=_MAX_S)] | None = None
    shared: Annotated[int, Meta(ge=0, le=_MAX_TOKENS)] | None = None
    blocks: list[tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0, lt=1 << 40)]]] | None = None
    timestamp: Annotated[float, Meta(ge=0, le=_MAX_S * 1e3)] = -1.0
    input_length: Tokens = 0
    output_length: Annotated[int, Meta(ge=0, le=_MAX_TOKENS)] = -1
    hash_ids: list[Annotated[int, Meta(ge=0, lt=1 << 40)]] | None = None


_line = msgspec.json.Decoder(_Line).decode


class _Request(Struct, frozen=True):
    """A row as it is read, before prompts are compared."""

    at_s: float
    input_tokens: int
    output_tokens: int
    session: str | None = None
    cap: int | None = None
    shared: int | None = None
    blocks: Sequence[tuple[int, int]] | None = None
    took_s: float | None = None


def read_trace(source: str, random: Random, limit: int | None = None) -> list[Row]:
    """Read a trace, or make one up, in the order of arrival, the first so many. Raises TraceError."""
    if source.startswith("poisson:"):
        requests = _made(source, random, limit or _MADE_REQUESTS)
    else:
        path = Path(source)
        read = _azure if path.suffix == ".csv" else _json_lines
        requests = list(read(path))
    if not requests:
        raise TraceError(f"{source}: the trace has no request.")
    requests.sort(key=lambda each: each.at_s)
    return _with_prompts(requests[:limit])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: is not UTF-8 text.") from None


def _json_lines(path: Path) -> Iterator[_Request]:
    for number, text in _lines(path):
        try:
            line = _line(text)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise TraceError(f"{path}:{number}: is no request: {error}.") from None
        at_s = line.at if line.at >= 0 else line.timestamp / 1e3
        read, wrote = line.read or line.input_length, max(line.wrote, line.output_length)
        missing = [name for name, there in (("t", at_s >= 0), ("in", read > 0), ("out", wrote >= 0)) if not there]
        if missing:
            raise TraceError(f"{path}:{number}: is no request: it has no `{missing[0]}`.")
        blocks = line.blocks
        if line.hash_ids is not None:
            blocks = [(each, each) for each in line.hash_ids]
        if any(end < start for start, end in blocks or ()):
            raise TraceError(f"{path}:{number}: is no request: a range of `blocks` ends before it begins.")
        took_s = line.api_s if line.took is None else line.took
        yield _Request(at_s, read, wrote, line.session, line.cap, line.shared, blocks, took_s)


def _azure(path: Path) -> Iterator[_Request]:
    begun: datetime | None = None
    for number, text in _lines(path):
        cells = text.strip().split(",")
        if number == 1:
            if cells != ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]:
                raise TraceError(f"{path}:1: should be TIMESTAMP,ContextTokens,GeneratedTokens.")
            continue
        try:
            at, read, wrote = datetime.fromisoformat(cells[0][:26]), int(cells[1]), int(cells[2])
        except (ValueError, IndexError):
            raise TraceError(f"{path}:{number}: is no request: it should be a time and two numbers.") from None
        begun = begun or at
        if len(cells) != 3 or not 1 <= read <= _MAX_TOKENS or not 0 <= wrote <= _MAX_TOKENS or at < begun:
            raise TraceError(f"{path}:{number}: is no request: it is out of order, or a number is out of bounds.")
        yield _Request((at - begun).total_seconds(), read, wrote)


def _made(source: str, random: Random, count: int) -> list[_Request]:
    """Make up arrivals at random, so many a second in the mean, and lengths about these (exponential)."""
    try:
        rate, read, wrote = map(float, source.removeprefix("poisson:").split(","))
    except ValueError:
        raise TraceError(f"{source}: should be three numbers, such as poisson:5,1000,200.") from None
    if not (0 < rate <= 1e6 and 1 <= read <= _MAX_TOKENS / 100 and 1 <= wrote <= _MAX_TOKENS / 100):
        raise TraceError(f"{source}: a number is out of bounds.")
    at_s = 0.0
    requests = []
    for _ in range(count):
        at_s += random.expovariate(rate)
        tokens = [max(1, round(random.expovariate(1 / mean))) for mean in (read, wrote)]
        requests.append(_Request(at_s, tokens[0], tokens[1]))
    return requests


def _with_prompts(requests: Sequence[_Request]) -> list[Row]:
    """Put the prompts into one tree."""
    tree = PrefixTree()
    block_tokens = _block_tokens(requests)
    fresh = _FRESH
    spaces: dict[str | None, int] = {}
    last: dict[str | None, Sequence[Run]] = {}
    rows = []
    for each in requests:
        runs: list[Run] = []
        if each.blocks is not None:
            base = spaces.setdefault(each.session, len(spaces)) << 50
            scaled = [Run(base + a * block_tokens, base + (b + 1) * block_tokens) for a, b in each.blocks]
            runs = first(scaled, each.input_tokens)
        elif each.shared is not None and each.session is not None:
            runs = first(last.get(each.session, ()), min(each.shared, each.input_tokens))
        if rest := each.input_tokens - length(runs):
            runs.append(Run(fresh, fresh + rest))
            fresh += rest
        last[each.session] = runs
        rows.append(
            Row(
                at_s=each.at_s - requests[0].at_s,
                input_tokens=each.input_tokens,
                output_tokens=max(1, each.output_tokens),
                session=each.session,
                cap=each.cap,
                took_s=each.took_s,
                prompt=tree.add(runs),
            )
        )
    return rows


def _block_tokens(requests: Sequence[_Request]) -> int:
    """Return the tokens of a block: the power of two that fits the longest prompt that has blocks."""
    known = [each for each in requests if each.blocks]
    if not known:
        return 1
    longest = max(known, key=lambda each: each.input_tokens)
    per_block = longest.input_tokens / sum(end - start + 1 for start, end in longest.blocks or ())
    return min((1 << bits for bits in range(14)), key=lambda size: abs(size - per_block))
