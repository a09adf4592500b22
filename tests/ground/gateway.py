"""A whole gateway for tests: over a real socket on a free port, or in this process without any socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from gateway.app import Gateway, read_snapshot
from gateway.routes.http_protocol import GuardedProtocol
from gateway.store.engine import sqlite_url
from gateway.store.queries import Store, Totals


class RunningGateway:
    """A gateway that listens."""

    def __init__(self, gateway: Gateway, config_path: Path, port: int) -> None:
        self.gateway = gateway
        self.config_path = config_path
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.url}/v1"
        """What an SDK takes."""

    async def totals(self) -> list[Totals]:
        """Read the ledger's sums by target and outcome, everything written so far included."""
        await self.gateway.ledger.flush()
        store = Store(sqlite_url(Path(self.gateway.current.snapshot.state_dir) / "ledger.sqlite"))
        store.open()
        try:
            return store.totals()
        finally:
            store.close()


class _Server(uvicorn.Server):
    """Says when it listens, and leaves the process's signal handlers alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def write_config(path: Path, config: Mapping[str, Any]) -> Path:
    """Write a configuration whose state lives beside it, and return the file's path."""
    document = {"state_dir": str(path / "state"), "server": {"port": 0, "host": "127.0.0.1"}, **config}
    file = path / "tollway.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


@asynccontextmanager
async def running_gateway(
    config: Mapping[str, Any], path: Path, *, environ: Mapping[str, str] | None = None
) -> AsyncIterator[RunningGateway]:
    """Run a gateway on 127.0.0.1 and any free port, as ``tollway serve`` does, until the context is left."""
    file = write_config(path, config)

    def read() -> Any:
        return read_snapshot(file, environ or {})

    gateway = Gateway(read(), reread=read)
    listener = socket.create_server(("127.0.0.1", 0))
    # uvloop sets it on every connection; asyncio does not on those of a listener that names no protocol, and without it
    # the first token on a used connection waits 40 ms for the caller's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = _Server(
        uvicorn.Config(
            gateway.asgi,
            interface="asgi3",
            http=GuardedProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
    )
    await gateway.start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    listening = asyncio.create_task(server.listens.wait())
    try:
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            message = "the gateway did not start"
            raise AssertionError(message)
        yield RunningGateway(gateway, file, listener.getsockname()[1])
    finally:
        listening.cancel()
        server.should_exit = True
        await serving
        await gateway.stop()
        listener.close()
