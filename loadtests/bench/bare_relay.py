"""The least that our stack can do: raw ASGI, Tollway's own HTTP client, uvicorn; no key, no policy, no accounting.

What stands between this and Tollway is what Tollway's own work costs. Run as
``python bare_relay.py PORT UPSTREAM_URL``.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from gateway.transport.http1 import HttpTransport
from gateway.types import UpstreamRequest

Message = dict[str, Any]


class BareRelay:
    """An ASGI application that passes POST bodies on and answers back."""

    def __init__(self, upstream_url: str) -> None:
        self._upstream_url = upstream_url
        self._transport = HttpTransport()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Serve the life cycle's messages, or one request."""
        if scope["type"] == "lifespan":
            await receive()
            await self._transport.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._transport.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = UpstreamRequest(
            method="POST",
            url=self._upstream_url + scope["path"],
            headers=(("content-type", "application/json"),),
            body=body,
        )
        async with self._transport.send(request, connect_timeout_s=2.0) as answer:
            headers = [(b"content-type", answer.headers.get("content-type", "").encode())]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            while data := await answer.read():
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


if __name__ == "__main__":
    uvicorn.run(
        BareRelay(sys.argv[2]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        interface="asgi3",
        http="httptools",
        loop="uvloop",
        log_level="warning",
        access_log=False,
    )
