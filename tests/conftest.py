"""Fixtures for every test."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.ground.upstream import ScriptedUpstream

pytest.register_assert_rewrite("tests.sdk.suite")

# How long an example takes is the machine's affair; in a clean clone the first text to be made up takes seconds, for
# hypothesis writes its table of all characters then.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Start a healthy scripted upstream on a socket."""
    async with ScriptedUpstream() as server:
        yield server
