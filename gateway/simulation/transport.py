"""The transport of a simulation: requests go to models as values, and what they answer comes when they say.

No socket, and no HTTP to be parsed. The row of the trace that a request stands for is found by the task that sends it:
``ROW``, which is set where the request begins, so that nothing of it need travel in the request.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import TracebackType

from gateway.errors import ErrorKind, UpstreamError
from gateway.simulation.trace import Row
from gateway.transport.base import Sending, pour_by_reads
from gateway.types import UpstreamRequest

ROW: ContextVar[Row] = ContextVar("row")


class ModelledStream:
    """An answer that a model writes: it feeds bytes, the gateway reads them. Implements ``UpstreamStream``."""

    def __init__(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": "text/event-stream"} if headers is None else headers
        self.complete = False
        self.left: Callable[[], None] = _nothing
        """Called once the gateway has left: the model frees what the request takes there."""
        self._body = b""
        self._reader: asyncio.Future[None] | None = None

    def feed(self, data: bytes, *, last: bool = False) -> None:
        """Write bytes; behind the ``last`` come none."""
        self._body += data
        self.complete = last
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def read(self) -> bytes:
        """See ``UpstreamStream.read``. It is never cut."""
        while not self._body:
            if self.complete:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        data, self._body = self._body, b""
        return data

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """See ``UpstreamStream.pour``."""
        return await pour_by_reads(self, take)


def _nothing() -> None:
    pass


Handler = Callable[[UpstreamRequest], ModelledStream]
"""A model's answer to a request. Raises UpstreamError where it cannot be reached."""


class ModelledTransport:
    """Implement ``gateway.transport.base.Transport`` by models: each by the beginning of its requests' addresses."""

    def __init__(self, handler_of: Callable[[UpstreamRequest], Handler | None]) -> None:
        self._handler_of = handler_of

    async def start(self) -> None:
        """Do nothing: there is nothing to open."""

    async def stop(self) -> None:
        """Do nothing."""

    def send(self, request: UpstreamRequest, *, connect_timeout_s: float, fresh: bool = False) -> Sending:  # noqa: ARG002
        """Hand the request to its model: see ``Transport.send``."""
        return _Sending(request, self._handler_of(request))


class _Sending:
    """See ``transport.base.Sending``."""

    def __init__(self, request: UpstreamRequest, handler: Handler | None) -> None:
        self._request = request
        self._handler = handler
        self._stream: ModelledStream | None = None

    @property
    def sent(self) -> bool:
        return self._stream is not None

    async def __aenter__(self) -> ModelledStream:
        if self._handler is None:
            raise UpstreamError(ErrorKind.UPSTREAM_CONNECT, "There is no model of this upstream.", cause="dns")
        self._stream = stream = self._handler(self._request)
        return stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.left()
