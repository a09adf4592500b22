"""The replica's own HTTP server: uvicorn in the replica's event loop, on a port that the system chooses."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn

from workers.engine import AsgiApp


@dataclass(frozen=True, slots=True)
class OwnPort:
    """``url`` is where the app answers; ``check`` raises when it no longer does, as after ``close``."""

    url: str
    check: Callable[[], None]
    close: Callable[[], None]


@asynccontextmanager
async def own_port(app: AsgiApp, host: str) -> AsyncIterator[OwnPort]:
    """Serve ``app`` on ``host`` while the context lasts; what is open at its end gets a second to finish.

    With ``TOLLWAY_REPLICA_CERTIFICATE`` and ``TOLLWAY_REPLICA_KEY`` (paths of PEM files) it serves TLS.
    """
    certificate, key = os.environ.get("TOLLWAY_REPLICA_CERTIFICATE"), os.environ.get("TOLLWAY_REPLICA_KEY")
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            # A bound method is otherwise taken for ASGI 2.
            interface="asgi3",
            lifespan="off",
            ws="none",
            # uvicorn's own configuration would close the handlers of Serve's logging.
            log_config=None,
            access_log=False,
            server_header=False,
            # Longer than a gateway keeps an idle connection, so that it is never closed under a new request.
            timeout_keep_alive=120,
            timeout_graceful_shutdown=1,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=1024) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))

        def check() -> None:
            if task.done():
                raise RuntimeError("the replica's own port has closed")

        def close() -> None:
            server.should_exit = True

        try:
            while not server.started:
                check()
                await asyncio.sleep(0.005)
            name = f"[{host}]" if ":" in host else host
            url = f"{'https' if certificate else 'http'}://{name}:{listener.getsockname()[1]}"
            yield OwnPort(url, check, close)
        finally:
            close()
            await task
