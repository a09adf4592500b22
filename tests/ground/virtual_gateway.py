"""A whole gateway in virtual time: its ASGI application, in-memory upstreams and ledger, no socket and no thread."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import Message

from gateway.app import Gateway, read_snapshot
from gateway.transport.in_memory import InMemoryTransport
from tests.ground.builders import chat_body
from tests.ground.gateway import write_config
from tests.ground.memory_ledger import MemoryLedger
from tests.ground.sse import ChatStream
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_time import SequentialIds, VirtualClock


@dataclass
class Answered:
    """What one caller got. Times are the loop's, in seconds."""

    sent_at_s: float
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: ChatStream = field(default_factory=ChatStream)
    first_content_s: float | None = None

    @property
    def ttft_s(self) -> float:
        """From sending the request to the first content."""
        assert self.first_content_s is not None, self.body
        return self.first_content_s - self.sent_at_s


class VirtualGateway:
    """A started gateway; ``chat`` calls it as an app does."""

    def __init__(self, gateway: Gateway, ledger: MemoryLedger) -> None:
        self.gateway = gateway
        self.ledger = ledger

    async def chat(self, **members: Any) -> Answered:
        """Send one chat request, streamed unless told otherwise, and read its answer to the end."""
        body = chat_body(**{"stream": True, **members})
        answered = Answered(asyncio.get_running_loop().time())
        requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        never = asyncio.Event()

        async def receive() -> Message:
            if not requests:
                await never.wait()
            return requests.pop()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.status = message["status"]
                answered.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                return
            answered.body += message["body"]
            if answered.stream.feed(message["body"]) and answered.first_content_s is None:
                answered.first_content_s = asyncio.get_running_loop().time()

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
        await self.gateway.asgi(scope, receive, send)
        return answered


@asynccontextmanager
async def virtual_gateway(
    config: Mapping[str, Any], path: Path, upstreams: Mapping[str, ScriptedUpstream]
) -> AsyncIterator[VirtualGateway]:
    """Run a gateway in front of these upstreams, by origin (``http://cheap.test``); call it within ``run_virtual``."""
    file = write_config(path, config)

    def read() -> Any:
        return read_snapshot(file, {})

    ledger = MemoryLedger()
    transport = InMemoryTransport({origin: upstream.serve for origin, upstream in upstreams.items()})
    snapshot = await asyncio.to_thread(read)
    gateway = Gateway(
        snapshot, reread=read, transport=transport, ledger=ledger, clock=VirtualClock(), ids=SequentialIds()
    )
    await gateway.start()
    try:
        yield VirtualGateway(gateway, ledger)
    finally:
        await gateway.stop()
    assert not ledger.open, "an attempt was never settled"
