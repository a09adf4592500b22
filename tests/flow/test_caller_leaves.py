"""A caller who leaves frees the upstream within a second, and nothing stays behind."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.ground.configs import one_model
from tests.ground.gateway import running_gateway
from tests.ground.own_time import own_time
from tests.ground.upstream import ScriptedUpstream

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "count for long"}]}


@pytest.mark.parametrize("streaming_upstream", [True, False])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("when", ["before the first byte", "in the answer"])
async def test_the_upstream_learns_it_within_a_second(
    when: str, stream: bool, streaming_upstream: bool, tmp_path: Path
) -> None:
    """Streaming or not, before the first token or after it: the connection closes, the hold is given back."""
    async with ScriptedUpstream() as upstream:
        upstream.model.tokens = 10_000
        upstream.model.ttft_s = 60.0 if when == "before the first byte" else 0.0
        upstream.model.tpot_s = 0.01
        config = one_model(upstream.url)
        config["providers"]["upstream"]["always_stream"] = streaming_upstream
        config["keys"] = [{"name": "app", "secret": "env:KEY", "concurrency": 1}]
        async with running_gateway(config, tmp_path, environ={"KEY": "k-1"}) as running:
            headers = {"authorization": "Bearer k-1"}
            async with aiohttp.ClientSession(headers=headers) as client:
                calling = asyncio.create_task(_read(client, running.base_url, stream=stream))
                seen = await upstream.arrived()
                while when == "in the answer" and (stream or streaming_upstream) and seen.chunks_written < 5:
                    await asyncio.sleep(0)
                calling.cancel()
                await asyncio.wait({calling})
                async with own_time() as own:
                    await seen.ended.wait()
                assert seen.disconnected_at_s is not None
                assert own.s < 1
            assert running.gateway.pool.in_flight() == {"scripted": 0}
            (row,) = await running.totals()
            assert row.outcome == "cancelled"
            assert row.input_tokens > 0, "what was sent upstream may be billed, whether or not anything came back"
            upstream.model.tokens, upstream.model.ttft_s = 1, 0.0
            async with aiohttp.ClientSession(headers=headers) as client:
                await _read(client, running.base_url, stream=stream)  # the key's one place is free again


async def _read(client: aiohttp.ClientSession, base_url: str, *, stream: bool) -> bytes:
    async with client.post(f"{base_url}/chat/completions", json={**CHAT, "stream": stream}) as answer:
        assert answer.status == 200
        return await answer.read()
