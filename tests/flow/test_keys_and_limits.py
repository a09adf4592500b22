"""Keys decide who may ask for what, how often, and how much at once."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.ground.configs import one_model
from tests.ground.gateway import running_gateway
from tests.ground.upstream import ScriptedUpstream

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
BOTH = {"KEY": "k-one", "OTHER": "k-two"}


async def test_requests_a_minute_are_counted_exactly(tmp_path: Path) -> None:
    """Twenty at once with a limit of five: five answers, fifteen 429 with Retry-After; another key is not affected."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["keys"] = [
            {"name": "one", "secret": "env:KEY", "requests_per_minute": 5},
            {"name": "two", "secret": "env:OTHER"},
        ]
        async with running_gateway(config, tmp_path, environ=BOTH) as running, aiohttp.ClientSession() as client:

            async def status(key: str) -> int:
                async with client.post(
                    f"{running.base_url}/chat/completions", json=CHAT, headers={"authorization": f"Bearer {key}"}
                ) as answer:
                    assert answer.status != 429 or int(answer.headers["retry-after"]) >= 1
                    return answer.status

            statuses = await asyncio.gather(*(status("k-one") for _ in range(20)))
            assert sorted(statuses) == [200] * 5 + [429] * 15
            assert await status("k-two") == 200
    assert len(upstream.seen) == 6


@pytest.mark.slow
async def test_concurrency_is_given_back_on_every_way_out(tmp_path: Path) -> None:
    """With one place: a second call is refused while the first runs, and admitted after it, failed or not."""
    async with ScriptedUpstream() as upstream:
        upstream.model.ttft_s = 2.0  # the first: the second comes meanwhile on any machine
        config = one_model(upstream.url)
        config["keys"] = [{"name": "one", "secret": "env:KEY", "concurrency": 1}]
        async with running_gateway(config, tmp_path, environ=BOTH) as running:
            async with aiohttp.ClientSession(headers={"x-api-key": "k-one"}) as client:

                async def status(model: str) -> int:
                    async with client.post(
                        f"{running.base_url}/chat/completions", json={**CHAT, "model": model}
                    ) as answer:
                        await answer.read()
                        return answer.status

                first = asyncio.create_task(status("auto"))
                await upstream.arrived()
                upstream.model.ttft_s = 0.0
                assert await status("auto") == 429
                assert await first == 200
                assert await status("auto") == 200
                upstream.model.tokens = 0
                await upstream.die()
                assert await status("auto") == 503
                await upstream.revive()
                assert await status("no-such-model") == 404


async def test_a_key_sees_only_its_own_models_and_requests(tmp_path: Path) -> None:
    """GET /v1/models lists what the key may use; another key's request is not found."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["keys"] = [
            {"name": "one", "secret": "env:KEY", "routes": ["auto"]},
            {"name": "two", "secret": "env:OTHER"},
        ]
        async with running_gateway(config, tmp_path, environ=BOTH) as running, aiohttp.ClientSession() as client:
            one = {"authorization": "Bearer k-one"}
            two = {"authorization": "Bearer k-two"}
            async with client.get(f"{running.base_url}/models", headers=one) as answer:
                assert [model["id"] for model in (await answer.json())["data"]] == ["auto"]
            async with client.post(f"{running.base_url}/chat/completions", json=CHAT, headers=two) as answer:
                call_id = answer.headers["x-tollway-request-id"]
            async with client.get(f"{running.base_url}/requests/{call_id}", headers=two) as answer:
                assert answer.status == 200
            async with client.get(f"{running.base_url}/requests/{call_id}", headers=one) as answer:
                assert answer.status == 404
            async with client.get(f"{running.base_url}/models") as answer:
                assert answer.status == 401
