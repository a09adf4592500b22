"""What SDKs do by themselves on top of a call: loops of tools, helpers for streams, parsing; on every kind of target.

Each case of Anthropic's SDK is written once for the blocking client and once for the asynchronous one.
"""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import anthropic
import pytest
import pytest_asyncio
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from anthropic import beta_async_tool, beta_tool
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.ground.gateway import running_gateway
from tests.ground.said import UPSTREAMS, Called, Said, answer, model_at, results_in
from tests.ground.script import Answer, Seen, json_answer
from tests.ground.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASKED: dict[str, Any] = {"max_tokens": 2_000, "messages": [{"role": "user", "content": "Hi"}]}
_CALLS = (Called("weather", {"city": "Köln"}, "call_1"), Called("add", {"a": 2, "b": 3}, "call_2"))
_TEXT, _THOUGHT, _COUNT = "Grüße, 你好 👋", "Which city?", 42
_COUNTING = {"vllm", "anthropic"}
"""Kinds of upstream that can say how many tokens a prompt has."""


def _answered(seen: Seen) -> Answer:
    """Answer as the type of provider that the model is named after: calls first, then what is made of their results."""
    request = seen.json
    if seen.path.endswith("/count_tokens"):
        return json_answer({"input_tokens": _COUNT})
    if seen.path.endswith("/tokenize"):
        return json_answer({"count": _COUNT})
    said = Said(_TEXT, _THOUGHT)
    if {"output_config", "response_format", "text"} & request.keys():
        said = Said(json.dumps({"city": "Köln"}))
    elif request.get("tools"):
        said = Said("", _THOUGHT, _CALLS, "tools") if results_in(request) == 0 else Said(_TEXT)
    return answer(said, str(request["model"]), request)


class City(BaseModel):
    """What is asked for as JSON."""

    city: str


def weather(city: str) -> str:
    """Return the weather.

    Args:
        city: Where.

    """
    return f"Sun in {city}"


def add(a: int, b: int) -> str:
    """Return a sum.

    Args:
        a: One.
        b: The other.

    """
    return str(a + b)


async def weather_later(city: str) -> str:
    """See ``weather``."""
    return weather(city)


async def add_later(a: int, b: int) -> str:
    """See ``add``."""
    return add(a, b)


def _check_message(message: Any, model: str) -> None:
    assert (message.content[-1].text, message.stop_reason) == (_TEXT, "end_turn")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (10, 1000, 20)
    shown = [] if model == "openai" else [_THOUGHT]
    assert [block.thinking for block in message.content if block.type == "thinking"] == shown


def message(client: anthropic.Anthropic, model: str) -> None:
    """Create one, with thinking, and send it back as history."""
    asked = {**ASKED, "model": model, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    first = client.messages.create(**asked)
    _check_message(first, model)
    said = {"role": "assistant", "content": first.content}
    _check_message(
        client.messages.create(**{**asked, "messages": [*ASKED["messages"], said, *ASKED["messages"]]}), model
    )


async def message_async(client: anthropic.AsyncAnthropic, model: str) -> None:
    """Create several at a time."""
    asked = [client.messages.create(**ASKED, model=model) for _ in range(3)]
    for got in await asyncio.gather(*asked):
        _check_message(got, model)


def stream(client: anthropic.Anthropic, model: str) -> None:
    """Use the helper: texts on the way, the message at the end."""
    with client.messages.stream(**ASKED, model=model) as got:
        assert "".join(got.text_stream) == _TEXT
        _check_message(got.get_final_message(), model)


async def stream_async(client: anthropic.AsyncAnthropic, model: str) -> None:
    """Read the helper's own events, thinking included."""
    async with client.messages.stream(**ASKED, model=model) as got:
        kinds = [event.type async for event in got]
        _check_message(await got.get_final_message(), model)
    assert kinds.count("text") > 1
    assert ("thinking" in kinds) == (model != "openai")


def tools(client: anthropic.Anthropic, model: str) -> None:
    """Have the runner call two tools at a time, and give their results back."""
    tools = [beta_tool(weather), beta_tool(add)]
    runner = client.beta.messages.tool_runner(**ASKED, model=model, tools=tools)
    assert [each.stop_reason for each in runner] == ["tool_use", "end_turn"]


async def tools_async(client: anthropic.AsyncAnthropic, model: str) -> None:
    """Do the same, with streams."""
    tools = [beta_async_tool(weather_later, name="weather"), beta_async_tool(add_later, name="add")]
    runner = client.beta.messages.tool_runner(**ASKED, model=model, tools=tools, stream=True)
    ends = [(await each.get_final_message()).stop_reason async for each in runner]
    assert ends == ["tool_use", "end_turn"]


def parsed(client: anthropic.Anthropic, model: str) -> None:
    """Have an answer parsed into a type."""
    got = client.messages.parse(**ASKED, model=model, output_format=City)
    assert got.parsed_output == City(city="Köln")


async def parsed_async(client: anthropic.AsyncAnthropic, model: str) -> None:
    """Do the same asynchronously."""
    got = await client.messages.parse(**ASKED, model=model, output_format=City)
    assert got.parsed_output == City(city="Köln")


def count(client: anthropic.Anthropic, model: str) -> None:
    """Count a prompt's tokens: where an upstream cannot, it is an estimate."""
    counted = client.messages.count_tokens(messages=ASKED["messages"], model=model).input_tokens
    assert counted == _COUNT if model in _COUNTING else 0 < counted < _COUNT


async def count_async(client: anthropic.AsyncAnthropic, model: str) -> None:
    """Do the same asynchronously."""
    counted = (await client.messages.count_tokens(messages=ASKED["messages"], model=model)).input_tokens
    assert counted == _COUNT if model in _COUNTING else 0 < counted < _COUNT


CASES: tuple[Callable[[Any, str], Any], ...] = (
    message,
    message_async,
    stream,
    stream_async,
    tools,
    tools_async,
    parsed,
    parsed_async,
    count,
    count_async,
)


def _check_response(got: Any) -> None:
    assert (got.output_text, got.status) == (_TEXT, "completed")
    usage = got.usage
    assert (usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens) == (1010, 1000, 20)


def response(client: OpenAI, model: str) -> None:
    """Create one, and go on from it with all that it holds."""
    first = client.responses.create(model=model, input="Hi")
    _check_response(first)
    history: list[Any] = [{"role": "user", "content": "Hi"}, *first.output, {"role": "user", "content": "And?"}]
    _check_response(client.responses.create(model=model, input=history))


async def response_async(client: AsyncOpenAI, model: str) -> None:
    """Create several at a time."""
    for got in await asyncio.gather(*(client.responses.create(model=model, input="Hi") for _ in range(3))):
        _check_response(got)


def response_stream(client: OpenAI, model: str) -> None:
    """Use the helper."""
    with client.responses.stream(model=model, input="Hi") as got:
        assert [event.type for event in got].count("response.output_text.delta") > 1
        _check_response(got.get_final_response())


async def response_stream_async(client: AsyncOpenAI, model: str) -> None:
    """Do the same asynchronously."""
    async with client.responses.stream(model=model, input="Hi") as got:
        assert [event.type async for event in got].count("response.output_text.delta") > 1
        _check_response(await got.get_final_response())


def response_parsed(client: OpenAI, model: str) -> None:
    """Have an answer parsed into a type."""
    assert client.responses.parse(model=model, input="Hi", text_format=City).output_parsed == City(city="Köln")


async def response_parsed_async(client: AsyncOpenAI, model: str) -> None:
    """Do the same asynchronously."""
    got = await client.responses.parse(model=model, input="Hi", text_format=City)
    assert got.output_parsed == City(city="Köln")


RESPONSES: tuple[Callable[[Any, str], Any], ...] = (
    response,
    response_async,
    response_stream,
    response_stream_async,
    response_parsed,
    response_parsed_async,
)


class Ground(NamedTuple):
    """A gateway in front of one upstream of every kind, each with a model of its name."""

    upstream: ScriptedUpstream
    asynchronous: anthropic.AsyncAnthropic
    blocking: anthropic.Anthropic
    openai: AsyncOpenAI
    blocking_openai: OpenAI


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="ground")
async def run_ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Run the gateway and make the clients."""
    async with ScriptedUpstream() as upstream:
        sections = {name: model_at(name, upstream.url) for name in UPSTREAMS}
        price = {"price": {"input": 1.0, "output": 5.0}}
        config = {
            "providers": {name: provider for name, (provider, _) in sections.items()},
            "models": {name: {"provider": name, **price, **needs} for name, (_, needs) in sections.items()},
        }
        for name in UPSTREAMS:
            upstream.on_model(name, _answered)
        path = tmp_path_factory.mktemp("gateway")
        async with running_gateway(config, path, environ={"KEY": "theirs"}) as running:
            settings: dict[str, Any] = {"api_key": "unused", "max_retries": 0}
            async with (
                anthropic.AsyncAnthropic(base_url=running.url, **settings) as asynchronous,
                AsyncOpenAI(base_url=running.base_url, **settings) as openai,
            ):
                with (
                    anthropic.Anthropic(base_url=running.url, **settings) as blocking,
                    OpenAI(base_url=running.base_url, **settings) as blocking_openai,
                ):
                    yield Ground(upstream, asynchronous, blocking, openai, blocking_openai)


@pytest.mark.parametrize("model", UPSTREAMS)
@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
async def test_anthropics_sdk_works_on_every_target(
    case: Callable[[Any, str], Any], model: str, ground: Ground
) -> None:
    """See each case; what a loop was told of its tools is what they returned."""
    if inspect.iscoroutinefunction(case):
        await case(ground.asynchronous, model)
    else:
        await asyncio.to_thread(case, ground.blocking, model)
    if case in {tools, tools_async}:
        assert results_in(ground.upstream.seen[-1].json) == 2
        assert [each in ground.upstream.seen[-1].body.decode() for each in ("Sun in Köln", "5")] == [True, True]


@pytest.mark.parametrize("model", UPSTREAMS)
@pytest.mark.parametrize("case", RESPONSES, ids=[case.__name__ for case in RESPONSES])
async def test_openais_sdk_gets_responses_of_every_target(
    case: Callable[[Any, str], Any], model: str, ground: Ground
) -> None:
    """See each case."""
    if inspect.iscoroutinefunction(case):
        await case(ground.openai, model)
    else:
        await asyncio.to_thread(case, ground.blocking_openai, model)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("model", UPSTREAMS)
@pytest.mark.parametrize("api", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
async def test_agents_sdk_runs_an_agent_with_two_tools(
    api: type[OpenAIChatCompletionsModel | OpenAIResponsesModel], model: str, streamed: bool, ground: Ground
) -> None:
    """OpenAI's, whose agent asks, calls both, and answers."""
    set_tracing_disabled(disabled=True)
    agent = Agent(
        name="Helper",
        instructions="Be brief.",
        model=api(model=model, openai_client=ground.openai),
        model_settings=ModelSettings(include_usage=True, parallel_tool_calls=True),
        tools=[function_tool(weather), function_tool(add)],
    )
    if streamed:
        running = Runner.run_streamed(agent, "Hi")
        async for _ in running.stream_events():
            pass
        output, usage = running.final_output, running.context_wrapper.usage
    else:
        ran = await Runner.run(agent, "Hi")
        output, usage = ran.final_output, ran.context_wrapper.usage
    assert output == _TEXT
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (2, 2020, 40)
    last = ground.upstream.seen[-1]
    assert results_in(last.json) == 2
    assert [each in last.body.decode() for each in ("Sun in Köln", "5")] == [True, True]
