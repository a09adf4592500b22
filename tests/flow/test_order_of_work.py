"""A request that is refused has cost neither the reading of its body nor its decoding; a bad body costs its own key."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.formats.openai.decode import JsonEndpoint
from tests.ground.builders import chat_body
from tests.ground.configs import one_model
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S

MB = 1_000_000
KEYS = {"FREE": "k-free", "RATE": "k-rate", "PLACE": "k-place"}
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n{fields}\r\n\r\n"


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Run a gateway with keys that have each limit, and room for three bodies of 3 MB, two of one key."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["server"] = {"max_body_mb": 3, "max_body_memory_mb": 9.5, "max_body_memory_per_key_mb": 6.5}
        config["keys"] = [
            {"name": "free", "secret": "env:FREE"},
            {"name": "rate", "secret": "env:RATE", "requests_per_minute": 1},
            {"name": "place", "secret": "env:PLACE", "concurrency": 1},
        ]
        async with running_gateway(config, tmp_path, environ=KEYS) as gateway:
            yield gateway


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what is decoded: the sizes of the bodies."""
    sizes: list[int] = []
    decode = JsonEndpoint.decode

    def counted(endpoint: JsonEndpoint, body: bytes) -> Any:
        sizes.append(len(body))
        return decode(endpoint, body)

    monkeypatch.setattr(JsonEndpoint, "decode", counted)
    return sizes


class Sender:
    """A caller who sends the head of a request, and of its body as much as the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def status(self) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Read the answer: status, headers, error object."""
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), SOON_S)).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = json.loads(await self._reader.readexactly(int(headers["content-length"])))
        return int(head[0].split()[1]), headers, body.get("error", {})


@asynccontextmanager
async def sending(running: RunningGateway, key: str, fields: str, body: bytes = b"") -> AsyncIterator[Sender]:
    """Begin a request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(HEAD.format(key=key, fields=fields).encode() + body)
    try:
        yield Sender(reader, writer)
    finally:
        writer.close()


def length(size: int) -> str:
    return f"Content-Length: {size}"


async def test_body_of_a_refused_key_is_neither_awaited_nor_decoded(
    running: RunningGateway, decoded: list[int]
) -> None:
    """Unknown key, rate, concurrency: the answer comes though nothing of the 3 MB was sent."""
    small = chat_body()
    async with sending(running, "k-rate", length(len(small)), small) as first:
        assert (await first.status())[0] == 200
    async with sending(running, "k-place", length(len(small))) as holder:  # admitted: it has the place
        for key, status, code in (
            ("k-wrong", 401, "invalid_api_key"),
            ("k-rate", 429, "rate_limit_exceeded"),
            ("k-place", 429, "concurrency_limit_exceeded"),
        ):
            async with sending(running, key, length(3 * MB)) as refused:
                got, headers, error = await refused.status()
                assert (got, error["code"]) == (status, code)
                assert status == 401 or int(headers["retry-after"]) >= 1
        holder.writer.write(small)
        assert (await holder.status())[0] == 200
    assert decoded == [len(small)] * 2


@pytest.mark.parametrize("fields", [length(3 * MB), "Transfer-Encoding: chunked"])
async def test_body_beyond_the_budget_is_refused_before_it_is_read(
    running: RunningGateway, decoded: list[int], fields: str
) -> None:
    """A key's share is its own fault, what all hold is not; small bodies pass, and room comes with an end."""
    chunked = "chunked" in fields
    body = b"%x\r\n%b\r\n" % (3 * MB - 1, b" " * (3 * MB - 1)) if chunked else b""
    small = chat_body()
    async with (
        sending(running, "k-free", length(3 * MB)) as first,
        sending(running, "k-free", length(3 * MB)),
    ):
        async with sending(running, "k-free", fields, body) as third:
            got, headers, error = await third.status()
            assert (got, error["code"], headers["retry-after"]) == (429, "body_memory_limit_exceeded", "2")
        async with sending(running, "k-place", length(3 * MB)), sending(running, "k-rate", fields, body) as fifth:
            got, headers, error = await fifth.status()
            assert (got, error["code"], headers["retry-after"]) == (503, "body_memory_full", "2")
            async with sending(running, "k-free", length(len(small)), small) as caller:
                assert (await caller.status())[0] == 200
        assert decoded == [len(small)]
        first.writer.write(b" " * (3 * MB))
        assert (await first.status())[0] == 400
        async with sending(running, "k-free", length(3 * MB), b" " * (3 * MB)) as again:
            assert (await again.status())[0] == 400
    assert decoded == [len(small), 3 * MB, 3 * MB]


async def test_bad_body_counts_against_its_own_key(running: RunningGateway) -> None:
    """A request was let in when its body turned out to be none: the next one of the minute is refused."""
    for status in (400, 429):
        async with sending(running, "k-rate", length(1), b"{") as caller:
            assert (await caller.status())[0] == status


async def test_refusal_of_a_large_body_arrives_at_a_caller_who_goes_on_sending(running: RunningGateway) -> None:
    """And the connection lives on, for the rest is read, however slowly, and kept nowhere."""
    small = chat_body()
    async with sending(running, "k-wrong", length(2 * MB), b" " * (2 * MB)) as caller:
        assert (await caller.status())[0] == 401
        caller.writer.write(HEAD.format(key="k-free", fields=length(len(small))).encode() + small)
        assert (await caller.status())[0] == 200
