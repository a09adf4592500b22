"""What the upstream client costs: CPU microseconds per short exchange and per chunk of a stream.

``taskset -c 0 python -m loadtests.transport_bench --upstream-core 1`` measures ``gateway.transport.http1`` and, where
aiohttp is installed, a bare aiohttp session beside it (without what a gateway needs on top: it flatters aiohttp), in
alternated rounds within one process; the upstream is a process of its own on another core. Ratios hold, times do not.
"""

import argparse
import asyncio
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import uvloop

from gateway.types import UpstreamRequest

_CHUNKS = 200
_CHUNK = b'data: {"choices":[{"delta":{"content":"token"}}]}\n\n'
_SHORT = b'{"id":"1","choices":[{"message":{"role":"assistant","content":"hello"}}],"usage":{"total_tokens":9}}'
_HEAD = b"HTTP/1.1 200 OK\r\ndate: now\r\nserver: bench\r\ncontent-type: application/json\r\n"
_SHORT_ANSWER = _HEAD + b"content-length: %d\r\n\r\n" % len(_SHORT) + _SHORT
_BODY = b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % (b"word " * 40)
Exchange = Callable[[str], Awaitable[int]]


class _Upstream(asyncio.Protocol):
    """Answers as soon as a request's bytes have come; a stream is a write and a turn of the loop per chunk."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._pending = b""
        self._streams: set[asyncio.Task[None]] = set()

    def data_received(self, data: bytes) -> None:
        self._pending += data
        if not self._pending.endswith(_BODY):
            return
        streamed = b"/stream " in self._pending
        self._pending = b""
        if streamed:
            task = asyncio.get_running_loop().create_task(self._stream())
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)
        else:
            self._transport.write(_SHORT_ANSWER)  # type: ignore[attr-defined] # create_server makes no other

    async def _stream(self) -> None:
        write = self._transport.write  # type: ignore[attr-defined] # the same
        write(_HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _chunk in range(_CHUNKS):
            write(b"%x\r\n%s\r\n" % (len(_CHUNK), _CHUNK))
            await asyncio.sleep(0.002)  # so that each arrives by itself
        write(b"0\r\n\r\n")


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _through_transport(module: str) -> tuple[Exchange, Callable[[], Awaitable[None]]]:
    transport = importlib.import_module(module).HttpTransport()
    await transport.start()
    headers = (
        ("content-type", "application/json"),
        ("x-tollway-attempt-id", "0" * 26),
        ("authorization", "Bearer sk-bench"),
    )

    async def exchange(url: str) -> int:
        request = UpstreamRequest(method="POST", url=url, headers=headers, body=_BODY, pool="bench")
        reads = 0
        async with transport.send(request, connect_timeout_s=5.0) as answer:
            while await answer.read():
                reads += 1
        return reads

    return exchange, transport.stop


async def _through_aiohttp() -> tuple[Exchange, Callable[[], Awaitable[None]]]:
    import aiohttp

    session = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
    headers = {
        "content-type": "application/json",
        "x-tollway-attempt-id": "0" * 26,
        "authorization": "Bearer sk-bench",
        "accept-encoding": "identity",
    }

    async def exchange(url: str) -> int:
        reads = 0
        async with session.post(url, data=_BODY, headers=headers) as answer:
            while await answer.content.readany():
                reads += 1
        return reads

    return exchange, session.close


async def _cost_us(exchange: Exchange, url: str, count: int, at_once: int) -> tuple[float, int]:
    """Run so many exchanges; return CPU microseconds of this process for each, and the reads made."""
    reads = 0

    async def some() -> None:
        nonlocal reads
        for _exchange in range(count // at_once):
            made = await exchange(url)
            reads += made

    began_s = time.process_time()
    await asyncio.gather(*(some() for _worker in range(at_once)))
    return (time.process_time() - began_s) * 1e6 / (count // at_once * at_once), reads


async def _measure(port: int, options: argparse.Namespace) -> None:
    clients = {}
    for module in options.transport:
        clients[module] = await _through_transport(module)
    try:
        clients["aiohttp"] = await _through_aiohttp()
    except ImportError:
        print("aiohttp is not installed: measuring ours alone")
    works = {"/short": (options.short, 1, "us/exchange"), "/stream": (options.streams, _CHUNKS, "us/chunk")}
    costs: dict[tuple[str, str], list[float]] = {(path, name): [] for path in works for name in clients}
    for name, (exchange, _close) in clients.items():  # connections, caches
        for path in works:
            await _cost_us(exchange, f"http://127.0.0.1:{port}{path}", 2 * options.at_once, options.at_once)
        print(f"warm: {name}")
    for _round in range(options.rounds):
        for path, (count, per, _unit) in works.items():
            for name, (exchange, _close) in clients.items():
                cost, reads = await _cost_us(exchange, f"http://127.0.0.1:{port}{path}", count, options.at_once)
                costs[path, name].append(cost / per)
                print(f"{path} {name}: {cost / per:.2f}, {reads / count:.0f} reads")
    _report(costs, list(clients), {path: unit for path, (_count, _per, unit) in works.items()})
    for _exchange, close in clients.values():
        await close()


def _report(costs: dict[tuple[str, str], list[float]], names: list[str], units: dict[str, str]) -> None:
    """Print medians, and the medians of each round's ratios."""
    first = names[0]
    for path, unit in units.items():
        for name in names:
            median = statistics.median(costs[path, name])
            ratio = statistics.median(b / a for a, b in zip(costs[path, first], costs[path, name], strict=True))
            print(f"{path:8} {name:28} {median:8.2f} {unit}, {ratio:.2f}x of {first}")


def main() -> None:
    """Start the upstream, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", action="append", help="a module with an HttpTransport; may be repeated")
    parser.add_argument("--short", type=int, default=4000, help="short exchanges a round")
    parser.add_argument("--streams", type=int, default=96, help=f"streams of {_CHUNKS} chunks a round")
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--upstream-core", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.transport = options.transport or ["gateway.transport.http1"]
    if options.serve:
        os.sched_setaffinity(0, {options.upstream_core})
        uvloop.run(_serve())
        return
    command = [sys.executable, "-m", "loadtests.transport_bench", "--serve", f"--upstream-core={options.upstream_core}"]
    upstream = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ourselves
    try:
        assert upstream.stdout is not None
        uvloop.run(_measure(int(upstream.stdout.readline()), options))
    finally:
        upstream.terminate()
        upstream.wait()


if __name__ == "__main__":
    main()
