"""Counts each key's requests per minute, concurrent requests and bytes of bodies, in this process.

The rate is an exact sliding window: the times of a key's admissions in the last 60 seconds are kept, and a call comes
in only if fewer than the limit are left. A token bucket or a window by the clock's minute would be smaller, and would
let up to twice the limit through around a boundary. The price is the memory of one timestamp per admission of the last
minute, which the limit itself bounds. Only keys with a limit are recorded at all.

Nothing waits between the check and the count: ``admit`` has no ``await`` in it, and the event loop runs one task at a
time, so two calls of one moment cannot both be the last within the limit. Several processes each count for themselves;
``shared`` counts for all of one machine.

What is kept is keyed by the key's id, not by its snapshot, so a reload with another limit goes on from what was
counted. A key that fell silent costs nothing after a minute: windows stand in the order of their last admission, and
every admission drops the expired ones from the front.
"""

from collections import OrderedDict, deque
from math import ceil
from typing import Protocol

from msgspec import Struct

from gateway.admission.base import Admission
from gateway.clock import Clock
from gateway.errors import Allowance, ErrorKind, GatewayError
from gateway.tariff import Spent
from gateway.types import BodyBudget, Principal

WINDOW_S = 60
WINDOW_NS = WINDOW_S * 1_000_000_000
_CONCURRENCY_RETRY_S = 1.0
_BODIES_RETRY_S = 2.0


class Counts(Protocol):
    """What an ``Admitted`` needs of its gate."""

    def count_body(self, key_id: str, more_bytes: int, budget: BodyBudget) -> None:
        """Count bytes of a body, or raise and leave the count as it was."""

    def leave(self, key: Principal, body_bytes: int) -> None:
        """Count a call and its bytes no more."""


class Admitted(Struct, eq=False):
    """Implements ``Admission`` for both gates."""

    counts: Counts | None
    key: Principal
    budget: BodyBudget
    allowance: Allowance | None
    body_bytes: int = 0

    def take_body(self, size_bytes: int) -> None:
        """See ``Admission``. After the end of the call it does nothing."""
        if self.counts is not None:
            self.counts.count_body(self.key.key_id, size_bytes - self.body_bytes, self.budget)
            self.body_bytes = size_bytes

    def settle(self, spent: Spent) -> None:  # noqa: ARG002 - the call has ended, whatever was spent
        """Count the call and its bytes no more, once."""
        counts, self.counts = self.counts, None
        if counts is not None:
            counts.leave(self.key, self.body_bytes)


class InProcessGate:
    """The gate of a gateway that is one process. Lives in the runtime, so it outlives reloads; for one thread only."""

    def __init__(self, clock: Clock) -> None:
        self._now_ns = clock.monotonic_ns
        self._windows: OrderedDict[str, deque[int]] = OrderedDict()
        self._running: dict[str, int] = {}
        self._body_bytes: dict[str, int] = {}
        self._all_body_bytes = 0

    async def admit(self, key: Principal, budget: BodyBudget) -> Admission:
        """Let a call in, or raise GatewayError: RATE_LIMITED (``retry_after_s`` is exact), TOO_MANY_CONCURRENT."""
        now_ns, key_id, limit = self._now_ns(), key.key_id, key.requests_per_minute
        self._forget_silent_keys(now_ns)
        left = 0 if limit is None else self._left(key_id, limit, now_ns)
        if key.concurrency is not None:
            running = self._running.get(key_id, 0)
            if running >= key.concurrency:
                raise too_many_concurrent(key, left, self._full_in_ns(key_id, now_ns))
            self._running[key_id] = running + 1
        if limit is not None:  # both have room: count now, with nothing in between
            self._windows.setdefault(key_id, deque()).append(now_ns)
            self._windows.move_to_end(key_id)
        return Admitted(self, key, budget, None if limit is None else Allowance(limit, left - 1, WINDOW_S))

    def count_body(self, key_id: str, more_bytes: int, budget: BodyBudget) -> None:
        """See ``Counts``."""
        key_bytes = self._body_bytes.get(key_id, 0) + more_bytes
        check_body(key_id, key_bytes, self._all_body_bytes + more_bytes, budget)
        self._body_bytes[key_id] = key_bytes
        self._all_body_bytes += more_bytes

    def leave(self, key: Principal, body_bytes: int) -> None:
        """See ``Counts``."""
        if key.concurrency is not None:
            _subtract(self._running, key.key_id, 1)
        if body_bytes:
            _subtract(self._body_bytes, key.key_id, body_bytes)
            self._all_body_bytes -= body_bytes

    def _left(self, key_id: str, limit: int, now_ns: int) -> int:
        """Return how many requests there is room for. Raises GatewayError where there is none."""
        window = self._windows.get(key_id)
        if window is None:
            return limit
        while window and now_ns - window[0] >= WINDOW_NS:
            window.popleft()
        if len(window) < limit:
            return limit - len(window)
        raise self._rate_limited(key_id, limit, now_ns)

    def _rate_limited(self, key_id: str, limit: int, now_ns: int) -> GatewayError:
        # Room comes when fewer than the limit are left; a reload may have lowered it below what the window holds.
        room_ns = self._windows[key_id][-limit] + WINDOW_NS - now_ns
        return rate_limited(key_id, limit, room_ns, self._full_in_ns(key_id, now_ns))

    def _full_in_ns(self, key_id: str, now_ns: int) -> int:
        window = self._windows.get(key_id)
        return window[-1] + WINDOW_NS - now_ns if window else 0

    def _forget_silent_keys(self, now_ns: int) -> None:
        while windows := self._windows:
            key_id, window = next(iter(windows.items()))
            if window and now_ns - window[-1] < WINDOW_NS:
                return
            del windows[key_id]


def _subtract(counts: dict[str, int], key_id: str, number: int) -> None:
    rest = counts.pop(key_id) - number
    if rest:
        counts[key_id] = rest


def check_body(key_id: str, key_bytes: int, all_bytes: int, budget: BodyBudget) -> None:
    """Compare what a key would hold, and all keys together, with the budget. Raises GatewayError."""
    if key_bytes > budget.per_key_bytes:
        raise GatewayError(
            ErrorKind.TOO_MANY_BODY_BYTES,
            f"The requests of the key '{key_id}' would hold {key_bytes} bytes of bodies at a time; its share is "
            f"{budget.per_key_bytes}. Wait for one of them to end, or send smaller ones.",
            retry_after_s=_BODIES_RETRY_S,
        )
    if all_bytes > budget.in_all_bytes:
        raise GatewayError(
            ErrorKind.BODY_MEMORY_FULL,
            "The gateway holds as many large request bodies as it has memory for. Try again shortly.",
            retry_after_s=_BODIES_RETRY_S,
        )


def rate_limited(key_id: str, limit: int, room_ns: int, full_ns: int) -> GatewayError:
    """Say when there will be room for a request, and for all."""
    error = GatewayError(
        ErrorKind.RATE_LIMITED,
        f"The key '{key_id}' has made {limit} requests within 60 seconds, which is its limit. "
        f"Try again in {room_ns / 1e9:.1f} s.",
        retry_after_s=room_ns / 1e9,
    )
    error.allowance = Allowance(limit, 0, ceil(full_ns / 1e9))
    return error


def too_many_concurrent(key: Principal, left: int, full_ns: int) -> GatewayError:
    """Say what has to end first, and how many requests are left in this minute."""
    error = GatewayError(
        ErrorKind.TOO_MANY_CONCURRENT,
        f"The key '{key.key_id}' has {key.concurrency} requests running, which is its limit. "
        "Wait for one of them to end.",
        retry_after_s=_CONCURRENCY_RETRY_S,
    )
    if key.requests_per_minute is not None:
        error.allowance = Allowance(key.requests_per_minute, left, ceil(full_ns / 1e9))
    return error
