"""Fixtures for every test."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.ground.upstream import ScriptedUpstream

pytest.register_assert_rewrite("tests.sdk.suite")


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Start a healthy scripted upstream on a socket."""
    async with ScriptedUpstream() as server:
        yield server
