"""Callers and upstreams of every kind at once, for as long as SOAK_SECONDS says: docs/reference/soak.md.

Meanwhile the gateway's memory is read, and in the end its ledger is held against what the upstream wrote down.
"""

import asyncio
import contextlib
import json
import os
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from gateway.targets.breaker import FAILURES_IN_A_ROW
from gateway.targets.pool import MAX_TARGETS
from tests.ground.callers import RawCaller
from tests.ground.configs import two_models
from tests.ground.gateway import write_config
from tests.ground.processes import Program, gateway_process
from tests.ground.script import Answer, Seen, error_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.upstream_shapes import ESTIMATED, WHOLE, shapes, slow_answers
from tests.hostile.client_corpus import FURTHER, SHAPES
from tests.hostile.shape import BEARER, KEY, PAGE

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
RATE_PER_S = float(os.environ.get("SOAK_RATE", "25"))
PARTS = 6
"""Memory is read for each part of the time: of 30 minutes, the first is five minutes."""
MOST_BETWEEN_PARTS = 1.02
LOOK_S = 0.2
SECRET = "sk-soak"
UPSTREAMS = shapes()
LATE = {shape.name for shape in slow_answers()}
"""Declared for other deadlines than these."""
CALLERS = [shape for shape in (*SHAPES, *FURTHER) if shape.gateway == "keyed"]
CHAT_PATH, MESSAGES_PATH, RESPONSES_PATH = "/v1/chat/completions", "/v1/messages", "/v1/responses"
UPLOAD = b'{"model":"auto","messages":[{"role":"user","content":"%b"}]}' % (b"word " * 3_800_000)
PROMPT = b'{"model":"auto","stream":true,"messages":[{"role":"user","content":"%b"}]}' % (b"word " * 200_000)
REFUSED = b'{"model":"auto","messages":[%b7]}' % (b'{"role":"user","content":"a"},' * 600_000)


class Traffic:
    """Callers of every kind, each of which knows what it should be told."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.counts: Counter[str] = Counter()
        self._session = session
        self._url = url
        self._port = urlsplit(url).port or 0
        self._random = random.Random(7)
        self._kinds: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (30, self.chat),
            (30, self.stream),
            (6, self.message),
            (6, self.response),
            (10, self.leaves),
            (6, self.fails_over),
            (6, self.fails),
            (6, self.wildcard),
            (6, self.meets_a_fault),
            (6, self.writes_what_it_likes),
            (4, self.unknown_model),
            (4, self.wrong_key),
            (2, self.no_json),
            (0.3, self.metrics),
            (1, self.models),
            (1, self.leaves_a_large_prompt),
            (0.4, self.breaks_off_an_upload),
            (0.2, self.is_refused_a_large_body),
        ]

    async def fill(self) -> None:
        """Ask for as many invented names as the gateway remembers, and for each fault: else that would take hours."""
        for _ in range(MAX_TARGETS // 64):
            async with asyncio.TaskGroup() as group:
                for _ in range(64):
                    group.create_task(self.wildcard())
        for number in range(FAILURES_IN_A_ROW):  # of one caller's, a target's breaker remembers as many
            for start in range(0, len(UPSTREAMS), 64):
                async with asyncio.TaskGroup() as group:
                    for index in range(start, min(start + 64, len(UPSTREAMS))):
                        group.create_task(self._meet(index, stream=(index + number) % 2 == 0))

    async def run(self, seconds: float) -> None:
        """Call at a steady rate, whether or not earlier calls have been answered; the first that goes wrong raises."""
        loop = asyncio.get_running_loop()
        weights, kinds = zip(*self._kinds, strict=True)
        start_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * RATE_PER_S)):
                await asyncio.sleep(start_s + number / RATE_PER_S - loop.time())
                (kind,) = self._random.choices(kinds, weights)
                self.counts[kind.__name__] += 1
                group.create_task(kind())

    async def chat(self) -> None:
        """Ask for an answer in one piece."""
        await self._ask(200)

    async def stream(self) -> None:
        """Read a stream to its end."""
        assert b"[DONE]" in await self._ask(200, stream=True)

    async def message(self) -> None:
        """Ask in Messages, streamed or not."""
        stream = self._random.random() < 0.5
        body = await self._ask(200, path=MESSAGES_PATH, max_tokens=100, stream=stream)
        assert (b'"message_stop"' if stream else b'"end_turn"') in body

    async def response(self) -> None:
        """Ask in Responses, go on from what is kept, streamed, and delete that."""
        first = json.loads(await self._ask(200, path=RESPONSES_PATH))["id"]
        body = await self._ask(200, path=RESPONSES_PATH, stream=True, previous_response_id=first)
        assert b'"response.completed"' in body
        url = f"{self._url}{RESPONSES_PATH}/{first}"
        async with self._session.delete(url, headers=_bearer(SECRET)) as answer:
            assert answer.status == 200

    async def leaves(self) -> None:
        """Leave in the middle of a stream, in any dialect."""
        path = self._random.choice((CHAT_PATH, MESSAGES_PATH, RESPONSES_PATH))
        limit = {"max_tokens": 100} if path == MESSAGES_PATH else {}
        async with self._post({"stream": True, **limit}, path=path) as answer:
            await answer.content.readany()
            answer.close()

    async def fails_over(self) -> None:
        """Ask a route whose first target is broken."""
        await self._ask(200, model="second_is_good")

    async def fails(self) -> None:
        """Ask a target that is broken."""
        await self._ask(503, model="broken")

    async def wildcard(self) -> None:
        """Ask for a name that nobody has asked for."""
        await self._ask(200, model=f"any/{self._random.getrandbits(64):x}", max_tokens=2)

    async def unknown_model(self) -> None:
        """Ask for a model that is not there, by a name that nobody has asked for."""
        await self._ask(404, model=f"model-{self._random.getrandbits(64):x}")

    async def wrong_key(self) -> None:
        """Come with a key that nobody has come with."""
        await self._ask(401, secret=f"sk-{self._random.getrandbits(64):x}")

    async def no_json(self) -> None:
        """Send what is no JSON."""
        async with self._session.post(f"{self._url}/v1/chat/completions", data=b"{", headers=_bearer(SECRET)) as answer:
            assert answer.status == 400

    async def metrics(self) -> None:
        """Scrape."""
        async with self._session.get(f"{self._url}/metrics") as answer:
            assert b"tollway_" in await answer.read()

    async def models(self) -> None:
        """List the models."""
        async with self._session.get(f"{self._url}/v1/models", headers=_bearer(SECRET)) as answer:
            assert answer.status == 200
            await answer.read()

    async def meets_a_fault(self) -> None:
        """Ask a target that misbehaves in one of the ways of the corpus: a part never looks like the whole."""
        await self._meet(self._random.randrange(len(UPSTREAMS)), stream=self._random.random() < 0.5)

    async def _meet(self, index: int, *, stream: bool) -> None:
        async with self._post({"model": f"odd/{index}", "stream": stream}) as answer:
            body = await answer.read()
        shape = UPSTREAMS[index]
        declared = shape.stream if stream else shape.plain
        looks_whole = answer.status == 200 and (not stream or b"data: [DONE]" in body)
        assert declared in {WHOLE, ESTIMATED} or shape.name in LATE or not looks_whole, (shape.name, stream, body)
        assert answer.status < 500 or answer.status in {502, 503, 504}, (shape.name, stream, answer.status)

    async def writes_what_it_likes(self) -> None:
        """Send the bytes of one of the corpus's callers, read for a moment, and break off."""
        async with self._connected() as caller:
            for piece in self._random.choice(CALLERS).sent:
                if isinstance(piece, bytes):
                    caller.writer.write(piece)
                    await caller.writer.drain()
                elif piece == "reset":
                    caller.writer.transport.abort()
            async with asyncio.timeout(0.5):
                await caller.reader.read()

    async def leaves_a_large_prompt(self) -> None:
        """Stream with a prompt of 1 MB, and break off at the first token."""
        async with self._connected() as caller:
            caller.writer.write(_head(len(PROMPT)) + PROMPT)
            await caller.reader.readuntil(b'"content":')

    async def breaks_off_an_upload(self) -> None:
        """Send 19 MB but for the last ten bytes."""
        async with self._connected() as caller:
            caller.writer.write(_head(len(UPLOAD)) + UPLOAD[:-10])
            await caller.writer.drain()

    async def is_refused_a_large_body(self) -> None:
        """Send 18 MB of messages, the last of which is none."""
        async with self._connected() as caller:
            caller.writer.write(_head(len(REFUSED)) + REFUSED)
            assert (await caller.answer()).status in {400, 413, 429, 503}

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[RawCaller]:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with RawCaller.connected(self._port) as caller:
                yield caller

    async def _ask(self, status: int, secret: str = SECRET, path: str = CHAT_PATH, **members: object) -> bytes:
        async with self._post(members, secret, path) as answer:
            body = await answer.read()
            assert answer.status == status, body
            return body

    def _post(
        self, members: dict[str, object], secret: str = SECRET, path: str = CHAT_PATH
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        prompt = "word " * self._random.choice((1, 10, 100, 1000, 5000))
        asked = {"input" if path == RESPONSES_PATH else "messages": [{"role": "user", "content": prompt}]}
        return self._session.post(self._url + path, json={"model": "auto", **asked, **members}, headers=_bearer(secret))


def _bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def _head(length: int) -> bytes:
    """Write the head of a chat of the corpus's key."""
    credential = BEARER["authorization"].encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: %b\r\ncontent-length: %d\r\n\r\n"
    ) % (credential, length)


def _misbehave(seen: Seen) -> Answer:
    """Answer as the shape does whose number the model is named after."""
    shape = UPSTREAMS[int((seen.model or "0").rpartition("/")[2])]
    answer = shape.streamed if seen.json.get("stream") else shape.whole
    return answer or error_answer(500)


class Memory:
    """Reads a process's resident size all the time."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._read: list[int] = []

    async def watch(self) -> None:
        """Read for ever."""
        while True:
            self._read.append(self._program.resident_bytes)
            await asyncio.sleep(LOOK_S)

    def least_mb(self) -> float:
        """Return the least since the last call."""
        least, self._read = min(self._read), []
        return least / 1e6


def _attempts(database: Path) -> dict[str, int]:
    """Return the cost of every attempt in the ledger, in nano-dollars."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute("SELECT attempt_id, cost_nano_usd FROM attempts").fetchall())


@pytest.mark.soak
@pytest.mark.timeout(SECONDS * 2 + 120)
async def test_memory_stays_and_ledger_agrees_under_all_that_is_hostile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least memory of each of the last five sixths is the same; each request that upstream saw is one row."""
    monkeypatch.setenv("SOAK_KEY", SECRET)
    monkeypatch.setenv("KEY", KEY)
    seen_ids: list[str] = []
    async with ScriptedUpstream() as upstream:
        upstream.model.tokens, upstream.model.ttft_s, upstream.model.tpot_s = 20, 0.05, 0.02
        upstream.on_model("broken", error_answer(500)).on_path("/odd/v1/chat/completions", _misbehave)
        # On a busy machine, nothing healthy is a fault.
        patient = {"connect_s": 30, "first_token_s": 30, "idle_s": 30, "total_s": 60}
        config = two_models(upstream.url, upstream.url, timeouts=patient)
        free = {"provider": "one", "price": "free"}
        config["providers"]["odd"] = {
            "type": "openai-compatible",
            "base_url": f"{upstream.url}/odd/v1",
            "timeouts": {"first_token_s": 2, "idle_s": 2, "total_s": 8},
        }
        config["models"] |= {"broken": free, "any/*": free}
        config["models"]["odd/*"] = {"provider": "odd", "price": {"input": 1.0, "output": 2.0}}
        config["routes"]["second_is_good"] = {"models": ["broken", "cheap"]}
        config["keys"] = [
            {"name": "soak", "secret": "env:SOAK_KEY", "requests_per_minute": 600_000},
            {"name": "app", "secret": "env:KEY", "routes": ["auto"]},
        ]
        config["server"] = {"hosts": ["gw.example"], "cors_origins": [PAGE]}
        file = write_config(tmp_path, config)
        connector = aiohttp.TCPConnector(limit=0)
        async with gateway_process(file) as gateway, aiohttp.ClientSession(connector=connector) as session:
            traffic, memory, least_mb = Traffic(session, gateway.url), Memory(gateway), []
            await traffic.fill()
            watching = asyncio.create_task(memory.watch())
            for _ in range(PARTS):
                await traffic.run(SECONDS / PARTS)
                least_mb.append(memory.least_mb())
                seen_ids += [each.attempt_id for each in upstream.seen if each.attempt_id is not None]
                upstream.seen.clear()
                print(f"after {len(least_mb)}/{PARTS}: {least_mb[-1]:.1f} MB", traffic.counts.total(), flush=True)
            watching.cancel()
        seen_ids += [each.attempt_id for each in upstream.seen if each.attempt_id is not None]
        log = gateway.log.read_text()
    costs = _attempts(tmp_path / "state" / "ledger.sqlite")
    print(f"{SECONDS:g} s at {RATE_PER_S:g}/s: {json.dumps(least_mb)} MB; {len(seen_ids)} requests upstream")
    print(dict(traffic.counts))
    seen = set(seen_ids)
    assert len(seen) == len(seen_ids)
    assert seen <= costs.keys()
    assert not any(cost for attempt_id, cost in costs.items() if attempt_id not in seen)
    assert "Traceback" not in log
    assert not [secret for secret in (SECRET, KEY) if secret in log]
    later_mb = least_mb[1:]
    assert max(later_mb) <= min(later_mb) * MOST_BETWEEN_PARTS, least_mb
    assert any(after <= before for before, after in pairwise(later_mb)), least_mb
