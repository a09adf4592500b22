"""Real Ray Serve with synthetic engines: one cluster for each module, about ten seconds to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ground.ray_cluster import Cluster, running_cluster


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives here: many processes, and the first test of a module waits for their start."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run the module's ``WORKERS``."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), request.module.WORKERS) as running:
        yield running
