"""A refusal that is true of one model only sends the call to the next, and is shown when none remains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.ground.configs import compatible
from tests.ground.gateway import running_gateway
from tests.ground.script import Answer, error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "count to five"}], "max_tokens": 5}
LONG = "This model's maximum context length is 8192 tokens. However, your messages have 9000 tokens."


def refusal(message: str, code: str | None = None, param: str | None = None, status: int = 400) -> Answer:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return json_answer({"error": error}, status=status)


REFUSALS: dict[str, tuple[Answer, int, str]] = {
    "context length": (refusal(LONG, "context_length_exceeded", "messages"), 400, "context_length_exceeded"),
    "context length in words": (refusal(LONG), 400, "context_length_exceeded"),
    "too large": (error_answer(413, "Request Entity Too Large"), 413, "unsupported"),
    "parameter": (refusal("No.", "unsupported_parameter", "top_k"), 400, "unsupported_parameter"),
    "role": (refusal("System role not supported"), 400, "unsupported"),
    "modality": (refusal("At most 0 image(s) may be provided in one prompt."), 400, "unsupported"),
    "option": (refusal('"auto" tool choice requires --enable-auto-tool-choice to be set'), 400, "unsupported"),
    "limit": (refusal("max_tokens is too large: 5. This model supports at most 4."), 400, "unsupported"),
}


def setup(*upstreams: ScriptedUpstream, contexts: tuple[int | None, ...] = (None, None, None)) -> dict[str, Any]:
    names = [f"m{number}" for number, _ in enumerate(upstreams)]
    providers = {name: compatible(upstream.url) for name, upstream in zip(names, upstreams, strict=True)}
    models = {
        name: {
            "provider": name,
            "upstream": "m",
            "price": {"input": number + 1, "output": 1},
            **({"context": context} if context else {}),
        }
        for number, (name, context) in enumerate(zip(names, contexts, strict=False))
    }
    return {"providers": providers, "models": models, "routes": {"auto": {"models": names}}}


async def ask(base_url: str, *, stream: bool) -> tuple[int, Any, str]:
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{base_url}/chat/completions", json=CHAT | {"stream": stream}) as answer,
    ):
        body = await answer.text() if answer.status == 200 else (await answer.json())["error"]
        return answer.status, body, answer.headers.get("x-tollway-reason", "")


@pytest.mark.parametrize("refused", REFUSALS)
async def test_refusal_of_one_model_goes_to_the_next_and_closes_nothing(refused: str, tmp_path: Path) -> None:
    """Never to the same again within a call; the next call asks it again, for nothing is wrong with it."""
    answer, _, code = REFUSALS[refused]
    kind = "context_length" if code == "context_length_exceeded" else "upstream_unsupported"
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        first.on_path("/v1/chat/completions", answer)
        async with running_gateway(setup(first, second), tmp_path) as running:
            for number in range(1, 7):
                status, body, reason = await ask(running.base_url, stream=number % 2 == 0)
                assert (status, reason) == (200, f"fallback: m0 {kind}")
                assert " w4" in body
                assert (len(first.seen), len(second.seen)) == (number, number)


@pytest.mark.parametrize("refused", REFUSALS)
async def test_refusal_is_shown_when_no_target_remains(refused: str, tmp_path: Path) -> None:
    """In the upstream's words, with what was tried."""
    answer, status, code = REFUSALS[refused]
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        for upstream in (first, second):
            upstream.on_path("/v1/chat/completions", answer)
        async with running_gateway(setup(first, second), tmp_path) as running:
            told, error, _ = await ask(running.base_url, stream=True)
        assert (told, error["code"], error["type"]) == (status, code, "invalid_request_error")
        assert "Tried: m0:" in error["message"]
        assert (len(first.seen), len(second.seen)) == (1, 1)


async def test_target_that_may_recover_is_named_instead_of_a_refusal(tmp_path: Path) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        first.on_path("/v1/chat/completions", refusal(LONG))
        second.on_path("/v1/chat/completions", error_answer(429, retry_after_s=30))
        async with running_gateway(setup(first, second), tmp_path) as running:
            status, error, _ = await ask(running.base_url, stream=True)
    assert status == 503
    assert "m0: context_length; m1: upstream_rate_limited" in error["message"]


async def test_context_that_is_no_larger_is_not_asked(tmp_path: Path) -> None:
    """Only one that is larger, or of unknown size; the record names those that were left out."""
    async with ScriptedUpstream() as first, ScriptedUpstream() as same, ScriptedUpstream() as larger:
        first.on_path("/v1/chat/completions", refusal(LONG, "context_length_exceeded"))
        async with running_gateway(setup(first, same, larger, contexts=(8192, 8192, 9216)), tmp_path) as running:
            status, _, reason = await ask(running.base_url, stream=True)
        assert (status, reason) == (200, "fallback: m0 context_length, m1 context_length")
        assert [len(each.seen) for each in (first, same, larger)] == [1, 0, 1]


@pytest.mark.parametrize("status", [201, 206])
@pytest.mark.parametrize("stream", [True, False])
async def test_status_of_success_is_any_2xx(status: int, stream: bool, tmp_path: Path) -> None:
    async with ScriptedUpstream() as only:
        only.on_path("/v1/chat/completions", lambda seen: replace(only.model.answer(seen), status=status))
        async with running_gateway(setup(only), tmp_path) as running:
            told, body, _ = await ask(running.base_url, stream=stream)
    assert told == 200
    assert " w4" in body
