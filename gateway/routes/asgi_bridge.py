"""Lets an ASGI application answer all requests that are not for a model. Those may be slow, so nothing here is tuned.

The application learns of a caller who leaves by being cancelled, like every handler.
"""

import asyncio

from starlette.types import ASGIApp, Message

from gateway.config.snapshot import Current
from gateway.routes.http1_exchange import Exchange
from gateway.routes.http1_head import split_target

_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Whatever a page says, a browser takes it for what it is, runs and loads nothing for it, and keeps no copy."""


class AsgiBridge:
    """A handler of the HTTP server. Of repeated headers the application sees the first."""

    def __init__(self, app: ASGIApp, current: Current) -> None:
        self._app = app
        self._current = current

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request. Raises what the application raises, and RuntimeError when it does not end its answer."""
        server = self._current.snapshot.server
        path, query = split_target(exchange.target)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1" if exchange.modern else "1.0",
            "method": "GET" if exchange.method == b"HEAD" else exchange.method.decode(),  # the exchange omits the body
            "scheme": "http",
            "path": path.decode("utf-8", "replace"),
            "raw_path": exchange.target.partition(b"?")[0],
            "query_string": query,
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in exchange.headers.items()],
        }
        unread = True
        ended = asyncio.Event()

        async def receive() -> Message:
            nonlocal unread
            if unread:
                unread = False
                body = await exchange.read_body(server.max_body_bytes, server.body_timeout_s)
                return {"type": "http.request", "body": body, "more_body": False}
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                await exchange.start(message["status"], [*message.get("headers", ()), *_SAFE])
                return
            exchange.write(message.get("body", b""))
            await exchange.drained()
            if not message.get("more_body", False):
                exchange.end()
                ended.set()

        await self._app(scope, receive, send)
        if not ended.is_set():
            raise RuntimeError("the application did not end its answer")
