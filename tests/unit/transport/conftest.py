"""Both event loops for tests that choose none: the gateway serves on uvloop, simulations run on asyncio's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
import uvloop

from gateway.transport.http1 import HttpTransport
from tests.ground.in_memory import InMemoryTransport
from tests.ground.transports import Ground, pour, read
from tests.ground.upstream import ScriptedUpstream


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the event loops."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture(params=[("network", read), ("network", pour), ("in_memory", read), ("in_memory", pour)])
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    """Start the transport under test in front of a healthy upstream."""
    name, read_on = request.param
    upstream = ScriptedUpstream()
    async with AsyncExitStack() as cleanup:
        if name == "network":
            await cleanup.enter_async_context(upstream)
            transport: HttpTransport | InMemoryTransport = HttpTransport()
            url = upstream.url
        else:
            url = "http://upstream.test"
            transport = InMemoryTransport({url: upstream.serve})
        await transport.start()
        cleanup.push_async_callback(transport.stop)
        yield Ground(transport, upstream, url, read_on)
