"""A modelled provider: one model behind an API, with its latency, its prompt cache, its rate limits and its bad hours.

    TTFT = (a + b x uncached tokens + c x tokens) x exp(spread)

The spread has two parts: one that all calls of a time share, and that drifts (AR(1) in the logarithm, by the time that
has passed), and one of each call alone. Load changes nothing: a provider is large, but for the limits of an account.
What it costs is the tariff's affair, in the gateway as always. Not modelled: tokens that a limit counts as they are
written, and what a cache does within an answer's first seconds, but for this: it has a prompt once the answer begins.
"""

import asyncio
from collections.abc import Callable
from math import ceil, exp, sqrt
from random import Random

from gateway.config.simulation import EpisodeSection, SimulatedProviderSection
from gateway.simulation.dialects import Dialect, Read
from gateway.simulation.prefixes import LifetimeCache
from gateway.simulation.trace import Row
from gateway.simulation.transport import ModelledStream

PIECE_S = 5.0
"""An answer comes in few pieces, which cost the simulation time; no two are further apart."""


class ProviderModel:
    """One model of a provider. ``bills_writes``: what is written to the prompt cache is reported apart."""

    def __init__(self, section: SimulatedProviderSection, random: Random, *, bills_writes: bool) -> None:
        self._section = section
        self._random = random
        self._bills_writes = bills_writes
        self._loop = asyncio.get_running_loop()
        self._cache = LifetimeCache(section.cache_lifetime_s)
        self._requests = Allowance(section.requests_per_minute)
        self._input_tokens = Allowance(section.input_tokens_per_minute)
        self._drift = random.gauss(0, 1)
        self._drifted_at_s = 0.0

    def answer(self, row: Row, dialect: Dialect) -> ModelledStream:
        """Answer one request of the trace."""
        section, now_s = self._section, self._loop.time()
        episode = next((each for each in section.episodes if each.from_s <= now_s < each.to_s), None)
        if episode is not None and episode.status is not None:
            return refusal(dialect, episode.status, "The model is overloaded.", {})
        cached = 0
        is_cacheable = section.cache_lifetime_s > 0 and row.input_tokens >= section.cache_minimum_tokens
        if is_cacheable:
            cached = min(self._cache.cached_tokens(row.prompt, now_s), row.input_tokens - 1)
            cached = cached if cached >= section.cache_minimum_tokens else 0
        uncached = row.input_tokens - cached
        wait_s = max(self._requests.wait_s(1, now_s), self._input_tokens.wait_s(uncached, now_s))
        headers = self._headers(dialect, wait_s)
        if wait_s > 0:
            return refusal(dialect, 429, "The rate limit is reached.", headers | {"retry-after": str(ceil(wait_s))})
        self._requests.take(1)
        self._input_tokens.take(uncached)
        read = Read(row.input_tokens, cached, uncached if is_cacheable and self._bills_writes else 0)
        ttft_s, tpot_s = self._latency_s(row, uncached, episode, now_s)
        stream = ModelledStream(headers={"content-type": "text/event-stream", **headers})

        def begun() -> None:
            if is_cacheable:
                self._cache.use(row.prompt, self._loop.time())

        _Answer(stream, dialect, read, row.written_tokens).begin(ttft_s, tpot_s, begun)
        return stream

    def _latency_s(self, row: Row, uncached: int, episode: EpisodeSection | None, now_s: float) -> tuple[float, float]:
        section, random = self._section, self._random
        keep = exp((self._drifted_at_s - now_s) / section.alike_s)
        self._drift = keep * self._drift + sqrt(1 - keep * keep) * random.gauss(0, 1)
        self._drifted_at_s = now_s
        residual = sqrt(section.alike) * self._drift + sqrt(1 - section.alike) * random.gauss(0, 1)
        line_ms = (
            section.ttft_ms
            + section.ttft_ms_per_1k_uncached * uncached / 1e3
            + section.ttft_ms_per_1k_input * row.input_tokens / 1e3
        )
        slower = 1.0 if episode is None else episode.slower
        ttft_s = line_ms / 1e3 * slower * exp(section.ttft_spread * residual)
        return ttft_s, section.tpot_ms / 1e3 * slower * exp(section.tpot_spread * random.gauss(0, 1))

    def _headers(self, dialect: Dialect, wait_s: float) -> dict[str, str]:
        limit = self._requests.per_minute
        return {} if limit is None else dict(dialect.allowance(limit, int(self._requests.left), wait_s))


class Allowance:
    """What a limit per minute leaves: it refills evenly, up to a minute's worth. A prompt above that passes alone."""

    def __init__(self, per_minute: int | None) -> None:
        self.per_minute = per_minute
        self.left = float(per_minute or 0)
        self._at_s = 0.0

    def wait_s(self, amount: int, now_s: float) -> float:
        """Return after how many seconds there is room for so much; 0: there is now."""
        if self.per_minute is None:
            return 0.0
        per_s = self.per_minute / 60
        self.left = min(float(self.per_minute), self.left + (now_s - self._at_s) * per_s)
        self._at_s = now_s
        return max(0.0, min(amount, self.per_minute) - self.left) / per_s

    def take(self, amount: int) -> None:
        """Use so much."""
        self.left -= amount


class _Answer:
    """One answer on its way: the first token, pieces, the end."""

    def __init__(self, stream: ModelledStream, dialect: Dialect, read: Read, output_tokens: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._dialect = dialect
        self._read = read
        self._tokens = output_tokens
        stream.left = self._leave

    def begin(self, ttft_s: float, tpot_s: float, begun: Callable[[], None]) -> None:
        """Set the first timer; ``begun`` is called at the first token."""
        began_s = self._loop.time() + ttft_s
        self._end_s = began_s + tpot_s * (self._tokens - 1)
        self._timer = self._loop.call_at(began_s, self._first, begun)

    def _first(self, begun: Callable[[], None]) -> None:
        begun()
        self._go_on(self._dialect.begin(self._read))

    def _go_on(self, data: bytes) -> None:
        """Write, and set the next timer; a first token that is the last ends the answer at once."""
        now_s = self._loop.time()
        if self._tokens == 1:
            self._stream.feed(data + self._dialect.end(self._read, 1), last=True)
            return
        self._stream.feed(data)
        if self._end_s - now_s > PIECE_S:
            self._timer = self._loop.call_at(now_s + PIECE_S, self._more)
        else:
            self._timer = self._loop.call_at(self._end_s, self._last)

    def _more(self) -> None:
        self._go_on(self._dialect.piece())

    def _last(self) -> None:
        self._stream.feed(self._dialect.piece() + self._dialect.end(self._read, self._tokens), last=True)

    def _leave(self) -> None:
        self._timer.cancel()


def refusal(dialect: Dialect, status: int, message: str, headers: dict[str, str]) -> ModelledStream:
    """Make an answer that is an error."""
    stream = ModelledStream(status, {"content-type": "application/json", **headers})
    stream.feed(dialect.error(message), last=True)
    return stream
