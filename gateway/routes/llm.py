"""Handles the model routes: turns what the server received into an ``Inbound``, which the pipeline answers.

FastAPI's routing, ``Request`` and ``StreamingResponse`` would cost more than the whole relay, so these routes stand
beside the FastAPI application rather than inside it (docs/adr/0001), and need no ASGI either (docs/adr/0004).
"""

from collections.abc import Awaitable
from functools import partial

from gateway.clock import Clock, Ids
from gateway.config.snapshot import Current
from gateway.errors import ErrorKind, GatewayError
from gateway.pipeline import Pipeline
from gateway.routes.http1_exchange import Exchange
from gateway.types import Endpoint, Inbound


class LlmRoute:
    """One endpoint: a handler of the HTTP server."""

    def __init__(self, pipeline: Pipeline, endpoint: Endpoint, *, current: Current, clock: Clock, ids: Ids) -> None:
        self._pipeline = pipeline
        self._endpoint = endpoint
        self._current = current
        self._clock = clock
        self._ids = ids

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        """Serve one request."""
        if exchange.method != b"POST":
            return self._refuse_method(exchange)
        server = self._current.snapshot.server
        inbound = Inbound(
            id=self._ids("req"),
            endpoint=self._endpoint,
            headers=exchange.headers,
            received_at_ns=self._clock.monotonic_ns(),
            read_body=partial(exchange.read_body, server.max_body_bytes, server.body_timeout_s),
            caller_left=exchange.has_left,
        )
        return self._pipeline.handle(inbound, exchange)

    def _refuse_method(self, exchange: Exchange) -> Awaitable[None]:
        sentence = "Send a POST request to this address."
        if "sec-websocket-key" in exchange.headers:
            sentence = "WebSocket is not spoken here; send a POST request to this address, with 'stream' for a stream."
        error = GatewayError(ErrorKind.METHOD_NOT_ALLOWED, sentence)
        request_id = self._ids("req")
        headers = (b"allow", b"POST"), (self._endpoint.id_header, request_id.encode())
        return exchange.refuse(error, *headers, body=self._endpoint.error(error, request_id))
