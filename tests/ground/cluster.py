"""A cluster without Ray: the workers' own directory and replicas with the synthetic engine, in this process.

What Serve does (placing, counting, stopping) is done by the test.
"""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import uvicorn

from workers.cluster.directory import Directory, DirectoryApp, ServedModel
from workers.config.spec import SyntheticSpec
from workers.engine import AsgiApp, Message
from workers.replica.front import ReplicaFront
from workers.replica.load import ReplicaLoad
from workers.synthetic.server import open_synthetic


class _Server:
    """uvicorn on a free port; ``kill`` is what a ``kill -9`` looks like from outside."""

    def __init__(self, app: AsgiApp) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        settings = uvicorn.Config(
            app, interface="asgi3", lifespan="off", log_config=None, timeout_graceful_shutdown=1, ws="none"
        )
        self._server = uvicorn.Server(settings)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))

    async def started(self) -> Self:
        while not self._server.started:
            await asyncio.sleep(0.001)
        return self

    def kill(self) -> None:
        for server in self._server.servers:
            server.close()
        self._listener.close()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]

    async def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        await self._task


class LocalReplica:
    """One replica."""

    def __init__(self, cluster: "LocalCluster", model: str, spec: SyntheticSpec, *, limit: int) -> None:
        self.id = f"r{next(cluster.numbers)}"
        self.model = model
        self.load: ReplicaLoad
        self.asked: list[str] = []
        """The attempt ids of the requests that came."""
        self.dies_of_requests = False
        self._cluster = cluster
        self._spec = spec
        self._limit = limit
        self._engine = open_synthetic(model, spec)
        self.server: _Server

    async def start(self) -> None:
        """Open the engine and the port, and announce both."""
        opened = await self._engine.__aenter__()
        self.load = ReplicaLoad(self.id, self.model, limit=self._limit, figures=opened.figures)
        front = ReplicaFront(opened.app, self.load, None)

        async def noting(scope: Message, receive: Any, send: Any) -> None:
            headers = dict(scope["headers"])
            if b"x-tollway-attempt-id" in headers:
                self.asked.append(headers[b"x-tollway-attempt-id"].decode())
                if self.dies_of_requests:
                    self.kill()
            await front(scope, receive, send)

        self.server = await _Server(noting).started()
        self._cluster.directory.announce(self.model, self.id, self.server.url)

    def kill(self) -> None:
        """Die without a word; the directory still lists it for a while."""
        self.server.kill()

    def drain(self) -> None:
        """Take no new requests."""
        self.load.drain()
        self._cluster.directory.withdraw(self.model, self.id)

    async def stop(self) -> None:
        """End the server and the engine."""
        self._cluster.directory.withdraw(self.model, self.id)
        await self.server.stop()
        await self._engine.__aexit__(None, None, None)


class LocalCluster:
    """A directory and as many replicas as the test adds."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self.numbers = itertools.count()
        self.directory = Directory(models, now=lambda: 0.0)  # nothing expires: the test says what goes
        self.woken: list[str] = []
        """Models that somebody wanted while they were at zero."""
        self.replicas: list[LocalReplica] = []
        self._app = DirectoryApp(self.directory, self.woken.append, None)
        self._app.directory._reached_at = 0.0  # nobody else will announce anything
        self._server: _Server

    @property
    def url(self) -> str:
        """What the configuration takes as ``base_url``."""
        return self._server.url

    async def open_directory(self) -> None:
        """Serve the directory."""

        async def mounted(scope: Message, receive: Any, send: Any) -> None:
            await self._app({**scope, "root_path": "/tollway"}, receive, send)

        self._server = await _Server(mounted).started()

    def close_directory(self) -> None:
        """Take the directory away, as an outage of the control plane does."""
        self._server.kill()

    async def add(self, model: str = "own", *, limit: int = 64, **spec: Any) -> LocalReplica:
        """Start a replica."""
        replica = LocalReplica(self, model, SyntheticSpec(**({"ttft_ms": 0, "tpot_ms": 0} | spec)), limit=limit)
        await replica.start()
        self.replicas.append(replica)
        return replica

    async def stop(self) -> None:
        """End everything."""
        for replica in self.replicas:
            await replica.stop()
        await self._server.stop()


@asynccontextmanager
async def local_cluster(*models: str) -> AsyncIterator[LocalCluster]:
    """Run a directory that lists these models, by default ``own``, all at zero."""
    cluster = LocalCluster({name: ServedModel((name,), usd_per_hour=3.6) for name in models or ("own",)})
    await cluster.open_directory()
    try:
        yield cluster
    finally:
        await cluster.stop()


def clustered(url: str, bridge_url: str | None = None, **model: Any) -> dict[str, Any]:
    """Describe a route ``auto``: the model ``own`` of the cluster, then ``bridge`` at the second origin, if given."""
    config: dict[str, Any] = {
        "providers": {"cluster": {"type": "ray-serve", "base_url": url}},
        "models": {"own": {"provider": "cluster", "hardware": {"name": "x", "usd_per_hour": 3.6}, **model}},
        "routes": {"auto": {"models": ["own"]}},
        "timeouts": {"first_token_s": 5, "idle_s": 5, "total_s": 20, "cold_start_s": 5},
    }
    if bridge_url is not None:
        config["providers"]["bridge"] = {"type": "openai-compatible", "base_url": f"{bridge_url}/v1"}
        config["models"]["bridge"] = {"provider": "bridge", "price": {"input": 1000, "output": 2000}}
        config["routes"]["auto"]["models"].append("bridge")
    return config
