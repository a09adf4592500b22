"""HTTP callers that send exact bytes of a test's choice, and parse the answers strictly."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from tests.ground.waiting import SOON_S


@dataclass
class Received:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    """Names in lower case; repeated ones joined by commas."""
    body: bytes = b""
    raw_head: bytes = field(default=b"", repr=False)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the body; empty when it holds none."""
        try:
            found = json.loads(self.body)["error"]
        except (ValueError, KeyError, TypeError):
            return {}
        return found if isinstance(found, dict) else {}


class RawCaller:
    """One connection to a server on this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def connected(cls, port: int) -> AsyncIterator[Self]:
        """Open a connection, and break it at the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def ask(self, sent: bytes, *, is_head: bool = False) -> Received:
        """Send bytes and read one answer."""
        self.writer.write(sent)
        return await self.answer(is_head=is_head)

    async def answer(self, *, is_head: bool = False) -> Received:
        """Read one answer to its end and pass interim ones over. Raises IncompleteReadError where there is none."""
        async with asyncio.timeout(SOON_S):
            while True:
                head = await self.reader.readuntil(b"\r\n\r\n")
                received = _parsed(head)
                if received.status >= 200:
                    break
            if not (is_head or received.status in (204, 304)):
                received.body = await self._body(received.headers)
            return received

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            whole = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                whole += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n", "no fields follow a body of ours"
            return whole
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        return await self.reader.read(-1)

    async def rest(self) -> bytes:
        """Read until the connection ends, orderly or not, and return what still came."""
        async with asyncio.timeout(SOON_S):
            try:
                return await self.reader.read(-1)
            except ConnectionError:
                return b""


def _parsed(head: bytes) -> Received:
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    version, _, behind = first.partition(" ")
    assert version == "HTTP/1.1", head
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Received(int(behind[:3]), headers, raw_head=head)


def request(
    method: str = "GET", target: str = "/", body: bytes | None = None, *, host: str | None = "localhost", **headers: str
) -> bytes:
    """Write a request of HTTP/1.1; in the names of headers ``_`` stands for ``-``."""
    lines = [f"{method} {target} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
