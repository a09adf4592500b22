"""Whether a call whose last candidate has failed is sent there once more: rarely, soon, and never by everybody at once.

A retry is for what a moment may mend: a 5xx, a connection that broke before an answer, and a ``Retry-After`` short
enough to wait for. Not for a silence, which has cost the caller its whole wait already, not for an answer that had
begun, and not for what another moment leaves as it is. Retries are paid from a budget: a fifth of the calls, and one a
second whatever the traffic. So an outage is met by a few more requests, not by twice as many (Google, "Site Reliability
Engineering", chapter 21). The wait before one is drawn at random from nothing to its bound ("full jitter": AWS
Architecture Blog, March 2015).
"""

from random import Random

from gateway.clock import Clock
from gateway.errors import ErrorKind, UpstreamError

LONGEST_WAIT_S = 0.5
"""Before a retry for which the upstream named no time."""
LONGEST_NAMED_WAIT_S = 2.0
"""A named time that a caller is made to wait; one who is told a longer one can do something else."""
SHARE = 0.2
FLOOR_PER_S = 1.0
MOST_SAVED = 20.0
"""Retries that a quiet hour saves up."""
_MOMENTARY = frozenset(
    {ErrorKind.UPSTREAM_ERROR, ErrorKind.UPSTREAM_OVERLOADED, ErrorKind.UPSTREAM_RATE_LIMITED, ErrorKind.UPSTREAM_CUT}
)


class RetryBudget:
    """Counts calls, and grants retries. For one event loop."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._now_ns = clock.monotonic_ns
        self._random = random
        self.calls = 0
        """All that were begun: the strategy adds each."""
        self._calls_counted = 0
        self._at_ns: int | None = None
        self._saved = MOST_SAVED

    def wait_s(self, error: UpstreamError, left_s: float) -> float | None:
        """Return how long to wait before a retry, and take it from the budget; None when there is to be none.

        ``left_s``: until the call's deadline.
        """
        longest_s = LONGEST_WAIT_S if error.retry_after_s is None else error.retry_after_s
        status = error.upstream_status
        momentary = error.kind in _MOMENTARY and (status is None or status >= 500 or error.retry_after_s is not None)
        if not momentary or longest_s > LONGEST_NAMED_WAIT_S:
            return None
        if error.retry_after_s is None:
            wait_s = self._random.uniform(0.0, longest_s)
        else:
            wait_s = longest_s + self._random.uniform(0.0, LONGEST_WAIT_S)  # no earlier than it was asked for
        return wait_s if wait_s < left_s and self._spend() else None

    def _spend(self) -> bool:
        now_ns, calls = self._now_ns(), self.calls
        since_s = 0.0 if self._at_ns is None else (now_ns - self._at_ns) / 1e9
        earned = SHARE * (calls - self._calls_counted) + FLOOR_PER_S * since_s
        self._at_ns, self._calls_counted = now_ns, calls
        self._saved = min(MOST_SAVED, self._saved + earned)
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
