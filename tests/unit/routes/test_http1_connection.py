"""One connection of a caller, whose network is played here: what comes in one turn of the event loop."""

import asyncio
import gc

from gateway.routes.http1_connection import Http1Connection
from gateway.routes.http1_exchange import Exchange
from gateway.turns import Turns


class Network(asyncio.Transport):
    """Takes everything."""

    lost = False

    def is_closing(self) -> bool:
        """Tell whether the connection has ended."""
        return self.lost

    def write(self, data: bytes) -> None:  # type: ignore[override]
        """Take bytes."""


async def _wait_for_ever(_: Exchange) -> None:
    await asyncio.Event().wait()


async def test_request_whose_caller_leaves_at_once_is_ended_and_freed() -> None:
    """The request and the end of the connection are read in one turn, before the request's task has taken a step."""
    connection = Http1Connection(
        asyncio.get_running_loop(),
        handler=_wait_for_ever,
        date=lambda: b"",
        refused=lambda *_: None,
        ids=str,
        turns=Turns(),
        on_made=lambda _: None,
        on_lost=lambda _: None,
    )
    gc.collect()
    gc.disable()
    try:
        connection.connection_made(network := Network())
        connection.data_received(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        connection.eof_received()
        network.lost = True
        connection.connection_lost(None)
        del connection
        for _ in range(4):
            await asyncio.sleep(0)
        assert not [each for each in gc.get_objects() if isinstance(each, Exchange)]
    finally:
        gc.enable()
