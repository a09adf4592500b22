"""A real model on a real vLLM replica under Ray Serve, past the gateway."""

import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from tests.engine.conftest import Running

CAPITAL: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France?"}
]
STORY: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "user", "content": "Tell me a long story about a sea captain."}
]


@pytest.fixture(scope="session")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.worker}/v1", api_key="-", max_retries=0, timeout=120) as made:
        yield made


def gauge(running: Running, name: str) -> float:
    """Return one of the engine's own figures, summed over its label sets."""
    text = httpx2.get(f"{running.worker}/metrics", timeout=10).text
    found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not exported"
    return sum(map(float, found))


def test_a_fixed_question_at_temperature_0_is_answered(client: openai.OpenAI, running: Running) -> None:
    reply = client.chat.completions.create(model=running.model, messages=CAPITAL, temperature=0, max_tokens=30)
    assert "Paris" in (reply.choices[0].message.content or "")
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 1


def test_a_stream_says_the_same_as_the_whole_answer(client: openai.OpenAI, running: Running) -> None:
    stream = client.chat.completions.create(
        model=running.model,
        messages=CAPITAL,
        temperature=0,
        max_tokens=30,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    assert chunks[-1].usage is not None


def test_a_repeated_prompt_is_read_from_the_prefix_cache(client: openai.OpenAI, running: Running) -> None:
    cached = 0
    for _ in range(2):
        reply = client.chat.completions.create(model=running.model, messages=STORY, max_tokens=2)
        assert reply.usage is not None
        assert reply.usage.prompt_tokens_details is not None
        cached = reply.usage.prompt_tokens_details.cached_tokens or 0
    assert cached >= 32


def test_a_required_tool_is_called_with_json_arguments(client: openai.OpenAI, running: Running) -> None:
    weather: openai.types.chat.ChatCompletionToolParam = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    reply = client.chat.completions.create(
        model=running.model,
        messages=[{"role": "user", "content": "How is the weather in Paris?"}],
        tools=[weather],
        tool_choice="required",
        temperature=0,
        max_tokens=60,
    )
    calls = reply.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"


def test_the_engine_stops_at_once_when_a_streaming_client_leaves(running: Running) -> None:
    """As the gateway always asks: without a stream, vLLM may go on for callers who have left."""
    body = {"model": running.model, "messages": STORY, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    where = urlsplit(running.worker)
    with closing(http.client.HTTPConnection(where.netloc, timeout=60)) as caller:
        headers = {"content-type": "application/json"}
        caller.request("POST", f"{where.path}/v1/chat/completions", json.dumps(body), headers)
        wait_for_one(running)
        # The engine takes an abort between two steps, and the first one reads the whole prompt.
        wait_for_tokens(running, 3)
        leave(running, caller)


def wait_for_one(running: Running) -> None:
    """Return when the engine works on one request."""
    deadline = time.monotonic() + 30
    while gauge(running, "vllm:num_requests_running") != 1:
        assert time.monotonic() < deadline


def wait_for_tokens(running: Running, count: int) -> None:
    """Return when the engine has made so many more."""
    begun = gauge(running, "vllm:generation_tokens_total")
    while gauge(running, "vllm:generation_tokens_total") < begun + count:
        continue


def leave(running: Running, caller: http.client.HTTPConnection) -> None:
    """Close the only caller's connection; fail unless the engine stops well before it has made what was asked for.

    Its own tokens are the clock: a second is 20 to 40 of them on two cores, fewer while something else holds those up,
    which the time until its metrics have come through Serve's proxy cannot tell from an engine that goes on.
    """
    made = gauge(running, "vllm:generation_tokens_total")
    left_at = time.monotonic()
    caller.close()
    # To the end, so that a failure is not the next test's too.
    while gauge(running, "vllm:num_requests_running") != 0:
        continue
    since = gauge(running, "vllm:generation_tokens_total") - made
    print(f"free after {since:.0f} tokens, seen in {time.monotonic() - left_at:.2f} s")
    assert since < 100


@pytest.mark.parametrize(
    "name",
    [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_count",
        "vllm:inter_token_latency_seconds_count",
    ],
)
def test_the_engines_own_metrics_are_reachable(running: Running, name: str) -> None:
    assert gauge(running, name) >= 0
