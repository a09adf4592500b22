"""What callers leave behind is not kept: a gateway's memory after thousands who left is what it was before."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.ground.configs import one_model
from tests.ground.gateway import write_config
from tests.ground.processes import Program, gateway_process
from tests.ground.script import Answer, Chunk, sse_event
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import until

MOST_GROWTH = 1.10
AT_A_TIME = 4
TOKEN = sse_event({"choices": [{"index": 0, "delta": {"content": "w"}}]})
STALLED = Answer(headers=(("content-type", "text/event-stream"),), chunks=(Chunk(TOKEN),), stall_after=1)


def _call(words: int, model: str) -> bytes:
    message = {"role": "user", "content": "word " * words}
    return json.dumps({"model": model, "stream": True, "messages": [message]}).encode()


async def _post(gateway: Program, body: bytes, *, length: int | None = None, read_to: bytes | None = None) -> None:
    """Send a body, read up to this, and reset the connection."""
    address = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length or len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    if read_to is None:
        await until(lambda: not writer.transport.get_write_buffer_size())
    else:
        await reader.readuntil(read_to)
    writer.transport.abort()


async def _repeat(times: int, call: Callable[[], Awaitable[None]]) -> None:
    left = iter(range(times))

    async def caller() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*[caller() for _ in range(AT_A_TIME)])


@pytest.mark.parametrize(
    ("uploads", "streams"),
    [
        pytest.param(100, 300, marks=pytest.mark.slow),
        pytest.param(2000, 5000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
async def test_memory_of_callers_who_leave_is_given_back(uploads: int, streams: int, tmp_path: Path) -> None:
    """Uploads of 19 MB that end 10 bytes short, and streams with prompts of 1 MB left at the first token.

    The collector is off in this gateway, and has next to nothing to do in the end.
    """
    upload, prompt, small = _call(3_800_000, "auto"), _call(200_000, "stalled"), _call(10, "auto")
    async with ScriptedUpstream().on_model("stalled", STALLED) as upstream:
        config = one_model(upstream.url)
        config["models"]["stalled"] = {"provider": "upstream", "price": "free"}
        async with gateway_process(write_config(tmp_path, config), module="tests.ground.cycles") as gateway:
            await _repeat(100, lambda: _post(gateway, small, read_to=b"[DONE]"))
            await gateway.ask("collect")  # what has been loaded
            before_bytes = gateway.resident_bytes
            await _repeat(uploads, lambda: _post(gateway, upload[:-10], length=len(upload)))
            for _ in range(streams // 100):
                await _repeat(100, lambda: _post(gateway, prompt, read_to=b'"w"'))
                upstream.seen.clear()
            await _post(gateway, small, read_to=b"[DONE]")
            after_bytes = gateway.resident_bytes
            left = json.loads(await gateway.ask("collect"))
    print(f"{uploads} uploads, {streams} streams: {before_bytes / 1e6:.1f} to {after_bytes / 1e6:.1f} MB; left: {left}")
    assert after_bytes < before_bytes * MOST_GROWTH
    assert sum(left.values()) < uploads + streams


@pytest.mark.slow
async def test_growth_is_collected_before_it_is_much(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Ten unreachable objects of 20 MB each are too few for the collector to come by itself."""
    async with gateway_process(
        write_config(tmp_path, one_model(upstream.url)), module="tests.ground.cycles"
    ) as gateway:
        before_bytes = gateway.resident_bytes
        assert await gateway.ask("waste") == "10\n"
        await until(lambda: gateway.resident_bytes < before_bytes + 64_000_000)
