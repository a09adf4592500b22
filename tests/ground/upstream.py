"""The scripted upstream: an HTTP/1.1 server that plays answers, misbehaves bytewise and writes down what it saw.

On 127.0.0.1 with ``start``/``stop`` or ``async with``; without a socket through ``serve``, as a handler of
``InMemoryTransport``. As a process of its own: ``python -m tests.ground.upstream --help``.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

from tests.ground.in_memory import Exchange
from tests.ground.model import ScriptedModel
from tests.ground.script import Answer, Peer, Seen, perform

Script = Answer | Callable[[Seen], Answer]
_LINGER_ZERO = struct.pack("ii", 1, 0)


class ScriptedUpstream:
    """Answer each request by the first that applies: ``then`` (in order), ``on_path``, ``on_model``, the model.

    ``seen`` holds every request in the order of arrival. ``on_change`` is called with a request when it has arrived
    and when it has ended.
    """

    def __init__(
        self,
        model: ScriptedModel | None = None,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        on_change: Callable[[Seen], None] | None = None,
    ) -> None:
        self.model = model or ScriptedModel()
        self.seen: list[Seen] = []
        self.alive = True
        self._listened = False
        self._port = port
        self._tls = tls
        self._on_change = on_change
        self._queue: deque[Script] = deque()
        self._by_path: dict[str, Script] = {}
        self._by_model: dict[str, Script] = {}
        self._server: asyncio.Server | None = None
        self._peers: set[_SocketPeer] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._exchanges: set[Exchange] = set()
        self._arrival = asyncio.Event()
        self.connections_made = 0

    def then(self, *scripts: Script) -> Self:
        """Answer the next requests with these, one each."""
        self._queue.extend(scripts)
        return self

    def on_path(self, path: str, script: Script) -> Self:
        """Answer every request to this path with this."""
        self._by_path[path] = script
        return self

    def on_model(self, name: str, script: Script) -> Self:
        """Answer every request whose body names this model with this."""
        self._by_model[name] = script
        return self

    @property
    def url(self) -> str:
        """The origin, ``http://127.0.0.1:<port>``."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def connections_open(self) -> int:
        """How many sockets are open now."""
        return len(self._peers)

    async def arrived(self, count: int = 1) -> Seen:
        """Wait until so many requests have arrived in all, and return the last of those."""
        while len(self.seen) < count:
            self._arrival.clear()
            await self._arrival.wait()
        return self.seen[count - 1]

    async def start(self) -> None:
        """Listen; the port is kept for ``revive``."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self._port, ssl=self._tls, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]
        self.alive = self._listened = True

    async def stop(self) -> None:
        """Close the listener and every connection."""
        self.alive = False
        if self._server is not None:
            self._server.close()
            for peer in tuple(self._peers):
                peer.reset()
            await asyncio.gather(*self._connections)
            self._server = None
        for exchange in tuple(self._exchanges):
            exchange.reset()

    async def die(self) -> None:
        """Go away as a killed process does: refuse connections, reset those that are open."""
        await self.stop()

    async def revive(self) -> None:
        """Come back on the same port, if there was one."""
        self.alive = True
        if self._listened:
            await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request of the in-memory transport; needs no ``start``."""
        if not self.alive:
            exchange.refuse()
            return
        request = exchange.request
        parts = urlsplit(request.url)
        headers = {name.lower(): value for name, value in request.headers}
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._exchanges.add(exchange)
        try:
            await self._answer(exchange, self._note(request.method, path, headers, request.body, connection_id=0))
        except ConnectionResetError:
            pass
        finally:
            self._exchanges.discard(exchange)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connected(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_made += 1
        connection_id = self.connections_made
        peer = _SocketPeer(reader, writer)
        self._peers.add(peer)
        if not self.alive:  # accepted before the end, and begun after it
            peer.reset()
        try:
            while (request := await peer.request()) is not None:
                await self._answer(peer, self._note(*request, connection_id=connection_id))
        except ConnectionError:
            pass
        finally:
            self._peers.discard(peer)
            peer.stop_watching()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, peer: Peer, seen: Seen) -> None:
        try:
            script = self._choose(seen)
            await perform(script if isinstance(script, Answer) else script(seen), peer, seen)
        except ConnectionError:  # of a write, maybe: before the reader has noticed, who sets ``left``
            if self.alive and not seen.completed:
                seen.disconnected_at_s = asyncio.get_running_loop().time()
            raise
        finally:
            seen.ended.set()
            if self._on_change:
                self._on_change(seen)

    def _choose(self, seen: Seen) -> Script:
        if self._queue:
            return self._queue.popleft()
        path = seen.path.partition("?")[0]
        return self._by_path.get(path) or self._by_model.get(seen.model or "") or self.model.answer

    def _note(self, method: str, path: str, headers: dict[str, str], body: bytes, *, connection_id: int) -> Seen:
        seen = Seen(
            method=method,
            path=path,
            headers=headers,
            body=body,
            received_at_s=asyncio.get_running_loop().time(),
            connection_id=connection_id,
        )
        self.seen.append(seen)
        self._arrival.set()
        if self._on_change:
            self._on_change(seen)
        return seen


class _SocketPeer:
    """A connection over a socket. Implements ``Peer``.

    While an answer is under way somebody must read, or a client that leaves is not noticed until the next write.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.left = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._watch = asyncio.get_running_loop().create_task(self._read_all())

    async def request(self) -> tuple[str, str, dict[str, str], bytes] | None:
        """Read one request: method, path, headers, body. None: the client is done."""
        end = await self._find(b"\r\n\r\n")
        if end is None:
            return None
        request_line, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        method, path, _version = request_line.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body_start = end + 4
        body_end = body_start + int(headers.get("content-length", "0"))
        while len(self._buffer) < body_end:
            if self.left.is_set():
                return None
            await self._more()
        body = bytes(self._buffer[body_start:body_end])
        del self._buffer[:body_end]
        return method, path, headers, body

    async def write(self, data: bytes) -> None:
        """Send bytes; raises ConnectionResetError once the client has left."""
        if self.left.is_set() or self._writer.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Close the connection after what was written (FIN)."""
        self._writer.close()

    def reset(self) -> None:
        """Break the connection (RST)."""
        connection: socket.socket | None = self._writer.get_extra_info("socket")
        if connection is not None and not self._writer.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._writer.transport.abort()

    def stop_watching(self) -> None:
        """Read no more."""
        self._watch.cancel()

    async def _read_all(self) -> None:
        try:
            while data := await self._reader.read(65_536):
                self._buffer += data
                self._arrived.set()
        except ConnectionError:
            pass
        finally:
            self.left.set()
            self._arrived.set()

    async def _find(self, mark: bytes) -> int | None:
        while (at := self._buffer.find(mark)) < 0:
            if self.left.is_set():
                return None
            await self._more()
        return at

    async def _more(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()


def _log_line(log: int, seen: Seen) -> None:
    """Append one JSON line; a single write, so that no line is lost or torn when a process is killed."""
    line = {
        "event": "end" if seen.ended.is_set() else "start",
        "attempt_id": seen.attempt_id,
        "path": seen.path,
        "model": seen.model,
        "status": seen.status,
        "chunks_written": seen.chunks_written,
        "tokens_written": seen.tokens_written,
        "completed": seen.completed,
        "left": seen.disconnected_at_s is not None,
    }
    os.write(log, json.dumps(line).encode() + b"\n")


async def _serve_until_told(arguments: argparse.Namespace) -> None:
    model = ScriptedModel(
        tokens=arguments.tokens, ttft_s=arguments.ttft_ms / 1000, tpot_s=arguments.tpot_ms / 1000, usage=arguments.usage
    )
    log = os.open(arguments.log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    upstream = ScriptedUpstream(model, port=arguments.port, on_change=lambda seen: _log_line(log, seen))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with upstream:
        print(upstream.url, flush=True)
        await stop.wait()
    os.close(log)


def main() -> None:
    """Run the healthy scripted model as a process; prints its address, appends to the log, ends at SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.ground.upstream", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", help="append one JSON line per request at its start and at its end")
    parser.add_argument("--tokens", type=int, default=5)
    parser.add_argument("--ttft-ms", type=float, default=0.0)
    parser.add_argument("--tpot-ms", type=float, default=0.0)
    parser.add_argument("--usage", default="exact", choices=["exact", "wrong", "none", "in_content_chunk", "twice"])
    asyncio.run(_serve_until_told(parser.parse_args()))


if __name__ == "__main__":
    main()
