"""The model routes as raw ASGI: a request's bytes in, the pipeline's bytes out, and an eye on the caller.

FastAPI's routing, ``Request`` and ``StreamingResponse`` would cost more than the whole relay, so these routes stand
beside the FastAPI application rather than inside it (docs/adr/0001). A caller who leaves cancels the request's task,
at whatever point it is; everything that the task opened is closed on that way out.
"""

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.clock import Clock, Ids
from gateway.config.snapshot import Current, Server
from gateway.errors import ErrorKind, GatewayError
from gateway.pipeline import Pipeline
from gateway.types import Dialect, Inbound, Operation
from gateway.wire.errors import render


class AsgiSink:
    """An ASGI response."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the status and headers."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Send bytes of the body, waiting while the caller's connection is full."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """Send the end of the body."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class Caller:
    """The other end of a request: its body, and whether it is still there."""

    def __init__(self, receive: Receive, headers: Mapping[str, str], limits: Server) -> None:
        self._receive = receive
        self._headers = headers
        self._limits = limits
        self._task = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self.left = False

    async def read_body(self) -> bytes:
        """Read the body, then watch for the caller's leaving; see ``Inbound.read_body``."""
        limit = self._limits.max_body_bytes
        declared = self._headers.get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self.left = True
                        raise GatewayError(ErrorKind.CLIENT_LEFT, "The caller left before the body was complete.")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        raise _too_large(limit)
                    parts.append(part)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise GatewayError(
                ErrorKind.BODY_TIMEOUT,
                f"The body did not arrive within {self._limits.body_timeout_s:g} seconds; send it faster.",
            ) from None
        self._watcher = asyncio.create_task(self._watch())
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if self._task is not None:
            self._task.cancel()

    def unwatch(self) -> None:
        """Stop watching: the request is over."""
        if self._watcher is not None:
            self._watcher.cancel()


class LlmRoute:
    """One operation in one dialect as an ASGI application."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        operation: Operation,
        dialect: Dialect,
        current: Current,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._pipeline = pipeline
        self._operation = operation
        self._dialect = dialect
        self._current = current
        self._clock = clock
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        received_at_ns = self._clock.monotonic_ns()
        sink = AsgiSink(send)
        if scope["method"] != "POST":
            await self._refuse_method(sink)
            return
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        caller = Caller(receive, headers, self._current.snapshot.server)
        inbound = Inbound(
            id=self._ids("req"),
            operation=self._operation,
            dialect=self._dialect,
            headers=headers,
            received_at_ns=received_at_ns,
            read_body=caller.read_body,
            caller_left=lambda: caller.left,
        )
        try:
            await self._pipeline.handle(inbound, sink)
            await sink.end()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not caller.left or task is None:
                raise
            task.uncancel()
        finally:
            caller.unwatch()

    async def _refuse_method(self, sink: AsgiSink) -> None:
        error = GatewayError(ErrorKind.METHOD_NOT_ALLOWED, "Send a POST request to this address.")
        headers = [(b"content-type", b"application/json"), (b"allow", b"POST")]
        await sink.start(error.status, headers)
        await sink.write(render(self._dialect, error, self._ids("req")))
        await sink.end()


class Dispatch:
    """The whole ASGI application: model routes by their path, everything else through ``rest``."""

    def __init__(self, llm_routes: Mapping[str, LlmRoute], rest: ASGIApp) -> None:
        self._llm_routes = llm_routes
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request, or the life cycle's messages, to where they belong."""
        route = self._llm_routes.get(scope["path"]) if scope["type"] == "http" else None
        await (route or self._rest)(scope, receive, send)


def _too_large(limit: int) -> GatewayError:
    return GatewayError(
        ErrorKind.BODY_TOO_LARGE,
        f"The body is larger than the {limit} bytes that this gateway accepts; send a smaller one, "
        "or have the operator raise server.max_body_mb.",
    )
