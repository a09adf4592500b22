"""The official ``openai`` client embeds through a gateway: every input it can send, both encodings, both kinds."""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError, OpenAI

from tests.ground.gateway import running_gateway
from tests.ground.model import vector
from tests.ground.upstream import ScriptedUpstream
from tests.sdk.endpoint import Case, Endpoint, Play, clients


def a_string(client: OpenAI, model: str) -> None:
    """Floats come back, though the client asks for base64 unless told otherwise."""
    answer = client.embeddings.create(model=model, input="to be or not")
    assert (answer.object, answer.data[0].object, answer.data[0].index) == ("list", "embedding", 0)
    assert answer.data[0].embedding == vector("to be or not", 8)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (4, 4)


async def a_list_of_strings_async(client: AsyncOpenAI, model: str) -> None:
    """Each has its vector, in order; several calls at a time."""
    texts = ["one", "two", "three"]
    answers = await asyncio.gather(*[client.embeddings.create(model=model, input=texts) for _ in range(4)])
    for answer in answers:
        assert [each.index for each in answer.data] == [0, 1, 2]
        assert [each.embedding for each in answer.data] == [vector(text, 8) for text in texts]


def token_ids(client: OpenAI, model: str) -> None:
    """One text as ids, and several."""
    one = client.embeddings.create(model=model, input=[9906, 1917])
    several = client.embeddings.create(model=model, input=[[9906, 1917], [15339]])
    assert len(one.data) == 1
    assert [each.embedding for each in several.data] == [vector("9906 1917", 8), vector("15339", 8)]
    assert several.data[0].embedding == one.data[0].embedding
    assert several.usage.prompt_tokens == 3


def floats(client: OpenAI, model: str) -> None:
    """``encoding_format="float"`` and ``dimensions`` reach the model, and its answer the caller."""
    answer = client.embeddings.create(model=model, input="text", encoding_format="float", dimensions=3, user="u-1")
    assert answer.data[0].embedding == vector("text", 3)


def base64_as_it_is(client: OpenAI, model: str) -> None:
    """``encoding_format="base64"`` is handed on undecoded: little-endian 32-bit floats."""
    answer = client.embeddings.create(model=model, input="text", encoding_format="base64")
    packed = base64.b64decode(str(answer.data[0].embedding))
    assert list(struct.unpack(f"<{len(packed) // 4}f", packed)) == vector("text", 8)


async def the_raw_response_async(client: AsyncOpenAI, model: str) -> None:
    """``with_raw_response`` shows which target answered, why, and what it cost."""
    raw = await client.embeddings.with_raw_response.create(model=model, input="text")
    for name in ("x-tollway-target", "x-tollway-reason", "x-tollway-request-id", "x-tollway-cost-usd"):
        assert raw.headers[name]
    assert raw.parse().data[0].embedding


def mistakes(client: OpenAI, model: str) -> None:
    """They are the client's own exceptions, which name the member."""
    with pytest.raises(BadRequestError) as empty:
        client.embeddings.create(model=model, input=[])
    assert empty.value.param == "input"
    with pytest.raises(NotFoundError) as unknown:
        client.embeddings.create(model="nobody", input="text")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(BadRequestError) as chat_model:
        client.embeddings.create(model="chats", input="text")
    assert chat_model.value.code == "unsupported"
    with pytest.raises(AuthenticationError):
        client.with_options(api_key="wrong").embeddings.create(model=model, input="text")


CASES: list[Case] = [
    a_string, a_list_of_strings_async, token_ids, floats, base64_as_it_is, the_raw_response_async, mistakes,
]  # fmt: skip


@pytest_asyncio.fixture(params=["openai-compatible", "vllm"], scope="module", loop_scope="module")
async def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Play]:
    """Run a gateway in front of a model that embeds, of both kinds of provider, and point clients at it."""
    async with ScriptedUpstream() as upstream:
        price = {"input": 1.0, "output": 0}
        config = {
            "providers": {"upstream": {"type": request.param, "base_url": f"{upstream.url}/v1"}},
            "models": {
                "embeds": {"provider": "upstream", "price": price, "capabilities": ["embeddings"]},
                "chats": {"provider": "upstream", "price": price, "capabilities": ["chat"]},
            },
            "routes": {"auto": {"models": ["chats", "embeds"]}},
            "keys": [{"name": "app", "secret": "env:KEY"}],
        }
        path = tmp_path_factory.mktemp("gateway")
        async with running_gateway(config, path, environ={"KEY": "k-app"}) as running:
            async with clients(Endpoint(running.base_url, "auto", "k-app")) as play:
                yield play
        assert {seen.json["model"] for seen in upstream.seen} == {"embeds"}
        assert not any("stream" in seen.json for seen in upstream.seen)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
async def test_the_client_embeds_unchanged(case: Case, play: Play) -> None:
    """See each case."""
    await play(case)
