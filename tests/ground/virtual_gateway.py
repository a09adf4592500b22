"""A whole gateway in virtual time: its pipeline, in-memory upstreams and ledger, no socket and no thread."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.app import Gateway, read_snapshot
from gateway.clock import Ids
from gateway.formats.openai.decode import CHAT
from gateway.simulation.memory_ledger import MemoryLedger
from gateway.simulation.virtual_time import SequentialIds, VirtualClock
from gateway.types import Endpoint, Inbound
from tests.ground.builders import chat_body
from tests.ground.gateway import write_config
from tests.ground.in_memory import InMemoryTransport
from tests.ground.sse import ChatStream
from tests.ground.upstream import ScriptedUpstream


@dataclass
class Answered:
    """What one caller got: the ``Sink`` of his request. Times are the loop's, in seconds."""

    sent_at_s: float
    started: bool = False
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    further: bytes = b""
    body: bytes = b""
    stream: ChatStream = field(default_factory=ChatStream)
    first_content_s: float | None = None

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        self.status = status
        self.headers = {name.decode(): value.decode() for name, value in headers}

    def write(self, data: bytes, *, last: bool = False) -> bool:  # noqa: ARG002 - all are alike here
        self.body += data
        if self.stream.feed(data) and self.first_content_s is None:
            self.first_content_s = asyncio.get_running_loop().time()
        return True

    async def drained(self) -> None:
        pass

    @property
    def ttft_s(self) -> float:
        """From sending the request to the first content."""
        assert self.first_content_s is not None, self.body
        return self.first_content_s - self.sent_at_s


class VirtualGateway:
    """A started gateway; ``chat`` calls it as an app does."""

    def __init__(self, gateway: Gateway, ledger: MemoryLedger, ids: Ids) -> None:
        self.gateway = gateway
        self.ledger = ledger
        self._ids = ids

    async def chat(
        self,
        *,
        key: str | None = None,
        endpoint: Endpoint = CHAT,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> Answered:
        """Send one request with this key, streamed unless told otherwise, and read its answer to the end."""
        body = chat_body(**{"stream": True, **members})

        async def read_body(_hold: Callable[[int], None]) -> bytes:
            return body

        answered = Answered(asyncio.get_running_loop().time())
        inbound = Inbound(
            id=self._ids("req"),
            endpoint=endpoint,
            headers={
                "content-type": "application/json",
                **({"authorization": f"Bearer {key}"} if key else {}),
                **(headers or {}),
            },
            received_at_ns=VirtualClock.monotonic_ns(),
            read_body=read_body,
            caller_left=lambda: False,
        )
        await self.gateway.pipeline.handle(inbound, answered)
        return answered


@asynccontextmanager
async def virtual_gateway(
    config: Mapping[str, Any],
    path: Path,
    upstreams: Mapping[str, ScriptedUpstream],
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[VirtualGateway]:
    """Run a gateway in front of these upstreams, by origin (``http://cheap.test``); call it within ``run_virtual``."""
    file = write_config(path, config)

    def read() -> Any:
        return read_snapshot(file, environ or {}, clock=VirtualClock())

    ledger = MemoryLedger()
    transport = InMemoryTransport({origin: upstream.serve for origin, upstream in upstreams.items()})
    snapshot = await asyncio.to_thread(read)
    ids = SequentialIds()
    gateway = Gateway(snapshot, reread=read, transport=transport, ledger=ledger, clock=VirtualClock(), ids=ids)
    await gateway.start()
    try:
        yield VirtualGateway(gateway, ledger, ids)
    finally:
        await gateway.stop()
    assert not ledger.open, "an attempt was never settled"
