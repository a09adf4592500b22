"""The spine stays simple: how many lines of the gateway one chat request enters, counted by a profile hook."""

import inspect
import sys
from pathlib import Path
from types import CodeType, FrameType

import aiohttp

from tests.ground.configs import two_models
from tests.ground.gateway import running_gateway
from tests.ground.model import ScriptedModel
from tests.ground.upstream import ScriptedUpstream

PACKAGE = "gateway."
MAX_LINES_ENTERED = 2_460
"""Nine of them only in a chat whose stream ends in a read of its own."""
MAX_LINES_OF_A_FILE = 500


async def test_a_streamed_chat_enters_few_lines(tmp_path: Path) -> None:
    """Count each function entered once, from its first decorator to its last line, docstring included.

    The request: a key with limits, a route of two targets, an answer of 20 tokens.
    """
    entered: set[CodeType] = set()

    def hook(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith(PACKAGE) and not _is_applier(frame):
            entered.add(frame.f_code)

    model = ScriptedModel(tokens=20)
    async with ScriptedUpstream(model) as one, ScriptedUpstream(model) as two:
        config = two_models(one.url, two.url, limits={"ttft_ms": {"p95": 600_000}})
        config["keys"] = [{"name": "app", "secret": "env:KEY", "requests_per_minute": 100, "concurrency": 4}]
        async with running_gateway(config, tmp_path, environ={"KEY": "k"}) as running:
            async with aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client:
                body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": True}
                for hooked in (None, hook):  # the first chat also enters what is made once
                    sys.setprofile(hooked)
                    try:
                        async with client.post(f"{running.base_url}/chat/completions", json=body) as answer:
                            assert b"[DONE]" in await answer.read()
                    finally:
                        sys.setprofile(None)
    lines = {(code.co_filename, line) for code in entered for line in _lines_of(code)}
    assert any(file.endswith("pipeline.py") for file, _ in lines)
    by_file = {file: sum(each == file for each, _ in lines) for file, _ in lines}
    assert len(lines) <= MAX_LINES_ENTERED, sorted(by_file.items(), key=lambda item: -item[1])


def _is_applier(frame: FrameType | None) -> bool:
    """Whether this takes a report of the process that fills the database: no part of a chat, whenever one comes."""
    while frame is not None and frame.f_globals.get("__name__") != "gateway.accounting.applier_process":
        frame = frame.f_back
    return frame is not None


def _lines_of(code: CodeType) -> range:
    source, first = inspect.getsourcelines(code)
    return range(first, first + len(source))


def test_the_pipeline_is_one_page() -> None:
    """What a reader needs to see at once fits on a page."""
    source = (Path(__file__).parents[2] / "gateway" / "pipeline.py").read_text()
    lines = source.splitlines()
    begin = next(number for number, line in enumerate(lines) if "async def _answer" in line)
    end = next(number for number, line in enumerate(lines) if "async def _tell" in line)
    assert end - begin < 30
    assert len(lines) < 150


def test_no_module_is_too_long_to_read() -> None:
    """Files of the product stay readable."""
    root = Path(__file__).parents[2]
    long = {
        str(file.relative_to(root)): count
        for package in ("gateway", "workers")
        for file in (root / package).rglob("*.py")
        if (count := len(file.read_text().splitlines())) > MAX_LINES_OF_A_FILE
    }
    assert long == {}
