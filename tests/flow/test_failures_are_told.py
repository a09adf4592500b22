"""Each failure leaves a line in the log, and its cause in the ledger and in ``GET /v1/requests/{id}``."""

import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.routes.api import explain
from tests.ground.configs import two_models
from tests.ground.script import Answer, error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import virtual_gateway
from tests.ground.virtual_time import run_virtual

CAUSES: dict[str, tuple[Answer | None, str | None]] = {
    "nobody listens": (None, "refused"),
    "no HTTP": (Answer(raw=b"SSH-2.0-OpenSSH\r\n"), "not_http"),
    "a revoked key": (error_answer(401, "This key was revoked. Ask the owner."), "This key was revoked."),
    "an unknown model": (error_answer(404, "No model of that name here."), "No model of that name here."),
    "a fault": (error_answer(500, "scripted failure"), None),
    "the prompt said back": (error_answer(401, "no: a prompt that is not to be logged"), None),
}


@pytest.mark.parametrize("name", CAUSES)
def test_failed_attempt_leaves_a_line_and_its_cause(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names request, target, kind, cause and what was done next; the cause is told of the attempt."""
    answer, cause = CAUSES[name]

    async def scenario() -> dict[str, Any]:
        cheap, dear = ScriptedUpstream(), ScriptedUpstream()
        if answer is None:
            cheap.alive = False
        else:
            cheap.on_path("/v1/chat/completions", answer)
        origins = {"http://cheap.test": cheap, "http://dear.test": dear}
        async with virtual_gateway(two_models(*origins), tmp_path, origins) as running:
            prompt = [{"role": "user", "content": "a prompt that is not to be logged"}]
            assert (await running.chat(messages=prompt)).status == 200
            record = running.ledger.records[-1]
            entries = tuple(each for each in running.ledger.entries if each.call_id == record.call_id)
            return explain(record, entries)

    caplog.set_level(logging.INFO)
    told = run_virtual(scenario())
    failed, answered = told["attempts"]
    assert (failed.target_id, failed.cause) == ("cheap", cause)
    assert (answered.target_id, answered.cause) == ("dear", None)
    assert told["cause"] is None
    (line,) = [each.getMessage() for each in caplog.records if each.name == "tollway.failures"]
    assert line.startswith(f"failed: request {told['id']}, target cheap, kind {failed.error_kind}")
    assert "then went on to dear" in line
    assert cause is None or f"cause {cause}" in line
    assert "prompt" not in line


def test_call_that_nobody_could_answer_has_the_last_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each attempt has its line, the last of which says that the caller was told."""

    async def scenario() -> dict[str, Any]:
        cheap, dear = ScriptedUpstream(), ScriptedUpstream()
        cheap.on_path("/v1/chat/completions", error_answer(401, "Revoked."))
        dear.alive = False
        origins = {"http://cheap.test": cheap, "http://dear.test": dear}
        async with virtual_gateway(two_models(*origins), tmp_path, origins) as running:
            assert (await running.chat()).status == 503
            return explain(running.ledger.records[-1], tuple(running.ledger.entries))

    caplog.set_level(logging.INFO)
    assert run_virtual(scenario())["cause"] == "refused"
    lines = [each.getMessage() for each in caplog.records if each.name == "tollway.failures"]
    then = [line.rpartition("then ")[2].split(",")[0] for line in lines]
    assert then == ["went on to dear", "went on to dear", "the caller was told"]  # refused, which is tried once more


def test_refused_call_leaves_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a call that reached no target: its kind and the status that the caller got."""

    async def scenario() -> None:
        origins = {"http://cheap.test": ScriptedUpstream(), "http://dear.test": ScriptedUpstream()}
        async with virtual_gateway(two_models(*origins), tmp_path, origins) as running:
            assert (await running.chat(model="autoo")).status == 404

    caplog.set_level(logging.INFO)
    run_virtual(scenario())
    (line,) = [each.getMessage() for each in caplog.records if each.name == "tollway.failures"]
    assert line.endswith("kind model_not_found, then the caller was told 404")


def test_answered_call_leaves_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        cheap = ScriptedUpstream().on_path("/v1/chat/completions", json_answer({"choices": [{"index": 0}]}))
        origins = {"http://cheap.test": cheap, "http://dear.test": ScriptedUpstream()}
        async with virtual_gateway(two_models(*origins), tmp_path, origins) as running:
            assert (await running.chat(stream=False)).status == 200

    caplog.set_level(logging.INFO)
    run_virtual(scenario())
    assert [each for each in caplog.records if each.name == "tollway.failures"] == []
