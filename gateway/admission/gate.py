"""Counts requests per minute and requests at a time, per key, in this process.

The rate is an exact sliding window: the times of a key's admissions in the last 60 seconds are kept, and a call comes
in only if fewer than the limit are left. A token bucket or a window by the clock's minute would be smaller, and would
let up to twice the limit through around a boundary. The price is the memory of one timestamp per admission of the last
minute, which the limit itself bounds. Only keys with a limit are recorded at all.

Nothing waits between the check and the count: ``admit`` has no ``await`` in it, and the event loop runs one task at a
time, so calls of the same moment cannot both take the last place. Several processes each count for themselves;
``shared`` counts for all of one machine.

What is kept is keyed by the key's id, not by its snapshot, so a reload with another limit goes on from what was
counted. A key that fell silent costs nothing after a minute: windows stand in the order of their last admission, and
every admission drops the expired ones from the front.
"""

from collections import OrderedDict, deque

from gateway.admission.base import Hold
from gateway.clock import Clock
from gateway.errors import ErrorKind, GatewayError
from gateway.types import Call, Plan, Usage

WINDOW_NS = 60_000_000_000
_CONCURRENCY_RETRY_S = 1.0


class _Nothing:
    """A hold on nothing; one serves all."""

    def settle(self, usage: Usage) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Do nothing."""


class _Place:
    """One of a key's places for running requests."""

    __slots__ = ("_key_id", "_running")

    def __init__(self, running: dict[str, int], key_id: str) -> None:
        self._running: dict[str, int] | None = running
        self._key_id = key_id
        running[key_id] = running.get(key_id, 0) + 1

    def settle(self, usage: Usage) -> None:  # noqa: ARG002 - a place is free again whatever was used
        """Free the place."""
        self.release()

    def release(self) -> None:
        """Free the place, once."""
        running, self._running = self._running, None
        if running is None:
            return
        left = running[self._key_id] - 1
        if left:
            running[self._key_id] = left
        else:
            del running[self._key_id]


NOTHING = _Nothing()


class InProcessGate:
    """The gate of a gateway that is one process. Lives in the runtime, so it outlives reloads; for one thread only."""

    def __init__(self, clock: Clock) -> None:
        self._now_ns = clock.monotonic_ns
        self._windows: OrderedDict[str, deque[int]] = OrderedDict()
        self._running: dict[str, int] = {}

    async def admit(self, call: Call) -> Hold:
        """Let a call in, or raise GatewayError: RATE_LIMITED (``retry_after_s`` is exact), TOO_MANY_CONCURRENT."""
        key = call.principal
        now_ns = self._now_ns()
        self._forget_silent_keys(now_ns)
        if key.requests_per_minute is not None:
            self._check_rate(key.key_id, key.requests_per_minute, now_ns)
        if key.concurrency is not None and self._running.get(key.key_id, 0) >= key.concurrency:
            raise too_many_concurrent(key.key_id, key.concurrency)
        # Both have room: count now, with nothing in between.
        if key.requests_per_minute is not None:
            self._windows.setdefault(key.key_id, deque()).append(now_ns)
            self._windows.move_to_end(key.key_id)
        return NOTHING if key.concurrency is None else _Place(self._running, key.key_id)

    async def reserve(self, call: Call, plan: Plan) -> Hold:  # noqa: ARG002 - budgets are not there yet
        """Hold nothing: there are no budgets yet."""
        return NOTHING

    def _check_rate(self, key_id: str, limit: int, now_ns: int) -> None:
        window = self._windows.get(key_id)
        if window is None:
            return
        while window and now_ns - window[0] >= WINDOW_NS:
            window.popleft()
        if len(window) < limit:
            return
        # Room comes when fewer than the limit are left; a reload may have lowered it below what the window holds.
        raise rate_limited(key_id, limit, window[-limit] + WINDOW_NS - now_ns)

    def _forget_silent_keys(self, now_ns: int) -> None:
        windows = self._windows
        while windows:
            key_id, window = next(iter(windows.items()))
            if window and now_ns - window[-1] < WINDOW_NS:
                return
            del windows[key_id]


def rate_limited(key_id: str, limit: int, room_ns: int) -> GatewayError:
    """Say when there will be room."""
    return GatewayError(
        ErrorKind.RATE_LIMITED,
        f"The key '{key_id}' has made {limit} requests within 60 seconds, which is its limit. "
        f"Try again in {room_ns / 1e9:.1f} s.",
        retry_after_s=room_ns / 1e9,
    )


def too_many_concurrent(key_id: str, limit: int) -> GatewayError:
    """Say what has to end first."""
    return GatewayError(
        ErrorKind.TOO_MANY_CONCURRENT,
        f"The key '{key_id}' has {limit} requests running, which is its limit. Wait for one of them to end.",
        retry_after_s=_CONCURRENCY_RETRY_S,
    )
