"""Calls with one W3C ``traceparent`` are one whole: listed together, with one total; each key sees its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from tests.ground.configs import one_model, two_models
from tests.ground.gateway import RunningGateway, running_gateway, write_config
from tests.ground.processes import gateway_process
from tests.ground.script import error_answer
from tests.ground.speech import transcribe, wav
from tests.ground.upstream import ScriptedUpstream

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
MESSAGES: list[Any] = [{"role": "user", "content": "one two three"}]


async def page(running: RunningGateway, trace_id: str = TRACE, key: str = "unused") -> tuple[int, dict[str, Any]]:
    """Ask what is known of a trace."""
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as client:
        async with client.get(f"{running.base_url}/traces/{trace_id}") as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def sdk(running: RunningGateway, key: str = "unused", **settings: Any) -> AsyncIterator[AsyncOpenAI]:
    """Make the official client."""
    async with AsyncOpenAI(base_url=running.base_url, api_key=key, max_retries=0, **settings) as client:
        yield client


async def test_the_official_clients_calls_of_a_trace_have_one_total(tmp_path: Path) -> None:
    """By ``default_headers`` or ``extra_headers``; of every kind, streaming or not; in the order of their arrival."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/v1/audio/transcriptions", transcribe)
        config = one_model(upstream.url)
        config["models"]["scripted"]["price"] = {"input": 1.0, "output": 2.0, "audio_hour": 3.6}
        async with running_gateway(config, tmp_path) as running:
            async with sdk(running, default_headers=TRACEPARENT) as client:
                await client.audio.transcriptions.create(model="auto", file=("a.wav", wav()))
                whole = await client.chat.completions.with_raw_response.create(model="auto", messages=MESSAGES)
            async with sdk(running) as client:
                stream = await client.chat.completions.create(
                    model="auto", messages=MESSAGES, stream=True, extra_headers=TRACEPARENT
                )
                assert [chunk async for chunk in stream]
                await client.chat.completions.create(model="auto", messages=MESSAGES)
            status, told = await page(running)
            async with aiohttp.ClientSession() as http:
                async with http.get(f"{running.base_url}/requests/{told['calls'][1]['id']}") as answer:
                    one = await answer.json()
    assert status == 200
    assert (told["object"], told["id"], told["call_count"], told["has_more"]) == ("tollway.trace", TRACE, 3, False)
    assert [call["operation"] for call in told["calls"]] == ["transcriptions", "chat", "chat"]
    assert [call["cost_nano_usd"] for call in told["calls"]] == [2_000_000, 13_000, 13_000]
    assert {(call["model"], call["target"], call["outcome"]) for call in told["calls"]} == {("auto", "scripted", "ok")}
    assert (told["cost_nano_usd"], told["cost_usd"], told["total_tokens"]) == (2_026_000, "0.002026000", 16)
    assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"], told["usage"]["audio_ms"]) == (6, 10, 2000)
    assert told["calls"][1]["id"] == whole.headers["x-tollway-request-id"] == one["id"]
    assert (one["trace_id"], one["attempts"][0]["trace_id"]) == (TRACE, TRACE)
    assert told["calls"][1]["received_at_ns"] == one["received_at_ns"]
    assert told["calls"][1]["duration_ms"] == one["duration_ms"]


async def test_every_attempt_of_a_call_counts(tmp_path: Path) -> None:
    """One call that fell back is listed once, with what both targets cost and used."""
    async with ScriptedUpstream() as cut, ScriptedUpstream() as good:
        cut.model.error_after, cut.model.tpot_s = 3, 0.02
        config = two_models(cut.url, good.url)
        config["providers"]["one"]["always_stream"] = True
        async with running_gateway(config, tmp_path) as running, sdk(running, default_headers=TRACEPARENT) as client:
            await client.chat.completions.create(model="auto", messages=MESSAGES)
            _, told = await page(running)
            cheap, dear = sorted(await running.totals(), key=lambda sums: sums.target_id)
    (call,) = told["calls"]
    assert (cheap.outcome, dear.outcome, call["outcome"], call["target"]) == ("cut", "ok", "ok", "dear")
    assert 0 < cheap.cost_nano_usd < dear.cost_nano_usd
    assert call["cost_nano_usd"] == told["cost_nano_usd"] == cheap.cost_nano_usd + dear.cost_nano_usd
    assert call["usage"]["output_tokens"] == cheap.output_tokens + dear.output_tokens > 5


async def test_a_key_sees_its_own_calls_only(tmp_path: Path) -> None:
    """Of a trace that two keys took part in, too; what a stranger gets is the same as for a trace that never was."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["keys"] = [{"name": name, "secret": f"env:{name.upper()}"} for name in ("one", "two", "three")]
        environ = {"ONE": "k-one", "TWO": "k-two", "THREE": "k-three"}
        async with running_gateway(config, tmp_path, environ=environ) as running:
            for key, calls in (("k-one", 1), ("k-two", 2)):
                async with sdk(running, key, default_headers=TRACEPARENT) as client:
                    for _ in range(calls):
                        await client.chat.completions.create(model="auto", messages=MESSAGES)
            seen = {key: (await page(running, key=key))[1] for key in ("k-one", "k-two")}
            stranger, unknown = await page(running, key="k-three"), await page(running, "0" * 31 + "1", key="k-one")
            without_a_key, _ = await page(running, key="k-four")
    assert {key: (told["call_count"], told["cost_nano_usd"]) for key, told in seen.items()} == {
        "k-one": (1, 13_000),
        "k-two": (2, 26_000),
    }
    assert stranger[0] == unknown[0] == 404
    assert set(stranger[1]["error"]) == {"message", "type", "param", "code"}
    assert (stranger[1]["error"]["message"], stranger[1]["error"]["code"]) == (
        unknown[1]["error"]["message"],
        "not_found",
    )
    assert without_a_key == 401


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"ff{'-0' * 3}"])
async def test_a_malformed_header_is_no_error(header: str, tmp_path: Path) -> None:
    """The call is as one without."""
    async with ScriptedUpstream() as upstream, running_gateway(one_model(upstream.url), tmp_path) as running:
        async with sdk(running, default_headers={"traceparent": header}) as client:
            raw = await client.chat.completions.with_raw_response.create(model="auto", messages=MESSAGES)
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{running.base_url}/requests/{raw.headers['x-tollway-request-id']}") as answer:
                assert (await answer.json())["trace_id"] is None


async def test_a_refusal_before_any_target_is_no_part_of_it(tmp_path: Path) -> None:
    """It cost nothing; one that a target refused is listed, at no cost."""
    async with ScriptedUpstream() as upstream, running_gateway(one_model(upstream.url), tmp_path) as running:
        upstream.then(error_answer(400))
        async with aiohttp.ClientSession(headers=TRACEPARENT) as client:
            for body in ({"model": "none", "messages": MESSAGES}, {"model": "auto", "messages": MESSAGES}):
                async with client.post(f"{running.base_url}/chat/completions", json=body) as answer:
                    assert answer.status in {400, 404}
        _, told = await page(running)
    assert [(call["outcome"], call["status"], call["cost_usd"]) for call in told["calls"]] == [
        ("refused", 400, "0.000000000")
    ]


@pytest.mark.slow
async def test_trace_is_known_after_a_kill(tmp_path: Path) -> None:
    """The journal says of a call which trace it is part of before it is sent: recovery books it there."""
    async with ScriptedUpstream() as upstream:
        upstream.model.tokens, upstream.model.tpot_s = 1000, 0.02
        file = write_config(tmp_path, one_model(upstream.url))
        async with gateway_process(file) as first:
            body = {"model": "auto", "messages": MESSAGES, "stream": True}
            async with aiohttp.ClientSession(headers=TRACEPARENT) as client:
                async with client.post(f"{first.url}/v1/chat/completions", json=body) as answer:
                    await answer.content.readuntil(b" w3")
                    await first.kill()
        async with gateway_process(file) as second, aiohttp.ClientSession() as client:
            async with client.get(f"{second.url}/v1/traces/{TRACE}") as answer:
                told = await answer.json()
    (call,) = told["calls"]
    assert (call["outcome"], call["target"]) == ("interrupted", "scripted")
    usage = told["usage"]
    assert usage["output_tokens"] >= 4
    assert told["cost_nano_usd"] == usage["input_tokens"] * 1000 + usage["output_tokens"] * 2000


async def test_the_page_is_in_the_docs(tmp_path: Path) -> None:
    """With its parameter and what it is for."""
    async with ScriptedUpstream() as upstream, running_gateway(one_model(upstream.url), tmp_path) as running:
        async with aiohttp.ClientSession() as client, client.get(f"{running.url}/openapi.json") as answer:
            shown = (await answer.json())["paths"]["/v1/traces/{trace_id}"]["get"]
    assert "traceparent" in shown["description"]
    assert [parameter["name"] for parameter in shown["parameters"]] == ["trace_id"]
