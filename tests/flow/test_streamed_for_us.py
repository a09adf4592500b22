"""A plain call is streamed from the upstream where its provider's row says so, and only the record shows it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.simulation.virtual_time import run_virtual
from tests.ground.model import ScriptedModel
from tests.ground.script import Answer, Seen, error_answer, json_answer, sse_event
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import Answered, VirtualGateway, virtual_gateway

ORIGIN, NEXT = "http://first.test", "http://second.test"
UNVERIFIED = json_answer(
    {
        "error": {
            "message": "Your organization must be verified to stream this model.",
            "type": "invalid_request_error",
            "param": "stream",
            "code": "unsupported_value",
        }
    },
    status=400,
)
"""Of OpenAI (help.openai.com, "API organization verification")."""


def config(kind: str = "openai", upstream: str = "gpt-5.4-mini", **provider: Any) -> dict[str, Any]:
    """Describe one model of a provider of this type, and another's behind it."""
    return {
        "providers": {
            "one": {"type": kind, "base_url": f"{ORIGIN}/v1", "api_key": "env:KEY", **provider},
            "two": {"type": "openai-compatible", "base_url": f"{NEXT}/v1"},
        },
        "models": {
            "first": {"provider": "one", "upstream": upstream, "price": {"input": 1.0, "output": 2.0}},
            "one/*": {"provider": "one", "price": {"input": 1.0, "output": 2.0}},
            "second": {"provider": "two", "price": {"input": 10.0, "output": 20.0}},
        },
        "routes": {"auto": {"models": ["first", "second"]}},
    }


def play(
    scenario: Callable[[VirtualGateway], Any], path: Path, upstream: ScriptedUpstream, setup: dict[str, Any]
) -> Any:
    async def run() -> Any:
        upstreams = {ORIGIN: upstream, NEXT: ScriptedUpstream()}
        async with virtual_gateway(setup, path, upstreams, {"KEY": "sk-x"}) as running:
            return await scenario(running)

    return run_virtual(run())


def refusing_to_stream(refusal: Answer) -> ScriptedUpstream:
    """Make an upstream that answers nothing but plain calls."""
    upstream = ScriptedUpstream()
    return upstream.on_path(
        "/v1/chat/completions", lambda seen: refusal if seen.json.get("stream") else upstream.model.answer(seen)
    )


def plain(**members: Any) -> Callable[[VirtualGateway], Any]:
    async def scenario(running: VirtualGateway) -> Answered:
        return await running.chat(**{"model": "first", "stream": False, **members})

    return scenario


def asked_to_stream(upstream: ScriptedUpstream) -> list[bool]:
    return [bool(seen.json.get("stream")) for seen in upstream.seen]


def whole_text(answered: Answered) -> str:
    assert answered.status == 200, answered.body
    message = json.loads(answered.body)["choices"][0]["message"]
    assert isinstance(message["content"], str)
    return message["content"]


@pytest.mark.parametrize(
    ("kind", "model", "provider", "members", "streams"),
    [
        ("openai", "first", {}, {}, True),
        ("openai", "one/gpt-5.4-mini", {}, {}, True),
        ("deepseek", "first", {}, {}, True),
        ("openai", "first", {"always_stream": False}, {}, False),
        ("openai", "one/gpt-5-search-api", {}, {}, False),
        ("openai", "first", {}, {"web_search_options": {}}, True),  # asks for nothing
        ("openai", "first", {}, {"web_search_options": {"search_context_size": "low"}}, False),
        ("openai", "first", {}, {"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}}, False),
        ("openai", "first", {}, {"n": 2, "logprobs": True, "top_logprobs": 2}, True),
        ("openai-compatible", "first", {}, {}, False),
        ("openai-compatible", "first", {"always_stream": True}, {}, True),
        ("xai", "first", {}, {}, False),
        ("groq", "first", {}, {}, False),
        ("mistral", "first", {}, {}, False),
        ("openrouter", "first", {}, {}, False),
    ],
)
def test_plain_call_is_streamed_where_the_row_says_so(
    *, kind: str, model: str, provider: dict[str, Any], members: dict[str, Any], streams: bool, tmp_path: Path
) -> None:
    upstream = ScriptedUpstream()
    play(plain(model=model, **members), tmp_path, upstream, config(kind, **provider))
    assert asked_to_stream(upstream) == [streams]
    assert ("stream_options" in upstream.seen[0].json) is streams


def test_search_model_by_its_configured_name_is_not_streamed(tmp_path: Path) -> None:
    """What it cites is in no chunk."""
    upstream = ScriptedUpstream()
    play(plain(), tmp_path, upstream, config(upstream="gpt-4o-search-preview", always_stream=True))
    assert asked_to_stream(upstream) == [False]


def test_record_of_a_plain_call_that_was_streamed_has_its_times(tmp_path: Path) -> None:
    """Time to first token and per output token; the caller gets the same answer as without."""

    async def scenario(running: VirtualGateway) -> tuple[Answered, Any]:
        return await running.chat(model="first", stream=False), running.ledger.records[-1]

    ends = {}
    for streams in (True, False):
        path = tmp_path / str(streams)
        path.mkdir()
        upstream = ScriptedUpstream(ScriptedModel(ttft_s=0.5, tpot_s=0.03))
        ends[streams] = play(scenario, path, upstream, config("openai-compatible", always_stream=streams))
    (streamed, record), (whole, other) = ends[True], ends[False]
    assert json.loads(streamed.body) == json.loads(whole.body)
    assert (record.ttft_ms, record.tpot_ms) == (pytest.approx(500), pytest.approx(30))
    assert other.tpot_ms is None
    assert record.cost_nano_usd == other.cost_nano_usd > 0


@pytest.mark.parametrize(
    "refusal",
    [
        UNVERIFIED,
        replace(UNVERIFIED, status=422),
        error_answer(501, "streaming is not implemented"),
    ],
)
def test_target_that_refuses_to_stream_is_asked_once_more_without(refusal: Answer, tmp_path: Path) -> None:
    """Its answer is the caller's, the refusal costs nothing and closes nothing, and ten minutes long it is known."""
    upstream = refusing_to_stream(refusal)

    async def scenario(running: VirtualGateway) -> None:
        for _ in range(3):
            answered = await running.chat(model="auto", stream=False)
            assert whole_text(answered) == " w0 w1 w2 w3 w4"
            assert answered.headers["x-tollway-target"] == "first"
            assert "fallback" not in answered.headers["x-tollway-reason"]
        assert asked_to_stream(upstream) == [True, False, False, False]
        entries = running.ledger.entries
        assert [entry.outcome for entry in entries] == ["refused", "ok", "ok", "ok"]
        assert entries[0].cost_nano_usd == 0
        assert len({entry.attempt_id for entry in entries}) == 4
        assert running.ledger.records[0].attempt_ids == (entries[0].attempt_id, entries[1].attempt_id)
        await asyncio.sleep(601)
        assert (await running.chat(model="auto", stream=False)).headers["x-tollway-target"] == "first"
        assert asked_to_stream(upstream)[4:] == [True, False]

    play(scenario, tmp_path, upstream, config())


def test_caller_who_streams_gets_the_refusal(tmp_path: Path) -> None:
    """In the provider's words: it is what was asked for. Plain calls are answered before and after."""
    upstream = refusing_to_stream(UNVERIFIED)

    async def scenario(running: VirtualGateway) -> list[int]:
        ends = [await running.chat(model="first", stream=stream) for stream in (False, True, False)]
        assert b"must be verified to stream" in ends[1].body
        return [answered.status for answered in ends]

    assert play(scenario, tmp_path, upstream, config()) == [200, 400, 200]
    assert asked_to_stream(upstream) == [True, False, True, False]


def test_mistake_of_the_caller_that_names_the_stream_costs_one_request_more(tmp_path: Path) -> None:
    """Asked without, the upstream says the same, the caller is told, and nothing is remembered."""
    mistake = error_answer(400, "messages[0]: 'streams' is no role")
    upstream = ScriptedUpstream().then(mistake, mistake)

    async def scenario(running: VirtualGateway) -> None:
        answered = await running.chat(model="auto", stream=False)
        assert (answered.status, len(upstream.seen)) == (400, 2)
        assert b"is no role" in answered.body
        whole_text(await running.chat(model="auto", stream=False))
        assert asked_to_stream(upstream) == [True, False, True]

    play(scenario, tmp_path, upstream, config())


def test_flagged_prompt_is_sent_once(tmp_path: Path) -> None:
    """Whatever word the provider finds in it."""
    flagged = {"error": {"message": "Flagged: stream of insults", "code": "content_policy_violation"}}
    upstream = ScriptedUpstream().then(json_answer(flagged, status=400))
    answered = play(plain(model="auto"), tmp_path, upstream, config())
    assert (answered.status, len(upstream.seen)) == (400, 1)


def test_target_that_fails_without_the_stream_too_is_followed_by_the_next(tmp_path: Path) -> None:
    upstream = ScriptedUpstream().then(UNVERIFIED, error_answer(500))
    answered = play(plain(model="auto"), tmp_path, upstream, config())
    assert whole_text(answered) == " w0 w1 w2 w3 w4"
    assert answered.headers["x-tollway-target"] == "second"
    assert answered.headers["x-tollway-reason"] == "fallback: first upstream_error"


def test_target_that_answers_whole_when_asked_to_stream_is_believed(tmp_path: Path) -> None:
    """Some servers ignore the member."""
    upstream = ScriptedUpstream()
    upstream.on_path(
        "/v1/chat/completions",
        lambda seen: upstream.model.answer(replace(seen, body=json.dumps(seen.json | {"stream": False}).encode())),
    )
    answered = play(plain(), tmp_path, upstream, config())
    assert whole_text(answered) == " w0 w1 w2 w3 w4"
    assert len(upstream.seen) == 1


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def tool_call_stream(seen: Seen) -> Answer:
    """Stream a tool call as OpenAI and DeepSeek do, each with what is its own."""
    of_openai = seen.path.startswith("/openai")
    padding = {"obfuscation": "a1b2"} if of_openai else {}
    pieces: list[dict[str, Any]] = [
        {"role": "assistant", "content": None if of_openai else ""} | ({"refusal": None} if of_openai else {}),
        {"tool_calls": [{"index": 0, **CALL}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]
    top = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **padding}
    choices = [{"index": 0, "delta": piece, "finish_reason": None} for piece in pieces]
    choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
    events = [sse_event(top | {"choices": [choice]}) for choice in choices]
    events += [sse_event(top | {"choices": [], "usage": USAGE}), sse_event("[DONE]")]
    return Answer(headers=(("content-type", "text/event-stream"),), chunks=tuple(events))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "openai",
            {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": [{**CALL}]},
        ),
        ("deepseek", {"role": "assistant", "content": "", "tool_calls": [{"index": 0, **CALL}]}),
    ],
)
def test_assembled_answer_has_the_members_of_a_plain_one(kind: str, message: dict[str, Any], tmp_path: Path) -> None:
    """OpenAI's has annotations, and its streams are padded; DeepSeek's tool calls keep an index."""
    message["tool_calls"][0]["function"] = {"name": "f", "arguments": "{}"}
    upstream = ScriptedUpstream().then(tool_call_stream)
    setup = config(kind)
    setup["providers"]["one"]["base_url"] = f"{ORIGIN}/{kind}"
    answered = play(plain(), tmp_path, upstream, setup)
    assert json.loads(answered.body) == {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": USAGE,
    }
