"""Mixed traffic for as long as SOAK_SECONDS says, and the gateway's memory while it lasts: docs/reference/soak.md."""

import asyncio
import contextlib
import os
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from gateway.targets.pool import MAX_TARGETS
from tests.ground.configs import two_models
from tests.ground.gateway import write_config
from tests.ground.processes import gateway_process
from tests.ground.script import error_answer
from tests.ground.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
RATE_PER_S = float(os.environ.get("SOAK_RATE", "25"))
PARTS = 6
"""The peak is read for each part of the time: of 30 minutes, the first is five minutes."""
MOST_GROWTH = 1.05
SECRET = "sk-soak"


class Traffic:
    """Callers of every kind, each of which knows what it should be told."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.counts: Counter[str] = Counter()
        self._session = session
        self._url = url
        self._random = random.Random(7)
        self._kinds: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (30, self.chat),
            (30, self.stream),
            (10, self.leaves),
            (6, self.fails_over),
            (6, self.fails),
            (6, self.wildcard),
            (4, self.unknown_model),
            (4, self.wrong_key),
            (2, self.no_json),
            (0.3, self.metrics),
            (1, self.models),
        ]

    async def fill(self) -> None:
        """Ask for as many invented names as the gateway remembers: at this rate that would take an hour."""
        for _ in range(MAX_TARGETS // 64):
            async with asyncio.TaskGroup() as group:
                for _ in range(64):
                    group.create_task(self.wildcard())

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

    async def leaves(self) -> None:
        """Leave in the middle of a stream."""
        async with self._post({"stream": True}) as answer:
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

    async def _ask(self, status: int, secret: str = SECRET, **members: object) -> bytes:
        async with self._post(members, secret) as answer:
            body = await answer.read()
            assert answer.status == status, body
            return body

    def _post(
        self, members: dict[str, object], secret: str = SECRET
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        prompt = "word " * self._random.choice((1, 10, 100, 1000, 5000))
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], **members}
        return self._session.post(f"{self._url}/v1/chat/completions", json=body, headers=_bearer(secret))


def _bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def _peak_kb(pid: int) -> int:
    """Return the greatest resident size since the last call."""
    status = Path(f"/proc/{pid}/status").read_text()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): begins VmHWM anew
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.soak
@pytest.mark.timeout(SECONDS * 2 + 60)
async def test_memory_is_after_a_while_what_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No later part of the time has a peak more than 5% above the first part's, whatever callers do."""
    monkeypatch.setenv("SOAK_KEY", SECRET)
    async with ScriptedUpstream() as upstream:
        upstream.model.tokens, upstream.model.ttft_s, upstream.model.tpot_s = 20, 0.05, 0.02
        upstream.on_model("broken", error_answer(500))
        config = two_models(upstream.url, upstream.url)
        free = {"provider": "one", "price": "free"}
        config["models"] |= {"broken": free, "any/*": free}
        config["routes"]["second_is_good"] = {"models": ["broken", "cheap"]}
        config["keys"] = [{"name": "soak", "secret": "env:SOAK_KEY", "requests_per_minute": 600_000}]
        file = write_config(tmp_path, config)
        connector = aiohttp.TCPConnector(limit=0)
        async with gateway_process(file) as gateway, aiohttp.ClientSession(connector=connector) as session:
            traffic = Traffic(session, gateway.url)
            await traffic.fill()
            _peak_kb(gateway.pid)  # neither the start's nor that of a rush
            peaks_kb = []
            for _ in range(PARTS):
                await traffic.metrics()  # it takes most for a moment, so each part has one at least
                await traffic.run(SECONDS / PARTS)
                peaks_kb.append(_peak_kb(gateway.pid))
                upstream.seen.clear()
                print(f"after {len(peaks_kb)}/{PARTS}: {peaks_kb[-1]} kB", traffic.counts.total(), flush=True)
        print(f"{SECONDS:g} s at {RATE_PER_S:g}/s, peaks in kB: {peaks_kb}; calls: {dict(traffic.counts)}")
    assert max(peaks_kb) <= peaks_kb[0] * MOST_GROWTH, peaks_kb
