"""Every execution strategy. A new one is a file and a line in ``STRATEGIES``."""

from collections.abc import Callable, Mapping

from gateway.clock import Clock
from gateway.execution.base import Strategy
from gateway.execution.in_order import InOrder

STRATEGIES: dict[str, Callable[[Clock, Callable[[], float]], Strategy]] = {
    "in_order": InOrder,
}
"""By the name that a route gives: what makes one of a clock and a function that draws from [0, 1)."""


def strategies(clock: Clock, random: Callable[[], float]) -> Mapping[str, Strategy]:
    """Make each strategy once."""
    return {name: make(clock, random) for name, make in STRATEGIES.items()}
