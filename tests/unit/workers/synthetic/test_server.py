"""The synthetic engine over HTTP: the official client can read it, work ends when the client leaves, all is counted."""

import asyncio
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Literal

import msgspec
import openai
import pytest
import pytest_asyncio
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from gateway.simulation.virtual_time import run_virtual
from workers.config.spec import ModelSpec
from workers.config.synthetic import SyntheticSpec
from workers.engine import AsgiApp, Message
from workers.replica.app import ReplicaApp
from workers.synthetic.engine import SyntheticEngine
from workers.synthetic.server import SyntheticApp, open_synthetic

SPEC = ModelSpec.model_validate(
    {
        "source": "-",
        "engine": "synthetic",
        "synthetic": {"ttft_ms": 0, "tpot_ms": 1, "max_running": 2, "max_waiting": 0},
    }
)
TO_THE_END = {"ignore_eos": True}
HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello there"}]


@asynccontextmanager
async def serving(app: AsgiApp, lifespan: Literal["on", "off"] = "off") -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=0, lifespan=lifespan, log_config=None, interface="asgi3")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@asynccontextmanager
async def client_of(*also: str, **settings: object) -> AsyncIterator[openai.AsyncOpenAI]:
    """Serve one engine of these settings, and return a client of it."""
    spec = SyntheticSpec.model_validate({"ttft_ms": 0, "tpot_ms": 0, **settings})
    async with (
        open_synthetic("m", spec, also) as engine,
        serving(engine.app) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        yield client


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    """Serve one model called ``m`` the way a replica does, lifespan included."""
    async with serving(ReplicaApp("m", "", SPEC), lifespan="on") as address:
        yield address


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
        await client.chat.completions.create(
            model="m", messages=HELLO, max_tokens=10_000, stream=True, extra_body=TO_THE_END
        )
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
        client.chat.completions.create(
            model="m", messages=HELLO, max_tokens=100_000, stream=stream, extra_body=TO_THE_END
        )
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
    assert 'vllm:generation_tokens_total{engine="0",model_name="m"} 7.0' in text
    assert 'vllm:num_requests_waiting{engine="0",model_name="m"} 0.0' in text


async def test_the_metrics_are_those_of_the_usages() -> None:
    prompt = " ".join(f"w{at}" for at in range(40))
    async with client_of(block_size=16) as client:
        cached = []
        for size in (3, 5):
            reply = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": prompt}], max_tokens=size
            )
            assert reply.usage is not None
            assert reply.usage.prompt_tokens_details is not None
            cached.append(reply.usage.prompt_tokens_details.cached_tokens)
        said = samples(await metrics(client, str(client.base_url).removesuffix("/v1/")))
    assert cached == [0, 32]
    counted = {
        "prompt_tokens_total": 80,
        "generation_tokens_total": 8,
        "prefix_cache_queries_total": 80,
        "prefix_cache_hits_total": 32,
        "time_to_first_token_seconds_count": 2,
        "inter_token_latency_seconds_count": 6,
        "num_requests_running": 0,
        "kv_cache_usage_perc": 0,
        "cache_config_info": 1,
    }
    assert {name: said[f"vllm:{name}"] for name in counted} == counted


@pytest.mark.parametrize("taken", [1, 7])
async def test_tokens_sent_to_a_client_that_left_are_counted(taken: int) -> None:
    spec = SyntheticSpec(ttft_ms=0, tpot_ms=0)
    engine = SyntheticEngine(spec)
    usages = []
    left = asyncio.Event()
    body = {
        "model": "m",
        "prompt": "one two three",
        "max_tokens": 1000,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    messages = [{"type": "http.request", "body": msgspec.json.encode(body)}]

    async def receive() -> dict[str, object]:
        if not messages:
            await left.wait()
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            usages.append(msgspec.json.decode(message["body"].removeprefix(b"data: "))["usage"])
            if len(usages) == taken:
                left.set()
                await asyncio.Event().wait()  # nobody takes more

    await SyntheticApp(("m",), spec, engine)(
        {"type": "http", "method": "POST", "path": "/v1/completions"}, receive, send
    )
    figures = engine.figures()
    assert (figures.running, figures.kv_usage) == (0, 0)
    assert (figures.prompt_tokens, figures.output_tokens) == (3, taken)
    assert usages[-1]["total_tokens"] == 3 + taken


async def test_an_engine_answers_to_its_adapters_names_and_lists_them() -> None:
    async with client_of("pirate") as client:
        reply = await client.chat.completions.create(model="pirate", messages=HELLO, max_tokens=1)
        assert reply.model == "pirate"
        assert [model.id async for model in client.models.list()] == ["m", "pirate"]


async def test_embeddings_are_unit_vectors_that_depend_on_the_words_alone() -> None:
    async with client_of() as client:
        reply = await client.embeddings.create(model="m", input=["to be", "or not", "to  be"])
        first, second, third = (one.embedding for one in reply.data)
        assert first == third != second
        assert len(first) == 384
        assert math.hypot(*first) == pytest.approx(1)
        assert reply.usage.prompt_tokens == 6
        plain = await client.embeddings.create(model="m", input="to be", encoding_format="float")
        assert plain.data[0].embedding == pytest.approx(first)
        short = await client.embeddings.create(model="m", input=[7, 8], dimensions=3)
        assert (len(short.data[0].embedding), short.usage.prompt_tokens) == (3, 2)
        with pytest.raises(openai.BadRequestError, match="missing or empty"):
            await client.embeddings.create(model="m", input=[])


async def test_a_prompt_longer_than_the_cache_is_refused() -> None:
    async with client_of(kv_blocks=1) as client:
        with pytest.raises(openai.BadRequestError, match="longer than the cache"):
            await client.completions.create(model="m", prompt="a " * 16, max_tokens=1)


async def test_each_nth_request_fails_when_that_is_wanted() -> None:
    async with client_of(faults={"fail_every": 3}) as client:
        for at in range(1, 7):
            expected = pytest.raises(openai.InternalServerError) if at % 3 == 0 else nullcontext()
            with expected:
                await client.completions.create(model="m", prompt="hi", max_tokens=1)


async def test_an_answer_that_is_cut_breaks_off_after_that_many_tokens() -> None:
    async with client_of(faults={"cut_after_tokens": 2}) as client:
        taken = []
        with pytest.raises(openai.APIError):
            async for chunk in await client.completions.create(model="m", prompt="hi", max_tokens=3, stream=True):
                taken.append(chunk.choices[0].text)  # noqa: PERF401 - what came before the break is looked at
        assert taken == ["The", " toll"]
        with pytest.raises(openai.APIConnectionError):
            await client.completions.create(model="m", prompt="hi", max_tokens=3)
        whole = await client.completions.create(model="m", prompt="hi", max_tokens=2)
        assert whole.choices[0].text == "The toll", "shorter answers are whole"


def test_a_crash_ends_the_process_at_the_request_after_so_many() -> None:
    program = """if True:
        import asyncio, sys
        from workers.synthetic.server import SyntheticApp
        from workers.synthetic.engine import SyntheticEngine
        from workers.config.synthetic import SyntheticSpec

        async def main():
            spec = SyntheticSpec(ttft_ms=0, faults={"crash_after_requests": 1})
            app = SyntheticApp(("m",), spec, SyntheticEngine(spec))
            for _ in range(2):
                bodies = [b'{"model": "m", "prompt": "hi", "max_tokens": 1}']
                async def receive():
                    if not bodies:
                        await asyncio.Event().wait()
                    return {"type": "http.request", "body": bodies.pop()}
                async def send(message):
                    print(message.get("status", ""), flush=True)
                await app({"type": "http", "method": "POST", "path": "/v1/completions"}, receive, send)
            print("it lives")

        asyncio.run(main())
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert (ended.stdout.split(), ended.returncode) == (["200"], 1), ended.stderr


def test_an_engine_that_starts_slowly_can_be_had_after_that() -> None:
    async def main() -> float:
        async with open_synthetic("m", SyntheticSpec(start_s=300)):
            return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(300)


async def test_a_serve_route_prefix_is_not_part_of_the_path() -> None:
    sent = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    app = SyntheticApp(("m",), SPEC.synthetic, SyntheticEngine(SPEC.synthetic))
    await app({"type": "http", "method": "GET", "path": "/m/health", "root_path": "/m"}, receive, send)
    assert sent[0]["status"] == 200  # type: ignore[index]


def samples(page: str) -> dict[str, float]:
    """Return the page's values by name; those with further labels are left to whoever asks for them."""
    return {sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples}


async def metrics(client: openai.AsyncOpenAI, url: str) -> str:
    reply = await client.with_options(base_url=url).get("/metrics", cast_to=str)
    assert isinstance(reply, str)
    return reply


async def until(client: openai.AsyncOpenAI, url: str, *, running: int) -> None:
    """Return when the engine runs that many; the test's timeout is the limit."""
    while f'vllm:num_requests_running{{engine="0",model_name="m"}} {running}.0' not in await metrics(client, url):
        await asyncio.sleep(0.01)
