"""Keeps a streaming caller's connection open while no target has answered yet.

Load balancers and clients cut a stream that is silent for a minute or less (BerriAI/litellm 34819). So after
``server.keep_alive_s`` the caller gets status 200 and what the dialect has for this, a comment or a ping, and again
after as long. Meanwhile targets go on being tried; which one answers no longer fits into the headers, only into the
record of the request, and a failure is the stream's last event. Before that, status and headers are the answer's own.
"""

import asyncio
from typing import TYPE_CHECKING

from gateway.clock import Clock
from gateway.config.snapshot import Current
from gateway.execution.relay import OF_A_STREAM, Sink
from gateway.types import Inbound

if TYPE_CHECKING:
    from gateway.accounting.meter import Meter

_SHORTEST_PAUSE_S = 1.0
"""Between two looks at the calls, however many of them wait."""


class KeepAlive:
    """Looks after the streamed calls of one event loop, all with one timer."""

    def __init__(self, current: Current, clock: Clock) -> None:
        self.calls: dict[str, tuple[int, Inbound, Sink, Meter]] = {}
        """By request id: when something was last sent, or the request came, in monotonic nanoseconds; and the call.

        The pipeline puts a call here and takes it away when it has ended.
        """
        self.is_watching = False
        self._current = current
        self._now_ns = clock.monotonic_ns
        self._looking: set[asyncio.Task[None]] = set()

    def watch(self) -> None:
        """Begin to look, unless the setting is 0; ends by itself when there are no calls."""
        pause_s = self._current.snapshot.server.keep_alive_s
        self.is_watching = pause_s > 0
        if self.is_watching:
            asyncio.get_running_loop().call_later(pause_s, self._look)

    def _look(self) -> None:
        task = asyncio.get_running_loop().create_task(self._send_what_is_due())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _send_what_is_due(self) -> None:
        now_ns, pause_ns = self._now_ns(), round(self._current.snapshot.server.keep_alive_s * 1e9)
        next_ns = now_ns + pause_ns
        silent = [each for each in self.calls.values() if each[3].is_waiting] if pause_ns else []
        for last_ns, inbound, sink, meter in silent:
            if last_ns + pause_ns > now_ns:
                next_ns = min(next_ns, last_ns + pause_ns)
            elif inbound.id in self.calls and meter.is_waiting:
                self.calls[inbound.id] = now_ns, inbound, sink, meter
                await _send(inbound, sink)
        self.is_watching = bool(self.calls) and pause_ns > 0
        if self.is_watching:
            pause_s = max(_SHORTEST_PAUSE_S, (next_ns - now_ns) / 1e9)
            asyncio.get_running_loop().call_later(pause_s, self._look)


async def _send(inbound: Inbound, sink: Sink) -> None:
    """Send a sign of life, and before the first one the head of the answer."""
    if not sink.started:
        request_id = inbound.id.encode()
        ids = (b"x-tollway-request-id", request_id), (inbound.endpoint.id_header, request_id)
        await sink.start(200, [(b"content-type", b"text/event-stream"), *ids, *OF_A_STREAM])
    sink.write(inbound.endpoint.keep_alive)
