"""The spine stays simple: how many parts and modules one chat request enters, counted by a profile hook."""

import sys
from pathlib import Path
from types import FrameType

import aiohttp

from tests.ground.configs import two_models
from tests.ground.gateway import running_gateway
from tests.ground.upstream import ScriptedUpstream

PACKAGE = "gateway."


async def test_a_chat_request_enters_few_parts(tmp_path: Path) -> None:
    """At most 12 parts of ``gateway`` (top-level modules and packages) and 40 modules, streaming with a key."""
    entered: set[str] = set()

    def hook(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and (name := frame.f_globals.get("__name__", "")).startswith(PACKAGE):
            entered.add(name)

    async with ScriptedUpstream() as one, ScriptedUpstream() as two:
        config = two_models(one.url, two.url, limits={"ttft_ms": {"p95": 1000}})
        config["keys"] = [{"name": "app", "secret": "env:KEY", "requests_per_minute": 100, "concurrency": 4}]
        async with running_gateway(config, tmp_path, environ={"KEY": "k"}) as running:
            async with aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client:
                body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": True}
                sys.setprofile(hook)
                try:
                    async with client.post(f"{running.base_url}/chat/completions", json=body) as answer:
                        assert b"[DONE]" in await answer.read()
                finally:
                    sys.setprofile(None)
    parts = {name.split(".")[1] for name in entered}
    assert "pipeline" in parts
    assert len(parts) <= 12, sorted(parts)
    assert len(entered) <= 40, " ".join(sorted(entered))


def test_the_pipeline_is_one_page() -> None:
    """What a reader needs to see at once fits on a page."""
    source = (Path(__file__).parents[2] / "gateway" / "pipeline.py").read_text()
    lines = source.splitlines()
    begin = next(number for number, line in enumerate(lines) if "async def _answer" in line)
    end = next(number for number, line in enumerate(lines) if "async def _tell" in line)
    assert end - begin < 30
    assert len(lines) < 150


def test_no_module_is_too_long_to_read() -> None:
    """Files of the product stay under 400 lines."""
    root = Path(__file__).parents[2]
    long = {
        str(file.relative_to(root)): count
        for package in ("gateway", "workers")
        for file in (root / package).rglob("*.py")
        if (count := len(file.read_text().splitlines())) > 400
    }
    assert long == {}
