"""The synthetic engine over HTTP: the official client can read it, and work ends when the client leaves."""

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio
import uvicorn

from workers.replica import ReplicaApp
from workers.server import SyntheticApp
from workers.spec import ModelSpec
from workers.synthetic_engine import SyntheticEngine

SPEC = ModelSpec.model_validate(
    {
        "source": "-",
        "engine": "synthetic",
        "synthetic": {"ttft_ms": 0, "tpot_ms": 1, "max_running": 2, "max_waiting": 0},
    }
)
HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello there"}]


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    """Serve one model called ``m`` the way a replica does, lifespan included."""
    config = uvicorn.Config(ReplicaApp("m", "", SPEC), port=0, lifespan="on", log_config=None, interface="asgi3")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@pytest_asyncio.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as made:
        yield made


async def test_a_chat_completion_carries_text_and_usage(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="m", messages=HELLO, max_tokens=5)
    assert reply.choices[0].message.content == "The toll is paid by"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5


async def test_a_stream_has_one_chunk_for_each_token_and_usage_when_asked(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="m", messages=HELLO, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert texts == ["The", " toll", " is", " paid", " by"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert chunks[-2].choices[0].finish_reason == "length"


async def test_completions_are_served_too(client: openai.AsyncOpenAI) -> None:
    reply = await client.completions.create(model="m", prompt="hello", max_tokens=2)
    assert reply.choices[0].text == "The toll"
    stream = await client.completions.create(model="m", prompt="hello", max_tokens=2, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "The toll"


async def test_the_model_is_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["m"]


async def test_an_unknown_model_or_an_empty_prompt_is_refused_in_openais_shape(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.chat.completions.create(model="x", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="missing or empty"):
        await client.chat.completions.create(model="m", messages=[])


async def test_a_full_queue_is_503(client: openai.AsyncOpenAI) -> None:
    streams = [
        await client.chat.completions.create(model="m", messages=HELLO, max_tokens=10_000, stream=True)
        for _ in range(2)
    ]
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="m", messages=HELLO)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"
    for stream in streams:
        await stream.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_the_slot_is_free_at_once_when_the_client_leaves(
    client: openai.AsyncOpenAI, url: str, stream: bool
) -> None:
    call = asyncio.create_task(
        client.chat.completions.create(model="m", messages=HELLO, max_tokens=100_000, stream=stream)
    )
    await until(client, url, running=1)
    if stream:
        reply = await call
        assert isinstance(reply, openai.AsyncStream)
        await reply.close()
    else:
        call.cancel()
    await until(client, url, running=0)


async def test_metrics_count_tokens_under_vllms_names(client: openai.AsyncOpenAI, url: str) -> None:
    await client.chat.completions.create(model="m", messages=HELLO, max_tokens=7)
    text = await metrics(client, url)
    assert 'vllm:generation_tokens_total{model_name="m"} 7.0' in text
    assert 'vllm:num_requests_waiting{model_name="m"} 0.0' in text


async def test_a_serve_route_prefix_is_not_part_of_the_path() -> None:
    sent = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    app = SyntheticApp("m", SyntheticEngine(SPEC.synthetic))
    await app({"type": "http", "method": "GET", "path": "/m/health", "root_path": "/m"}, receive, send)
    assert sent[0]["status"] == 200  # type: ignore[index]


async def metrics(client: openai.AsyncOpenAI, url: str) -> str:
    reply = await client.with_options(base_url=url).get("/metrics", cast_to=str)
    assert isinstance(reply, str)
    return reply


async def until(client: openai.AsyncOpenAI, url: str, *, running: int) -> None:
    """Return when the engine runs that many; the test's timeout is the limit."""
    async with asyncio.timeout(1):
        while f'vllm:num_requests_running{{model_name="m"}} {running}.0' not in await metrics(client, url):
            await asyncio.sleep(0.01)
