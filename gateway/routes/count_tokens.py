"""Answers how many tokens a model would read, in each dialect that asks. Free, but counted towards the key's rate.

Asked is the first target of the call's plan that can count (Anthropic itself, or vLLM), by its format; it is no call,
so it has no record, takes no lease and waits for no replica. Where none can, or none answers soon, it is our estimate,
rounded up by what it may be wrong, and a header says so.

Sources: platform.claude.com/docs/en/api/messages-count-tokens,
platform.openai.com/docs/api-reference/responses/input-tokens.
"""

import asyncio
import contextlib
from functools import partial
from math import ceil
from operator import attrgetter

import msgspec

from gateway.admission.base import Gate
from gateway.auth.base import Authenticator
from gateway.config.snapshot import Current
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.execution.attempt import Means
from gateway.formats.base import Counting, CountingEndpoint
from gateway.pipeline import Resolve
from gateway.routes.http1_exchange import Exchange
from gateway.shortage import own_failure
from gateway.tariff import Amounts, Spent
from gateway.types import Call, Inbound, Target

TIMEOUT_S = 5.0
"""For all targets together."""
_MAX_BYTES = 1 << 16
_MAY_BE_TOO_LOW_BY = 4 / 3


class CountTokens:
    """One endpoint that counts: a handler of the HTTP server."""

    def __init__(
        self,
        endpoint: CountingEndpoint,
        *,
        current: Current,
        authenticator: Authenticator,
        gate: Gate,
        resolve: Resolve,
        means: Means,
    ) -> None:
        self._endpoint = endpoint
        self._current = current
        self._authenticator = authenticator
        self._gate = gate
        self._resolve = resolve
        self._means = means

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request."""
        request_id = self._means.ids("req")
        headers = [(self._endpoint.id_header, request_id.encode()), (b"x-tollway-request-id", request_id.encode())]
        try:
            tokens, is_estimate = await self._answer(exchange, request_id)
        except GatewayError as error:
            return await self._refuse(exchange, error, request_id, headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            return await self._refuse(exchange, own_failure(error), request_id, headers)
        if is_estimate:
            headers.append((b"x-tollway-estimated", b"input_tokens"))
        body = msgspec.json.encode({**self._endpoint.count_is, "input_tokens": tokens})
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await exchange.start(200, headers)
        exchange.write(body)
        return None

    async def _refuse(
        self, exchange: Exchange, error: GatewayError, request_id: str, headers: list[tuple[bytes, bytes]]
    ) -> None:
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after_s))))
        exchange.further += self._endpoint.allowance(error.allowance)
        if error.kind is ErrorKind.METHOD_NOT_ALLOWED:
            headers.append((b"allow", b"POST"))
        await exchange.refuse(error, *headers, body=self._endpoint.error(error, request_id))

    async def _answer(self, exchange: Exchange, request_id: str) -> tuple[int, bool]:
        if exchange.method != b"POST":
            raise GatewayError(ErrorKind.METHOD_NOT_ALLOWED, "Send a POST request to this address.")
        snapshot = self._current.snapshot
        principal = await self._authenticator.authenticate(exchange.headers, snapshot.keys)
        admission = await self._gate.admit(principal, snapshot.server.bodies)
        exchange.further += self._endpoint.allowance(admission.allowance)
        try:
            read = partial(exchange.read_body, snapshot.server.max_body_bytes, snapshot.server.body_timeout_s)
            body = await read(admission.take_body)
            envelope = await self._means.beside.run(body, partial(self._endpoint.decode, body))
            inbound = Inbound(
                id=request_id,
                endpoint=self._endpoint,
                headers=exchange.headers,
                received_at_ns=self._means.clock.monotonic_ns(),
                read_body=read,
                caller_left=exchange.has_left,
            )
            return await self._count(self._resolve(inbound, envelope, principal, snapshot))
        finally:
            admission.settle(Spent(Amounts(), 0))

    async def _count(self, call: Call) -> tuple[int, bool]:
        """Return the tokens, and whether they are an estimate."""
        plan = call.route.policy.plan(call, self._means.pool.view(call))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                for candidate in plan.candidates:
                    adapter = self._means.adapters[candidate.target.adapter]
                    if isinstance(adapter, Counting):
                        with contextlib.suppress(UpstreamError):
                            if (tokens := await self._ask(call, candidate.target, adapter)) is not None:
                                return tokens, False
        return ceil(call.input_tokens_estimate * _MAY_BE_TOO_LOW_BY), True

    async def _ask(self, call: Call, target: Target, adapter: Counting) -> int | None:
        """Ask one target; None: it cannot count, or not now. Raises UpstreamError."""
        means = self._means
        prepared = await means.beside.run(call.envelope.body, partial(adapter.count, call))
        if prepared is None or means.pool.refusal(target, call) is not None or (at := self._address(target)) is None:
            return None
        request = prepared(at, means.ids("att"))
        if target.credential is not None:
            request = await means.signers[target.signer].sign(request, target.credential)
        async with means.transport.send(request, connect_timeout_s=target.timeouts.connect_s) as answer:
            body = b""
            while len(body) < _MAX_BYTES and (piece := await answer.read()):
                body += piece
        return adapter.counted(body) if answer.status == 200 else None

    def _address(self, target: Target) -> Target | None:
        """Return the target at the address of its idlest replica; None: it has none that is up.

        There is no lease: nothing is prefilled, so the choice of replicas and the breaker have nothing to learn.
        """
        fleet = self._means.pool.replicas.fleet(target) if target.cluster_url is not None else None
        if fleet is None:
            return target
        idlest = min(fleet.usable(), key=attrgetter("requests"), default=None)
        return None if idlest is None else msgspec.structs.replace(target, base_url=f"{idlest.url}/v1")
