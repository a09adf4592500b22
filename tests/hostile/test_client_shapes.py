"""Every caller of the corpus gets the answers that its row declares, in order, from a running gateway over a socket.

No status of 500 or above but the declared, no wait that does not end, nothing left of a caller afterwards, and no key,
prompt or upstream's address in what a caller is refused with or in the log.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from gateway.routes import http1_connection
from tests.ground.callers import RawCaller, request
from tests.ground.configs import one_model
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.model import ScriptedModel
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import until
from tests.hostile import client_courses, client_shapes
from tests.hostile.shape import KEY, PAGE, PROMPT, Expected, Shape

SHAPES: list[Shape] = [
    *client_shapes.methods(),
    *client_shapes.request_lines(),
    *client_shapes.headers(),
    *client_shapes.framings(),
    *client_courses.courses(),
    *client_courses.bodies(),
    *client_courses.credentials(),
    *client_courses.callers(),
    *client_courses.patience(),
]
UPSTREAM_KEY = "sk-canary-upstream-key"
SERVER = {"max_body_mb": 2, "hosts": ["gw.example"], "cors_origins": [PAGE]}


class Ground:
    """The gateways that callers of the corpus meet, and what must stay secret."""

    def __init__(self, gateways: dict[str, RunningGateway], upstream: ScriptedUpstream) -> None:
        self.gateways = gateways
        self.secrets = (KEY, UPSTREAM_KEY, PROMPT, upstream.url.removeprefix("http://"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Run a gateway with keys, one without, and one with keys and short deadlines, before one healthy upstream."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(ScriptedModel(tokens=5)))
        config: dict[str, Any] = one_model(upstream.url)
        config["providers"]["upstream"]["api_key"] = "env:UPSTREAM_KEY"
        config["models"]["forbidden"] = config["models"]["scripted"]
        keys = [{"name": "app", "secret": "env:KEY", "routes": ["auto"]}]
        gateways = {}
        for name, more in {
            "keyed": {"keys": keys, "server": SERVER},
            "keyless": {"server": SERVER},
            "hurried": {"keys": keys, "server": {**SERVER, "body_timeout_s": 0.1}},
        }.items():
            environ = {"KEY": KEY, "UPSTREAM_KEY": UPSTREAM_KEY}
            running = running_gateway({**config, **more}, tmp_path_factory.mktemp(name), environ=environ)
            gateways[name] = await stack.enter_async_context(running)
        yield Ground(gateways, upstream)
        rows = [row for running in gateways.values() for row in await running.totals()]
        assert sum(row.attempts for row in rows) == len(upstream.seen), "each attempt is billed once"


def test_names_of_shapes_are_distinct() -> None:
    """And there are as many as are promised."""
    assert [name for name, count in Counter(shape.name for shape in SHAPES).items() if count > 1] == []
    assert len(SHAPES) >= 300


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_caller_gets_the_declared_answers(
    shape: Shape, ground: Ground, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if shape.gateway == "hurried":
        for name in ("HEADER_TIMEOUT_S", "KEEP_ALIVE_S"):
            monkeypatch.setattr(http1_connection, name, 0.1)
    running = ground.gateways[shape.gateway]
    async with RawCaller.connected(running.port) as caller:
        answers = list(shape.answers)
        await _send(caller, shape, answers, ground)
        while answers:
            await _read(caller, answers.pop(0), ground)
        if shape.stays_open:
            assert (await caller.ask(request("GET", "/healthz"))).status == 200
        elif not _leaves(shape):
            assert await caller.rest() == b""
    await until(lambda: not running.gateway.http._connections)
    await until(lambda: not any(running.gateway.pool.in_flight().values()))
    assert [record.message for record in caplog.records if record.levelno > logging.WARNING] == []
    assert not [secret for secret in ground.secrets if secret in caplog.text]


async def _send(caller: RawCaller, shape: Shape, answers: list[Expected], ground: Ground) -> None:
    """Write the pieces, each by itself; what no longer finds a reader is the server's to refuse."""
    with contextlib.suppress(ConnectionError):
        for piece in shape.sent:
            if piece == "answer":
                await _read(caller, answers.pop(0), ground)
            elif piece == "end":
                caller.writer.write_eof()
            elif piece == "reset":
                caller.writer.transport.abort()
            else:
                caller.writer.write(piece)
                await caller.writer.drain()
                await asyncio.sleep(0)


def _leaves(shape: Shape) -> bool:
    return shape.sent[-1:] in (("end",), ("reset",))


async def _read(caller: RawCaller, expected: Expected, ground: Ground) -> None:
    received = await caller.answer(is_head=expected.is_head)
    assert received.status == expected.status, received
    if received.status == 405:
        assert received.headers["allow"]
    if received.status >= 400:
        whole = received.raw_head + received.body
        assert not [secret for secret in ground.secrets if secret.encode() in whole]
        if not expected.is_head:
            assert set(received.error) >= {"message", "type", "param", "code"}, received
            assert len(received.error["message"]) > 20
            assert expected.code in (None, received.error["code"])
