"""Stands in front of the engine's app: checks the token, limits and counts requests, and serves ``/tollway/load``.

It costs an answer nothing per token: the engine's app gets the server's own ``send``.
"""

import asyncio
from contextlib import suppress
from http import HTTPStatus

from workers.engine import AsgiApp, Message, Receive, Send
from workers.replica.asgi import carries, gone, local_path, refuse
from workers.replica.load import ReplicaLoad

_MOST_OFTEN_S = 0.05
_LEAST_OFTEN_S = 0.25


class ReplicaFront:
    """The replica's ASGI app, on its own port and behind Serve's proxy: both are counted as one."""

    def __init__(self, app: AsgiApp, load: ReplicaLoad, token: str | None) -> None:
        self.listeners: set[asyncio.Task[None]] = set()
        """Streams of ``/tollway/load`` that are open: what ends when one is to end."""
        self._is_silent = False
        self._app = app
        self._load = load
        self._token = token
        self._open: set[asyncio.Task[object] | None] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Speak ASGI 3 for ``http`` scopes."""
        if scope["type"] != "http":
            # No caller of ours speaks anything else, and the token has to be asked of everyone.
            await send({"type": "websocket.close", "code": 1003})
        elif not carries(scope, self._token):
            challenge = (b"www-authenticate", b"Bearer")
            await refuse(send, HTTPStatus.UNAUTHORIZED, "AuthenticationError", "A bearer token is needed.", challenge)
        elif local_path(scope) == "/tollway/load":
            await self._describe(scope, receive, send)
        elif scope["method"] == "POST":
            await self._count(scope, receive, send)
        else:
            # The model list, health, metrics: no work of the engine's.
            await self._app(scope, receive, send)

    def stop_reporting(self) -> None:
        """End the reports on ``/tollway/load``, so that gateways take the replica for gone; serve what still comes."""
        self._is_silent = True
        for left in self.listeners:
            left.cancel()

    def cut(self) -> None:
        """Break off every request that is still open."""
        for task in filter(None, self._open):
            task.cancel()

    async def _count(self, scope: Message, receive: Receive, send: Send) -> None:
        load = self._load
        if load.in_flight >= load.limit:
            message = f"{load.limit} requests are open here, and no more may be."
            again = (b"retry-after", b"1")
            await refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailableError", message, again)
            return
        task = asyncio.current_task()
        load.opened()
        self._open.add(task)
        try:
            try:
                await self._app(scope, receive, send)
            finally:
                self._open.discard(task)
                load.closed()
        except asyncio.CancelledError:
            # Another replica can answer it, which the server's own 500 would not say. Where the answer has begun this
            # fails, or waits for a reader that has stopped, which delays nothing.
            with suppress(Exception):
                await _stopping(send)
            raise

    async def _describe(self, scope: Message, receive: Receive, send: Send) -> None:
        load = self._load
        # Through Serve's proxy one line is all: Serve would wait for a stream's end before it lets the replica drain.
        stream = not scope.get("root_path")
        if self._is_silent:
            await _stopping(send)
            return
        headers = [(b"content-type", b"application/x-ndjson")]
        left = asyncio.create_task(gone(receive))
        self.listeners.add(left)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while not left.done():
                changed = load.changed
                await send({"type": "http.response.body", "body": load.line(), "more_body": stream})
                if not stream:
                    return
                await asyncio.wait({left}, timeout=_MOST_OFTEN_S)
                # While a request is open, the engine's figures move.
                if not load.in_flight:
                    rest = _LEAST_OFTEN_S - _MOST_OFTEN_S
                    await asyncio.wait({left, changed}, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            await send({"type": "http.response.body"})
        finally:
            self.listeners.discard(left)
            left.cancel()


async def _stopping(send: Send) -> None:
    # It will never answer again: asked to come back, a gateway would leave the model's other replicas alone, too.
    await refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailableError", "This replica is stopping.")
