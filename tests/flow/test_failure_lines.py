"""Each failure leaves a line in the log, and its cause in the ledger and in ``GET /v1/requests/{id}``."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.execution.attempt import Attempt
from gateway.formats.openai.compatible import CompatibleAdapter
from gateway.routes.api import explain
from gateway.routing.policy import Policy
from gateway.simulation.virtual_time import run_virtual
from gateway.types import LedgerEntry, Outcome
from tests.ground.configs import one_model, two_models
from tests.ground.gateway import running_gateway
from tests.ground.script import Answer, error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import virtual_gateway

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
    assert (failed["target_id"], failed["cause"]) == ("cheap", cause)
    assert (answered["target_id"], answered["cause"]) == ("dear", None)
    assert told["cause"] is None
    (line,) = [each.getMessage() for each in caplog.records if each.name == "tollway.failures"]
    assert line.startswith(f"failed: request {told['id']}, target cheap, kind {failed['error_kind']}")
    assert "then went on to dear" in line
    assert cause is None or f"cause {cause}" in line
    assert "prompt" not in line


def test_unanswered_call_has_the_last_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    # Refused, which is tried once more.
    assert then == ["went on to dear", "went on to dear", "the caller was told 503"]


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
        answer = {"choices": [{"index": 0, "message": {"content": "Hi."}, "finish_reason": "stop"}]}
        cheap = ScriptedUpstream().on_path("/v1/chat/completions", json_answer(answer))
        origins = {"http://cheap.test": cheap, "http://dear.test": ScriptedUpstream()}
        async with virtual_gateway(two_models(*origins), tmp_path, origins) as running:
            assert (await running.chat(stream=False)).status == 200

    caplog.set_level(logging.INFO)
    run_virtual(scenario())
    assert [each for each in caplog.records if each.name == "tollway.failures"] == []


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "tollway.failures"]


def test_call_out_of_time_names_its_last_target(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        slow = ScriptedUpstream()
        slow.model.tokens, slow.model.tpot_s = 100, 1.0
        config = one_model("http://slow.test") | {"timeouts": {"first_token_s": 5, "idle_s": 5, "total_s": 10}}
        async with virtual_gateway(config, tmp_path, {"http://slow.test": slow}) as running:
            assert b"deadline_exceeded" in (await running.chat()).body

    caplog.set_level(logging.INFO)
    run_virtual(scenario())
    (line,) = lines_of(caplog)
    assert "target scripted, kind deadline" in line
    assert line.endswith("then the caller was told 504")


@pytest.mark.parametrize("place", ["plan", "attempt"])
def test_fault_of_ours_leaves_one_line_with_its_traceback(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise ZeroDivisionError("a defect")

    async def scenario() -> None:
        origins = {"http://a.test": ScriptedUpstream()}
        async with virtual_gateway(one_model("http://a.test"), tmp_path, origins) as running:
            if place == "plan":
                monkeypatch.setattr(Policy, "plan", fail)
            else:
                monkeypatch.setattr(CompatibleAdapter, "decoder", fail)
            assert (await running.chat()).status == 500

    caplog.set_level(logging.INFO)
    run_virtual(scenario())
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.name == "tollway.failures"
    assert record.exc_info is not None
    assert "kind internal, cause ZeroDivisionError, then the caller was told 500" in record.getMessage()
    assert ("target scripted" in record.getMessage()) is (place == "attempt")


def test_counts_of_a_flood_are_logged_at_the_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        origins = {"http://a.test": ScriptedUpstream()}
        async with virtual_gateway(one_model("http://a.test"), tmp_path, origins) as running:
            for _ in range(3):
                assert (await running.chat(model="autoo")).status == 404

    caplog.set_level(logging.INFO)
    run_virtual(scenario())
    assert lines_of(caplog)[1:] == ["failed: model_not_found 2 times more within 10 s"]


def test_fault_in_one_attempt_leaves_no_hold_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key's one place is free again, and the other attempt has been settled."""
    end = Attempt.end

    def fail_once(attempt: Attempt, outcome: Outcome, error: GatewayError | None = None) -> LedgerEntry:
        entry = end(attempt, outcome, error)
        if attempt.target.id == "cheap":
            raise ZeroDivisionError("a defect")
        return entry

    async def scenario() -> None:
        cheap, dear = ScriptedUpstream(), ScriptedUpstream()
        origins = {"http://cheap.test": cheap, "http://dear.test": dear}
        config = two_models(*origins) | {"keys": [{"name": "app", "secret": "env:APP", "concurrency": 1}]}
        async with virtual_gateway(config, tmp_path, origins, {"APP": "k"}) as running:
            with monkeypatch.context() as patched:
                patched.setattr(Attempt, "end", fail_once)
                with pytest.raises(ZeroDivisionError):
                    await running.chat(key="k")
            assert running.gateway.pool.in_flight()["cheap"] == 0
            assert (await running.chat(key="k", model="dear")).status == 200

    run_virtual(scenario())


def fail(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("a defect")


@pytest.mark.parametrize(
    ("place", "defect", "answer"),
    [
        ("accounting.measure.Measure.stop", fail, json_answer({})),
        ("accounting.measure.Measure.outcome_of", fail, error_answer(401)),
        ("accounting.measure.Measure.service_tier", "\ud800", None),
        ("execution.attempt.without_own", fail, error_answer(401)),
    ],
)
def test_fault_at_an_attempts_end_leaves_its_row_and_the_calls_record(
    place: str, defect: object, answer: Answer | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever raises there, the caller is answered; nothing is left open and no place is kept."""

    async def scenario() -> None:
        upstream = ScriptedUpstream()
        if answer is not None:
            upstream.on_path("/v1/chat/completions", answer)
        config = one_model("http://a.test")
        price = {"input": 1, "output": 2, "variants": [{"request": {"service_tier": "flex"}, "input": 0.5}]}
        config["models"][next(iter(config["models"]))]["price"] = price
        async with virtual_gateway(config, tmp_path, {"http://a.test": upstream}) as running:
            monkeypatch.setattr(f"gateway.{place}", defect)
            answered = await running.chat(stream=False)
            (entry,), (record,) = running.ledger.entries, running.ledger.records
            assert (answered.status, entry.error_kind, record.error_kind) == (500, "internal", "internal")
            assert set(running.gateway.pool.in_flight().values()) == {0}

    run_virtual(scenario())


HTTP_REFUSALS = {
    "no HTTP": (b"hello\r\n\r\n", "400"),
    "another version": (b"GET / HTTP/1.2\r\nhost: a\r\n\r\n", "505"),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", "400"),
    "a long head": (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", "431"),
    "another coding": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: gzip\r\ncontent-length: 0\r\n\r\n",
        "415",
    ),
    "a foreign page": (b"GET /v1/models HTTP/1.1\r\nhost: evil.test\r\n\r\n", "403"),
    "another method": (b"PUT /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n", "405"),
    "no such address": (b"GET /secret-canary HTTP/1.1\r\nhost: localhost\r\n\r\n", "404"),
}


@pytest.mark.parametrize("name", HTTP_REFUSALS)
async def test_refusal_before_a_call_leaves_a_line_and_is_counted(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A flood of them is two lines, and none holds what the caller sent."""
    request, status = HTTP_REFUSALS[name]
    caplog.set_level(logging.INFO)
    async with running_gateway(one_model("http://127.0.0.1:9"), tmp_path) as running:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(request)
            assert f"HTTP/1.1 {status} " in (await reader.readline()).decode()
            writer.close()
        shown = running.gateway.metrics.reading()().decode()
    assert f'tollway_http_refusals_total{{status="{status}"}} 3.0' in shown
    first, counted = lines_of(caplog)
    assert first.endswith(f"then the caller was told {status}")
    assert counted.endswith("2 times more within 10 s")
    assert "canary" not in first + counted
