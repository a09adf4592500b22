"""Fixtures for every test."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.ground.upstream import ScriptedUpstream


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Start a healthy scripted upstream on a socket."""
    async with ScriptedUpstream() as server:
        yield server
