"""Play recorded answers through a gateway: a server of ours sends their bytes, OpenAI's own client asks for them.

Everything over real sockets on this machine. Each recording is a target of its own, so that no answer's failure is
another's; the price of all is the same.
"""

import asyncio
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from gateway.providers.registry import PROVIDER_TYPES
from tests.ground.gateway import running_gateway
from tests.ground.script import Answer, Seen
from tests.ground.speech import wav
from tests.ground.upstream import ScriptedUpstream
from tests.recorded.money import prices_of
from tests.recorded.reading import Reading, read_objects
from tests.recorded.recording import Recording

AT_A_TIME = 8
HANGS_S = 30.0
_NAME = re.compile(rb"recorded-(\d+)")


@dataclass
class Played:
    """One recording in one mode, and what came of it."""

    number: int
    recording: Recording
    mode: str
    saw: Reading = field(default_factory=Reading)
    row: dict[str, Any] = field(default_factory=dict)
    """Of the ledger."""

    @property
    def model(self) -> str:
        """The name under which it is asked for."""
        return f"recorded-{self.number}"


async def play(recordings: Sequence[Recording], path: Path) -> list[Played]:
    """Play every recording in its modes; ``path`` is an empty folder for the gateway's state."""
    pairs = [(recording, mode) for recording in recordings for mode in recording.modes]
    plays = [Played(number, recording, mode) for number, (recording, mode) in enumerate(pairs)]

    def answer(seen: Seen) -> Answer:
        found = _NAME.search(seen.body)
        assert found is not None
        recording = plays[int(found[1])].recording
        return Answer(status=recording.status, headers=recording.headers, chunks=recording.pieces)

    places = asyncio.Semaphore(AT_A_TIME)
    async with ScriptedUpstream() as upstream:
        for place in ("chat/completions", "completions", "embeddings", "audio/transcriptions", "messages", "responses"):
            upstream.on_path(f"/v1/{place}", answer)
        environ = {"KEY_OF_RECORDED": "recorded"}
        async with running_gateway(_config(plays, upstream.url), path, environ=environ) as gateway:
            async with openai.AsyncOpenAI(
                base_url=gateway.base_url, api_key="recorded", max_retries=0, timeout=HANGS_S
            ) as client:
                await asyncio.gather(*(_ask(client, each, places) for each in plays))
            await gateway.gateway.ledger.flush()
            _read_ledger(plays, Path(gateway.gateway.current.snapshot.state_dir))
    return plays


def _config(plays: Sequence[Played], url: str) -> dict[str, Any]:
    providers: dict[str, Any] = {}
    models: dict[str, Any] = {}
    for each in plays:
        kind = _type_of(each.recording)
        name = f"{each.recording.provider}-{each.mode}-{kind}"
        providers[name] = {
            "type": kind,
            "base_url": url if kind == "anthropic" else f"{url}/v1",
            "always_stream": each.mode == "assembled",
            "api_key": "env:KEY_OF_RECORDED",
        }
        models[each.model] = {"provider": name, "upstream": each.model, "price": prices_of(each.recording.model)}
        if each.recording.operation == "responses":
            models[each.model]["api"] = "responses"
    return {"providers": providers, "models": models}


def _type_of(recording: Recording) -> str:
    if recording.operation == "messages":
        return "anthropic"
    if recording.provider == "anthropic":  # its endpoint for OpenAI's dialect
        return "openai-compatible"
    return recording.provider if recording.provider in PROVIDER_TYPES else "openai-compatible"


async def _ask(client: openai.AsyncOpenAI, each: Played, places: asyncio.Semaphore) -> None:
    async with places:
        try:
            async with asyncio.timeout(HANGS_S):
                each.saw = await _read(client, each)
        except TimeoutError:
            each.saw = Reading(error="no end", status=0)
        except openai.APIStatusError as error:
            each.saw = Reading(error=error.message, status=error.status_code)
        except openai.APIError as error:
            each.saw = Reading(error=error.message)


async def _read(client: openai.AsyncOpenAI, each: Played) -> Reading:
    asked: dict[str, Any] = {"model": each.model}
    if each.mode == "streamed":
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    operation = each.recording.operation
    if operation == "embeddings":
        answer: Any = await client.embeddings.create(**asked, input="recorded", encoding_format="float")
    elif operation == "transcriptions":
        answer = await client.audio.transcriptions.create(**asked, file=("speech.wav", wav()))
    elif operation == "completions":
        answer = await client.completions.create(**asked, prompt="recorded")
    else:
        answer = await client.chat.completions.create(**asked, messages=[{"role": "user", "content": "recorded"}])
    as_read = "chat" if operation in {"messages", "responses"} else operation
    if each.mode != "streamed":
        return read_objects(as_read, [answer.to_dict(warnings=False)])
    chunks: list[Any] = []
    error = None
    try:
        async for chunk in answer:
            chunks.append(chunk.to_dict(warnings=False))  # noqa: PERF401 - what came before an error counts
    except openai.APIError as failure:
        error = failure.message
    reading = read_objects(as_read, chunks)
    reading.error = reading.error or error
    return reading


def _read_ledger(plays: Sequence[Played], state_dir: Path) -> None:
    connection = sqlite3.connect(state_dir / "ledger.sqlite")
    connection.row_factory = sqlite3.Row
    try:
        rows = {row["target_id"]: dict(row) for row in connection.execute("SELECT * FROM attempts")}
    finally:
        connection.close()
    for each in plays:
        each.row = rows.get(each.model, {})
