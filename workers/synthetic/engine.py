"""Produces made-up tokens at a configured speed, by continuous batching as a real engine does.

It works in steps. In a step each running request makes one token, and what is left of the step's budget goes to prompts
that are still being read, in the order of arrival. It decides when a token is due, what waits and what is cached, and
counts; it knows nothing of HTTP. Everything around an engine can be tested on it without a model. Its clock is the
event loop's, so on a loop with a time of its own hours pass in milliseconds.
"""

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate

from workers.config.synthetic import SyntheticSpec
from workers.synthetic.cache import BlockCache, BlockLease

_WORDS = ("The", " toll", " is", " paid", " by", " the", " token", ",", " and", " every", " token", " counts", ".", " ")

# vLLM's.
_TTFT_BUCKETS: tuple[float, ...] = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
)
_TTFT_BUCKETS += (80.0, 160.0, 640.0, 2560.0)
_GAP_BUCKETS = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)


def token(index: int) -> str:
    """Return the text of the output token at ``index`` (from 0): the same for every request."""
    return _WORDS[index % len(_WORDS)]


class QueueFullError(Exception):
    """Raised when as many requests wait as may wait."""


class TooLongError(Exception):
    """Raised for a request that the whole cache could not hold."""


class SyntheticHistogram:
    """How often a time was within which bounds. Counting for a whole batch at once keeps it out of the way."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.count = 0

    def add(self, seconds: float, times: int = 1) -> None:
        """Count ``seconds`` so many times."""
        self._counts[bisect_left(self._bounds, seconds)] += times
        self.sum += seconds * times
        self.count += times

    def cumulated(self) -> list[tuple[str, int]]:
        """Return for each bound how many times were at most that, the last bound being ``+Inf``."""
        return list(zip([*map(str, self._bounds), "+Inf"], accumulate(self._counts), strict=True))


@dataclass(frozen=True, slots=True)
class SyntheticFigures:
    """What the engine says of itself. The counts are totals since its start."""

    running: int
    waiting: int
    kv_usage: float
    """The part of the cache that requests hold, from 0 to 1."""
    kv_tokens: int
    """The cache's capacity."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt tokens those that were found in the cache."""
    output_tokens: int
    ttft_sum_s: float
    """The times to first token, queueing included, and how many there were."""
    ttft_count: int


class Request:
    """One request inside the engine, from its arrival to its last token."""

    def __init__(self, prompt: Sequence[str], hashes: list[int], output_tokens: int, arrived: float) -> None:
        self.prompt_tokens = len(prompt)
        self.output_tokens = output_tokens
        self.cached_tokens = 0
        self.hashes = hashes
        self.arrived = arrived
        self.ready = 0.0
        """When its prompt may be read."""
        self.unread = len(prompt)
        self.made = 0
        self.news: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Wake the task that waits for this request."""
        if self.news is not None and not self.news.done():
            self.news.set_result(None)


class SyntheticEngine:
    """Produce tokens as ``spec`` says. Needs a running event loop from the first request on, and no start or stop."""

    def __init__(self, spec: SyntheticSpec) -> None:
        self._spec = spec
        self._tpot_s = spec.tpot_ms / 1000
        self._per_request_s = spec.tpot_per_request_ms / 1000
        self._per_prompt_token_s = 1 / spec.prefill_tokens_per_s if spec.prefill_tokens_per_s else 0.0
        self._stall = -1 if spec.faults.stall_after_tokens is None else spec.faults.stall_after_tokens
        self._running: dict[Request, BlockLease] = {}
        self._waiting: deque[Request] = deque()
        self._stepper: asyncio.Task[None] | None = None
        self.cache = BlockCache(spec.kv_blocks, spec.block_size, prefix_caching=spec.prefix_caching)
        self.ttft = SyntheticHistogram(_TTFT_BUCKETS)
        self.gaps = SyntheticHistogram(_GAP_BUCKETS)
        self._prompt_tokens = self._cached_tokens = self._output_tokens = 0

    def figures(self) -> SyntheticFigures:
        """Return what the engine does now and has done so far."""
        return SyntheticFigures(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=self.cache.usage,
            kv_tokens=self.cache.blocks * self.cache.block_size,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            output_tokens=self._output_tokens,
            ttft_sum_s=self.ttft.sum,
            ttft_count=self.ttft.count,
        )

    @asynccontextmanager
    async def request(self, prompt: Sequence[str], output_tokens: int) -> AsyncIterator[Request]:
        """Queue a request for a prompt of at least one token; leaving, also by cancellation, frees its slot at once.

        Raises ``QueueFullError`` instead of queueing when the queue is full, ``TooLongError`` when it can never run.
        """
        if not self.cache.fits(len(prompt) + output_tokens):
            raise TooLongError
        request = Request(prompt, self.cache.hashes(prompt), output_tokens, asyncio.get_running_loop().time())
        self._waiting.append(request)
        self._admit()
        if len(self._waiting) > self._spec.max_waiting:  # no other request can have come to wait
            self._waiting.pop()
            raise QueueFullError
        try:
            yield request
        finally:
            self._leave(request)

    async def tokens(self, request: Request) -> AsyncIterator[str]:
        """Yield the tokens as they are made. They are made at the engine's pace, however slowly they are taken.

        A token counts as output when it is taken, so that the engine's count is that of its answers, also of those
        whose caller left.
        """
        for index in range(request.output_tokens):
            while index == request.made:
                await self._news(request)
            self._output_tokens += 1
            yield token(index)

    async def read(self, request: Request) -> None:
        """Return when the prompt has been read; ``request.cached_tokens`` is known then."""
        while request.unread:
            await self._news(request)

    async def _news(self, request: Request) -> None:
        request.news = asyncio.get_running_loop().create_future()
        await request.news

    def _admit(self) -> None:
        """Let those who wait longest run, as many as there is room for."""
        while self._waiting and len(self._running) < self._spec.max_running:
            request = self._waiting[0]
            lease = self.cache.take(
                request.hashes, request.prompt_tokens, request.prompt_tokens + request.output_tokens
            )
            if lease is None:
                return
            self._waiting.popleft()
            self._running[request] = lease
            request.cached_tokens = lease.cached_tokens
            request.unread = request.prompt_tokens - lease.cached_tokens
            request.ready = asyncio.get_running_loop().time() + self._spec.ttft_ms / 1000
            if self._stepper is None or self._stepper.done():
                self._stepper = asyncio.create_task(self._steps())

    def _leave(self, request: Request) -> None:
        """End a request wherever it is; once is enough."""
        if (lease := self._running.pop(request, None)) is not None:
            self.cache.give_back(lease)
        elif request in self._waiting:
            self._waiting.remove(request)
        self._admit()
        if not self._running and self._stepper is not None and self._stepper is not asyncio.current_task():
            self._stepper.cancel()
            self._stepper = None

    async def _steps(self) -> None:
        """Work until no request can go on. ``at`` is the engine's own time: a late wake-up does not add up."""
        time = asyncio.get_running_loop().time
        at = before = time()
        while True:
            making, reading = self._batch(at)
            if not making and not reading:
                at = min((one.ready for one in self._running if one.unread), default=-1.0)
                if at < 0:
                    return
                await asyncio.sleep(max(0.0, at - time()))
                continue
            step_s = self._per_prompt_token_s * sum(reading.values())
            if making:
                step_s += self._tpot_s + self._per_request_s * (len(making) - 1)
            at += step_s
            # Also when there is nothing to wait for: the tasks that take the tokens run between two steps.
            await asyncio.sleep(max(0.0, at - time()))
            now = time()
            if now - at > step_s:  # later than a step: the machine is too slow, and the engine is then, too
                at = now
            here = [one for one in making if one in self._running]
            self.gaps.add(now - before, len(here))
            before = now
            for request in here:
                self._make(request)
            for request, count in reading.items():
                if request in self._running:
                    self._read(request, count, now)

    def _batch(self, at: float) -> tuple[list[Request], dict[Request, int]]:
        """Return which requests make a token in the next step, and how much of which prompts is read in it."""
        making = [one for one in self._running if one.made and one.made != self._stall]
        reading: dict[Request, int] = {}
        budget = self._spec.max_batched_tokens - len(making)
        for one in self._running:
            if one.unread and one.ready <= at and budget > 0:
                reading[one] = min(one.unread, budget)
                budget -= reading[one]
        return making, reading

    def _read(self, request: Request, count: int, now: float) -> None:
        request.unread -= count
        if request.unread:
            return
        self.cache.store(self._running[request])
        self._prompt_tokens += request.prompt_tokens
        self._cached_tokens += request.cached_tokens
        self.ttft.add(now - request.arrived)
        if self._stall != 0:
            self._make(request)

    def _make(self, request: Request) -> None:
        """Make a token, the last of which ends the request; one that asks for none ends with its prompt."""
        request.made = min(request.made + 1, request.output_tokens)
        request.wake()
        if request.made == request.output_tokens:
            self._leave(request)
