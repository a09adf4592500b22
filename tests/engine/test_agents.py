"""Coding agents on a real engine with a short context, their prompts and tools cut down by their own settings."""

from pathlib import Path

import pytest

from tests.agents.agents import AGENTS, Agent, Gateway
from tests.agents.running import run
from tests.engine.conftest import Running

_QUESTION = "What is the capital of France? Answer in one word, without any tool."


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
async def test_agent_shows_the_answer_of_a_small_model(agent: Agent, running: Running, tmp_path: Path) -> None:
    """Whatever it says: the prompt, three tools and the answer fit into 8,192 tokens, and no error is shown."""
    project = tmp_path / "project"
    project.mkdir()
    gateway = Gateway(running.gateway, "unused", running.route, context=8_192, small=True)
    ran = await run(agent, gateway, _QUESTION, project)
    assert (ran.code, ran.shown.errors, agent.asides.sub("", ran.stderr)) == (0, [], "")
    assert ran.shown.answer.strip()
