"""The ASGI app that lives inside a replica: its lifespan opens the engine and the replica's own port, and drains.

Being plain ASGI it does not know Ray Serve: any ASGI server can run it, in the replica or beside it.
"""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from workers.config.spec import ModelSpec
from workers.engine import Message, OpenEngine, Receive, Send
from workers.replica.causes import STOP_FILE, reason
from workers.replica.front import ReplicaFront
from workers.replica.load import SAMPLE_S, ReplicaLoad
from workers.replica.own_port import OwnPort, own_port
from workers.replica.ports import LOOPBACK

# A gateway reads `draining`, or the end, within 250 ms; what it had sent until then is on its way.
_WORD_GETS_AROUND_S = 1.0
# When everything stops, a long stream is not waited for.
_STOP_PATIENCE_S = 3.0

_Part = TypeVar("_Part")
_log = logging.getLogger("tollway.replica")


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Where a replica runs: its id, the address to listen on, and how its URL is made known while a context lasts."""

    id: str
    host: str
    announced: Callable[[str], AbstractAsyncContextManager[None]]


def alone() -> ReplicaAddress:
    """Return the address of a replica that no directory lists."""
    return ReplicaAddress(uuid.uuid4().hex[:8], LOOPBACK, lambda _url: nullcontext())


class ReplicaApp:
    """Serve one model. The engine starts on ``lifespan.startup`` and is gone after ``lifespan.shutdown``.

    ``model`` is what ``models.prepare`` returned for the spec's source; if it is empty, the start-up prepares it.
    Cheap to make and to pickle before start-up. The shutdown takes as long as open requests last, at most the spec's
    ``drain_s``.
    """

    def __init__(
        self, name: str, model: str, spec: ModelSpec, find_address: Callable[[], ReplicaAddress] = alone
    ) -> None:
        self._name = name
        self._model = model
        self._spec = spec
        self._find_address = find_address
        self._engine: OpenEngine | None = None
        self._load: ReplicaLoad | None = None
        self._front: ReplicaFront | None = None
        self._port: OwnPort | None = None
        self.failure = ""
        """Why the start-up failed, if it has."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Speak ASGI 3."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._started(self._front)(scope, receive, send)

    async def check_health(self) -> None:
        """Raise when the engine has not started or can no longer serve, or its port has closed."""
        self._started(self._port).check()
        await self._started(self._engine).check_health()

    def demand(self) -> tuple[float, float]:
        """Return what scaling goes by: requests here, and the recent TTFT in ms, 0 when there is none."""
        return (0.0, 0.0) if self._load is None else self._load.demand()

    def _started(self, part: _Part | None) -> _Part:
        if part is None:
            raise RuntimeError(f"the engine of {self._name} is not running")
        return part

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                front, load = await self._start(stack)
            except Exception as error:
                self.failure = reason(error)
                await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
                raise
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await _drain(front, load, self._spec.drain_s)
            self._engine = self._load = self._front = self._port = None
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, stack: AsyncExitStack) -> tuple[ReplicaFront, ReplicaLoad]:
        started_at = time.monotonic()
        address, token = self._find_address(), os.environ.get("TOLLWAY_REPLICA_TOKEN") or None
        if token is None and address.host != LOOPBACK:
            raise RuntimeError(f"replicas listen on {address.host}: TOLLWAY_REPLICA_TOKEN must be set")
        engine = await stack.enter_async_context(_open(self._name, self._model, self._spec))
        limit = self._spec.max_ongoing_requests + self._spec.max_queued_requests
        load = ReplicaLoad(address.id, self._name, limit=limit, figures=engine.figures, started_at=started_at)
        front = ReplicaFront(engine.app, load, token)
        port = await stack.enter_async_context(own_port(front, address.host))
        self._engine, self._load, self._front, self._port = engine, load, front, port
        watching = asyncio.create_task(_watch(front, load, engine, port))
        stack.callback(watching.cancel)
        await stack.enter_async_context(address.announced(port.url))
        return front, load


def _everything_stops() -> bool:
    stop_file = os.environ.get(STOP_FILE)
    return stop_file is not None and Path(stop_file).exists()


async def _watch(front: ReplicaFront, load: ReplicaLoad, engine: OpenEngine, port: OwnPort) -> None:
    """Sample the load, and end what is open when the engine has died, or a little after the stop of everything began.

    With its port closed a replica is dead to the gateways at once, and to Serve at its next look.
    """
    while not _everything_stops():
        load.sample()
        try:
            await engine.check_health()
        except Exception:  # noqa: BLE001 - whatever it is: an engine that cannot say that it is well cannot serve
            _log.exception("the engine of %s has died", load.model)
            front.stop_reporting()
            front.cut()
            port.close()
            return
        await asyncio.sleep(SAMPLE_S)
    await asyncio.sleep(_STOP_PATIENCE_S)
    front.cut()


async def _drain(front: ReplicaFront, load: ReplicaLoad, drain_s: float) -> None:
    deadline = time.monotonic() + drain_s
    # Where there is no other replica, requests still come until the reports end, which says that the port will close.
    for tell in (load.drain, front.stop_reporting):
        listened = bool(front.listeners)
        tell()
        if listened and not _everything_stops():
            await asyncio.sleep(min(_WORD_GETS_AROUND_S, max(0.0, deadline - time.monotonic())))
        while load.in_flight and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait({load.changed}, timeout=left)


@asynccontextmanager
async def _open(name: str, model: str, spec: ModelSpec) -> AsyncIterator[OpenEngine]:
    # Imported late, so that a replica loads its own engine's dependencies and no other's.
    if spec.engine == "synthetic":
        from workers.synthetic.server import open_synthetic

        async with open_synthetic(name, spec.synthetic, spec.serves(name)[1:]) as engine:
            yield engine
    else:
        from workers.replica.models import prepare
        from workers.replica.vllm_engine import open_vllm

        model = model or await asyncio.to_thread(prepare, spec.source, _log.info)
        async with open_vllm(name, model, spec) as engine:
            yield engine
