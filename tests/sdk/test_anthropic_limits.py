"""What Anthropic cannot do is refused by name where it is the only target, and goes to another where there is one."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion

from tests.contract.exchange import ROOT, load
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import json_answer
from tests.ground.upstream import ScriptedUpstream
from tests.sdk.engine import ScriptedEngine
from tests.sdk.suite import ASK

IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "n": {"n": 2},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "seed": {"seed": 7},
    "logit_bias": {"logit_bias": {"42": -100}},
    "presence_penalty": {"presence_penalty": 0.5},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "temperature": {"temperature": 1.5},
    "response_format.type": {"response_format": {"type": "json_object"}},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "min_p": {"extra_body": {"min_p": 0.1}},
}


class Ground(NamedTuple):
    """A route ``auto`` of ``claude``, the cheaper one, and ``open``."""

    running: RunningGateway
    claude: ScriptedUpstream
    engine: ScriptedUpstream
    client: OpenAI

    async def ask(self, model: str, **members: Any) -> tuple[ChatCompletion, dict[str, Any], str]:
        """Ask, and return the answer, its explanation, and the reason in the header."""

        def blocking() -> tuple[ChatCompletion, dict[str, Any], str]:
            raw = self.client.chat.completions.with_raw_response.create(model=model, messages=ASK, **members)
            path = f"/requests/{raw.headers['x-tollway-request-id']}"
            told = self.client.get(path, cast_to=dict[str, Any])
            return raw.parse(), told, raw.headers["x-tollway-reason"]

        return await asyncio.to_thread(blocking)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Run a gateway in front of a played Anthropic and a played engine."""
    answer = json_answer(load(ROOT / "anthropic" / "text" / "exchange.json").upstream_response.body)
    async with ScriptedUpstream() as claude, ScriptedUpstream() as engine:
        claude.on_path("/v1/messages", answer)
        played = ScriptedEngine()
        engine.on_path("/v1/chat/completions", played.answer).on_path("/v1/completions", played.answer)
        config = {
            "providers": {
                "anthropic": {"type": "anthropic", "base_url": claude.url, "api_key": "env:CLAUDE"},
                "own": {"type": "openai-compatible", "base_url": f"{engine.url}/v1"},
            },
            "models": {
                "claude": {"provider": "anthropic", "upstream": "claude-haiku-4-5", "price": {"input": 1, "output": 5}},
                "open": {"provider": "own", "price": {"input": 10, "output": 50}},
            },
            "routes": {"auto": {"models": ["claude", "open"], "objective": "cost"}},
        }
        environ = {"CLAUDE": "sk-test"}
        async with running_gateway(config, tmp_path_factory.mktemp("gateway"), environ=environ) as running:
            with OpenAI(base_url=running.base_url, api_key="unused", max_retries=0) as client:
                yield Ground(running, claude, engine, client)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("member", IMPOSSIBLE)
async def test_member_that_anthropic_lacks_is_refused_by_name(member: str, stream: bool, ground: Ground) -> None:
    """A BadRequestError whose ``param`` is the member; the provider hears nothing of it."""
    heard = len(ground.claude.seen)
    with pytest.raises(BadRequestError) as caught:
        await ground.ask("claude", stream=stream, **IMPOSSIBLE[member])
    assert caught.value.param == member
    assert caught.value.code == "unsupported"
    assert f"'{member}'" in caught.value.message
    assert len(ground.claude.seen) == heard


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("member", [name for name in IMPOSSIBLE if name not in {"prediction", "min_p"}])
async def test_other_target_of_a_route_serves_what_anthropic_lacks(member: str, ground: Ground) -> None:
    """The target that can do it answers, dearer as it is, and the explanation says what ruled the other out."""
    answer, told, reason = await ground.ask("auto", **IMPOSSIBLE[member])
    assert answer.id == "chatcmpl-1"
    assert len(answer.choices) == IMPOSSIBLE[member].get("n", 1)
    assert told["target"] == "open"
    assert [each["target_id"] for each in told["considered"]] == ["open"]
    (dropped,) = told["dropped"]
    assert (dropped["target_id"], dropped["filter"]) == ("claude", "expressible")
    assert dropped["reason"].startswith(f"'{member}'")
    assert reason == "only target left, 1 ruled out"


@pytest.mark.asyncio(loop_scope="module")
async def test_request_that_both_targets_can_serve_goes_to_the_cheaper(ground: Ground) -> None:
    """Without such a member, the same route asks Anthropic; nothing is dropped."""
    answer, told, _ = await ground.ask("auto", temperature=0.5)
    assert answer.id.startswith("msg_")
    assert (told["target"], told["dropped"]) == ("claude", [])


@pytest.mark.asyncio(loop_scope="module")
async def test_text_completions_are_not_anthropics(ground: Ground) -> None:
    """The older endpoint is refused on the model alone, and served by the other target on the route."""

    def ask(model: str) -> str:
        return ground.client.completions.create(model=model, prompt="One, two,", max_tokens=2).choices[0].text

    with pytest.raises(BadRequestError) as caught:
        await asyncio.to_thread(ask, "claude")
    assert "'completions'" in caught.value.message
    assert caught.value.param is None
    assert await asyncio.to_thread(ask, "auto")
