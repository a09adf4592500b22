"""What one request costs the interpreter: instructions of bytecode and calls into C, which no noise of a machine moves.

Everything is switched on (key, limits, five candidates with ceilings, metrics, ledger), over real sockets. What counts
is whatever runs in a frame of ``gateway`` or was called from one, so neither this test's client nor its upstream. The
figures below are what was measured last; a change that adds a tenth has to say why here, one that saves a tenth lowers
them. Time is measured in ``loadtests/bench``.
"""

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import aiohttp
import pytest

from gateway.targets import stats
from tests.ground.builders import chat_body
from tests.ground.gateway import running_gateway
from tests.ground.model import ScriptedModel
from tests.ground.script import Answer, Seen
from tests.ground.upstream import ScriptedUpstream

MEASURED = {
    "short chat": (10_817, 303),
    "200 tokens at once": (16_102, 424),
    "20 tokens one by one": (25_400, 920),
}
"""Instructions and calls into C, of one request. How many reads a stream comes in must not be left to chance."""
WARM_UP = 40
REQUESTS = 15


class Meter:
    """Counts while it is on."""

    def __init__(self) -> None:
        self.instructions = self.calls = 0

    @contextmanager
    def counting(self) -> Any:
        """Count what this thread does until the context is left."""
        ours: dict[FrameType, bool] = {}

        def is_ours(frame: FrameType | None) -> bool:
            if frame is None:
                return False
            if frame not in ours:
                ours[frame] = frame.f_globals.get("__name__", "").startswith("gateway.") or is_ours(frame.f_back)
            return ours[frame]

        def within(_frame: FrameType, event: str, _argument: Any) -> Any:
            self.instructions += event == "opcode"
            return within

        def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
            if not is_ours(frame):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return within

        def profile(frame: FrameType, event: str, _argument: Any) -> None:
            self.calls += event == "c_call" and is_ours(frame)

        sys.settrace(enter)
        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.settrace(None)
            sys.setprofile(None)


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> None:
    """Do not watch for blocking calls here: the wrappers that do are called by the gateway, and would be counted."""


@asynccontextmanager
async def everything_on(path: Path, model: ScriptedModel, *, at_once: bool) -> AsyncIterator[Callable[[bytes], Any]]:
    """Yield a function that sends one body and reads the answer, which the upstream writes ``at_once``."""

    def written(seen: Seen) -> Answer:
        answer = model.answer(seen)
        whole = b"".join(chunk if isinstance(chunk, bytes) else chunk.data for chunk in answer.chunks)
        return replace(answer, chunks=(whole,))

    async with ScriptedUpstream(model) as upstream:
        if at_once:
            upstream.on_path("/v1/chat/completions", written)
        names = [f"candidate-{number}" for number in range(1, 6)]
        config = {
            "providers": {"upstream": {"type": "openai-compatible", "base_url": f"{upstream.url}/v1"}},
            "models": {
                name: {"provider": "upstream", "context": 131_072, "price": {"input": 1.0, "output": 4.0}}
                for name in names
            },
            "routes": {"auto": {"models": names, "limits": {"ttft_ms": {"p95": 60_000}, "tpot_ms": {"p95": 60_000}}}},
            "keys": [{"name": "app", "secret": "env:KEY", "requests_per_minute": 10_000, "concurrency": 100}],
        }
        async with (
            running_gateway(config, path, environ={"KEY": "k"}) as running,
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):

            async def ask(body: bytes) -> None:
                async with client.post(f"{running.base_url}/chat/completions", data=body) as answer:
                    assert answer.status == 200
                    await answer.read()

            yield ask


@pytest.mark.parametrize(
    ("name", "body", "model"),
    [
        ("short chat", chat_body(max_tokens=16), ScriptedModel(tokens=200)),
        ("200 tokens at once", chat_body(stream=True), ScriptedModel(tokens=200)),
        ("20 tokens one by one", chat_body(stream=True), ScriptedModel(tokens=20, tpot_s=0.003)),
    ],
)
async def test_a_request_costs_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: bytes, model: ScriptedModel
) -> None:
    """Within a tenth of what was measured last, up or down."""
    # Statistics are refreshed after some samples or some time; by time, the count would be of the machine's speed.
    monkeypatch.setattr(stats, "REFRESH_NS", 10**18)
    instructions, calls = [], []
    async with everything_on(tmp_path, model, at_once=not model.tpot_s) as ask:
        for _ in range(WARM_UP):
            await ask(body)
        for _ in range(REQUESTS):
            meter = Meter()
            with meter.counting():
                await ask(body)
                await asyncio.sleep(0)  # what the request left to the loop's next turn is its cost too
            instructions.append(meter.instructions)
            calls.append(meter.calls)
    now = (statistics.median(instructions), statistics.median(calls))
    for measured, before in zip(now, MEASURED[name], strict=True):
        assert 0.9 * before <= measured <= 1.1 * before, (name, now)
