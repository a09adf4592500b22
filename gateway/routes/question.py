"""Answers questions about a call that is not made: how many tokens its prompt has, where it would go.

A question is a body as the call would have it. It is free, but counted towards the key's rate, and there is no record
of it.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil

import msgspec

from gateway.admission.base import Gate
from gateway.auth.base import Authenticator
from gateway.config.snapshot import Current, Server
from gateway.errors import ErrorKind, GatewayError
from gateway.execution.attempt import Means
from gateway.pipeline import Resolve
from gateway.routes.http1_exchange import Exchange
from gateway.shortage import own_failure
from gateway.tariff import Amounts, Spent
from gateway.types import Call, Endpoint, Inbound, Principal

Headers = list[tuple[bytes, bytes]]
Answer = Callable[[Call], Awaitable[tuple[object, Headers]]]
"""The call that would be made -> what JSON to answer, and further headers. Raises GatewayError."""
Complete = Callable[[bytes, Principal, Server, Callable[[int], None]], Awaitable[bytes]]
"""A body as it was sent, by whom -> the body that is meant; the last one: ``Admission.take_body``."""


class Question:
    """A handler of the HTTP server. ``endpoint`` reads the bodies, and writes the errors in the caller's dialect."""

    def __init__(
        self,
        endpoint: Endpoint,
        answer: Answer,
        *,
        current: Current,
        authenticator: Authenticator,
        gate: Gate,
        resolve: Resolve,
        means: Means,
        complete: Complete | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._answer = answer
        self._complete = complete
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
            answer, further = await self._ask(exchange, request_id)
        except GatewayError as error:
            return await self._refuse(exchange, error, request_id, headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            return await self._refuse(exchange, own_failure(error), request_id, headers)
        body = msgspec.json.encode(answer)
        headers += [*further, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await exchange.start(200, headers)
        exchange.write(body)
        return None

    async def _refuse(self, exchange: Exchange, error: GatewayError, request_id: str, headers: Headers) -> None:
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after_s))))
        exchange.further += self._endpoint.allowance(error.allowance)
        if error.kind is ErrorKind.METHOD_NOT_ALLOWED:
            headers.append((b"allow", b"POST"))
        await exchange.refuse(error, *headers, body=self._endpoint.error(error, request_id))

    async def _ask(self, exchange: Exchange, request_id: str) -> tuple[object, Headers]:
        if exchange.method != b"POST":
            raise GatewayError(ErrorKind.METHOD_NOT_ALLOWED, "Send a POST request to this address.")
        snapshot = self._current.snapshot
        principal = await self._authenticator.authenticate(exchange.headers, snapshot.keys)
        admission = await self._gate.admit(principal, snapshot.server.bodies)
        exchange.further += self._endpoint.allowance(admission.allowance)
        try:
            read = partial(exchange.read_body, snapshot.server.max_body_bytes, snapshot.server.body_timeout_s)
            body = await read(admission.take_body)
            if self._complete is not None:
                body = await self._complete(body, principal, snapshot.server, admission.take_body)
            envelope = await self._means.beside.run(body, partial(self._endpoint.decode, body))
            inbound = Inbound(
                id=request_id,
                endpoint=self._endpoint,
                headers=exchange.headers,
                received_at_ns=self._means.clock.monotonic_ns(),
                read_body=read,
                caller_left=exchange.has_left,
            )
            return await self._answer(self._resolve(inbound, envelope, principal, snapshot))
        finally:
            admission.settle(Spent(Amounts(), 0))
