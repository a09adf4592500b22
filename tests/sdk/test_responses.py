"""OpenAI's Responses as its SDK speaks them, towards an upstream that only has chat completions."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import openai
import pydantic
import pytest
import pytest_asyncio

from tests.ground.chunks import COST_NANO_USD, PRICE, chunk
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.said import UPSTREAMS, Said
from tests.ground.script import Answer, error_answer, json_answer, play
from tests.ground.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")
LOOK: Any = {
    "type": "function",
    "name": "look",
    "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}},
    "strict": False,
}


_DONE = [chunk(), b"data: [DONE]\n\n"]
_FUNCTION = {"name": "look", "arguments": '{"n": 1}'}
TEXT = b"".join([*[chunk({"content": word}) for word in ("Grüße, ", "你好 ", "👋")], chunk({}, "stop"), *_DONE])
CALL = b"".join(
    [
        chunk({"reasoning_content": "Let me look."}),
        chunk({"tool_calls": [{"index": 0, "id": "functions.look:0", "type": "function", "function": _FUNCTION}]}),
        chunk({}, "tool_calls"),
        *_DONE,
    ]
)


class Ground(NamedTuple):
    """A gateway in front of one compatible upstream."""

    running: RunningGateway
    upstream: ScriptedUpstream
    client: openai.AsyncOpenAI
    session: aiohttp.ClientSession


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="ground")
async def run_ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Run the gateway and make the clients."""
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as session:
        config = {
            "providers": {
                "own": {"type": "vllm", "base_url": f"{upstream.url}/v1"},
                "both": {"type": "openai", "base_url": f"{upstream.url}/v1", "api_key": "env:KEY"},
                "far": {"type": "anthropic", "base_url": upstream.url, "api_key": "env:KEY"},
            },
            "models": {
                "own": {"provider": "own", "upstream": "m", "price": PRICE},
                "claude": {"provider": "far", "upstream": "c", "price": PRICE},
                "both": {"provider": "both", "upstream": "b", "price": PRICE},
            },
            "routes": {"agent": {"models": ["own"], "unsupported_tools": "drop"}},
        }
        path = tmp_path_factory.mktemp("gateway")
        async with running_gateway(config, path, environ={"KEY": "theirs"}) as running:
            async with openai.AsyncOpenAI(base_url=running.base_url, api_key="unused", max_retries=0) as client:
                yield Ground(running, upstream, client, session)


async def test_official_client_streams_text(ground: Ground) -> None:
    """Characters of any length, every event in its order, and usage, billed as it is."""
    ground.upstream.then(play(TEXT))
    async with ground.client.responses.stream(model="own", input="Hi") as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        response = await stream.get_final_response()
    assert "".join(deltas) == response.output_text == "Grüße, 你好 👋"
    usage = response.usage
    assert usage is not None
    assert (usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens) == (1010, 1000, 20)
    call_id = stream._response.headers["x-request-id"]
    async with ground.session.get(f"{ground.running.url}/v1/requests/{call_id}") as explained:
        assert (await explained.json())["cost_nano_usd"] == COST_NANO_USD


@pytest.mark.parametrize("stream", [True, False])
async def test_loop_of_tools_sends_the_whole_output_back(stream: bool, ground: Ground) -> None:
    """The engine gets its own id again, and what it thought."""
    ground.upstream.then(play(CALL), play(TEXT))
    asked: list[Any] = [{"role": "user", "content": "Hi"}]
    output = await _output(ground.client, asked, stream=stream)
    assert [item.type for item in output] == ["reasoning", "function_call"]
    asked += [item.to_dict(mode="json", exclude_none=True) for item in output]
    asked.append({"type": "function_call_output", "call_id": output[1].call_id, "output": "found"})
    await _output(ground.client, asked, stream=stream)
    messages = json.loads(ground.upstream.seen[-1].body)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0] == {"id": "functions.look:0", "type": "function", "function": _FUNCTION}
    assert messages[1]["reasoning"] == "Let me look."
    assert messages[2] == {"role": "tool", "tool_call_id": "functions.look:0", "content": "found"}


async def _output(client: openai.AsyncOpenAI, asked: Any, *, stream: bool) -> list[Any]:
    if not stream:
        return list((await client.responses.create(model="own", input=asked, tools=[LOOK])).output)
    async with client.responses.stream(model="own", input=asked, tools=[LOOK]) as events:
        return list((await events.get_final_response()).output)


@pytest.mark.parametrize("stream", [True, False])
async def test_provider_that_speaks_responses_gets_the_callers_own_words(stream: bool, ground: Ground) -> None:
    """Its tools too; what it answers passes, and is billed as it counts."""
    ground.upstream.then(play(b"".join(UPSTREAMS["responses"].events(Said("Hello"), "b"))))
    asked: Any = {"model": "both", "input": "Hi", "tools": [{"type": "web_search"}], "extra_body": {"new": {"a": 1}}}
    if stream:
        async with ground.client.responses.stream(**asked) as events:
            response: Any = await events.get_final_response()
            call_id = events._response.headers["x-request-id"]
    else:
        raw = await ground.client.responses.with_raw_response.create(**asked)
        response, call_id = raw.parse(), raw.headers["x-request-id"]
    assert response.output_text == "Hello"
    sent = ground.upstream.seen[-1]
    assert sent.path == "/v1/responses"
    assert sent.json == {
        "model": "b", "input": "Hi", "tools": [{"type": "web_search"}], "new": {"a": 1}, "stream": True,
    }  # fmt: skip
    async with ground.session.get(f"{ground.running.url}/v1/requests/{call_id}") as explained:
        assert (await explained.json())["cost_nano_usd"] == COST_NANO_USD


class Greeting(pydantic.BaseModel):
    """What is parsed."""

    words: list[str]


async def test_synchronous_client_parses_an_answer(ground: Ground) -> None:
    """The schema goes up as it is, strictly."""
    ground.upstream.then(play(b"".join([chunk({"content": '{"words": ["Hi"]}'}), chunk({}, "stop"), *_DONE])))

    def ask() -> Any:
        with openai.OpenAI(base_url=ground.running.base_url, api_key="unused", max_retries=0) as client:
            return client.responses.parse(model="own", input="Hi", text_format=Greeting).output_parsed

    assert await asyncio.to_thread(ask) == Greeting(words=["Hi"])
    wanted = json.loads(ground.upstream.seen[-1].body)["response_format"]["json_schema"]
    assert (wanted["name"], wanted["strict"]) == ("Greeting", True)


async def test_tools_of_an_agent_are_dropped_where_the_route_says_so(ground: Ground) -> None:
    """Codex sends tools that only OpenAI has; the record names them."""
    tools: list[Any] = [
        LOOK,
        {"type": "web_search"},
        {"type": "namespace", "name": "n", "description": "", "tools": [LOOK]},
    ]
    with pytest.raises(openai.BadRequestError) as refused:
        await ground.client.responses.create(model="own", input="Hi", tools=tools)
    assert "tools[1].type (web_search)" in refused.value.message
    ground.upstream.then(play(TEXT))
    raw = await ground.client.responses.with_raw_response.create(
        model="agent", input="Hi", tools=tools, prompt_cache_key="k"
    )
    async with ground.session.get(f"{ground.running.url}/v1/requests/{raw.headers['x-request-id']}") as explained:
        left_out = (await explained.json())["left_out"]
    assert left_out == ["prompt_cache_key", "tools[1].type (web_search)"]


async def test_error_in_mid_stream_is_the_last_event(ground: Ground) -> None:
    """Of OpenAI's shape; nothing follows that says it is complete."""
    cut = Answer(headers=(("content-type", "text/event-stream"),), chunks=[chunk({"content": "a"})])
    ground.upstream.then(cut)
    events = [event async for event in await ground.client.responses.create(model="own", input="Hi", stream=True)]
    assert events[-1].type == "error"
    assert events[-1].code == "upstream_cut"
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_refusal_has_openais_shape(ground: Ground) -> None:
    """An error before the stream is one of the SDK's own."""
    ground.upstream.then(error_answer(400, "That is too hot."))
    with pytest.raises(openai.BadRequestError) as refused:
        await ground.client.responses.create(model="own", input="Hi", stream=True)
    assert "That is too hot." in refused.value.message
    with pytest.raises(openai.NotFoundError) as unknown:
        await ground.client.responses.create(model="own", input="Hi", previous_response_id="resp_1")
    assert unknown.value.param == "previous_response_id"


@pytest.mark.parametrize(
    ("model", "path", "counted"),
    [("own", "/tokenize", {"count": 7}), ("claude", "/v1/messages/count_tokens", {"input_tokens": 7})],
)
async def test_input_tokens_are_asked_of_the_target(
    model: str, path: str, counted: dict[str, int], ground: Ground
) -> None:
    """Where it can count: of all that it reads, and not of how it is to answer."""
    ground.upstream.on_path(path, json_answer(counted))
    answer = await ground.client.responses.input_tokens.count(
        model=model, input="Hi", instructions="Brief.", tools=[LOOK]
    )
    assert (answer.object, answer.input_tokens) == ("response.input_tokens", 7)
    asked = json.loads(ground.upstream.seen[-1].body)
    assert asked.keys() - {"system"} == {"model", "messages", "tools"}
