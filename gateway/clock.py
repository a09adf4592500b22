"""The clock and the source of ids, passed to every part, so that tests and simulations can set both.

Waiting is left to the event loop: a simulation brings a loop with virtual time and a clock that reads it.
"""

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Read the time. Both members are plain callables, so reading the clock costs no Python frame."""

    @property
    def monotonic_ns(self) -> Callable[[], int]:
        """Nanoseconds that never go back; the only clock for durations."""

    @property
    def wall_ns(self) -> Callable[[], int]:
        """Nanoseconds since 1970-01-01T00:00Z; only for what people read and what ends up in the ledger."""


class SystemClock:
    """The machine's own clocks."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    wall_ns = staticmethod(time.time_ns)


Ids = Callable[[str], str]
"""Make a new identifier from a prefix: ``ids("req")`` -> ``"req_4f..."``. Never a provider's own id."""
