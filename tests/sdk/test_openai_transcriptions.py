"""The official ``openai`` client transcribes through a gateway: every format, its own forms, both kinds of client."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, BadRequestError, OpenAI

from tests.ground.gateway import running_gateway
from tests.ground.speech import fields_of, transcribe, wav
from tests.ground.upstream import ScriptedUpstream
from tests.sdk.endpoint import Case, Endpoint, Play, clients

RECORDING = wav()
TEXT = f"{len(RECORDING)} bytes"


def json_is_the_default(client: OpenAI, model: str) -> None:
    """Get a text, and the seconds that are billed."""
    answer = client.audio.transcriptions.create(model=model, file=("speech.wav", RECORDING), language="en", prompt="ä")
    assert answer.text == TEXT
    assert answer.usage is not None
    assert (answer.usage.type, getattr(answer.usage, "seconds", None)) == ("duration", 2)


async def several_at_a_time_async(client: AsyncOpenAI, model: str) -> None:
    """Each has its own recording."""
    recordings = [wav(seconds) for seconds in (0.1, 0.2, 0.3)]
    asked = [client.audio.transcriptions.create(model=model, file=("a.wav", each)) for each in recordings]
    assert [answer.text for answer in await asyncio.gather(*asked)] == [f"{len(each)} bytes" for each in recordings]


def plain_formats(client: OpenAI, model: str) -> None:
    """They are plain strings."""
    create = client.audio.transcriptions.create
    assert create(model=model, file=("a.wav", RECORDING), response_format="text").strip() == TEXT
    assert "00:00:00,000 --> " in create(model=model, file=("a.wav", RECORDING), response_format="srt")


def verbose_json(client: OpenAI, model: str) -> None:
    """Segments and duration come through; so does a field that is sent several times."""
    answer = client.audio.transcriptions.create(
        model=model,
        file=("a.wav", RECORDING),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (float(answer.duration), answer.language) == (1.5, "english")
    assert [segment.text for segment in answer.segments or ()] == [TEXT]


async def the_raw_response_async(client: AsyncOpenAI, model: str) -> None:
    """See which target answered, and what it cost: two seconds at $0.36 an hour."""
    raw = await client.audio.transcriptions.with_raw_response.create(model=model, file=("a.wav", RECORDING))
    assert (raw.headers["x-tollway-target"], raw.headers["x-tollway-cost-usd"]) == ("whisper", "0.000200000")


def mistakes(client: OpenAI, model: str) -> None:
    """They are the client's own exceptions."""
    with pytest.raises(BadRequestError) as streamed:
        client.audio.transcriptions.create(model=model, file=("a.wav", RECORDING), stream=True)
    assert streamed.value.param == "stream"
    with pytest.raises(BadRequestError) as chats:
        client.audio.transcriptions.create(model="chats", file=("a.wav", RECORDING))
    assert chats.value.code == "unsupported"


CASES: list[Case] = [
    json_is_the_default, several_at_a_time_async, plain_formats, verbose_json, the_raw_response_async, mistakes,
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def play(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Play]:
    """Run a gateway in front of a model that transcribes, and point clients at it."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/v1/audio/transcriptions", transcribe)
        models = {
            "whisper": {"provider": "up", "price": {"audio_hour": 0.36}, "capabilities": ["transcriptions"]},
            "chats": {"provider": "up", "price": "free", "capabilities": ["chat"]},
        }
        config = {
            "providers": {"up": {"type": "openai-compatible", "base_url": f"{upstream.url}/v1"}},
            "models": models,
            "routes": {"auto": {"models": ["chats", "whisper"]}},
            "keys": [{"name": "app", "secret": "env:KEY"}],
        }
        path = tmp_path_factory.mktemp("gateway")
        async with running_gateway(config, path, environ={"KEY": "k-app"}) as running:
            async with clients(Endpoint(running.base_url, "auto", "k-app")) as play:
                yield play
        assert {fields_of(seen)["model"] for seen in upstream.seen} == {b"whisper"}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
async def test_the_client_transcribes_unchanged(case: Case, play: Play) -> None:
    """See each case."""
    await play(case)
