"""A translation is made for a target that is tried, once for all that speak its format, and for no other."""

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.beside import Beside
from gateway.execution.attempts import Attempts
from gateway.formats.anthropic import messages
from gateway.providers.registry import ADAPTERS
from gateway.simulation.virtual_time import run_virtual
from tests.contract.exchange import ROOT, load
from tests.ground.builders import build_call, build_envelope, build_target, chat_body
from tests.ground.script import json_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import Answered, VirtualGateway, virtual_gateway

OPEN = "http://open.test"
CLAUDES = ("http://a.test", "http://b.test", "http://c.test")
CONFIG = {
    "providers": {
        "open": {"type": "openai-compatible", "base_url": f"{OPEN}/v1"},
        **{url[7]: {"type": "anthropic", "base_url": url, "api_key": "env:KEY"} for url in CLAUDES},
    },
    "models": {
        "open": {"provider": "open", "price": {"input": 1, "output": 1}},
        **{f"claude-{url[7]}": {"provider": url[7], "price": {"input": 2, "output": 2}} for url in CLAUDES},
    },
    "routes": {
        "auto": {"models": ["open", "claude-a", "claude-b", "claude-c"]},
        "claudes": {"models": ["claude-a", "claude-b"]},
        "claude-first": {"models": ["claude-a", "open"], "objective": "latency"},
    },
}
DOWN = json_answer({"error": {"message": "down"}}, status=500)
WHOLE: Mapping[str, Any] = load(ROOT / "anthropic" / "text" / "exchange.json").upstream_response.body
HEARD = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}]


def upstreams(*down: str) -> dict[str, ScriptedUpstream]:
    """Script every upstream; those named fail."""
    all_of_them = {url: ScriptedUpstream() for url in (OPEN, *CLAUDES)}
    for url in CLAUDES:
        all_of_them[url].on_path("/v1/messages", json_answer(WHOLE))
    for url in down:
        path = "/v1/chat/completions" if url == OPEN else "/v1/messages"
        all_of_them[url].on_path(path, DOWN)
    return all_of_them


@pytest.fixture(name="made")
def count_translations(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Note every translation."""
    made: list[bytes] = []
    write = messages.write_request  # type: ignore[attr-defined]

    def counted(conversation: Any) -> bytes:
        made.append(write(conversation))
        return made[-1]

    monkeypatch.setattr(messages, "write_request", counted)
    return made


@pytest.mark.parametrize(("down", "translations"), [((), 0), ((OPEN,), 1), ((OPEN, *CLAUDES[:2]), 1)])
def test_translation_is_made_once_and_for_tried_targets_only(
    down: tuple[str, ...], translations: int, made: list[bytes], tmp_path: Path
) -> None:
    """None when the first target answers; one, however many of the others are asked."""
    scripted = upstreams(*down)

    async def scenario() -> None:
        async with virtual_gateway(CONFIG, tmp_path, scripted, {"KEY": "k"}) as running:
            assert (await running.chat(stream=False, model="auto")).status == 200
        assert len(made) == translations
        asked = [json.loads(seen.body) for url in CLAUDES for seen in scripted[url].seen]
        assert [each["model"] for each in asked] == [f"claude-{url[7]}" for url in CLAUDES[: len(asked)]]

    run_virtual(scenario())


def test_refusal_of_a_format_is_an_error_only_where_no_target_is_left(tmp_path: Path) -> None:
    """What only the content shows is seen when the target is tried, and then the next one is."""

    async def ask(running: VirtualGateway, route: str) -> Answered:
        return await running.chat(stream=False, model=route, messages=HEARD)

    async def scenario() -> None:
        async with virtual_gateway(CONFIG, tmp_path, upstreams(), {"KEY": "k"}) as running:
            error = json.loads((await ask(running, "claudes")).body)["error"]
            assert (error["code"], error["param"]) == ("unsupported", "messages")
            assert "'messages[0]" in error["message"]
            answered = await ask(running, "claude-first")
            assert (answered.status, answered.headers["x-tollway-target"]) == (200, "open")
            assert len(running.ledger.records[-1].attempt_ids) == 1  # nothing was sent to the other

    run_virtual(scenario())


async def test_attempts_that_begin_at_once_translate_once(made: list[bytes]) -> None:
    """One that is cancelled meanwhile takes nothing from the others."""
    call = build_call(build_envelope(chat_body(messages=[{"role": "user", "content": "word " * 200_000}])))
    means: Any = SimpleNamespace(adapters=ADAPTERS, beside=Beside(time.monotonic))
    meter: Any = SimpleNamespace()
    attempts = Attempts(means, call, meter=meter)
    gone, *others = [asyncio.create_task(attempts._prepare("anthropic")) for _ in range(3)]
    first, second = await asyncio.gather(*others)
    assert (first, len(made)) == (second, 1)
    await gone
    attempts = Attempts(means, call, meter=meter)
    gone, other = [asyncio.create_task(attempts._prepare("anthropic")) for _ in range(2)]
    await asyncio.sleep(0)
    gone.cancel()
    assert (await other)(build_target(), "att").body == first(build_target(), "att").body
