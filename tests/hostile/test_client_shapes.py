"""Every caller of the corpus gets the answers that its row declares, in order, from a running gateway over a socket.

No status of 500 or above but the declared, no wait that does not end, nothing left of a caller afterwards, and no key,
prompt or upstream's address in what a caller is refused with or in the log.
"""

import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from _pytest.mark import ParameterSet

from gateway.routes import http1_connection
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.model import ScriptedModel
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import until
from tests.hostile.client_corpus import ENVIRON, FURTHER, SHAPES, assert_rows_are_what_was_seen, configs, play, secrets
from tests.hostile.shape import Shape

FURTHER_EVERY = 12
"""Of callers of other dialects than chat; all of them as a soak test."""


class Ground:
    """The gateways that callers of the corpus meet, and what must stay secret."""

    def __init__(self, gateways: dict[str, RunningGateway], upstream: ScriptedUpstream) -> None:
        self.gateways = gateways
        self.secrets = secrets(upstream.url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Run a gateway with keys, one without, and one with keys and short deadlines, before one healthy upstream."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(ScriptedModel(tokens=5)))
        gateways = {}
        for name, config in configs(upstream.url).items():
            running = running_gateway(config, tmp_path_factory.mktemp(name), environ=ENVIRON)
            gateways[name] = await stack.enter_async_context(running)
        yield Ground(gateways, upstream)
        for running in gateways.values():
            await running.gateway.ledger.flush()
        state_dirs = [Path(running.gateway.current.snapshot.state_dir) for running in gateways.values()]
        assert_rows_are_what_was_seen(state_dirs, upstream)


def test_names_of_shapes_are_distinct() -> None:
    """And there are as many as are promised."""
    assert [name for name, count in Counter(shape.name for shape in [*SHAPES, *FURTHER]).items() if count > 1] == []
    assert len(SHAPES) >= 300


def _groups(played: list[Shape]) -> Iterator[ParameterSet]:
    """Group neighbours that meet the same gateway: a test apiece would take longer than the caller that it plays."""
    for gateway, shapes in itertools.groupby(played, key=lambda shape: shape.gateway):
        neighbours = list(shapes)
        for at in range(0, len(neighbours), 12):
            group = neighbours[at : at + 12]
            yield pytest.param(gateway, group, id=f"{gateway}, {group[0].name} to {group[-1].name}")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("gateway", "shapes"),
    [
        *_groups(SHAPES),
        *_groups(FURTHER[::FURTHER_EVERY]),
        *[pytest.param(*each.values, id=f"all, {each.id}", marks=pytest.mark.soak) for each in _groups(FURTHER)],
    ],
)
async def test_caller_gets_the_declared_answers(
    gateway: str,
    shapes: list[Shape],
    ground: Ground,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if gateway == "hurried":
        for name in ("HEADER_TIMEOUT_S", "KEEP_ALIVE_S"):
            monkeypatch.setattr(http1_connection, name, 0.1)
    running = ground.gateways[gateway]
    failures: list[Exception] = []
    for shape in shapes:
        try:
            await play(shape, running.port, ground.secrets)
            await until(lambda: not running.gateway.http._connections)
            await until(lambda: not any(running.gateway.pool.in_flight().values()))
        except Exception as error:  # noqa: BLE001 - raised below, with those of the others
            error.add_note(f"the caller: {shape.name}")
            failures.append(error)
    if failures:
        raise ExceptionGroup("callers that got something else", failures)
    assert [record.message for record in caplog.records if record.levelno > logging.WARNING] == []
    assert not [secret for secret in ground.secrets if secret in caplog.text]
