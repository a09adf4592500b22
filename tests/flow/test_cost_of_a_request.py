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
from typing import Any, NamedTuple

import aiohttp
import pytest

from gateway.targets import stats
from tests.ground.builders import chat_body
from tests.ground.gateway import running_gateway
from tests.ground.model import ScriptedModel, word
from tests.ground.script import Answer, Chunk, Seen, sse_event
from tests.ground.upstream import ScriptedUpstream

MEASURED = {
    "short chat": (11_300, 325),
    "200 tokens at once": (16_680, 454),
    "20 tokens one by one": (26_080, 949),
    "Messages passed at once": (20_950, 858),
    "Messages passed one by one": (28_320, 1_127),
    "Messages translated at once": (20_380, 634),
    "Messages translated one by one": (35_180, 1_588),
    "Responses passed at once": (22_020, 926),
    "Responses passed one by one": (27_830, 1_116),
    "Responses translated at once": (22_300, 704),
    "Responses translated one by one": (38_150, 1_677),
}
"""Instructions and calls into C, of one request. How many reads a stream comes in must not be left to chance."""
CHAT_TRANSLATED_AT_ONCE = 52_500
"""Instructions of a chat of 200 tokens in one read from a target that speaks Messages."""
WARM_UP = 40
REQUESTS = 7


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


def response_of(model: ScriptedModel) -> Answer:
    """Return the model's tokens as a stream of Responses; all other events come with the token beside them."""
    words = [word(token) for token in range(model.tokens)]
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    item = {"id": "msg_1", "type": "message", "role": "assistant"}
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    said = item | {"status": "completed", "content": [part | {"text": "".join(words)}]}
    response = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "error": None, "store": False}
    begun = {"response": response | {"status": "in_progress", "output": [], "usage": None}}
    usage = {"input_tokens": 1, "output_tokens": model.tokens, "total_tokens": model.tokens + 1}
    events: list[tuple[str, dict[str, Any]]] = [
        ("created", begun),
        ("in_progress", begun),
        ("output_item.added", {"output_index": 0, "item": item | {"status": "in_progress", "content": []}}),
        ("content_part.added", place | {"part": part | {"text": ""}}),
        *(("output_text.delta", place | {"delta": each, "logprobs": []}) for each in words),
        ("output_text.done", place | {"text": "".join(words), "logprobs": []}),
        ("content_part.done", place | {"part": part | {"text": "".join(words)}}),
        ("output_item.done", {"output_index": 0, "item": said}),
        ("completed", {"response": response | {"status": "completed", "output": [said], "usage": usage}}),
    ]
    written = [
        sse_event({"type": f"response.{name}", "sequence_number": at, **members}, event=f"response.{name}")
        for at, (name, members) in enumerate(events)
    ]
    return Answer(
        headers=(("content-type", "text/event-stream"),),
        chunks=[Chunk(each, delay_s=None if b"text.delta" in each else 0.0) for each in written],
        per_chunk_delay_s=model.tpot_s,
    )


class Way(NamedTuple):
    """What a caller asks, and what the upstream speaks."""

    asked: str = "/chat/completions"
    provider: str = "openai-compatible"
    api: str | None = None


CHAT = Way()
MESSAGES, MESSAGES_TRANSLATED = Way("/messages", "anthropic"), Way("/messages")
RESPONSES, RESPONSES_TRANSLATED = Way("/responses", api="responses"), Way("/responses")
AT_ONCE, ONE_BY_ONE = ScriptedModel(tokens=200), ScriptedModel(tokens=20, tpot_s=0.003)
WRITERS = {"/v1/messages": messages_of, "/v1/responses": response_of}
"""What the upstream answers at which path, beside chats."""


@asynccontextmanager
async def everything_on(path: Path, model: ScriptedModel, way: Way) -> AsyncIterator[Callable[..., Any]]:
    """Yield a function that sends one body and reads the answer; without time per token it is written at once."""

    def written(seen: Seen) -> Answer:
        write = WRITERS.get(seen.path)
        answer = model.answer(seen) if write is None else write(model)
        if model.tpot_s:
            return answer
        whole = b"".join(chunk if isinstance(chunk, bytes) else chunk.data for chunk in answer.chunks)
        return replace(answer, chunks=(whole,))

    async with ScriptedUpstream(model) as upstream:
        for answered in ("/v1/chat/completions", *WRITERS):
            upstream.on_path(answered, written)
        names = [f"candidate-{number}" for number in range(1, 6)]
        url = upstream.url if way.provider == "anthropic" else f"{upstream.url}/v1"
        target = {"provider": "upstream", "context": 131_072, "price": {"input": 1.0, "output": 4.0}, "api": way.api}
        config = {
            "providers": {"upstream": {"type": way.provider, "base_url": url, "api_key": "env:KEY"}},
            "models": dict.fromkeys(names, target),
            "routes": {"auto": {"models": names, "limits": {"ttft_ms": {"p95": 60_000}, "tpot_ms": {"p95": 60_000}}}},
            "keys": [{"name": "app", "secret": "env:KEY", "requests_per_minute": 10_000, "concurrency": 100}],
        }
        async with (
            running_gateway(config, path, environ={"KEY": "k"}) as running,
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):

            async def ask(body: bytes) -> None:
                async with client.post(running.base_url + way.asked, data=body) as answer:
                    assert answer.status == 200
                    await answer.read()

            yield ask


@pytest.mark.parametrize(
    ("name", "way", "model"),
    [
        ("short chat", CHAT, AT_ONCE),
        ("200 tokens at once", CHAT, AT_ONCE),
        ("20 tokens one by one", CHAT, ONE_BY_ONE),
        ("Messages passed at once", MESSAGES, AT_ONCE),
        ("Messages passed one by one", MESSAGES, ONE_BY_ONE),
        ("Messages translated one by one", MESSAGES_TRANSLATED, ONE_BY_ONE),
        ("Messages translated at once", MESSAGES_TRANSLATED, AT_ONCE),
        ("Responses passed at once", RESPONSES, AT_ONCE),
        ("Responses passed one by one", RESPONSES, ONE_BY_ONE),
        ("Responses translated one by one", RESPONSES_TRANSLATED, ONE_BY_ONE),
        ("Responses translated at once", RESPONSES_TRANSLATED, AT_ONCE),
    ],
)
async def test_request_costs_as_many_instructions_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, way: Way, model: ScriptedModel
) -> None:
    """Within a tenth of what was measured last, up or down."""
    # Statistics are refreshed after some samples or some time; by time, the count would be of the machine's speed.
    monkeypatch.setattr(stats, "REFRESH_NS", 10**18)
    instructions, calls = [], []
    body = chat_body(max_tokens=16) if name == "short chat" else chat_body(stream=True, max_tokens=1000)
    if way.asked == "/responses":
        body = b'{"model":"auto","input":"hi","stream":true,"store":false,"max_output_tokens":1000}'
    async with everything_on(tmp_path, model, way) as ask:
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


@pytest.mark.parametrize("dialect", ["Messages", "Responses"])
def test_other_dialects_cost_little_more_than_chats(dialect: str) -> None:
    """A passed stream at most a tenth, in one read at most half as much again, a translated one at most twice."""
    one_by_one, at_once = MEASURED["20 tokens one by one"][0], MEASURED["200 tokens at once"][0]
    assert MEASURED[f"{dialect} passed one by one"][0] <= 1.1 * one_by_one
    assert MEASURED[f"{dialect} passed at once"][0] <= 1.5 * at_once
    assert MEASURED[f"{dialect} translated one by one"][0] <= 2 * one_by_one
    assert MEASURED[f"{dialect} translated at once"][0] <= CHAT_TRANSLATED_AT_ONCE
