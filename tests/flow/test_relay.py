"""What a caller gets is what the upstream sent, and what it cost is known afterwards."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.ground.configs import one_model
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import Answer, json_answer, play, sse_event
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "count to five"}]}


def _data(body: bytes) -> list[str]:
    return [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]


async def test_an_answer_without_a_stream_comes_through_byte_for_byte(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The body is the upstream's own, unknown members and spacing included; headers say who and how much."""
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    own = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": usage,
        "unknown": {"kept": [1, 2]},
    }
    upstream.then(json_answer(own))
    async with running_gateway(one_model(upstream.url), tmp_path) as running, aiohttp.ClientSession() as client:
        async with client.post(f"{running.base_url}/chat/completions", json=CHAT) as answer:
            assert answer.status == 200
            assert await answer.read() == json.dumps(own).encode()
            assert answer.headers["x-tollway-target"] == "scripted"
            assert answer.headers["x-tollway-request-id"].startswith("req_")
            assert answer.headers["x-tollway-cost-usd"] == "0.000013000"
            assert answer.headers["x-tollway-reason"]
    assert upstream.seen[0].json["model"] == "scripted"
    assert upstream.seen[0].json["messages"] == CHAT["messages"]
    assert "stream" not in upstream.seen[0].json


async def test_a_stream_comes_through_and_usage_is_stripped_unless_asked_for(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Usage is always asked of the upstream; the caller sees its chunk only after asking for it."""
    async with running_gateway(one_model(upstream.url), tmp_path) as running, aiohttp.ClientSession() as client:
        async with client.post(f"{running.base_url}/chat/completions", json={**CHAT, "stream": True}) as answer:
            plain = await answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
        asking = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        async with client.post(f"{running.base_url}/chat/completions", json=asking) as answer:
            asked = await answer.read()
    assert upstream.seen[0].json["stream_options"] == {"include_usage": True}
    assert _data(plain)[-1] == "[DONE]"
    assert not any('"usage"' in event for event in _data(plain))
    assert json.loads(_data(asked)[-2])["usage"]["completion_tokens"] == 5
    contents = [json.loads(event)["choices"][0]["delta"].get("content") for event in _data(plain)[:-1]]
    assert "".join(filter(None, contents)) == " w0 w1 w2 w3 w4"
    assert b": x-tollway-cost-usd 0.000013000" in plain


async def test_a_request_can_be_explained_afterwards(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """GET /v1/requests/{id} tells cost, times, the target, the candidates with their predictions, and the attempts."""
    upstream.model.tpot_s = 0.01
    async with running_gateway(one_model(upstream.url), tmp_path) as running, aiohttp.ClientSession() as client:
        async with client.post(f"{running.base_url}/chat/completions", json={**CHAT, "stream": True}) as answer:
            await answer.read()
            call_id = answer.headers["x-tollway-request-id"]
        async with client.get(f"{running.base_url}/requests/{call_id}") as answer:
            told = await answer.json()
        async with client.get(f"{running.base_url}/requests/req_unknown") as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "not_found"
    assert told["id"] == call_id
    assert told["outcome"] == "ok"
    assert told["target"] == "scripted"
    assert told["cost_nano_usd"] == 3 * 1000 + 5 * 2000
    assert told["considered"][0]["target_id"] == "scripted"
    assert told["considered"][0]["prediction"]["cost_nano_usd"]["p50"] > 0
    attempt = told["attempts"][0]
    assert attempt["attempt_id"] == upstream.seen[0].attempt_id
    assert attempt["usage"]["input_tokens"] == 3
    assert attempt["usage"]["output_tokens"] == 5
    assert attempt["ttft_ms"] is not None
    assert attempt["tpot_ms"] is not None


async def test_text_completions_are_relayed_too(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """POST /v1/completions works streaming and not."""
    async with running_gateway(one_model(upstream.url), tmp_path) as running, aiohttp.ClientSession() as client:
        for stream in (False, True):
            body = {"model": "auto", "prompt": "count to", "max_tokens": 2, "stream": stream}
            async with client.post(f"{running.base_url}/completions", json=body) as answer:
                assert answer.status == 200
                assert b" w1" in await answer.read()
    assert upstream.seen[0].path == "/v1/completions"


async def test_models_health_and_docs_are_there(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The other addresses answer: models, health, readiness, metrics, the schema with the model routes in it."""
    async with running_gateway(one_model(upstream.url), tmp_path) as running, aiohttp.ClientSession() as client:
        async with client.get(f"{running.base_url}/models") as answer:
            assert [model["id"] for model in (await answer.json())["data"]] == ["auto", "scripted"]
        for path in ("/healthz", "/readyz", "/metrics", "/docs"):
            async with client.get(f"{running.url}{path}") as answer:
                assert answer.status == 200, path
        async with client.get(f"{running.url}/openapi.json") as answer:
            assert "/v1/chat/completions" in (await answer.json())["paths"]


async def test_endless_body_behind_a_whole_answer_delays_no_caller(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The answer's own end is what counts, streamed on or assembled; the call is ok, not stalled."""
    config = {**one_model(upstream.url), "timeouts": {"idle_s": 30}}
    config["providers"]["upstream"]["always_stream"] = True
    async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
        for stream in (True, False):
            upstream.then(lambda seen: _silent_at_the_end(upstream.model.answer(seen)))
            async with asyncio.timeout(SOON_S):
                async with client.post(
                    f"{running.base_url}/chat/completions", json={**CHAT, "stream": stream}
                ) as answer:
                    assert b" w4" in await answer.read()
        assert [(row.outcome, row.attempts) for row in await running.totals()] == [("ok", 2)]


def _silent_at_the_end(answer: Answer) -> Answer:
    chunks = tuple(answer.chunks)
    return replace(answer, chunks=chunks, stall_after=len(chunks))


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning", None])
async def test_time_per_token_counts_the_reasoning_that_is_shown(member: str | None, tmp_path: Path) -> None:
    """Shown reasoning takes part of the time between the first token and the last; hidden reasoning is over by then."""
    pieces = [{member or "content": "w"}] * 8 + [{"content": "w"}] * 2
    events = [{"choices": [{"index": 0, "delta": piece}]} for piece in pieces]
    details = {"reasoning_tokens": 8}
    usage = {"prompt_tokens": 3, "completion_tokens": 10 if member else 18, "completion_tokens_details": details}
    due_s: list[float] = []

    def pace() -> float:
        due_s.append(time.monotonic())
        return 0.02

    answer = play([*events, {"choices": [], "usage": usage}, b"data: [DONE]\n\n"], per_chunk_delay_s=pace)
    async with (
        ScriptedUpstream().then(answer) as upstream,
        running_gateway(one_model(upstream.url), tmp_path) as running,
    ):
        attempt, heard_s = await _attempt(running)
    assert attempt["usage"]["reasoning_tokens"] == 8
    # The gateway has a piece after the upstream began to wait before it, and before the caller: so long at least passed
    # between the first and the last of ten shown tokens, and so long at most.
    assert due_s[9] - heard_s[0] <= 9 * attempt["tpot_ms"] / 1e3 <= heard_s[-1] - due_s[0]


async def test_an_answer_that_comes_all_at_once_has_no_time_per_token(tmp_path: Path) -> None:
    """A proxy that keeps a stream until its end makes no target the fastest."""
    events = [sse_event({"choices": [{"index": 0, "delta": {"content": "w"}}]})] * 10
    async with ScriptedUpstream().then(play(b"".join([*events, b"data: [DONE]\n\n"]))) as upstream:
        async with running_gateway(one_model(upstream.url), tmp_path) as running:
            attempt, _ = await _attempt(running)
    assert attempt["usage"]["output_tokens"] == 10
    assert attempt["tpot_ms"] is None


async def _attempt(running: RunningGateway) -> tuple[dict[str, Any], list[float]]:
    """Make one streamed call; return what is told of its only attempt, and when pieces of the answer were heard."""
    async with aiohttp.ClientSession() as client:
        async with client.post(f"{running.base_url}/chat/completions", json={**CHAT, "stream": True}) as answer:
            heard_s = [time.monotonic() async for _ in answer.content.iter_any()]
            call_id = answer.headers["x-tollway-request-id"]
        async with client.get(f"{running.base_url}/requests/{call_id}") as answer:
            told = await answer.json()
    return told["attempts"][0], heard_s
