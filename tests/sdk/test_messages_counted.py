"""What Anthropic's clients ask beside messages: a prompt's tokens, the models, a sign of life; and refusals."""

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import anthropic
import pytest
import pytest_asyncio

from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "x" * 400}]}
KEY, LIMITED = "sk-tollway-all-0123456789", "sk-tollway-few-0123456789"


class Ground(NamedTuple):
    """A gateway with keys, in front of one upstream that is Anthropic and vLLM."""

    running: RunningGateway
    upstream: ScriptedUpstream
    client: anthropic.AsyncAnthropic
    session: aiohttp.ClientSession


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="ground")
async def run_ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Run the gateway and make the clients."""
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as session:
        price = {"input": 1, "output": 1}
        config = {
            "providers": {
                "far": {"type": "anthropic", "base_url": upstream.url, "api_key": "env:KEY"},
                "own": {"type": "vllm", "base_url": f"{upstream.url}/v1"},
                "any": {"type": "openai-compatible", "base_url": f"{upstream.url}/v1"},
            },
            "models": {
                "claude": {"provider": "far", "upstream": "claude-x", "price": price},
                "own": {"provider": "own", "upstream": "m", "price": price},
                "any": {"provider": "any", "price": price},
            },
            "routes": {"auto": {"models": ["any", "own"]}},
            "keys": [
                {"name": "all", "secret": "env:ALL"},
                {"name": "few", "secret": "env:FEW", "requests_per_minute": 1},
            ],
        }
        environ = {"KEY": "theirs", "ALL": KEY, "FEW": LIMITED}
        async with running_gateway(config, tmp_path_factory.mktemp("gateway"), environ=environ) as running:
            async with anthropic.AsyncAnthropic(base_url=running.url, api_key=KEY, max_retries=0) as client:
                yield Ground(running, upstream, client, session)


async def _count(ground: Ground, model: str, **members: Any) -> tuple[int, str | None]:
    raw = await ground.client.messages.with_raw_response.count_tokens(**{**ASKED, "model": model, **members})
    return (await raw.parse()).input_tokens, raw.headers.get("x-tollway-estimated")


async def test_anthropic_is_asked_with_the_callers_own_body(ground: Ground) -> None:
    """Under our key, with the model's name there."""
    ground.upstream.then(json_answer({"input_tokens": 14}))
    assert await _count(ground, "claude", system="s") == (14, None)
    seen = ground.upstream.seen[-1]
    assert (seen.path, seen.headers["x-api-key"]) == ("/v1/messages/count_tokens", "theirs")
    assert seen.json == {**ASKED, "model": "claude-x", "system": "s"}


async def test_vllm_is_asked_what_its_chat_template_makes_of_it(ground: Ground) -> None:
    """It counts with the tools and the system prompt; of a route, the first that can count is asked."""
    tool: Any = {"name": "look", "input_schema": {"type": "object"}}
    ground.upstream.then(json_answer({"count": 21, "max_model_len": 8192, "tokens": []}))
    assert await _count(ground, "auto", tools=[tool]) == (21, None)
    seen = ground.upstream.seen[-1]
    assert (seen.path, sorted(seen.json)) == ("/tokenize", ["messages", "model", "tools"])


@pytest.mark.parametrize("model", ["any", "own", "claude"])
async def test_estimate_is_rounded_up_and_marked(model: str, ground: Ground) -> None:
    """Where none can count, or it fails."""
    if model != "any":
        ground.upstream.then(error_answer(404))
    tokens, mark = await _count(ground, model)
    assert (100 < tokens < 200, mark) == (True, "input_tokens")


async def test_count_is_no_call_but_counts_towards_the_rate(ground: Ground) -> None:
    """It costs nothing; the key's limit holds, and says when to come again."""
    async with anthropic.AsyncAnthropic(base_url=ground.running.url, api_key=LIMITED, max_retries=0) as client:
        await client.messages.count_tokens(**ASKED, model="any")
        with pytest.raises(anthropic.RateLimitError) as caught:
            await client.messages.count_tokens(**ASKED, model="any")
    assert int(caught.value.response.headers["retry-after"]) > 0
    assert await ground.running.totals() == []


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ("{", {}, (400, "invalid_request_error")),
        (json.dumps({"model": "any"}), {}, (400, "invalid_request_error")),
        (json.dumps({**ASKED, "model": "none"}), {}, (404, "not_found_error")),
        (json.dumps({**ASKED, "model": "any"}), {"x-api-key": "wrong"}, (401, "authentication_error")),
        ("{}", {"content-encoding": "br"}, (415, "invalid_request_error")),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_refusal_has_anthropics_shape(
    path: str, body: str, headers: dict[str, str], expected: tuple[int, str], ground: Ground
) -> None:
    """Of every kind, also of what is refused before the path is looked at."""
    if path == "/v1/messages" and body.startswith("{") and expected[0] in {401, 404}:
        body = json.dumps(json.loads(body) | {"max_tokens": 1})
    given = {"x-api-key": KEY, **headers}
    async with ground.session.post(ground.running.url + path, data=body, headers=given) as answer:
        found = await answer.json()
        assert (answer.status, found["error"]["type"]) == expected
        assert found["type"] == "error"


async def test_models_are_listed_in_the_callers_dialect(ground: Ground) -> None:
    """Anthropic's clients send their version; one that is not there is refused in their shape."""
    names = [model.id async for model in ground.client.models.list()]
    assert sorted(names) == ["any", "auto", "claude", "own"]
    model = await ground.client.models.retrieve("claude")
    assert (model.type, model.display_name) == ("model", "claude")
    with pytest.raises(anthropic.NotFoundError) as caught:
        await ground.client.models.retrieve("none")
    body: Any = caught.value.body
    assert body["error"]["type"] == "not_found_error"
    headers = {"authorization": f"Bearer {KEY}"}
    async with ground.session.get(ground.running.url + "/v1/models", headers=headers) as answer:
        assert (await answer.json())["object"] == "list"


async def test_head_of_the_root_is_answered(ground: Ground) -> None:
    """Claude Code asks it before its first message."""
    async with ground.session.head(ground.running.url + "/") as answer:
        assert answer.status == 200
    async with ground.session.get(ground.running.url + "/") as answer:
        assert answer.status == 404


async def test_paths_of_the_dialect_are_described(ground: Ground) -> None:
    """For programs and people, as the others are."""
    async with ground.session.get(ground.running.url + "/openapi.json") as answer:
        paths = (await answer.json())["paths"]
    assert paths["/v1/messages"]["post"]["requestBody"]
    assert paths["/v1/messages/count_tokens"]["post"]["requestBody"]
