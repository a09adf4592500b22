"""Begins the attempts of one call: prepares its request, waits for a replica, asks the breaker, and takes a lease.

A translation reads all of a body. So none is made for a target that is not tried, one serves all targets of a wire
format, and that of a large body is made beside the event loop.
"""

import asyncio
from functools import partial

from gateway.accounting.meter import Meter
from gateway.errors import ErrorKind, UpstreamError
from gateway.execution.attempt import Attempt, Means, Others
from gateway.formats.base import Format, Prepared
from gateway.types import Call, Candidate, Target


class Attempts:
    """The attempts of one call: a strategy begins them one after another, or several at once in tasks of its own."""

    def __init__(self, means: Means, call: Call, meter: Meter) -> None:
        self.means = means
        """What outlives the call, and a reload: a strategy keeps nothing itself."""
        self._call = call
        self._meter = meter
        self._prepared: dict[str, Prepared | UpstreamError] = {}
        """By wire format: the request, or why it cannot be said."""
        self._translating = asyncio.Lock()

    async def begin(self, candidate: Candidate, *, others: Others = (), is_probe: bool = False) -> Attempt:
        """Begin an attempt: from here on there is a line in the journal, and a context to be entered.

        ``others`` are the candidates that may still be tried: behind the last one a whole answer is waited for longer.
        A probe waits for its first token no longer than the route's ceiling. Raises UpstreamError when the target's
        format cannot say the call, no replica comes in time or the breaker is open, GatewayError (STORAGE_UNAVAILABLE)
        when it cannot be journalled.
        """
        means, call, target = self.means, self._call, candidate.target
        prepared = await self._prepare(target.adapter)
        if target.cluster_url is not None:
            cold_until_ns = means.clock.monotonic_ns() + int(target.timeouts.cold_start_s * 1e9)
            await means.pool.ready(target, min(call.deadline_ns, cold_until_ns))
        refusal = means.pool.refusal(target, call)  # no await before the lease: a half-open breaker lets one through
        if refusal is not None:
            raise UpstreamError(ErrorKind.BREAKER_OPEN, refusal)
        attempt = Attempt(means, call, candidate, prepared, others=others, is_probe=is_probe)
        self._meter.began(attempt)
        return attempt

    async def _prepare(self, name: str) -> Prepared:
        """Return the call in a format. Raises UpstreamError (UPSTREAM_UNSUPPORTED) where that cannot say it."""
        prepared, call, adapter = self._prepared, self._call, self.means.adapters[name]
        if name not in prepared:
            if adapter.dialect == call.envelope.endpoint.dialect:
                prepared[name] = _said(adapter, call)
            else:
                async with self._translating:  # of attempts that begin at once, one translates for all
                    if name not in prepared:
                        prepared[name] = await self.means.beside.run(call.envelope.body, partial(_said, adapter, call))
        made = prepared[name]
        self._meter.left_out = getattr(made, "left_out", ())
        if isinstance(made, UpstreamError):
            raise made
        return made

    def failed(self, error: UpstreamError, target: Target, next_target: Target | None) -> None:
        """Note that a target failed or might not be tried, and which one is tried then; None: none is left."""
        self._meter.attempt_failed(error, target, next_target)


def _said(adapter: Format, call: Call) -> Prepared | UpstreamError:
    """Say a call in a format, or why it cannot be said there."""
    try:
        return adapter.prepare(call)
    except UpstreamError as refusal:
        return refusal.detached()
