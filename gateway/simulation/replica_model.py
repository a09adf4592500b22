"""A modelled replica: an engine with continuous batching, as a fluid between its events.

Time goes by in steps. Each writes one token of every running answer and reads, beside that, a chunk of the one prompt
whose turn it is:

    step = w + h x running + (chunk / prefill rate, while there is a prompt to be read)

Between two events (a prompt is read, an answer ends, a request comes or goes) the step is the same, so what was read
and written is a matter of division, and an event costs the logarithm of what runs. Requests wait while there are too
many or their tokens would not fit into memory, in the order of arrival. The prefix cache has what was read, up to its
size, the oldest leave first. Not modelled: preemption, memory that cache and requests share, and written text that is
read again.
"""

import asyncio
from collections import deque
from heapq import heappop, heappush
from itertools import count

from gateway.config.simulation import SimulatedReplicaSection
from gateway.fleet import LoadReport, Tally
from gateway.simulation.dialects import Dialect, Read
from gateway.simulation.prefixes import LruCache
from gateway.simulation.provider_model import PIECE_S, refusal
from gateway.simulation.trace import Row
from gateway.simulation.transport import ModelledStream

_WINDOW_S = 60.0
_NEGLIGIBLE_TOKENS = 1e-3
_SOONEST_S = 1e-6
"""Timers may fire a nanosecond early, and what is left then must not set one that does not move time."""


class _Work:
    """One request at the engine."""

    __slots__ = ("dialect", "has_left", "is_running", "piece", "read", "row", "stream", "tokens", "unread")

    def __init__(self, row: Row, dialect: Dialect, stream: ModelledStream) -> None:
        self.row = row
        self.dialect = dialect
        self.stream = stream
        self.tokens = row.written_tokens
        self.read = Read(row.input_tokens, 0)
        self.unread = float(row.input_tokens)
        self.piece: asyncio.TimerHandle | None = None
        self.is_running = self.has_left = False

    @property
    def memory_tokens(self) -> int:
        return self.row.input_tokens + self.tokens


class ReplicaModel:
    """One replica. ``name`` is that of its model."""

    def __init__(self, replica_id: str, name: str, section: SimulatedReplicaSection) -> None:
        self.id = replica_id
        self._name = name
        self._section = section
        self._loop = asyncio.get_running_loop()
        self._cache = LruCache(section.kv_tokens)
        self._waiting: deque[_Work] = deque()
        self._reading: deque[_Work] = deque()
        self._writing: list[tuple[float, int, _Work]] = []
        """By where ``_written`` will be at their end."""
        self._numbers = count()
        self._running = self._memory_tokens = 0
        self._written = 0.0
        """Tokens that an answer would have that was written all the time."""
        self._at_s = self._began_s = self._loop.time()
        self._busy_s = 0.0
        self._prompt_tokens = self._cached_tokens = self._output_tokens = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tallies: deque[tuple[float, Tally]] = deque()

    @property
    def in_flight(self) -> int:
        """Requests that are here."""
        return self._running + len(self._reading) + len(self._waiting)

    def answer(self, row: Row, dialect: Dialect) -> ModelledStream:
        """Answer one request of the trace."""
        if len(self._waiting) >= self._section.max_waiting:
            return refusal(dialect, 503, "The replica has as many requests as it takes.", {"retry-after": "1"})
        self._advance()
        stream = ModelledStream()
        work = _Work(row, dialect, stream)
        stream.left = lambda: self._leave(work)
        self._waiting.append(work)
        self._proceed()
        return stream

    def report(self) -> LoadReport:
        """Say how busy it is, as a replica's ``/tollway/load`` does."""
        self._advance()
        now_s = self._at_s
        total = Tally(
            up_s=now_s - self._began_s,
            busy_s=self._busy_s,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            output_tokens=self._output_tokens,
        )
        tallies = self._tallies
        tallies.append((now_s, total))
        while len(tallies) > 1 and tallies[0][0] < now_s - _WINDOW_S:
            tallies.popleft()
        before = tallies[0][1]
        window = Tally(
            up_s=total.up_s - before.up_s,
            busy_s=total.busy_s - before.busy_s,
            prompt_tokens=self._prompt_tokens - (before.prompt_tokens or 0),
            cached_tokens=self._cached_tokens - (before.cached_tokens or 0),
            output_tokens=self._output_tokens - (before.output_tokens or 0),
        )
        section = self._section
        return LoadReport(
            id=self.id,
            model=self._name,
            state="ready",
            in_flight=self.in_flight,
            limit=section.max_running + section.max_waiting,
            total=total,
            window=window,
            running=self._running + len(self._reading),
            waiting=len(self._waiting),
            kv_usage=min(1.0, self._memory_tokens / section.kv_tokens),
            kv_tokens=section.kv_tokens,
        )

    def _step_s(self) -> float:
        section = self._section
        step_ms = section.step_ms + section.step_ms_per_running * self._running
        if self._reading:
            step_ms += 1e3 * section.step_prompt_tokens / section.prefill_tokens_per_s
        return step_ms / 1e3

    def _advance(self) -> None:
        """Bring what was read and written up to now."""
        now_s = self._loop.time()
        passed_s = now_s - self._at_s
        self._at_s = now_s
        if passed_s <= 0 or not (self._running or self._reading):
            return
        self._busy_s += passed_s
        steps = passed_s / self._step_s()
        self._written += steps
        if self._reading:
            self._reading[0].unread -= steps * self._section.step_prompt_tokens

    def _proceed(self) -> None:
        """Do what is due, and set the timer to what comes next."""
        while self._reading and self._reading[0].unread <= _NEGLIGIBLE_TOKENS:
            self._begin(self._reading.popleft())
        while self._writing and self._writing[0][0] <= self._written + _NEGLIGIBLE_TOKENS:
            self._end(heappop(self._writing)[2])
        self._admit()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        steps = []
        if self._reading:
            steps.append(self._reading[0].unread / self._section.step_prompt_tokens)
        if self._writing:
            steps.append(self._writing[0][0] - self._written)
        if steps:
            self._timer = self._loop.call_at(self._at_s + max(min(steps) * self._step_s(), _SOONEST_S), self._due)

    def _due(self) -> None:
        self._timer = None
        self._advance()
        self._proceed()

    def _admit(self) -> None:
        section = self._section
        while self._waiting and self._running + len(self._reading) < section.max_running:
            work = self._waiting[0]
            is_alone = not (self._running or self._reading)
            if self._memory_tokens + work.memory_tokens > section.kv_tokens and not is_alone:
                return
            self._waiting.popleft()
            cached = min(self._cache.cached_tokens(work.row.prompt), work.row.input_tokens - 1)
            work.read = Read(work.row.input_tokens, cached)
            work.unread = float(work.row.input_tokens - cached)
            self._memory_tokens += work.memory_tokens
            self._reading.append(work)

    def _begin(self, work: _Work) -> None:
        """Say the first token: the prompt is read."""
        self._cache.use(work.row.prompt)
        self._prompt_tokens += work.row.input_tokens
        self._cached_tokens += work.read.cached_tokens
        self._output_tokens += 1
        work.is_running = True
        self._running += 1
        work.stream.feed(work.dialect.begin(work.read))
        work.piece = self._loop.call_later(PIECE_S, self._say, work)
        heappush(self._writing, (self._written + work.tokens - 1, next(self._numbers), work))

    def _say(self, work: _Work) -> None:
        work.stream.feed(work.dialect.piece())
        work.piece = self._loop.call_later(PIECE_S, self._say, work)

    def _end(self, work: _Work) -> None:
        self._output_tokens += work.tokens - 1
        self._free(work)
        last = work.dialect.piece() if work.tokens > 1 else b""
        work.stream.feed(last + work.dialect.end(work.read, work.tokens), last=True)

    def _free(self, work: _Work) -> None:
        work.has_left = True
        work.is_running = False
        self._running -= 1
        self._memory_tokens -= work.memory_tokens
        if work.piece is not None:
            work.piece.cancel()

    def _leave(self, work: _Work) -> None:
        """Stop working for a gateway that has left."""
        if work.has_left:
            return
        self._advance()
        if work.is_running:
            self._free(work)
            self._writing = [each for each in self._writing if each[2] is not work]
            self._writing.sort()
        elif work in self._reading:
            self._reading.remove(work)
            self._memory_tokens -= work.memory_tokens
        elif work in self._waiting:
            self._waiting.remove(work)
        work.has_left = True
        self._proceed()
