"""Decide whether a target may be sent requests at all. Leaves what it costs and how fast it is to others.

How it works
------------
*Closed*: all pass. Three failures in a row open it, or ten failures among the last twenty: a target that fails every
other request never fails three times in a row. Only failures that say something about the target count (the table in
``gateway.errors``); a caller's fault does not, and does not end a row of failures either.

*Open*: nobody passes, for 1 s, then 2, 4 ... up to 30 s, each time the probe fails. An upstream that says when to
come back (``Retry-After``) is taken at its word, at once and after a single failure, up to 300 s. A refused
credential opens at once for 60 s: no retry mends it, only a person does, and providers lock accounts that knock too
often.

*Half open*: the time is over, and exactly one attempt passes, the probe. Its success closes the breaker, its failure
opens it for longer. If it ends without a verdict (the caller left, or asked for nonsense), the next attempt is the
probe.

Every opening and closing begins a new *generation*. The result of an attempt that began in an earlier one is old news
and is ignored: of fifty requests caught in an outage, three open the breaker and the other forty-seven do not prolong
it.

*Several processes.* Each has its own breaker and hears of the results of the others' attempts: a failure there counts
as one here, and an answer there closes it here. A half-open one may let through one probe per process.

State changes only in ``admit``, ``settle`` and ``hear``, between which nothing awaits, so one probe means one, at any
concurrency.
"""

from typing import Literal, NamedTuple

from gateway.errors import ErrorKind
from gateway.types import Sample

State = Literal["closed", "open", "half_open"]

FAILURES_IN_A_ROW = 3
HISTORY = 20
FAILURES_IN_HISTORY = 10
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
CREDENTIAL_PAUSE_S = 60.0
LONGEST_RETRY_AFTER_S = 300.0
_MASK = (1 << HISTORY) - 1


class Pass(NamedTuple):
    """What an attempt was let through as; handed back with its result."""

    generation: int
    probe: bool


class Breaker:
    """One target's breaker. Times are monotonic nanoseconds."""

    __slots__ = ("_failures", "_generation", "_history", "_open_until_ns", "_pause_s", "_probing", "_seen", "_why")

    def __init__(self) -> None:
        self._generation = 0
        self._failures = 0
        self._history = 0
        self._seen = 0
        self._open_until_ns: int | None = None
        self._pause_s = FIRST_PAUSE_S
        self._probing = False
        self._why = ""

    def state(self, now_ns: int) -> State:
        """Tell the state at this moment."""
        if self._open_until_ns is None:
            return "closed"
        return "open" if now_ns < self._open_until_ns else "half_open"

    def refusal(self, now_ns: int) -> str | None:
        """Say why no attempt may begin now; None when one may."""
        if self._open_until_ns is None:
            return None
        if now_ns < self._open_until_ns:
            return f"breaker open for {self.retry_after_s(now_ns):.1f} s more ({self._why})"
        return f"breaker half open, its probe is under way ({self._why})" if self._probing else None

    def retry_after_s(self, now_ns: int) -> float:
        """Tell how long the breaker stays open."""
        return max(0.0, ((self._open_until_ns or now_ns) - now_ns) / 1e9)

    def admit(self, now_ns: int) -> Pass:
        """Count an attempt that begins now; the first one of a half-open breaker is its probe."""
        probe = self._open_until_ns is not None and now_ns >= self._open_until_ns and not self._probing
        if probe:
            self._probing = True
        return Pass(self._generation, probe)

    def settle(self, ticket: Pass, now_ns: int, sample: Sample | None) -> None:
        """Take an attempt's result; None and a caller's fault are no verdict on the target."""
        if ticket.generation != self._generation:
            return
        if ticket.probe:
            self._probing = False
        elif self._open_until_ns is not None:  # let through although open: its result decides nothing
            return
        if sample is None or not (sample.ok or sample.trips_breaker):
            return
        if sample.ok:
            self._succeeded(probe=ticket.probe)
        else:
            self._failed(now_ns, sample, probe=ticket.probe)

    def hear(self, now_ns: int, sample: Sample) -> None:
        """Take the result of an attempt that another process of this gateway let through."""
        if self._open_until_ns is None:
            self.settle(Pass(self._generation, probe=False), now_ns, sample)
        elif sample.ok:
            self._succeeded(probe=True)  # it has answered somebody: nothing is left to probe

    def _succeeded(self, *, probe: bool) -> None:
        self._failures = 0
        if probe:
            self._generation += 1
            self._open_until_ns = None
            self._pause_s = FIRST_PAUSE_S
            self._history = self._seen = 0
        else:
            self._remember(failed=False)

    def _failed(self, now_ns: int, sample: Sample, *, probe: bool) -> None:
        self._failures += 1
        self._remember(failed=True)
        if sample.error_kind == ErrorKind.UPSTREAM_CREDENTIALS:
            self._open(now_ns, CREDENTIAL_PAUSE_S, "credentials refused")
        elif sample.retry_after_s is not None and sample.retry_after_s > 0:
            self._open(now_ns, min(sample.retry_after_s, LONGEST_RETRY_AFTER_S), "asked to retry later")
        elif (
            probe
            or self._failures >= FAILURES_IN_A_ROW
            or (self._seen >= HISTORY and self._history.bit_count() >= FAILURES_IN_HISTORY)
        ):
            self._open(now_ns, self._pause_s, sample.error_kind or "failing")
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def _remember(self, *, failed: bool) -> None:
        self._history = (self._history << 1 | failed) & _MASK
        self._seen += 1

    def _open(self, now_ns: int, pause_s: float, why: str) -> None:
        self._generation += 1
        self._open_until_ns = now_ns + round(pause_s * 1e9)
        self._failures = 0
        self._probing = False
        self._why = why
