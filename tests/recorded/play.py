"""Play recorded answers through a gateway: a server of ours sends their bytes, official clients ask for them.

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

from gateway.providers.registry import PROVIDER_TYPES
from tests.ground.gateway import running_gateway
from tests.ground.script import Answer, Seen
from tests.ground.upstream import ScriptedUpstream
from tests.recorded.callers import DIALECTS, HANGS_S, Callers, callers
from tests.recorded.money import prices_of
from tests.recorded.reading import Reading
from tests.recorded.recording import Recording

AT_A_TIME = 8
OF_ONE_GATEWAY = 1000
"""Each has a connection of its own that is kept, and a machine may have no room for thousands."""
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
    caller: str = "chat"
    """The caller's dialect."""

    @property
    def model(self) -> str:
        """The name under which it is asked for."""
        return f"recorded-{self.number}"


async def play(recordings: Sequence[Recording], path: Path) -> list[Played]:
    """Play every recording in its modes to callers of every dialect; ``path`` is an empty folder for the state."""
    runs = [
        (recording, mode, caller)
        for recording in recordings
        for mode in recording.modes
        for caller in (DIALECTS if recording.operation in DIALECTS else ("chat",))
    ]
    plays = [Played(number, *run[:2], caller=run[2]) for number, run in enumerate(runs)]
    for start in range(0, len(plays), OF_ONE_GATEWAY):
        folder = path / str(start)
        folder.mkdir()
        await _play(plays[start : start + OF_ONE_GATEWAY], folder)
    return plays


async def _play(plays: Sequence[Played], path: Path) -> None:
    by_number = {each.number: each for each in plays}

    def answer(seen: Seen) -> Answer:
        found = _NAME.search(seen.body)
        assert found is not None
        recording = by_number[int(found[1])].recording
        return Answer(status=recording.status, headers=recording.headers, chunks=recording.pieces)

    places = asyncio.Semaphore(AT_A_TIME)
    async with ScriptedUpstream() as upstream:
        for place in ("chat/completions", "completions", "embeddings", "audio/transcriptions", "messages", "responses"):
            upstream.on_path(f"/v1/{place}", answer)
        environ = {"KEY_OF_RECORDED": "recorded"}
        async with running_gateway(_config(plays, upstream.url), path, environ=environ) as gateway:
            async with callers(gateway.url) as clients:
                await asyncio.gather(*(_ask(clients, each, places) for each in plays))
            await gateway.gateway.ledger.flush()
            _read_ledger(plays, Path(gateway.gateway.current.snapshot.state_dir))


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
        if each.recording.operation in {"chat", "responses"}:
            models[each.model]["api"] = each.recording.operation
    return {"providers": providers, "models": models}


def _type_of(recording: Recording) -> str:
    if recording.operation == "messages":
        return "anthropic"
    if recording.provider == "anthropic":  # its endpoint for OpenAI's dialect
        return "openai-compatible"
    return recording.provider if recording.provider in PROVIDER_TYPES else "openai-compatible"


async def _ask(clients: Callers, each: Played, places: asyncio.Semaphore) -> None:
    async with places:
        try:
            async with asyncio.timeout(HANGS_S):
                recording, streamed = each.recording, each.mode == "streamed"
                each.saw = await clients.ask(each.caller, recording.operation, each.model, streamed=streamed)
        except TimeoutError:
            each.saw = Reading(error="no end", status=0)


def _read_ledger(plays: Sequence[Played], state_dir: Path) -> None:
    connection = sqlite3.connect(state_dir / "ledger.sqlite")
    connection.row_factory = sqlite3.Row
    try:
        rows = {row["target_id"]: dict(row) for row in connection.execute("SELECT * FROM attempts")}
    finally:
        connection.close()
    for each in plays:
        each.row = rows.get(each.model, {})
