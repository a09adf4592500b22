"""An HTTP/1.1 server for what a gateway is: few routes, short heads, long answers, callers who leave.

It listens and stops in order; everything else is a connection's.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from socket import IPPROTO_TCP, TCP_NODELAY, socket

from gateway.routes.http1_connection import Connection, Handler
from gateway.routes.http1_exchange import Date

_LAST_WORD_S = 6.0
"""For those who are cut off at the end to be told so, and to take it."""
_BACKLOG = 2048


class HttpServer:
    """Serves handlers by path, and everything else by ``rest``, on sockets that are handed in."""

    def __init__(self, routes: Mapping[str, Handler], rest: Handler) -> None:
        self._connections: set[Connection] = set()
        self._routes = {path.encode(): handler for path, handler in routes.items()}
        self._rest = rest
        self._listening: list[asyncio.Server] = []
        self._empty: asyncio.Future[None] | None = None

    async def start(self, listeners: Sequence[socket]) -> None:
        """Accept connections on bound sockets, which are closed with the server."""
        loop = self._loop = asyncio.get_running_loop()
        connection = partial(
            Connection,
            loop,
            routes=self._routes,
            rest=self._rest,
            date=Date(loop),
            on_made=self._connections.add,
            on_lost=self._lost,
        )
        for listener in listeners:
            # Connections inherit it. uvloop sets it anyway, asyncio only where a socket names its protocol; without it
            # the first token on a used connection waits 40 ms for the caller's delayed acknowledgement.
            listener.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            self._listening.append(await loop.create_server(connection, sock=listener, backlog=_BACKLOG))

    async def stop(self, drain_s: float) -> None:
        """Accept nobody new, close idle connections, and give running requests ``drain_s``; then ``cut``."""
        for server in self._listening:
            server.close()
        for connection in list(self._connections):
            connection.finish()
        if not await self._emptied(drain_s):
            self.cut()
            if not await self._emptied(_LAST_WORD_S):
                for connection in list(self._connections):
                    connection.abort()
                await self._emptied(_LAST_WORD_S)

    def cut(self) -> None:
        """Cancel all running requests; each may still say so to its caller."""
        for connection in list(self._connections):
            connection.cut()

    def _lost(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)

    async def _emptied(self, timeout_s: float) -> bool:
        """Wait until no connection is left, and tell whether that is so."""
        if self._connections:
            self._empty = self._loop.create_future()
            await asyncio.wait([self._empty], timeout=timeout_s)
        return not self._connections
