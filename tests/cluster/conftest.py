"""Real Ray Serve with synthetic engines: one Ray for all modules, whose models take turns on it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.ground.ray_cluster import Cluster, running_cluster

Run = Callable[[dict[str, Any]], Cluster]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives here: many processes, and the first test of a module waits for their start.

    What shares a Ray stays in one process.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(900))
            shares = "cluster" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("cluster" if shares else item.path.stem))


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
