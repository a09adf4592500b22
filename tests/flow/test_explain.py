"""``tollway explain`` and ``POST /v1/explain/...``: where a call went, and where one would go, without sending any."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.cli import main
from tests.ground.configs import one_model, two_models
from tests.ground.gateway import running_gateway, write_config
from tests.ground.upstream import Answer, ScriptedUpstream

CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
ASKED: dict[str, dict[str, Any]] = {
    "chat/completions": CHAT,
    "completions": {"model": "auto", "prompt": "hi"},
    "embeddings": {"model": "auto", "input": "hi"},
    "messages": {**CHAT, "max_tokens": 9},
    "responses": {"model": "auto", "input": "hi"},
}
UNMADE = ["--model", "auto"]


async def explained(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["explain", *arguments])


async def test_past_call_is_explained_with_what_the_second_choice_would_have_meant(
    tmp_path: Path, upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    async with ScriptedUpstream() as other:
        config = two_models(upstream.url, other.url)
        config["models"]["deaf"] = {"provider": "one", "price": {"input": 1, "output": 2}, "context": 1}
        config["routes"]["auto"]["models"].append("deaf")
        upstream.then(Answer(status=500))
        async with running_gateway(config, tmp_path) as running:
            async with (
                aiohttp.ClientSession() as client,
                client.post(f"{running.base_url}/chat/completions", json={**CHAT, "max_tokens": 7}) as answer,
            ):
                call_id = answer.headers["x-tollway-request-id"]
            assert await explained(call_id, "--url", running.url) == 0
            text = capsys.readouterr().out
            assert await explained(call_id, "--url", running.base_url, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    first, second = text.splitlines()[:2]
    assert first == f"request {call_id} to 'auto': ok, status 200"
    assert second.startswith("answered by dear after ")
    lines = text.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("cheap ", "dear ", "deaf "))] == [
        *("cheap", "dear"),  # considered, in their order
        "deaf",  # ruled out
        *("cheap", "dear"),  # attempts
        "cheap",  # the second choice
    ]
    assert lines[-1].startswith("cheap would have cost 0.0000")
    assert found["id"] == call_id
    assert [each["outcome"] for each in found["attempts"]] == ["refused", "ok"]


async def test_unmade_call_is_planned_and_nothing_is_sent(
    tmp_path: Path, upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    config = two_models(upstream.url, upstream.url)
    async with running_gateway(config, tmp_path) as running:
        size = ["--prompt-tokens", "12000", "--max-tokens", "500"]
        assert await explained("--url", running.url, *UNMADE, *size) == 0
        assert await running.totals() == []
    assert upstream.seen == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["a call to 'auto' of about 12004 tokens, at most 500 tokens out", "would go to cheap"]
    # 12,004 tokens at 1 USD a million, and some of the 500 at 2.
    [cheap] = [line.split() for line in lines if line.startswith("cheap ")]
    assert 0.012004 < float(cheap[1]) <= 0.013004


@pytest.mark.parametrize("path", ASKED)
async def test_call_of_every_dialect_is_planned(path: str, tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with running_gateway(one_model(upstream.url), tmp_path) as running:
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"{running.base_url}/explain/{path}", json=ASKED[path]) as answer,
        ):
            found = await answer.json()
        assert await running.totals() == []
    assert (found["object"], found["target"], found["error"]) == ("tollway.plan", "scripted", None)
    assert [each["target_id"] for each in found["considered"]] == ["scripted"]
    assert upstream.seen == []


async def test_question_counts_towards_the_rate_of_its_key(
    tmp_path: Path, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOLLWAY_KEY", "k-1")
    config = one_model(upstream.url)
    config["keys"] = [{"name": "app", "secret": "env:KEY", "requests_per_minute": 1}]
    async with running_gateway(config, tmp_path, environ={"KEY": "k-1"}) as running:
        assert await explained("--url", running.url, *UNMADE) == 0
        capsys.readouterr()
        assert await explained("--url", running.url, *UNMADE) == 1
        assert capsys.readouterr().err.startswith(f"{running.url} says: The key 'app' ")
        monkeypatch.setenv("TOLLWAY_KEY", "k-2")
        assert await explained("--url", running.url, *UNMADE) == 1
    assert "key" in capsys.readouterr().err


async def test_call_that_no_target_can_take_is_told_as_its_caller_would_be(
    tmp_path: Path, upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    config = one_model(upstream.url)
    config["models"]["scripted"]["context"] = 1000
    async with running_gateway(config, tmp_path) as running:
        assert await explained("--url", running.url, *UNMADE, "--prompt-tokens", "2000") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "would go nowhere"
    assert lines[2].startswith("why: The request is too long for every target of 'auto'")


def test_configuration_alone_plans_without_a_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = two_models("http://127.0.0.1:9", "http://127.0.0.1:9")
    config["providers"]["one"]["api_key"] = "env:NOT_THERE"
    file, body = write_config(tmp_path, config), tmp_path / "body.json"
    body.write_text(json.dumps({**CHAT, "model": "dear"}))
    assert main(["explain", "--config", str(file), "--request", str(body)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "would go to dear"
    assert lines[-1].split()[0] == "dear"
    assert not (tmp_path / "state").exists()


WRONG: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "Say the id of a past call, or --url"),
    "both places": (["--url", "http://127.0.0.1:9", "--config", "x", *UNMADE], "Say the id of a past call, or --url"),
    "no model": (["--url", "http://127.0.0.1:9"], "Say either --model, a route or a model, or --request"),
    "model and body": (["--config", "x", *UNMADE, "--request", "y"], "Say either --model"),
    "no file": (["--config", "there-is-none.yaml", *UNMADE], "there-is-none.yaml"),
    "no body": (["--config", "x", "--request", "there-is-none.json"], "there-is-none.json cannot be read"),
    "an id and a model": (["req_1", *UNMADE], "A past call is asked of a running gateway by its id alone"),
    "an id that is none": (["../../metrics"], "That is no request's id"),
    "nobody there": (["req_1", "--url", "http://127.0.0.1:9"], "No gateway answers at http://127.0.0.1:9"),
    "no address": (["req_1", "--url", "http://127.0.0.1:x"], "No gateway answers at http://127.0.0.1:x"),
}
"""Arguments, and how the one line on stderr begins."""


@pytest.mark.parametrize(("arguments", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_question_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(sentence)
    assert told.err.count("\n") == 1


async def test_server_that_is_no_gateway_is_told(
    upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.on_path("/v1/requests/req_1", lambda _seen: Answer(chunks=[b"<html>"]))
    assert await explained("req_1", "--url", upstream.url) == 1
    assert capsys.readouterr().err.startswith(f"What answers at {upstream.url} is no Tollway gateway")
