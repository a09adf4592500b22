"""A fault before the first byte is rescued by the next target; one after it is reported, never shown as success."""

import asyncio
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from gateway.targets import breaker
from tests.ground.configs import one_model, two_models
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import Answer, error_answer, html_answer
from tests.ground.sse import ChatStream
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import SOON_S

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "count to five"}]}
FAULTS = {
    "hangs up": Answer(hang_up=True),
    "resets": Answer(hang_up=True, reset=True),
    "500": error_answer(500),
    "429": error_answer(429, retry_after_s=7),
    "401 for our key": error_answer(401),
    "web page": html_answer(),
    "garbage": Answer(raw=b"SSH-2.0-OpenSSH\r\n"),
    "silence": Answer(raw=b"", stall_after=0),
}


async def _chat(
    client: aiohttp.ClientSession, running: RunningGateway, *, stream: bool, **members: object
) -> tuple[int, bytes, str]:
    body = {**CHAT, "stream": stream, **members}
    async with client.post(f"{running.base_url}/chat/completions", json=body) as answer:
        return answer.status, await answer.read(), answer.headers.get("x-tollway-target", "")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fault", [pytest.param(each, marks=[pytest.mark.slow] * (each == "silence")) for each in FAULTS]
)
async def test_a_fault_before_the_first_byte_goes_to_the_next_target(fault: str, stream: bool, tmp_path: Path) -> None:
    """Whatever the first target does instead of answering, the caller gets the second one's answer."""
    patience = {"first_token_s": 3.0} if fault == "silence" else None  # the good target's answer must come in it, too
    async with ScriptedUpstream() as bad, ScriptedUpstream() as good:
        bad.then(FAULTS[fault])
        setup = two_models(bad.url, good.url, timeouts=patience)
        if not stream:
            # A first-token deadline needs a stream upstream; the gateway asks for one where it is told to.
            setup["providers"]["one"]["always_stream"] = True
        async with running_gateway(setup, tmp_path) as running, aiohttp.ClientSession() as client:
            status, body, target = await _chat(client, running, stream=stream)
    assert (status, target) == (200, "dear")
    assert b" w4" in body
    assert len(bad.seen) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_answer_that_breaks_off_is_rescued_or_ends_in_an_error(stream: bool, tmp_path: Path) -> None:
    """Cut after three chunks: without a stream the next target answers; in a stream the caller gets an error event."""
    async with ScriptedUpstream() as bad, ScriptedUpstream() as good:
        bad.then(lambda seen: replace(bad.model.answer(seen), cut_after=3))
        setup = two_models(bad.url, good.url)
        setup["providers"]["one"]["always_stream"] = True
        async with running_gateway(setup, tmp_path) as running, aiohttp.ClientSession() as client:
            status, body, target = await _chat(client, running, stream=stream)
    assert status == 200
    if stream:
        assert target == "cheap"
        assert b'"code":"upstream_cut"' in body.replace(b" ", b"")
        assert b"[DONE]" not in body
    else:
        assert target == "dear"
        assert b" w4" in body


async def test_a_stream_that_stalls_ends_in_an_error(tmp_path: Path) -> None:
    """Silence longer than idle_s within an answer is an error event, and no end marker."""
    async with ScriptedUpstream() as bad:
        bad.then(lambda seen: replace(bad.model.answer(seen), stall_after=3))
        config = {**one_model(bad.url), "timeouts": {"idle_s": 0.2}}
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            _, body, _ = await _chat(client, running, stream=True)
            await asyncio.wait_for(bad.seen[0].ended.wait(), SOON_S)
    assert b"upstream_stalled" in body
    assert b"[DONE]" not in body


@pytest.mark.parametrize(("status", "passed_on"), [(400, True), (422, True), (401, False), (429, False), (500, False)])
async def test_only_the_callers_own_faults_are_passed_on(status: int, passed_on: bool, tmp_path: Path) -> None:
    """A 4xx about the request keeps its status and message; one about our key or quota is a 503 with the attempts."""
    async with ScriptedUpstream() as bad:
        bad.then(*[error_answer(status, "temperature must be positive")] * 2)  # the second for a retry
        async with running_gateway(one_model(bad.url), tmp_path) as running, aiohttp.ClientSession() as client:
            async with client.post(f"{running.base_url}/chat/completions", json=CHAT) as answer:
                body = await answer.text()
    assert answer.status == (status if passed_on else 503)
    assert ("temperature must be positive" in body) == passed_on
    if not passed_on:
        assert "scripted" in body
        assert ("retry-after" in answer.headers) == (status != 401)  # no waiting mends a key


async def test_killing_one_of_two_targets_loses_no_request_that_had_not_begun(tmp_path: Path) -> None:
    """Traffic on two targets; one is killed: whoever had no byte yet gets a whole answer from the other."""
    async with ScriptedUpstream() as victim, ScriptedUpstream() as survivor:
        victim.model.ttft_s = survivor.model.ttft_s = 0.05
        victim.model.tpot_s = survivor.model.tpot_s = 0.01
        async with running_gateway(two_models(victim.url, survivor.url), tmp_path) as running:
            async with aiohttp.ClientSession() as client:
                streams: list[ChatStream] = []

                async def call() -> None:
                    stream = ChatStream()
                    async with client.post(
                        f"{running.base_url}/chat/completions", json={**CHAT, "stream": True}
                    ) as answer:
                        assert answer.status == 200
                        async for chunk in answer.content.iter_any():
                            stream.feed(chunk)
                    streams.append(stream)

                async with asyncio.TaskGroup() as calls:
                    for number in range(60):
                        calls.create_task(call())
                        if number == 30:
                            await victim.arrived(20)
                            await victim.die()
    assert len(streams) == 60
    for stream in streams:
        if not stream.done:
            assert stream.error is not None
            assert stream.text, "it had not begun, so the other target could have answered"


@pytest.mark.slow
async def test_target_that_never_answers_is_left_even_without_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call goes on to the next target within its time; after three bodies the breaker keeps the others away."""
    monkeypatch.setattr(breaker, "FIRST_PAUSE_S", 30.0)  # the last comes within it on any machine
    async with ScriptedUpstream() as bad, ScriptedUpstream() as good:
        bad.then(*[Answer(raw=b"", stall_after=0)] * 9)
        setup = two_models(
            bad.url, good.url, timeouts={"first_token_s": 0.5, "idle_s": 1.0, "connect_s": 1.0, "total_s": 3.0}
        )
        async with running_gateway(setup, tmp_path) as running, aiohttp.ClientSession() as client:
            answers = [await _chat(client, running, stream=False, seed=number) for number in range(5)]
    assert [(status, target) for status, _, target in answers] == [(200, "dear")] * 5
    assert len(bad.seen) == 3
