"""The ASGI app that lives inside a replica: it opens the engine in its lifespan and hands every request to it.

Being plain ASGI it does not know Ray Serve: any ASGI server can run it, in the replica or beside it.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from workers.engine import AsgiApp, Message, OpenEngine, Receive, Send
from workers.spec import ModelSpec


class ReplicaApp:
    """Serve one model. The engine starts on ``lifespan.startup`` and is gone after ``lifespan.shutdown``.

    ``model`` is what ``models.prepare`` returned for the spec's source. Cheap to make and to pickle before start-up.
    """

    def __init__(self, name: str, model: str, spec: ModelSpec) -> None:
        self._name = name
        self._model = model
        self._spec = spec
        self._engine: OpenEngine | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Speak ASGI 3."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._app(scope, receive, send)

    async def check_health(self) -> None:
        """Raise when the engine has not started or can no longer serve."""
        await self._started().check_health()

    @property
    def _app(self) -> AsgiApp:
        return self._started().app

    def _started(self) -> OpenEngine:
        if self._engine is None:
            raise RuntimeError(f"the engine of {self._name} is not running")
        return self._engine

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                self._engine = await stack.enter_async_context(_open(self._name, self._model, self._spec))
            except Exception as error:
                await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
                raise
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self._engine = None
        await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def _open(name: str, model: str, spec: ModelSpec) -> AsyncIterator[OpenEngine]:
    # Imported late, so that a replica loads its own engine's dependencies and no other's.
    if spec.engine == "synthetic":
        from workers.server import open_synthetic

        async with open_synthetic(name, spec.synthetic) as engine:
            yield engine
    else:
        from workers.vllm_engine import open_vllm

        async with open_vllm(name, model, spec) as engine:
            yield engine
