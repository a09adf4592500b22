"""One request, on one page: authenticate, admit, read and decode once, plan, execute, relay, account.

No provider's name, no HTTP framework and no socket in here; each stage is one verb of a module of its own.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

from gateway.accounting.base import Failures
from gateway.accounting.meter import Books, Meter
from gateway.admission.base import Gate
from gateway.auth.base import Authenticator
from gateway.config.snapshot import Current, Snapshot
from gateway.errors import ErrorKind, GatewayError
from gateway.execution.attempt import Means
from gateway.execution.attempts import Attempts
from gateway.execution.keep_alive import KeepAlive
from gateway.execution.relay import Sink, relay
from gateway.shortage import own_failure
from gateway.types import Call, Envelope, Inbound, Principal

if TYPE_CHECKING:
    from gateway.execution.base import Strategy

_LAST_WORD_S = 5.0

Resolve = Callable[[Inbound, Envelope, Principal, Snapshot], Call]
"""See ``routing.resolve``."""


class Pipeline:
    """Holds the parts that outlive requests; the snapshot is read anew for each."""

    def __init__(
        self,
        *,
        current: Current,
        authenticator: Authenticator,
        resolve: Resolve,
        gate: Gate,
        means: Means,
        failures: Failures,
    ) -> None:
        self._current = current
        self._authenticator = authenticator
        self._resolve = resolve
        self._gate = gate
        self._pool = means.pool
        self._means = means
        self._books = Books(means.clock, means.ledger, means.observer, failures)
        self._keep_alive = KeepAlive(current, means.clock)

    async def handle(self, inbound: Inbound, sink: Sink) -> None:
        """Answer one request, whatever happens to it; re-raises only the cancellation of a caller who left."""
        meter = Meter(inbound, self._books)
        try:
            await self._answer(inbound, sink, meter)
        except GatewayError as error:
            meter.failed(error)
            await self._tell(inbound, sink, error)
        except asyncio.CancelledError:
            if inbound.caller_left():
                meter.left()
                raise
            stopping = GatewayError(ErrorKind.SHUTTING_DOWN, "The gateway is stopping; send the request again.")
            meter.failed(stopping)
            await self._tell(inbound, sink, stopping)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            ours = own_failure(error)
            # Its traceback is logged, and names our code, not the caller's data: no message of ours holds any.
            meter.failed(ours)
            await self._tell(inbound, sink, ours)
        finally:
            self._keep_alive.calls.pop(inbound.id, None)
            meter.close()

    async def _answer(self, inbound: Inbound, sink: Sink, meter: Meter) -> None:
        snapshot = self._current.snapshot
        meter.principal = principal = await self._authenticator.authenticate(inbound.headers, snapshot.keys)
        meter.hold = admission = await self._gate.admit(principal, snapshot.server.bodies)
        sink.further += inbound.endpoint.allowance(admission.allowance)
        body = await inbound.read_body(admission.take_body)
        envelope = await self._means.beside.run(body, partial(inbound.endpoint.decode, body))
        meter.call = call = self._resolve(inbound, envelope, principal, snapshot)
        policy = call.route.policy
        meter.plan = plan = policy.plan(call, self._pool.view(call))
        if plan.wanted is not None:
            meter.no_longer_wanted = self._pool.want(plan.wanted)
        if not plan.candidates:
            raise policy.refusal(call, plan)
        if call.envelope.stream:
            self._keep_alive.calls[inbound.id] = inbound.received_at_ns, inbound, sink, meter
            if not self._keep_alive.is_watching:
                self._keep_alive.watch()
        strategy: Strategy = policy.strategy
        async with strategy.answer(plan, call, Attempts(self._means, call, meter)) as reply:
            await relay(reply, sink, call, meter)

    async def _tell(self, inbound: Inbound, sink: Sink, error: GatewayError) -> None:
        """Send an error in the caller's dialect; within a stream as its last event, with no end marker after it."""
        if sink.started:
            with contextlib.suppress(TimeoutError):  # a caller who has stopped reading is not waited for
                async with asyncio.timeout(_LAST_WORD_S):
                    sink.write(inbound.endpoint.error(error, inbound.id, in_stream=True))
                    await sink.drained()
            return
        request_id = inbound.id.encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"x-tollway-request-id", request_id),
            (inbound.endpoint.id_header, request_id),
        ]
        if error.retry_after_s is not None:  # rounded up: a caller that comes earlier is refused again
            headers.append((b"retry-after", str(max(1, ceil(error.retry_after_s))).encode()))
        sink.further += inbound.endpoint.allowance(error.allowance)
        body = inbound.endpoint.error(error, inbound.id)
        headers.append((b"content-length", str(len(body)).encode()))
        await sink.start(error.status, headers)
        sink.write(body)
        await sink.drained()
