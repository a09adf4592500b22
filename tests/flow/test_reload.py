"""SIGHUP swaps the configuration; a bad file keeps the last good one; a request keeps the one it began with."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.simulation.virtual_time import run_virtual
from tests.ground.configs import one_model, two_models
from tests.ground.gateway import running_gateway, write_config
from tests.ground.model import ScriptedModel
from tests.ground.script import Answer, Seen, error_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import virtual_gateway
from tests.ground.waiting import SOON_S

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
            assert await running.gateway.reload()
            assert await target() == "cheap"
            write_config(tmp_path, {**two_models(one.url, two.url), "routs": {}})
            with caplog.at_level(logging.ERROR):
                assert not await running.gateway.reload()
            assert "tollway.yaml" in caplog.text
            assert "routes" in caplog.text
            assert await target() == "cheap"


async def test_key_that_cannot_change_while_running_refuses_the_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another port or state directory needs a restart, and the log says so."""
    async with ScriptedUpstream() as one:
        async with running_gateway(one_model(one.url), tmp_path) as running:
            write_config(tmp_path, {**one_model(one.url), "state_dir": str(tmp_path / "elsewhere")})
            with caplog.at_level(logging.ERROR):
                assert not await running.gateway.reload()
            assert "state_dir" in caplog.text


async def test_reload_reads_the_file_beside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes, calls are answered meanwhile, and a second reload waits for the first."""
    going_on = threading.Event()
    async with ScriptedUpstream() as one, running_gateway(one_model(one.url), tmp_path) as running:
        read = running.gateway._reread
        monkeypatch.setattr(running.gateway, "_reread", lambda: (going_on.wait(30), read())[1])
        reloads = [asyncio.create_task(running.gateway.reload()) for _ in range(2)]
        try:
            async with (
                aiohttp.ClientSession() as client,
                client.post(f"{running.base_url}/chat/completions", json=CHAT) as answer,
            ):
                assert answer.status == 200
            assert not any(each.done() for each in reloads)
        finally:
            going_on.set()
        assert await asyncio.gather(*reloads) == [True, True]


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
                assert await running.gateway.reload()
                rest = await asyncio.wait_for(answer.read(), SOON_S)
    assert b"[DONE]" in rest


def keyed(first_url: str, second_url: str, **provider: Any) -> dict[str, Any]:
    """Describe two models that may be asked for by name; the first one's provider has these keys besides."""
    config = two_models(first_url, second_url)
    config["providers"]["one"] |= {"api_key": "env:KEY", **provider}
    config["providers"]["any"] = {**config["providers"]["one"]}
    config["models"]["any/*"] = {"provider": "any", "price": {"input": 1.0, "output": 2.0}}
    return config


@pytest.mark.parametrize("model", ["cheap", "any/model"])
@pytest.mark.parametrize(
    ("key", "provider", "status"),
    [
        ("good", {}, 200),
        ("bad", {"base_url": "http://moved.test/v1"}, 200),
        ("bad", {"headers": {"x-project": "other"}}, 200),
        ("bad", {"timeouts": {"first_token_s": 3}}, 503),
        ("bad", {}, 503),
    ],
)
def test_breaker_is_closed_anew_by_a_changed_credential_or_address(
    key: str, provider: dict[str, Any], status: int, model: str, tmp_path: Path
) -> None:
    """The call behind the reload is answered at once; where nothing of the sort has changed, not before 60 s."""

    def answer(seen: Seen) -> Answer:
        good = seen.headers["authorization"] == "Bearer good" or seen.headers.get("x-project") == "other"
        return ScriptedModel().answer(seen) if good else error_answer(401, "no")

    async def scenario() -> tuple[list[int], int, int]:
        old, moved, other = ScriptedUpstream(), ScriptedUpstream(), ScriptedUpstream()
        old.on_path("/v1/chat/completions", answer)
        origins = {"http://old.test": old, "http://moved.test": moved, "http://other.test": other}
        environ = {"KEY": "bad"}
        config = keyed("http://old.test", "http://other.test")
        async with virtual_gateway(config, tmp_path, origins, environ) as running:
            before = [(await running.chat(model=model)).status for _ in range(3)]
            asked = len(old.seen)
            environ["KEY"] = key
            write_config(tmp_path, keyed("http://old.test", "http://other.test", **provider))
            assert await running.gateway.reload()
            return before, asked, (await running.chat(model=model)).status

    assert run_virtual(scenario()) == ([503] * 3, 2, status)
