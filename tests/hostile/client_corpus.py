"""The corpus of callers whole, the gateways that it is played to, and how one caller is played."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.ground.callers import RawCaller, request
from tests.ground.configs import one_model
from tests.ground.upstream import ScriptedUpstream
from tests.hostile import client_courses, client_dialects, client_shapes
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
FURTHER: list[Shape] = [*client_dialects.bodies(), *client_dialects.heads(), *client_dialects.courses()]
"""Callers of other dialects than chat."""
UPSTREAM_KEY = "sk-canary-upstream-key"
ENVIRON = {"KEY": KEY, "UPSTREAM_KEY": UPSTREAM_KEY}
_SERVER = {"max_body_mb": 2, "hosts": ["gw.example"], "cors_origins": [PAGE]}


def configs(upstream_url: str) -> dict[str, dict[str, Any]]:
    """Describe the gateways by the names that shapes give them, all before one healthy upstream."""
    config: dict[str, Any] = one_model(upstream_url)
    config["providers"]["upstream"]["api_key"] = "env:UPSTREAM_KEY"
    config["models"]["forbidden"] = config["models"]["scripted"]
    keys = [{"name": "app", "secret": "env:KEY", "routes": ["auto"]}]
    return {
        "keyed": {**config, "keys": keys, "server": _SERVER},
        "keyless": {**config, "server": _SERVER},
        "hurried": {**config, "keys": keys, "server": {**_SERVER, "body_timeout_s": 0.1}},
    }


def secrets(upstream_url: str) -> tuple[str, ...]:
    """Return what must stand in no refusal and no log."""
    return (KEY, UPSTREAM_KEY, PROMPT, upstream_url.removeprefix("http://"))


async def play(shape: Shape, port: int, canaries: Sequence[str]) -> None:
    """Send what a shape sends to the gateway at this port, and hold what comes back against what it declares."""
    async with RawCaller.connected(port) as caller:
        answers = list(shape.answers)
        await _send(caller, shape, answers, canaries)
        while answers:
            await _read(caller, answers.pop(0), canaries)
        if shape.stays_open:
            assert (await caller.ask(request("GET", "/healthz"))).status == 200
        elif shape.sent[-1:] not in (("end",), ("reset",)):
            assert await caller.rest() == b""


def assert_rows_are_what_was_seen(state_dirs: Sequence[Path], *upstreams: ScriptedUpstream) -> None:
    """Compare attempts with requests by their ids: each that arrived has one row, and no other row costs anything.

    A caller who leaves while the connection is still being made leaves a row of an attempt that was never sent.
    """
    rows: dict[str, tuple[str, int]] = {}
    for state_dir in state_dirs:
        with contextlib.closing(sqlite3.connect(state_dir / "ledger.sqlite")) as database:
            found = database.execute("SELECT attempt_id, outcome, cost_nano_usd FROM attempts").fetchall()
        rows |= {attempt_id: (outcome, cost) for attempt_id, outcome, cost in found}
    seen = [each.attempt_id for upstream in upstreams for each in upstream.seen]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= rows.keys()
    assert {rows[each] for each in rows.keys() - set(seen)} <= {("cancelled", 0)}


async def _send(caller: RawCaller, shape: Shape, answers: list[Expected], canaries: Sequence[str]) -> None:
    """Write the pieces, each by itself; what no longer finds a reader is the server's to refuse."""
    with contextlib.suppress(ConnectionError):
        for piece in shape.sent:
            if piece == "answer":
                await _read(caller, answers.pop(0), canaries)
            elif piece == "end":
                caller.writer.write_eof()
            elif piece == "reset":
                caller.writer.transport.abort()
            else:
                caller.writer.write(piece)
                await caller.writer.drain()
                await asyncio.sleep(0)


async def _read(caller: RawCaller, expected: Expected, canaries: Sequence[str]) -> None:
    received = await caller.answer(is_head=expected.is_head)
    assert received.status == expected.status, received
    if received.status == 405:
        assert received.headers["allow"]
    if received.status >= 400:
        whole = received.raw_head + received.body
        assert not [secret for secret in canaries if secret.encode() in whole]
        if not expected.is_head:
            if expected.dialect == "anthropic":
                said = json.loads(received.body)
                assert (said["type"], said["request_id"]) == ("error", received.headers["request-id"]), received
                assert received.error.keys() == {"type", "message"}, received
            else:
                assert set(received.error) >= {"message", "type", "param", "code"}, received
            assert len(received.error["message"]) > 20
            assert expected.code in (None, received.error["type" if expected.dialect == "anthropic" else "code"])
