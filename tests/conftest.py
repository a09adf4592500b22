"""Fixtures for every test."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from gateway.accounting import applier_process
from tests.ground.appliers import WarmApplier
from tests.ground.upstream import ScriptedUpstream

pytest.register_assert_rewrite("tests.sdk.suite")

# How long an example takes is the machine's affair; in a clean clone the first text to be made up takes seconds, for
# hypothesis writes its table of all characters then.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _appliers_start_warm() -> Iterator[None]:
    """Have ledgers in this process start their appliers from one that has its modules already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applier_process, "launch", WarmApplier)
        yield


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Start a healthy scripted upstream on a socket."""
    async with ScriptedUpstream() as server:
        yield server
