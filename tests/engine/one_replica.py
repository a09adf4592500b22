"""Serve one worker of a configuration with vLLM, without Ray, and print its port: ``one_replica.py CONFIG NAME``."""

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn

from workers.models import prepare
from workers.spec import load_workers
from workers.vllm_engine import open_vllm


async def serve(config: Path, name: str) -> None:
    """Serve until standard input ends."""
    spec = load_workers(config)[name]
    async with open_vllm(name, prepare(spec.source, print), spec) as engine:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(engine.app, log_config=None, lifespan="off"))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            print(f"PORT {listener.getsockname()[1]}", flush=True)
            await asyncio.to_thread(sys.stdin.read)
            server.should_exit = True
            await serving


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
