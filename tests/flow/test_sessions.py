"""Sessions: every way to name one gives the same key, and what the client wrote is kept nowhere."""

from pathlib import Path
from typing import Any

import aiohttp

from tests.ground.configs import one_model
from tests.ground.gateway import running_gateway
from tests.ground.upstream import ScriptedUpstream

NAME = "carol-at-example-4711"
CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
MESSAGES = {**CHAT, "max_tokens": 9}
NAMED: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("/chat/completions", CHAT, {"X-Session-Id": NAME}),
    ("/chat/completions", CHAT, {"session-id": NAME}),
    ("/chat/completions", CHAT, {"x-session-affinity": NAME}),
    ("/chat/completions", {**CHAT, "prompt_cache_key": NAME}, {}),
    ("/messages", MESSAGES, {"X-Claude-Code-Session-Id": NAME}),
    ("/messages", {**MESSAGES, "metadata": {"user_id": NAME}}, {}),
]


async def test_session_of_a_call_is_in_its_record(tmp_path: Path) -> None:
    """By key of the gateway, after a restart too; the name is in no file of the state directory."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["keys"] = [{"name": "one", "secret": "env:ONE"}, {"name": "two", "secret": "env:TWO"}]

        async def session_of(url: str, path: str, body: dict[str, Any], headers: dict[str, str], key: str) -> Any:
            async with aiohttp.ClientSession(headers={"x-api-key": key}) as client:
                async with client.post(url + path, json=body, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()
                    call_id = answer.headers["x-tollway-request-id"]
                async with client.get(f"{url}/requests/{call_id}") as answer:
                    return (await answer.json())["session"]

        environ = {"ONE": "k-one", "TWO": "k-two"}
        async with running_gateway(config, tmp_path, environ=environ) as running:
            sessions = {await session_of(running.base_url, *named, "k-one") for named in NAMED}
            others = await session_of(running.base_url, *NAMED[0], "k-two")
            assert await session_of(running.base_url, "/chat/completions", CHAT, {}, "k-one") is None
        async with running_gateway(config, tmp_path, environ=environ) as running:
            assert {await session_of(running.base_url, *NAMED[1], "k-one")} == sessions
    assert len(sessions) == 1
    assert None not in sessions
    assert others not in {None, *sessions}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "session.key" for file in files)
    assert [file for file in files if NAME.encode() in file.read_bytes()] == []
