"""The page docs/extend/strategy.md, executed as it stands."""

from pathlib import Path

import aiohttp
import pytest

from tests.ground.builders import chat_body
from tests.ground.extend import followed
from tests.ground.script import Answer
from tests.ground.upstream import ScriptedUpstream


@pytest.mark.slow
async def test_strategy_of_the_guide_asks_twice(tmp_path: Path) -> None:
    """The silent target is cancelled and booked, and the caller reads what both cost."""
    async with ScriptedUpstream() as silent, ScriptedUpstream() as other:
        silent.on_path("/v1/chat/completions", Answer(stall_after=0))
        async with (
            followed("strategy.md", tmp_path, first=silent, second=other) as gateway,
            aiohttp.ClientSession() as client,
        ):
            async with client.post(f"{gateway.url}/v1/chat/completions", data=chat_body()) as answer:
                assert answer.status == 200, await answer.text()
                headers = answer.headers
            assert headers["x-tollway-target"] == "large"
            assert headers["x-tollway-reason"] == "doubled: the first of 2 to answer"
            async with client.get(f"{gateway.url}/v1/requests/{headers['x-tollway-request-id']}") as page:
                told = await page.json()
    assert [(each["target_id"], each["outcome"]) for each in told["attempts"]] == [
        ("small", "cancelled"),
        ("large", "ok"),
    ]
    assert headers["x-tollway-cost-usd"] == told["cost_usd"]
    assert all(each["cost_nano_usd"] > 0 for each in told["attempts"])
