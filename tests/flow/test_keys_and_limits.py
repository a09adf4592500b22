"""Keys decide who may ask for what, how often, and how much at once."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.ground.configs import one_model
from tests.ground.gateway import running_gateway
from tests.ground.script import Answer, Seen
from tests.ground.upstream import ScriptedUpstream

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
BOTH = {"KEY": "k-one", "OTHER": "k-two"}
MESSAGES = {**CHAT, "max_tokens": 9}


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


@pytest.mark.parametrize(
    ("path", "body", "prefix", "names"),
    [
        ("/chat/completions", CHAT, "x-ratelimit-", "{}-requests"),
        ("/completions", {"model": "auto", "prompt": "hi"}, "x-ratelimit-", "{}-requests"),
        ("/responses", {"model": "auto", "input": "hi"}, "x-ratelimit-", "{}-requests"),
        ("/responses/input_tokens", {"model": "auto", "input": "hi"}, "x-ratelimit-", "{}-requests"),
        ("/messages", MESSAGES, "anthropic-ratelimit-", "requests-{}"),
        ("/messages/count_tokens", CHAT, "anthropic-ratelimit-", "requests-{}"),
    ],
)
async def test_limit_of_the_key_is_said_in_the_dialect_of_the_caller(
    path: str, body: dict[str, Any], prefix: str, names: str, tmp_path: Path
) -> None:
    """With every answer: whole, streamed, refused by us, refused for its rate. The upstream's own limits are not."""
    async with ScriptedUpstream() as upstream:

        def with_limits_of_its_own(seen: Seen) -> Answer:
            answer = upstream.model.answer(seen)
            theirs = ("x-ratelimit-limit-tokens", "9"), ("anthropic-ratelimit-tokens-limit", "9"), ("retry-after", "9")
            return replace(answer, headers=(*answer.headers, *theirs))

        for each in ("/v1/chat/completions", "/v1/completions"):
            upstream.on_path(each, with_limits_of_its_own)
        config = one_model(upstream.url)
        config["keys"] = [{"name": "one", "secret": "env:KEY", "requests_per_minute": 3}]
        async with running_gateway(config, tmp_path, environ=BOTH) as running:
            async with aiohttp.ClientSession(headers={"x-api-key": "k-one"}) as client:

                async def limits(**members: Any) -> tuple[int, dict[str, str]]:
                    async with client.post(f"{running.base_url}{path}", json={**body, **members}) as answer:
                        assert ("retry-after" in answer.headers) == (answer.status == 429)
                        assert answer.headers["x-tollway-request-id"]
                        return answer.status, {
                            name.lower(): value for name, value in answer.headers.items() if "ratelimit" in name.lower()
                        }

                limit, left, reset = (prefix + names.format(each) for each in ("limit", "remaining", "reset"))
                answers = [await limits(), await limits(stream=True), await limits(model="none"), await limits()]
    assert [(status, said[limit], said[left]) for status, said in answers] == [
        (200, "3", "2"), (200, "3", "1"), (404, "3", "0"), (429, "3", "0"),
    ]  # fmt: skip
    for _, said in answers:
        assert said.keys() == {limit, left, reset}
        if prefix == "x-ratelimit-":
            assert 50 <= int(said[reset].removesuffix("s")) <= 60
        else:
            assert 50 < (datetime.fromisoformat(said[reset]) - datetime.now(UTC)).total_seconds() <= 62
