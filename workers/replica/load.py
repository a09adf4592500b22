"""Measures the load of one replica: open requests, whether it takes more, and what it did in the last minute.

Busy time is exact: it is counted from event to event, not sampled. Everything here belongs to one event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from workers.engine import EngineFigures

SAMPLE_S = 1.0
"""How often ``sample`` should be called."""
_WINDOW_S = 60.0
_TTFT_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class _Sums:
    """What only grows."""

    up_s: float
    busy_s: float
    engine: EngineFigures

    def since(self, earlier: "_Sums") -> dict[str, float | int | None]:
        return {
            "up_s": round(self.up_s - earlier.up_s, 3),
            "busy_s": round(self.busy_s - earlier.busy_s, 3),
            "prompt_tokens": _whole(_less(self.engine.prompt_tokens, earlier.engine.prompt_tokens)),
            "cached_tokens": _whole(_less(self.engine.cached_tokens, earlier.engine.cached_tokens)),
            "output_tokens": _whole(_less(self.engine.output_tokens, earlier.engine.output_tokens)),
        }


_NOTHING = _Sums(0.0, 0.0, EngineFigures())


class ReplicaLoad:
    """Count requests and describe the replica. ``started_at`` is when it began to cost money, by the clock ``now``."""

    def __init__(
        self,
        replica: str,
        model: str,
        *,
        limit: int,
        figures: Callable[[], EngineFigures],
        started_at: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.in_flight = 0
        self.state: Literal["ready", "draining"] = "ready"
        self.changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done at the next change of ``in_flight`` or ``state``; a new one is in its place then."""
        self._replica = replica
        self.model = model
        self._figures = figures
        self._now = now
        self._started_at = now() if started_at is None else started_at
        self._busy_s = 0.0
        self._busy_since = 0.0
        self._samples: deque[_Sums] = deque([self._sums(figures())], maxlen=int(_WINDOW_S / SAMPLE_S) + 2)
        self._line: tuple[float, bytes] | None = None

    def opened(self) -> None:
        """Count a request that has come."""
        if self.in_flight == 0:
            self._busy_since = self._now()
        self.in_flight += 1
        self._change()

    def closed(self) -> None:
        """Count its end, whatever it was."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._busy_s += self._now() - self._busy_since
        self._change()

    def drain(self) -> None:
        """Report from now on that new requests should go to other replicas."""
        self.state = "draining"
        self._change()

    def sample(self) -> None:
        """Remember the sums of this moment: the window and the recent TTFT are differences between two of them."""
        self._samples.append(self._sums(self._figures()))

    def demand(self) -> tuple[float, float]:
        """Return what scaling goes by: requests (waiting ones too), and the recent TTFT in ms, 0 when there is none."""
        sums = self._sums(self._figures())
        engine = sums.engine
        # A request that is being read is not yet the engine's; one with several choices is several of the engine's.
        return max(float(self.in_flight), (engine.running or 0) + (engine.waiting or 0)), self._ttft_ms(sums) or 0.0

    def line(self) -> bytes:
        """Return the description as one line of JSON, made anew at most every 40 ms unless something changed."""
        now = self._now()
        if self._line is None or now - self._line[0] > 0.04:
            self._line = now, msgspec.json.encode(self._describe()) + b"\n"
        return self._line[1]

    def _describe(self) -> dict[str, object]:
        sums = self._sums(self._figures())
        engine = sums.engine
        return {
            "id": self._replica,
            "model": self.model,
            "state": self.state,
            "in_flight": self.in_flight,
            "limit": self.limit,
            "running": _whole(engine.running),
            "waiting": _whole(engine.waiting),
            "kv_usage": engine.kv_usage,
            "kv_tokens": _whole(engine.kv_tokens),
            "ttft_ms": self._ttft_ms(sums),
            "total": sums.since(_NOTHING),
            "window": sums.since(self._within(sums, _WINDOW_S)),
        }

    def _sums(self, engine: EngineFigures) -> _Sums:
        now = self._now()
        busy_s = self._busy_s + (now - self._busy_since if self.in_flight else 0.0)
        return _Sums(now - self._started_at, busy_s, engine)

    def _within(self, sums: _Sums, seconds: float) -> _Sums:
        """Return the oldest sample that is at most so old."""
        return next((s for s in self._samples if sums.up_s - s.up_s <= seconds), sums)

    def _ttft_ms(self, sums: _Sums) -> float | None:
        before = self._within(sums, _TTFT_WINDOW_S).engine
        count = _less(sums.engine.ttft_count, before.ttft_count)
        total_s = _less(sums.engine.ttft_sum_s, before.ttft_sum_s)
        return round(total_s / count * 1000, 3) if total_s is not None and count else None

    def _change(self) -> None:
        self._line = None
        changed, self.changed = self.changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)


def _less(now: float | None, before: float | None) -> float | None:
    return None if now is None else now - (before or 0.0)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
