"""Runs an agent as a user would, and keeps it from everything but this machine."""

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import NamedTuple

from tests.agents.agents import Agent, Gateway, Shown

_TIMEOUT_S = 600


class Ran(NamedTuple):
    """What became of a run."""

    shown: Shown
    stderr: str
    code: int
    abroad: list[str]
    """What it asked of the internet."""


async def run(agent: Agent, gateway: Gateway, task: str, project: Path) -> Ran:
    """Run it in a folder, with an empty HOME beside that, and a proxy before the internet that refuses everything."""
    abroad: list[str] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        abroad.append((await reader.readline()).decode("latin-1").strip())
        writer.close()

    home = project.with_name("home")
    home.mkdir()
    settings = agent.configure(home, gateway)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        environ = {
            "HOME": str(home),
            "PATH": os.defpath,
            "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy,
            "NO_PROXY": "127.0.0.1",
            **settings,
        }
        process = await asyncio.create_subprocess_exec(
            *agent.command(task, gateway), cwd=project, env=environ, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    code = process.returncode
    assert code is not None
    return Ran(agent.shown(output.decode()), errors.decode(), code, abroad)
