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
from tests.ground.model import ScriptedModel, word
from tests.ground.script import Answer, Seen, sse_event
from tests.ground.upstream import ScriptedUpstream

MEASURED = {
    "short chat": (10_817, 303),
    "200 tokens at once": (16_102, 424),
    "20 tokens one by one": (25_400, 920),
    "Messages passed at once": (20_700, 840),
    "Messages passed one by one": (27_310, 1_096),
    "Messages translated one by one": (35_150, 1_548),
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


def messages_of(model: ScriptedModel) -> Answer:
    """Return the model's tokens as a stream of Messages."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m",
         "content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word(token)}}
          for token in range(model.tokens)),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": model.tokens}},
        {"type": "message_stop"},
    ]  # fmt: skip
    return Answer(
        headers=(("content-type", "text/event-stream"),),
        chunks=[sse_event(event, event=event["type"]) for event in events],
        per_chunk_delay_s=model.tpot_s,
    )


@asynccontextmanager
async def everything_on(path: Path, model: ScriptedModel, asked: str, speaks: str) -> AsyncIterator[Callable[..., Any]]:
    """Yield a function that sends one body and reads the answer; without time per token it is written at once."""

    def written(seen: Seen) -> Answer:
        answer = messages_of(model) if speaks == "anthropic" else model.answer(seen)
        if model.tpot_s:
            return answer
        whole = b"".join(chunk if isinstance(chunk, bytes) else chunk.data for chunk in answer.chunks)
        return replace(answer, chunks=(whole,))

    async with ScriptedUpstream(model) as upstream:
        upstream.on_path("/v1/chat/completions", written).on_path("/v1/messages", written)
        names = [f"candidate-{number}" for number in range(1, 6)]
        url = upstream.url if speaks == "anthropic" else f"{upstream.url}/v1"
        config = {
            "providers": {"upstream": {"type": speaks, "base_url": url, "api_key": "env:KEY"}},
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
                async with client.post(running.base_url + asked, data=body) as answer:
                    assert answer.status == 200
                    await answer.read()

            yield ask


CHAT = "/chat/completions", "openai-compatible"
PASSED, TRANSLATED = ("/messages", "anthropic"), ("/messages", "openai-compatible")
"""What is asked, and what the upstream speaks."""
AT_ONCE, ONE_BY_ONE = ScriptedModel(tokens=200), ScriptedModel(tokens=20, tpot_s=0.003)


@pytest.mark.parametrize(
    ("name", "way", "model"),
    [
        ("short chat", CHAT, AT_ONCE),
        ("200 tokens at once", CHAT, AT_ONCE),
        ("20 tokens one by one", CHAT, ONE_BY_ONE),
        ("Messages passed at once", PASSED, AT_ONCE),
        ("Messages passed one by one", PASSED, ONE_BY_ONE),
        ("Messages translated one by one", TRANSLATED, ONE_BY_ONE),
    ],
)
async def test_a_request_costs_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, way: tuple[str, str], model: ScriptedModel
) -> None:
    """Within a tenth of what was measured last, up or down."""
    # Statistics are refreshed after some samples or some time; by time, the count would be of the machine's speed.
    monkeypatch.setattr(stats, "REFRESH_NS", 10**18)
    instructions, calls = [], []
    body = chat_body(max_tokens=16) if name == "short chat" else chat_body(stream=True, max_tokens=1000)
    async with everything_on(tmp_path, model, *way) as ask:
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


def test_messages_cost_little_more_than_chats() -> None:
    """A passed stream at most a tenth, in one read at most half as much again, a translated one at most twice."""
    for name, chat, factor in (
        ("Messages passed one by one", "20 tokens one by one", 1.1),
        ("Messages passed at once", "200 tokens at once", 1.5),
        ("Messages translated one by one", "20 tokens one by one", 2.0),
    ):
        assert MEASURED[name][0] <= factor * MEASURED[chat][0], name
