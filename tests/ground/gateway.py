"""A whole gateway for tests: over a real socket on a free port, or in this process without any socket."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gateway.app import Gateway, read_snapshot
from gateway.store.database_file import sqlite_url
from gateway.store.queries import Store
from tests.ground.totals import Totals, totals_of


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
            return totals_of(store)
        finally:
            store.close()


def write_config(path: Path, config: Mapping[str, Any]) -> Path:
    """Write a configuration whose state lives beside it, and return the file's path."""
    server = {"port": 0, "host": "127.0.0.1", "drain_s": 2, **config.get("server", {})}
    document = {"state_dir": str(path / "state"), **config, "server": server}
    file = path / "tollway.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


@cache
def _new_database() -> bytes:
    """Return a ledger without rows: to make one from its migrations takes longer than all the rest of a start."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ledger.sqlite"
        with closing(Store(sqlite_url(path))) as store:
            store.open()
        return path.read_bytes()


@asynccontextmanager
async def running_gateway(
    config: Mapping[str, Any], path: Path, *, environ: Mapping[str, str] | None = None
) -> AsyncIterator[RunningGateway]:
    """Run a gateway on 127.0.0.1 and any free port, as ``tollway serve`` does, until the context is left.

    A state directory that is not there yet is made, with a ledger without rows.
    """
    file = write_config(path, config)

    def read() -> Any:
        return read_snapshot(file, environ or {})

    snapshot = read()
    state_dir = Path(snapshot.state_dir)
    if not state_dir.exists():
        state_dir.mkdir(mode=0o700, parents=True)
        (state_dir / "ledger.sqlite").write_bytes(await asyncio.to_thread(_new_database))
    gateway = Gateway(snapshot, reread=read)
    listener = socket.create_server(("127.0.0.1", 0))
    await gateway.start([listener])
    try:
        yield RunningGateway(gateway, file, listener.getsockname()[1])
    finally:
        await gateway.stop()
