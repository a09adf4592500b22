"""Begins the attempts of one call: waits for a replica, asks the breaker, and takes a lease."""

from gateway.accounting.meter import Meter
from gateway.errors import ErrorKind, UpstreamError
from gateway.execution.attempt import Attempt, Means, Others
from gateway.types import Call, Candidate, Target


class Attempts:
    """The attempts of one call: a strategy begins them one after another, or several at once in tasks of its own."""

    def __init__(self, means: Means, call: Call, meter: Meter) -> None:
        self._means = means
        self._call = call
        self._meter = meter

    async def begin(self, candidate: Candidate, *, others: Others = (), is_probe: bool = False) -> Attempt:
        """Begin an attempt: from here on there is a line in the journal, and a context to be entered.

        ``others`` are the candidates that may still be tried: behind the last one a whole answer is waited for longer.
        A probe waits for its first token no longer than the route's ceiling. Raises UpstreamError when no replica comes
        in time or the breaker is open, GatewayError (STORAGE_UNAVAILABLE) when it cannot be journalled.
        """
        means, call, target = self._means, self._call, candidate.target
        if target.cluster_url is not None:
            cold_until_ns = means.clock.monotonic_ns() + int(target.timeouts.cold_start_s * 1e9)
            await means.pool.ready(target, min(call.deadline_ns, cold_until_ns))
        refusal = means.pool.refusal(target, call)  # nothing may be awaited between this and the lease
        if refusal is not None:
            raise UpstreamError(ErrorKind.BREAKER_OPEN, refusal)
        attempt = Attempt(means, call, candidate, self._meter.trace_id, others=others, is_probe=is_probe)
        self._meter.began(attempt)
        return attempt

    def failed(self, error: UpstreamError, target: Target, next_target: Target | None) -> None:
        """Note that a target failed or might not be tried, and which one is tried then; None: the caller is told."""
        self._meter.attempt_failed(error, target, next_target)
