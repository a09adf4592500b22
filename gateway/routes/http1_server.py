"""An HTTP/1.1 server for a gateway's traffic: few routes, short heads, long answers, and callers that leave.

It listens and stops in order; everything else is a connection's.

Several processes may accept from one socket. The loop's own server would take all connections that wait at once, so
that of a burst one process got most; here each takes one a turn, so the busiest process takes fewest.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from socket import IPPROTO_TCP, TCP_NODELAY, socket

from gateway.clock import Ids
from gateway.routes.http1_connection import Http1Connection
from gateway.routes.http1_exchange import Date, Handler, Refused
from gateway.shortage import own_failure
from gateway.turns import Turns

_LAST_WORD_S = 6.0
"""For the last answers of requests that are cut off at the end, and for their callers to read them."""
_BACKLOG = 2048
_BODIES_PAUSE_S = 0.001
"""Between two reads of large bodies, each of up to 256 KB: as long as one takes, so half of the time is others'."""
_PAUSE_S = 1.0
"""After the system has refused a connection."""
_QUIET_S = 10.0
"""After it has been logged, for as long as it goes on."""

_log = logging.getLogger("tollway.http")


class HttpServer:
    """Has one handler answer all requests, on sockets that are handed in."""

    def __init__(self, handler: Handler, refused: Refused, ids: Ids) -> None:
        self._connections: set[Http1Connection] = set()
        self._handler = handler
        self._refused = refused
        self._ids = ids
        self._listening: list[socket] = []
        self._accepting: set[asyncio.Task[object]] = set()
        self._empty: asyncio.Future[None] | None = None
        self._impatient = False
        self._quiet_until_s = 0.0

    async def start(self, listeners: Sequence[socket]) -> None:
        """Accept connections on bound sockets, which are closed with the server."""
        loop = self._loop = asyncio.get_running_loop()
        connection = partial(
            Http1Connection,
            loop,
            handler=self._handler,
            date=Date(loop),
            refused=self._refused,
            ids=self._ids,
            turns=Turns(_BODIES_PAUSE_S),
            on_made=self._connections.add,
            on_lost=self._lost,
        )
        for listener in listeners:
            listener.setblocking(False)
            listener.listen(_BACKLOG)
            self._listening.append(listener)
            loop.add_reader(listener, self._accept, listener, connection)

    def _accept(self, listener: socket, connection: Callable[[], Http1Connection]) -> None:
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process took it, or the caller has left
        except (OSError, MemoryError) as error:
            self._make_room(error)
            self._loop.remove_reader(listener)
            self._loop.call_later(_PAUSE_S, self._accept_again, listener, connection)
            return
        # Without it the first token on a used connection waits 40 ms for the caller's delayed acknowledgement.
        accepted.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        task = self._loop.create_task(self._loop.connect_accepted_socket(connection, accepted))
        self._accepting.add(task)
        task.add_done_callback(self._accepted)

    def _make_room(self, error: Exception) -> None:
        """End what is kept open for a next request, where there are no more descriptors or memory; others end it later.

        That may be all that is open, and callers who have yet to send anything would wait for it a minute.
        """
        if (now_s := self._loop.time()) >= self._quiet_until_s:
            self._quiet_until_s = now_s + _QUIET_S
            _log.error("no connection can be accepted, callers have to wait: %s", own_failure(error).message)
        for connection in list(self._connections):
            connection.finish()

    def _accepted(self, task: asyncio.Task[object]) -> None:
        self._accepting.discard(task)
        if not task.cancelled():
            task.exception()  # a caller may have left already, which is no failure

    def _accept_again(self, listener: socket, connection: Callable[[], Http1Connection]) -> None:
        if listener in self._listening:
            self._loop.add_reader(listener, self._accept, listener, connection)

    async def stop(self, drain_s: float) -> None:
        """Accept no more, close connections as they become idle, give requests ``drain_s``; then ``cut``."""
        for listener in self._listening:
            self._loop.remove_reader(listener)
            listener.close()
        self._listening.clear()
        if self._accepting:
            await asyncio.wait(self._accepting)
        for connection in list(self._connections):
            connection.finish()
        if not await self._emptied(0 if self._impatient else drain_s):
            if not self._impatient:
                self.cut()
            if not await self._emptied(_LAST_WORD_S):
                for connection in list(self._connections):
                    connection.abort()
                await self._emptied(_LAST_WORD_S)

    def cut(self) -> None:
        """Cancel all running requests, and wait no longer than for each to say so to its caller; close what is idle."""
        self._impatient = True
        for connection in list(self._connections):
            connection.cut()
        if self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def _lost(self, connection: Http1Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)

    async def _emptied(self, timeout_s: float) -> bool:
        """Wait until no connection is left, and return whether that is so."""
        if self._connections:
            self._empty = self._loop.create_future()
            await asyncio.wait([self._empty], timeout=timeout_s)
        return not self._connections
