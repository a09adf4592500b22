"""The least that our stack can do: Tollway's HTTP server and HTTP client; no key, no policy, no accounting.

What stands between this and Tollway is what Tollway's own work costs. Run as
``python bare_relay.py PORT UPSTREAM_URL``.
"""

import asyncio
import signal
import socket
import sys

import uvloop

from gateway.routes.http1_exchange import Exchange
from gateway.routes.http1_server import HttpServer
from gateway.transport.http1 import HttpTransport
from gateway.types import UpstreamRequest

_BODY_LIMIT_BYTES = 10_000_000
_TIMEOUT_S = 10.0


async def relay(port: int, upstream_url: str) -> None:
    """Pass bodies on and answers back, until SIGTERM or SIGINT."""
    transport = HttpTransport()

    async def handle(exchange: Exchange) -> None:
        request = UpstreamRequest(
            method="POST",
            url=upstream_url + exchange.target.decode(),
            headers=(("content-type", "application/json"),),
            body=await exchange.read_body(_BODY_LIMIT_BYTES, _TIMEOUT_S),
            pool="bench",
        )
        async with transport.send(request, connect_timeout_s=2.0) as answer:
            await exchange.start(answer.status, [(b"content-type", answer.headers.get("content-type", "").encode())])
            while await answer.pour(exchange.write):
                await exchange.drained()

    server = HttpServer({}, rest=handle)
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await transport.start()
    await server.start([socket.create_server(("127.0.0.1", port))])
    await told.wait()
    await server.stop(drain_s=0)
    await transport.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(relay(int(sys.argv[1]), sys.argv[2]))
