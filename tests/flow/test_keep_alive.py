"""A streaming caller gets signs of life until the first token, and then the answer or an error. In virtual time."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.formats.anthropic.decode import MESSAGES
from gateway.formats.openai.decode import CHAT
from gateway.formats.responses.decode import RESPONSES
from gateway.simulation.virtual_time import run_virtual
from gateway.types import CallRecord, Endpoint
from tests.ground.configs import one_model, two_models
from tests.ground.model import ScriptedModel
from tests.ground.script import Answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import Answered, virtual_gateway

FIRST, SECOND = "http://first.test", "http://second.test"
SILENT = Answer(raw=b"", stall_after=0)
COMMENT, PING = b": keep-alive\n\n", b'event: ping\ndata: {"type": "ping"}\n\n'
HI = [{"role": "user", "content": "hi"}]
DIALECTS: dict[str, tuple[Endpoint, bytes, dict[str, Any], bytes]] = {
    "chat": (CHAT, COMMENT, {}, b"data: [DONE]"),
    "messages": (MESSAGES, PING, {"messages": HI, "max_tokens": 20}, b"event: message_stop"),
    "responses": (RESPONSES, COMMENT, {"input": "hi", "messages": None}, b"event: response.completed"),
}
"""Endpoint, sign of life, members of a request, and the mark of an answer that is whole."""
each_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def ask(
    config: Mapping[str, Any], path: Path, *upstreams: ScriptedUpstream, dialect: str = "chat", **members: Any
) -> tuple[Answered, CallRecord]:
    """Ask once; nothing is written in the minute after the answer has ended."""
    endpoint, _, own, _ = DIALECTS[dialect]

    async def run() -> tuple[Answered, CallRecord]:
        origins = dict(zip((FIRST, SECOND), upstreams, strict=False))
        async with virtual_gateway(config, path, origins) as running:
            answered = await running.chat(endpoint=endpoint, **{**own, **members})
            ended = answered.body
            await asyncio.sleep(60)
            assert answered.body == ended
            return answered, running.ledger.records[0]

    return run_virtual(run())


def slow(ttft_s: float) -> ScriptedUpstream:
    return ScriptedUpstream(ScriptedModel(ttft_s=ttft_s, tokens=3))


def patient(url: str, **server: float) -> dict[str, Any]:
    return {**one_model(url), "timeouts": {"first_token_s": 60}, "server": server}


@each_dialect
def test_stream_without_a_first_token_gets_signs_of_life(dialect: str, tmp_path: Path) -> None:
    """Each ten seconds; then comes the answer, and its target, reason and cost stand in the record."""
    _, sign, _, end = DIALECTS[dialect]
    answered, record = ask(patient(FIRST), tmp_path, slow(25), dialect=dialect)
    assert answered.status == 200
    assert answered.headers["content-type"] == "text/event-stream"
    assert answered.headers["x-tollway-request-id"] == record.call_id
    assert "x-tollway-target" not in answered.headers
    assert answered.body.startswith(2 * sign)
    assert answered.body.count(sign) == 2
    assert end in answered.body
    assert b": x-tollway-cost-usd 0." in answered.body
    assert (record.target_id, record.reason) == ("scripted", "only target")


@each_dialect
def test_failure_behind_a_sign_of_life_is_an_error_event(dialect: str, tmp_path: Path) -> None:
    """In the caller's dialect, and no end marker follows."""
    _, sign, _, end = DIALECTS[dialect]
    config = patient(FIRST)
    config["timeouts"] = {"first_token_s": 15, "total_s": 25}
    silent = ScriptedUpstream().on_model("scripted", SILENT)
    answered, record = ask(config, tmp_path, silent, dialect=dialect)
    events = answered.body.removeprefix(sign * answered.body.count(sign))
    assert answered.status == 200
    assert answered.body.startswith(sign)
    assert events.startswith(b'data: {"error":' if dialect == "chat" else b"event: error\ndata: {")
    assert events.count(b"data: ") == 1
    assert end not in events
    assert record.error_kind is not None


@each_dialect
def test_next_target_is_tried_behind_a_sign_of_life(dialect: str, tmp_path: Path) -> None:
    """The record says which one answered, and why."""
    _, sign, _, end = DIALECTS[dialect]
    config = two_models(FIRST, SECOND, timeouts={"first_token_s": 12, "total_s": 60})
    answered, record = ask(config, tmp_path, ScriptedUpstream().on_model("cheap", SILENT), slow(1), dialect=dialect)
    assert answered.body.startswith(sign)
    assert end in answered.body
    assert record.target_id == "dear"
    assert record.reason is not None
    assert record.reason.startswith("fallback: cheap")


@pytest.mark.parametrize(
    ("ttft_s", "server", "members"),
    [(9.0, {}, {}), (25.0, {"keep_alive_s": 0}, {}), (25.0, {}, {"stream": False}), (9.0, {"keep_alive_s": 9.5}, {})],
    ids=["in time", "off", "not streamed", "in time for the setting"],
)
def test_answer_without_a_sign_of_life_is_as_ever(
    ttft_s: float, server: dict[str, float], members: dict[str, Any], tmp_path: Path
) -> None:
    """Its headers name the target."""
    answered, _ = ask(patient(FIRST, **server), tmp_path, slow(ttft_s), **members)
    assert COMMENT not in answered.body
    assert answered.headers["x-tollway-target"] == "scripted"


def test_failure_before_a_sign_of_life_has_its_status(tmp_path: Path) -> None:
    """And a body that is an error."""
    config = two_models(FIRST, SECOND, timeouts={"first_token_s": 4})
    upstreams = (ScriptedUpstream().on_model(name, SILENT) for name in ("cheap", "dear"))
    answered, _ = ask(config, tmp_path, *upstreams)
    assert answered.status == 503
    assert answered.body.startswith(b'{"error":')


def test_setting_says_how_often_signs_of_life_are_sent(tmp_path: Path) -> None:
    answered, _ = ask(patient(FIRST, keep_alive_s=2), tmp_path, slow(9))
    assert answered.body.count(COMMENT) == 4


def test_sign_of_life_never_follows_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the caller takes half a minute to read it."""
    monkeypatch.setattr(Answered, "drained", lambda _self: asyncio.sleep(30))
    config = patient(FIRST)
    config["timeouts"] = {"first_token_s": 9, "idle_s": 9, "total_s": 9.5}
    answered, _ = ask(config, tmp_path, ScriptedUpstream().on_model("scripted", SILENT))
    assert answered.status in {503, 504}
    assert COMMENT not in answered.body
