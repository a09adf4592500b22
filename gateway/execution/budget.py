"""Budgets for what a gateway may ask beside the calls themselves: a share of what is asked, and one a second.

The floor lets little traffic have some; a balance of at most ten bounds bursts (as Finagle's and gRPC's retry budgets).
"""

from collections import defaultdict
from typing import NamedTuple

from gateway.clock import Clock

FLOOR_PER_S = 1.0
LARGEST_BALANCE = 10.0


class Budgets:
    """One budget for each name. ``asked`` counts, by name, that of which the budget is a share."""

    def __init__(self, clock: Clock, *, floor_per_s: float = FLOOR_PER_S) -> None:
        self.asked: defaultdict[str, int] = defaultdict(int)
        self._now_ns = clock.monotonic_ns
        self._floor_per_s = floor_per_s
        self._balances: dict[str, _Balance] = {}

    def spend(self, name: str, share: float) -> bool:
        """Take one from a budget of this share; False: there is none left."""
        asked, now_ns = self.asked[name], self._now_ns()
        last = self._balances.get(name) or _Balance(LARGEST_BALANCE, asked, now_ns)
        gained = (asked - last.asked) * share + (now_ns - last.at_ns) / 1e9 * self._floor_per_s
        balance = min(LARGEST_BALANCE, last.left + gained)
        may = balance >= 1.0
        self._balances[name] = _Balance(balance - may, asked, now_ns)
        return may


class _Balance(NamedTuple):
    left: float
    asked: int
    at_ns: int
