"""Read one answer of ``/v1/chat/completions`` as its caller does: when content came, how much, and what it cost."""

import time
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

COST_HEADER = "x-tollway-cost-usd"
"""Of an unstreamed answer; a stream says it in its last comment. Without the gateway there is neither."""
_COST_COMMENT = f": {COST_HEADER} ".encode()


class AnswerError(Exception):
    """An answer that is not a whole completion."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer. Times are of ``time.perf_counter``."""

    tokens: int
    """Of the output, by ``usage``."""
    cost_nano_usd: int | None
    ended_s: float
    content_s: tuple[float, float] | None = None
    """When a stream's first and last content came; None: not streamed."""

    @property
    def tpot_ms(self) -> float | None:
        """(last - first) / (tokens - 1); None without a stream or for fewer than two tokens."""
        if self.content_s is None or self.tokens < 2:
            return None
        return (self.content_s[1] - self.content_s[0]) * 1000 / (self.tokens - 1)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None

    @property
    def bears_content(self) -> bool:
        return bool(self.content or self.reasoning_content or self.reasoning or self.tool_calls)


class _Choice(msgspec.Struct):
    delta: _Delta


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Whole(msgspec.Struct):
    choices: list[msgspec.Raw]
    usage: _Usage


class _ErrorText(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _ErrorText


def read_stream(lines: Iterable[bytes]) -> Answer:
    """Read server-sent events to their end. Raises ``AnswerError``, or ``msgspec.DecodeError`` for what is no chunk."""
    first = last = tokens = cost = None
    done = False
    for line in lines:
        if line.startswith(_COST_COMMENT):
            cost = _nano_usd(line.removeprefix(_COST_COMMENT).decode())
        data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        if data == b"[DONE]":
            done = True
        elif data:
            chunk = msgspec.json.decode(data, type=_Chunk)
            if chunk.error is not None:
                raise AnswerError(msgspec.json.encode(chunk.error).decode()[:200])
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
            if any(choice.delta.bears_content for choice in chunk.choices):
                last = time.perf_counter()
                first = last if first is None else first
    if not done:
        raise AnswerError("the stream ended without [DONE]")
    if first is None or last is None or tokens is None:
        raise AnswerError("the stream had no content or no usage")
    return Answer(tokens, cost, time.perf_counter(), (first, last))


def read_whole(body: bytes, cost_usd: str | None) -> Answer:
    """Read an unstreamed answer; ``cost_usd`` is its ``COST_HEADER``. Raises ``msgspec.DecodeError``."""
    ended_s = time.perf_counter()
    whole = msgspec.json.decode(body, type=_Whole)
    return Answer(whole.usage.completion_tokens, None if cost_usd is None else _nano_usd(cost_usd), ended_s)


def refusal(status: int, body: bytes) -> str:
    """Say why a request was refused, in words that are the same for every request refused for this reason."""
    try:
        text = msgspec.json.decode(body, type=_ErrorBody).error.message
    except msgspec.DecodeError:
        text = body.decode(errors="replace")
    return f"{status}: {text[:200]}"


def _nano_usd(usd: str) -> int:
    return int(Decimal(usd.strip()) * 10**9)
