"""Coding agents do a task through the gateway, whatever kind of target answers, and notice nothing of it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.agents.agents import AGENTS, CORRECTED, TYPO, Agent, Gateway, Shown
from tests.agents.running import run
from tests.ground.gateway import running_gateway
from tests.ground.said import UPSTREAMS, Called, Said, answer, model_at, results_in
from tests.ground.script import Answer, Seen
from tests.ground.upstream import ScriptedUpstream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
_KEY = "sk-tollway-0123456789"
_TASK = "Correct the spelling in greeting.txt, then copy it to copied.txt."
_DONE = "Corrected: Grüße, 14 bytes 👋"


class Coder:
    """A model that does the next step for each result that it is shown; without tools it is asked for a title."""

    def __init__(self, steps: list[Called], kind: str) -> None:
        self._steps = steps
        self._kind = kind
        self.turns: list[dict[str, Any]] = []
        """Of the task."""

    def answer(self, seen: Seen) -> Answer:
        """Answer one request."""
        request = seen.json
        if not request.get("tools"):
            return answer(Said("A greeting"), self._kind, request)
        self.turns.append(request)
        done = results_in(request)
        said = Said(_DONE, answer_id=f"msg_{done}")
        if done < len(self._steps):
            call = self._steps[done]._replace(call_id=f"call_{done}")
            said = Said("Next.", "I think 你好.", (call,), "tools", answer_id=f"msg_{done}")
        return answer(said, self._kind, request)


def _config(kind: str, url: str) -> dict[str, Any]:
    provider, needs = model_at(kind, url)
    price = {"input": 1.0, "output": 5.0}
    room = {"context": 131_072, "max_output_tokens": 8_192}
    return {
        "providers": {"p": provider},
        "models": {"coder": {"provider": "p", "upstream": "m", "price": price, **room, **needs}},
        "routes": {"auto": {"models": ["coder"], "unsupported_tools": "drop"}},
        "keys": [{"name": "me", "secret": "env:MINE"}],
    }


@pytest.mark.parametrize("kind", UPSTREAMS)
@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
async def test_task_is_done(agent: Agent, kind: str, tmp_path: Path) -> None:
    """A file is read, edited, a command run, and the user told: four streamed turns, and no error or retry."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "greeting.txt").write_text(TYPO)
    coder = Coder(agent.steps(project), kind)
    async with ScriptedUpstream(coder) as upstream:
        environ = {"KEY": "sk-theirs", "MINE": _KEY}
        async with running_gateway(_config(kind, upstream.url), tmp_path, environ=environ) as running:
            ran = await run(agent, Gateway(running.url, _KEY, "auto"), _TASK, project)
            totals = await running.totals()
        asked = [seen.json for seen in upstream.seen]
    assert (ran.code, ran.shown, agent.asides.sub("", ran.stderr)) == (0, Shown(_DONE, []), "")
    assert [(project / name).read_text() for name in ("greeting.txt", "copied.txt")] == [CORRECTED, CORRECTED]
    assert [results_in(turn) for turn in coder.turns] == [0, 1, 2, 3]
    assert all(request["stream"] for request in asked)
    assert [(each.target_id, each.outcome, each.attempts) for each in totals] == [("coder", "ok", len(asked))]
    assert ran.abroad == []


def test_lock_names_no_registry() -> None:
    """Versions and hashes: where packages come from is the affair of the machine."""
    lock = json.loads((Path(__file__).parent / "package-lock.json").read_text())
    packages = [each for name, each in lock["packages"].items() if name]
    assert all(each["integrity"].startswith("sha512-") and "resolved" not in each for each in packages)


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
async def test_prompt_that_does_not_fit_is_said_to_the_user_at_once(agent: Agent, tmp_path: Path) -> None:
    """It knows from the error what is the matter, and asks no second time."""
    project = tmp_path / "project"
    project.mkdir()
    config = _config("vllm", "http://127.0.0.1:9")
    config["models"]["coder"] |= {"context": 512, "max_output_tokens": 256}
    async with running_gateway(config, tmp_path, environ={"KEY": "k", "MINE": _KEY}) as running:
        ran = await run(agent, Gateway(running.url, _KEY, "auto", small=True), _TASK, project)
    assert ran.code == 1
    assert re.search(agent.too_long, f"{ran.shown.answer} {ran.shown.errors}")
    assert ran.abroad == []
