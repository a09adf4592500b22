"""A request that ends, however it ends, is freed by counting references: the collector finds nothing of it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.ground.configs import compatible
from tests.ground.gateway import write_config
from tests.ground.processes import Program, gateway_process
from tests.ground.script import Answer, error_answer, html_answer, json_answer, sse_event
from tests.ground.upstream import Script, ScriptedUpstream
from tests.ground.waiting import until

REQUESTS = 8
LARGE_BYTES = 300_000
"""Decoded beside the event loop, and written upstream in pieces."""
LIMIT_BYTES = 4_000_000
CHAT = "/v1/chat/completions"
TOKEN = sse_event({"choices": [{"index": 0, "delta": {"content": "w"}}]})
PIECE = TOKEN.replace(b"w", b"w" * 60_000)
STREAM = Answer(headers=(("content-type", "text/event-stream"),), chunks=(TOKEN,) * 4)
FLOWS = replace(STREAM, chunks=(TOKEN,) * 1000, per_chunk_delay_s=0.01)
CLOSE = b"connection: close\r\nhost"
SILENT = Answer(first_byte_delay_s=1000)
NO_HTTP = Answer(raw=b"220 mail.example ESMTP\r\n\r\n")
BAD_CHUNK = Answer(
    raw=b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
)


def http(body: bytes, path: str = CHAT, *, method: str = "POST", key: str = "app", length: int | None = None) -> bytes:
    """Write a request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: localhost",
        f"authorization: Bearer {key}",
        f"content-length: {len(body) if length is None else length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chat(model: str = "fine", *, prompt_bytes: int = 10, key: str = "app", **members: Any) -> bytes:
    """Write a call."""
    members |= {"model": model, "messages": [{"role": "user", "content": "x" * prompt_bytes}]}
    return http(json.dumps(members).encode(), key=key)


class Lab:
    """A gateway whose collector is off, its upstream, and callers who speak bytes."""

    def __init__(self, gateway: Program, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self._gateway = gateway
        self._address = urlsplit(gateway.url)
        self._at_rest = 0
        self._names = 0

    @asynccontextmanager
    async def caller(self, request: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect and send a request; the context's end resets the connection."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (self._address.hostname, self._address.port))
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            writer.write(request)
            yield reader, writer
        finally:
            writer.transport.abort()

    async def answer(self, request: bytes) -> bytes:
        """Send a request and return all of its answer, or what came of it."""
        async with self.caller(request) as (reader, _writer):
            answer = await reader.readuntil(b"\r\n\r\n")
            _, known, length = answer.lower().partition(b"content-length: ")
            if known:
                return answer + await reader.readexactly(int(length.partition(b"\r")[0]))
            while not answer.endswith(b"0\r\n\r\n") and (more := await reader.read(65_536)):
                answer += more
            return answer

    def name(self, script: Script | None, provider: str = "any") -> str:
        """Name a model that has not been asked yet, so that its breaker is closed, and let it answer so."""
        self._names += 1
        name = f"{self._names}"
        if script is not None:
            self.upstream.on_model(name, script)
        return f"{provider}/{name}"

    async def collected(self) -> dict[str, int]:
        """Wait until no request is left, and return what only the collector frees, by type."""
        await until(self._rests)
        await self.answer(chat())  # behind all that the loop had still to do
        await until(self._rests)
        found: dict[str, int] = json.loads(await self._gateway.ask("collect"))
        return found

    async def _rests(self) -> bool:
        running = int(await self._gateway.ask("running"))
        self._at_rest = self._at_rest or running
        return running <= self._at_rest


class Case(NamedTuple):
    """One way to end."""

    script: Script | None = None
    request: Callable[..., bytes] = chat
    members: dict[str, Any] = {}  # noqa: RUF012 - never changed
    until: Callable[[Lab, str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]] | None = None
    """What the caller waits for before he leaves; None: the answer."""
    provider: str = "any"


async def asked(lab: Lab, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait until the upstream has the request."""
    name = model.partition("/")[2]
    await until(lambda: any(seen.model == name for seen in lab.upstream.seen))


async def began(lab: Lab, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait for the first token."""
    await reader.readuntil(b'"w')


async def stuck(lab: Lab, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read nothing until the upstream is held back."""
    await asked(lab, model, reader, writer)
    seen = next(seen for seen in lab.upstream.seen if seen.model == model.partition("/")[2])
    written = -1
    while written != seen.chunks_written:
        written = seen.chunks_written
        await asyncio.sleep(0.1)


async def sent(lab: Lab, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait until the gateway has most likely taken what was sent."""
    await until(lambda: not writer.transport.get_write_buffer_size())
    await lab.answer(chat())


async def at_once(lab: Lab, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait for some turns of the loop, another number each time."""
    for _ in range(int(model.partition("/")[2]) % 8):
        await asyncio.sleep(0)


async def half_closed(lab: Lab, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send no more, and wait until the gateway closes."""
    writer.write_eof()
    await reader.read()


def short(model: str, **members: Any) -> bytes:
    """Write a call, but for ten bytes."""
    return chat(model, **members)[:-10]


def five(model: str, **members: Any) -> bytes:
    """Write five calls in a row."""
    return chat(model, **members) * 5


def and_a_half(model: str) -> bytes:
    """Write a call, and the beginning of another."""
    return chat(model) + short(model)


def embedding(model: str) -> bytes:
    """Ask for an embedding."""
    return http(json.dumps({"model": model, "input": "a"}).encode(), "/v1/embeddings")


def upgrade(model: str) -> bytes:
    """Write a call that offers another protocol."""
    return chat(model).replace(b"host", b"connection: upgrade\r\nupgrade: h2c\r\nhost")


def raw(request: bytes) -> Callable[..., bytes]:
    """Write this, whatever the model."""
    return lambda _model: request


LARGE = {"prompt_bytes": LARGE_BYTES}
STREAMED = {"stream": True}
CASES: dict[str, Case] = {
    "answered": Case(),
    "answered, large": Case(members=LARGE),
    "answered, streamed": Case(members=STREAMED),
    "an embedding": Case(request=embedding),
    "leaves without a request": Case(request=raw(b""), until=sent),
    "leaves in the head": Case(request=raw(chat()[:50]), until=sent),
    "leaves in a small body": Case(request=short, until=sent),
    "leaves in a large body": Case(request=short, members=LARGE, until=sent),
    "leaves in a chunked body": Case(
        request=raw(chat().replace(b"content-length: ", b"transfer-encoding: chunked\r\nx: ")[:-80] + b"ff\r\nxx"),
        until=sent,
    ),
    "stops sending in a body": Case(request=short, members=LARGE, until=half_closed),
    "stops sending behind a body": Case(SILENT, until=half_closed),
    "leaves while it is decoded": Case(members={"prompt_bytes": 3_000_000}, until=at_once),
    "leaves at once": Case(until=at_once),
    "leaves with others behind": Case(SILENT, five, until=asked),
    "leaves with half another behind": Case(SILENT, and_a_half, until=asked),
    "leaves while connecting": Case(until=sent, provider="full"),
    "leaves before the first byte": Case(SILENT, until=asked),
    "leaves before the first byte, large": Case(SILENT, members=LARGE, until=asked),
    "leaves before the first token": Case(replace(STREAM, stall_after=0), members=STREAMED, until=asked),
    "leaves in mid-answer": Case(replace(STREAM, stall_after=1), until=asked),
    "leaves in mid-stream": Case(replace(STREAM, stall_after=1), members=STREAMED, until=began),
    "leaves a stream that flows": Case(FLOWS, members=STREAMED, until=began),
    "leaves having stopped to read": Case(replace(STREAM, chunks=(PIECE,) * 500), members=STREAMED, until=stuck),
    "leaves while the upstream takes nothing": Case(members={"prompt_bytes": 3_500_000}, until=sent, provider="deaf"),
    "leaves in a TLS handshake": Case(until=sent, provider="mute"),
    "leaves a page": Case(request=raw(http(b"x", "/v1/models", length=9)), until=sent),
    "upstream refuses": Case(error_answer(400)),
    "upstream refuses, streamed": Case(error_answer(400), members=STREAMED),
    "upstream refuses the key": Case(error_answer(401)),
    "upstream limits": Case(error_answer(429, retry_after_s=1)),
    "upstream fails": Case(error_answer(500)),
    "upstream fails, large": Case(error_answer(503), members=LARGE),
    "upstream's error stalls": Case(Answer(status=500, chunks=(b"{", b"}"), stall_after=1)),
    "upstream hangs up": Case(Answer(hang_up=True)),
    "upstream resets": Case(Answer(hang_up=True, reset=True)),
    "upstream is silent": Case(SILENT),
    "upstream is silent, streamed": Case(SILENT, members=STREAMED),
    "upstream speaks no HTTP": Case(NO_HTTP),
    "upstream sends a page": Case(html_answer()),
    "upstream cuts an answer": Case(replace(json_answer({"choices": []}), content_length=1000)),
    "upstream cuts a stream": Case(replace(STREAM, cut_after=2), members=STREAMED),
    "upstream stalls in a stream": Case(replace(STREAM, stall_after=2), members=STREAMED),
    "upstream sends a bad chunk": Case(BAD_CHUNK, members=STREAMED),
    "upstream sends no end marker": Case(STREAM, members=STREAMED),
    "upstream is not there": Case(provider="closed"),
    "upstream accepts nothing": Case(provider="full"),
    "upstream has no TLS": Case(provider="plain"),
    "upstream has no address": Case(provider="nameless"),
    "upstream is not there, by a name": Case(provider="named"),
    "Anthropic's shape refuses": Case(error_answer(400), provider="claude"),
    "Anthropic's shape, left": Case(SILENT, members=STREAMED, until=asked, provider="claude"),
    "all fail": Case(request=raw(chat("falls"))),
    "no such model": Case(request=raw(chat("none"))),
    "no such key": Case(request=raw(chat(key="none"))),
    "over its limit": Case(request=raw(chat(key="limited"))),
    "no JSON": Case(request=raw(http(b"{"))),
    "no JSON, large": Case(request=raw(http(b"[" * LARGE_BYTES))),
    "too large": Case(request=raw(http(b"", length=LIMIT_BYTES + 1))),
    "too large, and the last": Case(request=raw(http(b"", length=LIMIT_BYTES + 1).replace(b"host", CLOSE))),
    "too slow": Case(request=short),
    "not a method": Case(request=raw(http(b"", method="GET"))),
    "not HTTP": Case(request=raw(b"\x16\x03\x01\r\n\r\n")),
    "two lengths": Case(request=raw(chat().replace(b"host", b"transfer-encoding: chunked\r\nhost"))),
    "a large head": Case(request=raw(chat().replace(b"host", b"x: " + b"x" * 40_000 + b"\r\nhost"))),
    "another protocol": Case(request=upgrade),
    "a page": Case(request=raw(http(b"", "/v1/models", method="GET"))),
    "the metrics": Case(request=raw(http(b"", "/metrics", method="GET"))),
    "no such page": Case(request=raw(http(b"", "/none", method="GET"))),
    "no such record": Case(request=raw(http(b"", "/v1/requests/none", method="GET"))),
}  # fmt: skip


@pytest.mark.slow
async def test_collector_finds_nothing_of_a_request(tmp_path: Path) -> None:
    """In whatever phase it ends: fewer objects than there were requests, of any kind."""
    found = {}
    async with lab_in(tmp_path) as lab:
        await asyncio.gather(*[end(lab, case) for case in CASES.values()])  # what is made once
        await lab.collected()
        for name, case in CASES.items():
            async with asyncio.TaskGroup() as group:
                for _ in range(REQUESTS):
                    group.create_task(end(lab, case))
            objects = await lab.collected()
            if sum(objects.values()) >= REQUESTS:
                found[name] = objects
    assert not found, "\n".join(f"{name}: {sum(objects.values())} {objects}" for name, objects in found.items())


async def end(lab: Lab, case: Case) -> None:
    """Make one request, and let it end as the case says."""
    model = lab.name(case.script or lab.upstream.model.answer, case.provider)
    request = case.request(model, **case.members)
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        if case.until is None:
            await lab.answer(request)
        else:
            async with lab.caller(request) as (reader, writer):
                await case.until(lab, model, reader, writer)


@asynccontextmanager
async def lab_in(path: Path) -> AsyncIterator[Lab]:
    """Run a gateway in front of upstreams of every kind."""
    with contextlib.ExitStack() as sockets:
        deaf = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))  # its kernel takes a window's worth
        full = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        bound = sockets.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))  # and not listening: refused, and no other process gets the port
        closed = bound.getsockname()[1]
        async with ScriptedUpstream() as upstream:
            upstream.on_model("fails", error_answer(500))
            urls = {
                "any": upstream.url,
                "deaf": f"http://127.0.0.1:{deaf.getsockname()[1]}",
                "full": f"http://127.0.0.1:{full.getsockname()[1]}",
                "closed": f"http://127.0.0.1:{closed}",
                "named": f"http://localhost:{closed}",
                "mute": f"https://127.0.0.1:{deaf.getsockname()[1]}",
                "plain": upstream.url.replace("http:", "https:"),
                "nameless": "http://nowhere.invalid",
            }
            claude = {"type": "anthropic", "base_url": upstream.url, "api_key": "env:APP"}
            models = {"fine": "any", "fails": "any", **{f"{name}/*": name for name in (*urls, "claude")}}
            config = {
                "providers": {name: compatible(url) for name, url in urls.items()} | {"claude": claude},
                "models": {name: {"provider": provider, "price": "free"} for name, provider in models.items()},
                "routes": {"falls": {"models": ["fails", "fine"]}},
                "timeouts": {"connect_s": 0.5, "first_token_s": 0.5, "idle_s": 0.5, "total_s": 1},
                "server": {"body_timeout_s": 0.5, "max_body_mb": LIMIT_BYTES // 1_000_000},
                "keys": [
                    {"name": "app", "secret": "env:APP"},
                    {"name": "limited", "secret": "env:LIMITED", "requests_per_minute": 1},
                ],
            }
            environ = {"APP": "app", "LIMITED": "limited"}
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environ.items():
                    patch.setenv(name, value)
                async with gateway_process(write_config(path, config), module="tests.ground.cycles") as gateway:
                    yield Lab(gateway, upstream)
