"""Decides whether a call on which every target has failed asks one of them once more, and after how long.

Only for what a second later may be over (a 5xx, a lost or refused connection, a short ``Retry-After``), and only where
nothing came and little time went by: what an upstream has worked on for long, or begun to answer, it may bill, and
once is enough. A budget for each provider keeps retries from becoming the load that keeps it down: a fifth of the
requests it gets, and one a second (AWS, "Timeouts, retries, and backoff with jitter").
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.clock import Clock
from gateway.errors import ErrorKind, UpstreamError
from gateway.execution.budget import Budgets
from gateway.types import Candidate

RETRIED_SHARE = 0.2
JITTER_S = 0.5
"""The wait is a random part of it, behind what the upstream asks for."""
LONGEST_NAMED_WAIT_S = 2.0
"""With a longer one a caller can do something else meanwhile."""

_PASSING = frozenset(
    {
        ErrorKind.UPSTREAM_CONNECT,
        ErrorKind.UPSTREAM_CUT,
        ErrorKind.UPSTREAM_ERROR,
        ErrorKind.UPSTREAM_OVERLOADED,
        ErrorKind.UPSTREAM_RATE_LIMITED,
    }
)


class Failure(NamedTuple):
    """One candidate that did not answer."""

    candidate: Candidate
    error: UpstreamError
    repeatable: bool
    """An attempt was made, it ended soon, and nothing of an answer had come."""


class Retry(NamedTuple):
    """What to ask once more."""

    candidate: Candidate
    wait_s: float


class Retries:
    """Decides for all calls. ``asked`` counts the requests to each provider, of which its budget is a share."""

    def __init__(self, clock: Clock, random: Callable[[], float]) -> None:
        self._budgets = Budgets(clock)
        self.asked = self._budgets.asked
        self._now_ns = clock.monotonic_ns
        self._random = random

    def after(self, failures: Sequence[Failure], deadline_ns: int) -> Retry | None:
        """Choose among the failures of a call the one that may be over first; None: no retry."""
        passing = [each for each in failures if _is_passing(each)]
        if not passing:
            return None
        candidate, error, _ = min(passing, key=lambda each: each.error.retry_after_s or 0.0)
        wait_s = (error.retry_after_s or 0.0) + self._random() * JITTER_S
        now_ns = self._now_ns()
        if now_ns + wait_s * 1e9 >= deadline_ns or not self._budgets.spend(candidate.target.provider, RETRIED_SHARE):
            return None
        return Retry(candidate, wait_s)


def _is_passing(failure: Failure) -> bool:
    error = failure.error
    if not failure.repeatable or error.kind not in _PASSING:
        return False
    if error.retry_after_s is not None and error.retry_after_s > LONGEST_NAMED_WAIT_S:
        return False
    if error.kind is ErrorKind.UPSTREAM_RATE_LIMITED:
        return error.retry_after_s is not None
    # UPSTREAM_ERROR is also what our configuration does to an upstream: no model or path of that name.
    return error.kind is not ErrorKind.UPSTREAM_ERROR or error.upstream_status is None or error.upstream_status >= 500
