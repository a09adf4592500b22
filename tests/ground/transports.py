"""Each transport together with an upstream, and two ways to read an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.transport.base import Transport, UpstreamStream
from gateway.types import UpstreamRequest
from tests.ground.builders import build_upstream_request
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S

SECRET = "sk-very-secret"

ReadOn = Callable[[UpstreamStream, bytearray], Awaitable[None]]


@dataclass
class Ground:
    """A started transport and the upstream at its other end."""

    transport: Transport
    upstream: ScriptedUpstream
    url: str
    read_on: ReadOn
    """One of the two ways to read an answer to its end."""

    def request(self, path: str = "/v1/chat/completions", **overrides: Any) -> UpstreamRequest:
        """Build a request with a secret wherever one can be."""
        headers = (("content-type", "application/json"), ("authorization", f"Bearer {SECRET}"))
        return build_upstream_request(f"{self.url}{path}?key={SECRET}", headers=headers, **overrides)

    async def exchange(self, **overrides: Any) -> tuple[int, bytes]:
        """Send a request and read the answer to its end."""
        async with self.transport.send(self.request(**overrides), connect_timeout_s=SOON_S) as answer:
            received = bytearray()
            await self.read_on(answer, received)
            return answer.status, bytes(received)

    async def failure(self, *, fresh: bool = False, **overrides: Any) -> tuple[ErrorKind, bytes]:
        """Send a request that must fail; return how, and what of the body came before."""
        received = bytearray()
        with pytest.raises(UpstreamError) as caught:
            async with self.transport.send(self.request(**overrides), connect_timeout_s=SOON_S, fresh=fresh) as answer:
                await self.read_on(answer, received)
        error = caught.value
        assert SECRET not in str(error)
        assert "127.0.0.1" not in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
        return error.kind, bytes(received)


async def read(answer: UpstreamStream, received: bytearray) -> None:
    """Ask for the next bytes until none come."""
    while data := await answer.read():
        received += data


async def pour(answer: UpstreamStream, received: bytearray) -> None:
    """Have them handed on, with a rest now and then."""

    def take(data: bytes) -> bool:
        received.extend(data)
        return len(received) % 2 == 0

    while await answer.pour(take):
        await asyncio.sleep(0)


async def read_all(answer: UpstreamStream) -> bytes:
    """Read to the clean end."""
    received = bytearray()
    await read(answer, received)
    return bytes(received)
