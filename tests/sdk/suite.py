"""What an app does with the official ``openai`` client: the same for a scripted upstream and for a real engine.

Each case is a function of a client and a model's name; a blocking client or an asynchronous one, by the kind of
function. They assert structure, never what a model says, so that they hold for the smallest real model. What
``endpoint.clients`` gives plays them.
"""
# ruff: noqa: D401 - the docstring of a case states behaviour, as a test's does

import asyncio
import json
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI, pydantic_function_tool
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionMessageParam,
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionTokenLogprob,
)
from pydantic import BaseModel, ConfigDict

from tests.sdk.endpoint import Case, Endpoint, clients

__all__ = ["CASES", "NAMES", "Case", "Endpoint", "clients"]

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from one to ten in words."}]


class Weather(BaseModel):
    """The weather at a place. Bounded in length, so that a small model comes to its end."""

    model_config = ConfigDict(extra="forbid")

    unit: Literal["celsius", "fahrenheit"]
    windy: bool


_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}, "windy": {"type": "boolean"}},
    "required": ["unit", "windy"],
    "additionalProperties": False,
}
_TOOL = pydantic_function_tool(Weather, name="get_weather", description="Get the weather.")
_NAMED: ChatCompletionNamedToolChoiceParam = {"type": "function", "function": {"name": "get_weather"}}


def a_whole_answer(client: OpenAI, model: str) -> None:
    """Without a stream: one answer, counted, with an id to ask for it later."""
    answer = client.chat.completions.create(model=model, messages=ASK, max_completion_tokens=16)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert (answer._request_id or "").startswith("req_")


async def a_whole_answer_async(client: AsyncOpenAI, model: str) -> None:
    """The same from the asynchronous client, several at a time."""
    asked = [client.chat.completions.create(model=model, messages=ASK, max_tokens=8) for _ in range(4)]
    answers = await asyncio.gather(*asked)
    assert all(answer.choices[0].message.content for answer in answers)
    assert len({answer._request_id for answer in answers}) == 4


def the_length_ends_an_answer(client: OpenAI, model: str) -> None:
    """``max_tokens`` is kept, and said to be the reason."""
    answer = client.chat.completions.create(model=model, messages=ASK, max_tokens=3, temperature=0)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def _check_stream(chunks: list[ChatCompletionChunk]) -> None:
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert len({chunk.id for chunk in chunks}) == 1
    assert choices[0].delta.role == "assistant"
    assert len([choice for choice in choices if choice.delta.content]) > 1, "it comes in pieces"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] in (["stop"], ["length"])


def a_stream(client: OpenAI, model: str) -> None:
    """A stream comes in pieces, ends once, and holds no usage that nobody asked for."""
    with client.chat.completions.create(model=model, messages=ASK, max_tokens=8, stream=True) as stream:
        chunks = list(stream)
    _check_stream(chunks)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


async def a_stream_async(client: AsyncOpenAI, model: str) -> None:
    """The same from the asynchronous client, with usage in a last chunk, as asked."""
    stream = await client.chat.completions.create(
        model=model, messages=ASK, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    async with stream:
        chunks = [chunk async for chunk in stream]
    _check_stream(chunks)
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert 1 <= chunks[-1].usage.completion_tokens <= 8
    assert len([chunk for chunk in chunks if not chunk.choices]) == 1


def the_raw_response(client: OpenAI, model: str) -> None:
    """``with_raw_response`` shows the headers that say which target answered and why, with and without a stream."""
    raw = client.chat.completions.with_raw_response.create(model=model, messages=ASK, max_tokens=4)
    assert raw.status_code == 200
    for name in ("x-tollway-target", "x-tollway-reason", "x-tollway-request-id", "x-tollway-cost-usd"):
        assert raw.headers[name]
    assert raw.parse().choices[0].message.content
    # Of a few tokens, vLLM would make one piece while nobody takes them.
    streamed = client.chat.completions.with_raw_response.create(model=model, messages=ASK, max_tokens=16, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    with streamed.parse() as stream:
        _check_stream(list(stream))


def the_streaming_response(client: OpenAI, model: str) -> None:
    """``with_streaming_response`` reads the lines as they come: events, and the end marker."""
    with client.chat.completions.with_streaming_response.create(
        model=model, messages=ASK, max_tokens=4, stream=True
    ) as response:
        assert response.headers["x-tollway-request-id"]
        lines = list(response.iter_lines())
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert all(json.loads(event)["object"] == "chat.completion.chunk" for event in events[:-1])


async def the_streaming_response_async(client: AsyncOpenAI, model: str) -> None:
    """The same from the asynchronous client, for an answer without a stream."""
    async with client.chat.completions.with_streaming_response.create(
        model=model, messages=ASK, max_tokens=4
    ) as response:
        answer = await response.parse()
    assert answer.choices[0].message.content


def a_json_schema(client: OpenAI, model: str) -> None:
    """``response_format`` with a JSON schema: the answer is an object of that schema."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the weather? Answer in JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": _SCHEMA}},
        temperature=0,
        max_tokens=100,
    )
    Weather.model_validate_json(answer.choices[0].message.content or "", strict=True)


def a_parsed_answer(client: OpenAI, model: str) -> None:
    """``parse`` with a pydantic model gives an instance of it."""
    answer = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "What is the weather? Answer in JSON."}],
        response_format=Weather,
        temperature=0,
        max_tokens=100,
    )
    assert isinstance(answer.choices[0].message.parsed, Weather)


async def a_parsed_stream_async(client: AsyncOpenAI, model: str) -> None:
    """The ``stream`` helper with a pydantic model: events on the way, an instance at the end."""
    async with client.chat.completions.stream(
        model=model,
        messages=[{"role": "user", "content": "What is the weather? Answer in JSON."}],
        response_format=Weather,
        temperature=0,
        max_tokens=100,
    ) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert kinds.count("content.delta") > 1
    assert "content.done" in kinds
    assert isinstance(final.choices[0].message.parsed, Weather)


def _check_call(message: Any) -> None:
    call = message.tool_calls[0]
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    Weather.model_validate_json(call.function.arguments, strict=True)


def a_named_tool(client: OpenAI, model: str) -> None:
    """A tool forced by name is called, with arguments that its schema accepts; ``parse`` reads them."""
    answer = client.chat.completions.parse(
        model=model, messages=ASK, tools=[_TOOL], tool_choice=_NAMED, temperature=0, max_tokens=100
    )
    _check_call(answer.choices[0].message)
    assert isinstance((answer.choices[0].message.tool_calls or [])[0].function.parsed_arguments, Weather)
    assert not answer.choices[0].message.content


def a_required_tool(client: OpenAI, model: str) -> None:
    """With ``tool_choice="required"`` some tool is called; a small model may go on calling until it is stopped."""
    answer = client.chat.completions.create(
        model=model,
        messages=ASK,
        tools=[_TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=200,
    )
    _check_call(answer.choices[0].message)


def a_streamed_tool(client: OpenAI, model: str) -> None:
    """The ``stream`` helper puts the arguments of a forced tool together."""
    with client.chat.completions.stream(
        model=model, messages=ASK, tools=[_TOOL], tool_choice=_NAMED, temperature=0, max_tokens=100
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.delta") > 1
    _check_call(final.choices[0].message)


async def a_streamed_tool_async(client: AsyncOpenAI, model: str) -> None:
    """The raw deltas of a required tool: its name and id once, its arguments in pieces."""
    stream = await client.chat.completions.create(
        model=model,
        messages=ASK,
        tools=[_TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=200,
        stream=True,
    )
    async with stream:
        deltas = [choice.delta async for chunk in stream for choice in chunk.choices]
    parts = [part for delta in deltas for part in delta.tool_calls or () if part.index == 0 and part.function]
    functions = [part.function for part in parts if part.function]
    assert "".join(function.name or "" for function in functions) == "get_weather"
    assert any(part.id for part in parts)
    Weather.model_validate_json("".join(function.arguments or "" for function in functions), strict=True)


def _check_logprobs(tokens: list[ChatCompletionTokenLogprob] | None) -> None:
    assert tokens
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2


def log_probabilities(client: OpenAI, model: str) -> None:
    """Every token has its log-probability and its rivals, without a stream and in one."""
    answer = client.chat.completions.create(
        model=model, messages=ASK, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    whole = answer.choices[0].logprobs.content
    _check_logprobs(whole)
    with client.chat.completions.create(
        model=model, messages=ASK, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2, stream=True
    ) as stream:
        choices = [choice for chunk in stream for choice in chunk.choices]
    streamed = [token for each in choices if each.logprobs for token in each.logprobs.content or ()]
    _check_logprobs(streamed)
    assert len(streamed) == len(whole or ())


def several_choices(client: OpenAI, model: str) -> None:
    """``n`` choices come, each with its index, without a stream and in one."""
    answer = client.chat.completions.create(model=model, messages=ASK, max_tokens=4, n=3, temperature=0.8)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content and choice.finish_reason for choice in answer.choices)
    with client.chat.completions.create(
        model=model, messages=ASK, max_tokens=4, n=2, temperature=0.8, stream=True
    ) as stream:
        choices = [choice for chunk in stream for choice in chunk.choices]
    for index in (0, 1):
        own = [choice for choice in choices if choice.index == index]
        assert any(choice.delta.content for choice in own)
        assert len([choice for choice in own if choice.finish_reason]) == 1


def a_seed(client: OpenAI, model: str) -> None:
    """At temperature 0, the same seed gives the same answer."""
    answers = [
        client.chat.completions.create(model=model, messages=ASK, max_tokens=8, temperature=0, seed=7) for _ in range(2)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def a_stop_sequence(client: OpenAI, model: str) -> None:
    """The answer ends before the stop sequence, which is taken from what it would have said."""
    free = client.chat.completions.create(model=model, messages=ASK, max_tokens=24, temperature=0)
    text = free.choices[0].message.content or ""
    stop = text[len(text) // 2 :][:4]
    assert stop
    answer = client.chat.completions.create(model=model, messages=ASK, max_tokens=24, temperature=0, stop=[stop])
    assert stop not in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def text_completions(client: OpenAI, model: str) -> None:
    """The older endpoint: whole, with log-probabilities, and in a stream."""
    answer = client.completions.create(model=model, prompt="One, two,", max_tokens=4, temperature=0, logprobs=2)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.usage is not None
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens
    assert len(logprobs.tokens) == len(logprobs.token_logprobs or ()) == answer.usage.completion_tokens
    with client.completions.create(model=model, prompt="One, two,", max_tokens=4, temperature=0, stream=True) as stream:
        assert "".join(choice.text for chunk in stream for choice in chunk.choices) == answer.choices[0].text


def the_models(client: OpenAI, model: str) -> None:
    """The models that can be asked for are listed, and shown one by one."""
    assert model in [each.id for each in client.models.list()]
    assert client.models.retrieve(model).id == model
    with pytest.raises(NotFoundError):
        client.models.retrieve("no-such-model")


def errors_of_the_caller(client: OpenAI, model: str) -> None:
    """A wrong model and a wrong request raise the client's own classes, streaming or not."""
    with pytest.raises(NotFoundError) as missing:
        client.chat.completions.create(model="no-such-model", messages=ASK)
    assert missing.value.code == "model_not_found"
    assert (missing.value.request_id or "").startswith("req_")
    with pytest.raises(BadRequestError) as wrong:
        client.chat.completions.create(model=model, messages="hello", stream=True)  # type: ignore[arg-type]
    assert wrong.value.type == "invalid_request_error"


def a_stream_closed_early(client: OpenAI, model: str) -> None:
    """A stream may be closed after its first piece; the client goes on working."""
    stream = client.chat.completions.create(model=model, messages=ASK, max_tokens=64, stream=True)
    assert next(stream).choices
    stream.close()
    a_whole_answer(client, model)


async def a_stream_closed_early_async(client: AsyncOpenAI, model: str) -> None:
    """The same from the asynchronous client, by leaving the context."""
    async with await client.chat.completions.create(model=model, messages=ASK, max_tokens=64, stream=True) as stream:
        async for _ in stream:
            break
    await a_whole_answer_async(client, model)


CASES: tuple[Case, ...] = (
    a_whole_answer,
    a_whole_answer_async,
    the_length_ends_an_answer,
    a_stream,
    a_stream_async,
    the_raw_response,
    the_streaming_response,
    the_streaming_response_async,
    a_json_schema,
    a_parsed_answer,
    a_parsed_stream_async,
    a_named_tool,
    a_required_tool,
    a_streamed_tool,
    a_streamed_tool_async,
    log_probabilities,
    several_choices,
    a_seed,
    a_stop_sequence,
    text_completions,
    the_models,
    errors_of_the_caller,
    a_stream_closed_early,
    a_stream_closed_early_async,
)

NAMES = tuple(case.__name__ for case in CASES)
