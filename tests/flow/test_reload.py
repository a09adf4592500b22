"""SIGHUP swaps the configuration; a bad file keeps the last good one; a request keeps the one it began with."""

import asyncio
import logging
from pathlib import Path

import aiohttp
import pytest

from tests.ground.configs import one_model, two_models
from tests.ground.gateway import running_gateway, write_config
from tests.ground.upstream import ScriptedUpstream

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


async def test_a_good_file_is_swapped_in_and_a_bad_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new target serves at once; after a bad file it still does, and the log names file and line."""
    async with ScriptedUpstream() as one, ScriptedUpstream() as two:
        async with running_gateway(one_model(one.url), tmp_path) as running, aiohttp.ClientSession() as client:

            async def target() -> str:
                async with client.post(f"{running.base_url}/chat/completions", json=CHAT) as answer:
                    assert answer.status == 200
                    return answer.headers["x-tollway-target"]

            assert await target() == "scripted"
            write_config(tmp_path, two_models(one.url, two.url))
            assert running.gateway.reload()
            assert await target() == "cheap"
            write_config(tmp_path, {**two_models(one.url, two.url), "routs": {}})
            with caplog.at_level(logging.ERROR):
                assert not running.gateway.reload()
            assert "tollway.yaml" in caplog.text
            assert "routes" in caplog.text
            assert await target() == "cheap"


async def test_what_cannot_change_while_running_refuses_the_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another port or state directory needs a restart, and the log says so."""
    async with ScriptedUpstream() as one:
        async with running_gateway(one_model(one.url), tmp_path) as running:
            write_config(tmp_path, {**one_model(one.url), "state_dir": str(tmp_path / "elsewhere")})
            with caplog.at_level(logging.ERROR):
                assert not running.gateway.reload()
            assert "state_dir" in caplog.text


async def test_a_stream_under_way_outlives_a_reload(tmp_path: Path) -> None:
    """A stream begun before the reload ends whole, though its target is gone from the new file."""
    async with ScriptedUpstream() as one, ScriptedUpstream() as two:
        one.model.tokens, one.model.tpot_s = 20, 0.01
        async with (
            running_gateway(two_models(one.url, two.url), tmp_path) as running,
            aiohttp.ClientSession() as client,
        ):
            streaming = {**CHAT, "stream": True}
            async with client.post(f"{running.base_url}/chat/completions", json=streaming) as answer:
                assert await answer.content.readany()
                write_config(tmp_path, one_model(two.url))
                assert running.gateway.reload()
                rest = await asyncio.wait_for(answer.read(), 5)
    assert b"[DONE]" in rest
