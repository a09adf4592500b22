"""The servers under measurement, each run as ``python -m loadtests.workers.servers``, all around one synthetic engine.

``bare PORT`` is the engine's app in uvicorn and nothing else. ``cluster PORT DIRECTORY`` is Ray Serve with the engine
as Tollway deploys it, and once more behind a deployment handle. What can be asked is written to
``DIRECTORY/ready.json`` as ``{"way": [port, path]}``.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn

from workers.config.spec import ModelSpec
from workers.synthetic.engine import SyntheticEngine
from workers.synthetic.server import SyntheticApp

MODEL = "bench"
_MANY = 1000
_SPEC = ModelSpec.model_validate(
    {
        "source": "-",
        "engine": "synthetic",
        "cpus_per_replica": 0,
        "max_ongoing_requests": _MANY,
        "max_queued_requests": _MANY,
        "synthetic": {"ttft_ms": 0, "tpot_ms": 0, "max_running": _MANY, "natural_tokens": 100_000},
    }
)
_CHAT = "/v1/chat/completions"
_READY_S = 90.0


def _app() -> SyntheticApp:
    return SyntheticApp((MODEL,), _SPEC.synthetic, SyntheticEngine(_SPEC.synthetic))


async def _bare(port: int) -> None:
    config = uvicorn.Config(_app(), port=port, interface="asgi3", lifespan="off", log_config=None, access_log=False)
    await uvicorn.Server(config).serve()


def _cluster(port: int, directory: Path) -> None:
    from workers.cluster.local import deploy, local_cluster

    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    with local_cluster(port, directory):
        # Again: Ray has put its own handler in the place of ours.
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
        deploy({MODEL: ("", _SPEC)}, {}, print)
        ways = {"Serve's proxy": [port, f"/{MODEL}{_CHAT}"]}
        if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
            ways = {"HAProxy": ways.popitem()[1]}
        elif os.environ.get("RAY_SERVE_ENABLE_DIRECT_INGRESS") == "1":
            ways = {"direct ingress": [_ingress_port(), f"/{MODEL}{_CHAT}"]}
        else:
            _deploy_handle()
            ways["proxy and handle"] = [port, f"/handle{_CHAT}"]
            ways["direct"] = [_replica_port(port), _CHAT]
        (directory / "ready.part").write_text(json.dumps(ways))
        (directory / "ready.part").rename(directory / "ready.json")
        while True:
            signal.pause()


def _replica_port(port: int) -> int:
    """Ask the directory, as a gateway does, until a replica has announced itself: it answers when there is news."""
    until = time.monotonic() + _READY_S
    after = ""
    while time.monotonic() < until:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/tollway/replicas{after}", timeout=15) as reply:
            said = json.load(reply)
        for replica in said["models"][MODEL]["replicas"]:
            return int(replica["url"].rpartition(":")[2])
        after = f"?after={said['version']}"
    raise TimeoutError("the replica's address is not known")


def _ingress_port() -> int:
    """Ask Serve where the ingress replica of the engine listens, until it knows."""
    from ray.serve.context import _get_global_client

    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        for group in _get_global_client().get_serve_details()["target_groups"]:
            if str(group["protocol"]).endswith("HTTP") and group.get("route_prefix") == f"/{MODEL}":
                for target in group["targets"]:
                    return int(target["port"])
        # Its controller tells proxies of news, but nobody else.
        time.sleep(0.2)
    raise TimeoutError("the replica's address is not known")


def _deploy_handle() -> None:
    """Deploy the engine behind an ingress that streams through a handle, as ``ray.serve.llm.build_openai_app`` does.

    Each event of the engine is a message between two actors: its batching of 50 ms is not copied.
    """
    from ray import serve
    from ray.serve.handle import DeploymentHandle
    from starlette.requests import Request
    from starlette.responses import StreamingResponse

    options: dict[str, Any] = {
        "max_ongoing_requests": _MANY,
        "max_queued_requests": _MANY,
        "ray_actor_options": {"num_cpus": 0},
    }

    class Engine:
        def __init__(self) -> None:
            self._app = _app()

        async def stream(self, body: bytes) -> AsyncIterator[bytes]:
            events: asyncio.Queue[bytes] = asyncio.Queue()
            asked = [{"type": "http.request", "body": body}]

            async def receive() -> dict[str, object]:
                if not asked:
                    await asyncio.Event().wait()
                return asked.pop()

            async def send(message: Any) -> None:
                if "body" in message:
                    events.put_nowait(message["body"] if message.get("more_body") else message["body"] + _END)

            scope = {"type": "http", "method": "POST", "path": _CHAT}
            work = asyncio.create_task(self._app(scope, receive, send))
            try:
                event = b""
                while not event.endswith(_END):
                    event = await events.get()
                    yield event.removesuffix(_END)
            finally:
                work.cancel()

    class Ingress:
        def __init__(self, engine: DeploymentHandle) -> None:
            self._stream = engine.stream.options(stream=True)

        async def __call__(self, request: Request) -> StreamingResponse:
            return StreamingResponse(self._stream.remote(await request.body()), media_type="text/event-stream")

    engine = serve.deployment(name="engine", **options)(Engine).bind()
    ingress = serve.deployment(name="ingress", **options)(Ingress).bind(engine)
    serve.run(ingress, name="handle", route_prefix="/handle")


_END = b"\0"


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.workers.servers")
    parser.add_argument("kind", choices=["bare", "cluster"])
    parser.add_argument("port", type=int)
    parser.add_argument("directory", type=Path, nargs="?")
    arguments = parser.parse_args()
    if arguments.kind == "bare":
        import uvloop

        uvloop.run(_bare(arguments.port))
    else:
        _cluster(arguments.port, arguments.directory)


if __name__ == "__main__":
    main()
