"""A gateway killed ten times under streaming load accounts for every attempt once, as the upstream saw it."""

import asyncio
import json
import random
import socket
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.store.database_file import sqlite_url
from gateway.store.queries import Store
from tests.ground.configs import two_models
from tests.ground.gateway import write_config
from tests.ground.processes import gateway_process, upstream_process
from tests.ground.sse import ChatStream
from tests.ground.totals import totals_of

CLIENTS = 6
KILL_AFTER_PIECES = (0, 1, 3, 10, 30, 60, 90, 140, 200, 260)
"""How many pieces of answers all clients together have received of a gateway when it is killed."""
PROMPT = "one two three"
INPUT_NANO_USD, OUTPUT_NANO_USD = 10_000, 20_000
"""What a token costs at the target that answers (``dear`` of ``two_models``)."""


@dataclass
class Received:
    """What one caller got of one call."""

    call_id: str
    stream: ChatStream = field(default_factory=ChatStream)


class Load:
    """Clients that stream one answer after the other from whichever gateway lives."""

    def __init__(self) -> None:
        self.calls: list[Received] = []
        self.pieces = 0
        self._random = random.Random(9)
        self._url = ""
        self._up = asyncio.Event()
        self._heard = asyncio.Event()

    def point_at(self, url: str) -> None:
        """Send the next calls there."""
        self._url, self.pieces = url, 0
        self._up.set()

    def hold(self) -> None:
        """Begin no more calls."""
        self._up.clear()

    async def received(self, pieces: int) -> None:
        """Wait until so many pieces have come since the last change of address."""
        while self.pieces < pieces:
            self._heard.clear()
            await self._heard.wait()

    async def client(self) -> None:
        """Call for ever; a call that its gateway's death broke off is kept as far as it came."""
        async with aiohttp.ClientSession() as session:
            while True:
                await self._up.wait()
                try:
                    await self.call(session)
                except aiohttp.ClientError:
                    assert not self._up.is_set(), "a call failed although nobody was killed"

    async def call(self, session: aiohttp.ClientSession) -> Received:
        """Stream one answer of 5 to 60 tokens."""
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": PROMPT}],
            "stream": True,
            "max_tokens": self._random.randint(5, 60),
        }
        async with session.post(f"{self._url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            call = Received(answer.headers["x-tollway-request-id"])
            self.calls.append(call)
            async for data in answer.content.iter_any():
                self.pieces += call.stream.feed(data)
                self._heard.set()
        return call


@asynccontextmanager
async def running_load(load: Load) -> AsyncIterator[None]:
    """Run the clients until the context is left; a client that fails ends the test."""
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(load.client()) for _ in range(CLIENTS)]
        yield
        for client in clients:
            client.cancel()


@dataclass
class Ledger:
    """All rows, by id."""

    attempts: dict[str, dict[str, Any]]
    calls: dict[str, dict[str, Any]]
    cost_nano_usd: int
    """By the store's own sums."""


def read_ledger(database: Path) -> Ledger:
    """Read the database; an id that occurs twice fails."""
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    tables = {}
    for table, key in (("attempts", "attempt_id"), ("calls", "call_id")):
        rows = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]  # noqa: S608 - our own names
        tables[table] = {row[key]: row for row in rows}
        assert len(tables[table]) == len(rows)
    connection.close()
    store = Store(sqlite_url(database))
    store.open()
    cost = sum(total.cost_nano_usd for total in totals_of(store))
    store.close()
    return Ledger(tables["attempts"], tables["calls"], cost)


@pytest.mark.slow
async def test_ten_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """Upstream's log, ledger and callers agree on every attempt; what was under way is interrupted, and paid for."""
    await _kill_and_compare(KILL_AFTER_PIECES, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_a_hundred_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """The same, ten times as often, on one state directory."""
    await _kill_and_compare(KILL_AFTER_PIECES * 10, tmp_path)


async def _kill_and_compare(kill_after_pieces: tuple[int, ...], tmp_path: Path) -> None:
    load = Load()
    log = tmp_path / "upstream.jsonl"
    with socket.socket() as nobody:  # bound and not listening: the route's first target is never there
        nobody.bind(("127.0.0.1", 0))
        options = ("--log", str(log), "--tokens", "100", "--ttft-ms", "10", "--tpot-ms", "3")
        async with upstream_process(*options, path=tmp_path) as upstream:
            gone = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            config = write_config(tmp_path, two_models(gone, upstream.url))
            async with running_load(load):
                for pieces in kill_after_pieces:
                    async with gateway_process(config) as gateway:
                        load.point_at(gateway.url)
                        await load.received(pieces)
                        load.hold()
                        await gateway.kill()
            async with gateway_process(config) as gateway, aiohttp.ClientSession() as session:
                load.point_at(gateway.url)
                last = await load.call(session)
            assert last.stream.done
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    ledger = await asyncio.to_thread(read_ledger, tmp_path / "state" / "ledger.sqlite")
    check_attempts(seen, ledger, len(kill_after_pieces))
    check_calls(load.calls, ledger)
    check_money(ledger)
    outcomes = Counter(row["outcome"] for row in ledger.attempts.values())
    assert set(outcomes) == {"ok", "interrupted", "failed"}
    assert outcomes["interrupted"] >= len(KILL_AFTER_PIECES), "hardly anything was under way: this run proves nothing"


def check_attempts(seen: list[dict[str, Any]], ledger: Ledger, kills: int) -> None:
    """Compare the upstream's log with the rows of its target: the same attempts, the same tokens where they ended."""
    started = Counter(line["attempt_id"] for line in seen if line["event"] == "start")
    ended = {line["attempt_id"]: line for line in seen if line["event"] == "end"}
    assert set(started.values()) == {1}
    assert ended.keys() == started.keys()
    rows = {attempt_id: row for attempt_id, row in ledger.attempts.items() if row["target_id"] == "dear"}
    assert started.keys() <= rows.keys()
    for attempt_id in rows.keys() - started.keys():  # killed between the line in the journal and the upstream
        assert (rows[attempt_id]["outcome"], rows[attempt_id]["output_tokens"]) == ("interrupted", 0)
    settled = {attempt_id: row for attempt_id, row in rows.items() if row["outcome"] == "ok"}
    for attempt_id, row in settled.items():
        assert ended[attempt_id]["completed"]
        assert row["output_tokens"] == ended[attempt_id]["tokens_written"]
        assert (row["input_tokens"], row["usage_origin"]) == (len(PROMPT.split()), "provider")
    assert {row["outcome"] for attempt_id, row in rows.items() if attempt_id not in settled} == {"interrupted"}
    # The upstream can be done in the moment of a kill, before the gateway has heard of it, but not often.
    unheard = sum(line["completed"] for attempt_id, line in ended.items() if attempt_id not in settled)
    assert unheard <= CLIENTS * kills // 4
    others = [row for row in ledger.attempts.values() if row["target_id"] != "dear"]
    assert {row["outcome"] for row in others} <= {"failed", "interrupted"}


def check_calls(calls: list[Received], ledger: Ledger) -> None:
    """Compare what callers got: one record each, never fewer tokens than they got, and what they were told stands."""
    of_call: dict[str, list[dict[str, Any]]] = {call_id: [] for call_id in ledger.calls}
    for row in ledger.attempts.values():
        of_call[row["call_id"]].append(row)
    for call_id, record in ledger.calls.items():
        rows = of_call[call_id]
        assert sorted(json.loads(record["attempt_ids"])) == sorted(row["attempt_id"] for row in rows)
        assert record["cost_nano_usd"] == sum(row["cost_nano_usd"] for row in rows)
    assert len({call.call_id for call in calls}) == len(calls)
    for call in calls:
        (answered,) = [row for row in of_call[call.call_id] if row["target_id"] == "dear"]
        assert answered["output_tokens"] >= len(call.stream.text)
        if call.stream.cost_usd is not None:
            assert (ledger.calls[call.call_id]["outcome"], answered["outcome"]) == ("ok", "ok")
            assert answered["output_tokens"] == len(call.stream.text)
            assert call.stream.cost_usd == f"{answered['cost_nano_usd'] / 1e9:.9f}"
        if answered["outcome"] == "interrupted":
            assert ledger.calls[call.call_id]["outcome"] == "interrupted"


def check_money(ledger: Ledger) -> None:
    """Check that every row costs what its tokens cost, and that the sums are the rows'."""
    for row in ledger.attempts.values():
        if row["target_id"] == "dear":
            expected = row["input_tokens"] * INPUT_NANO_USD + row["output_tokens"] * OUTPUT_NANO_USD
            assert row["cost_nano_usd"] == expected
    assert ledger.cost_nano_usd == sum(row["cost_nano_usd"] for row in ledger.attempts.values())
    assert ledger.cost_nano_usd == sum(call["cost_nano_usd"] for call in ledger.calls.values())
