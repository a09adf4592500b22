"""Real Ray Serve with synthetic engines: one Ray for all modules, whose models take turns on it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.ground.ray_cluster import Cluster, running_cluster

Run = Callable[[dict[str, Any]], Cluster]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what lives here: many processes, and the first test of a module waits for their start."""
    item.add_marker(pytest.mark.slow)
    item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Return what runs models, in place of those before, on a Ray that starts with the first."""
    started: list[Cluster] = []
    with ExitStack() as stack:

        def run(workers: dict[str, Any]) -> Cluster:
            if started:
                started[0].replace(workers)
            else:
                started.append(stack.enter_context(running_cluster(tmp_path_factory.mktemp("cluster"), workers)))
            return started[0]

        yield run


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, run: Run) -> Cluster:
    """Run the module's ``WORKERS``, and nothing of another module's."""
    return run(request.module.WORKERS)
