"""A real Ray Serve cluster with synthetic engines, run by ``tollway workers run``, and a gateway's view of it in small.

``View`` does what ADR 0006 asks of a gateway: it watches the directory, hears each replica, and keeps what it knows.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import yaml

from tests.ground.ports import own_port
from tests.ground.sse import ChatStream
from workers.cluster.children import Child, _session
from workers.command.run import READY, RELOADED

_ROOT = Path(__file__).parents[2]
_START_S = 240.0
TOKEN = "of-this-cluster"
BEARER = {"authorization": f"Bearer {TOKEN}"}
"""What every request to a replica or the directory needs."""


class Cluster:
    """One run of the workers. ``url`` is its base URL, as a gateway is configured with it."""

    def __init__(self, directory: Path, workers: dict[str, Any]) -> None:
        self._config = directory / "tollway.yaml"
        self._write(workers)
        port = own_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "gateway", "workers", "run", "--until-stdin-closes"]
        options = ["--config", str(self._config), "--port", str(port)]
        environment = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(_ROOT), "TOLLWAY_REPLICA_TOKEN": TOKEN}
        self._child = Child([*command, *options], directory / "log", environment)
        self._said = 0

    def wait_until_it_says(self, line: str) -> None:
        """Read on in the log up to this line of progress."""
        self._said = wait_until_it_says(self._child, line, self._said)

    async def reload(self, workers: dict[str, Any]) -> None:
        """Write another configuration and return when the models are as it says."""
        await asyncio.to_thread(self.replace, workers)

    def replace(self, workers: dict[str, Any]) -> None:
        """Run these models in place of those that run; return when they are as they say and no other has a process."""
        others = self._models - workers.keys()
        self._write(workers)
        os.kill(self._child._process.pid, signal.SIGHUP)
        self.wait_until_it_says(RELOADED)
        # Nothing tells of another's process.
        while any(self.pids(f"ray::ServeReplica:{name}:") for name in others):
            time.sleep(0.05)

    def pids(self, title: str) -> list[int]:
        """Return the processes whose title or program begins so."""
        found = []
        for pid in _session(self._child._process.pid):
            with suppress(OSError):
                said = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                if said.startswith(title) or Path(said.partition("\0")[0]).name == title:
                    found.append(pid)
        return found

    def pid_of(self, title: str, url: str) -> int:
        """Return the one of these processes that listens at this address."""
        port = f":{int(url.rpartition(':')[2]):04X} "
        [row] = [r.split() for r in Path("/proc/net/tcp").read_text().splitlines() if port in r and " 0A " in r]
        for pid in self.pids(title):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if str(entry.readlink()) == f"socket:[{row[9]}]":
                        return pid
        raise AssertionError(f"nobody listens at {url}")

    def stop(self) -> float:
        """Stop it as Ctrl-C does, sweep up, and return how long the stop took, in seconds."""
        begun = time.monotonic()
        self._child.stop(60)
        took_s = time.monotonic() - begun
        self._child.sweep()
        return took_s

    def _write(self, workers: dict[str, Any]) -> None:
        self._config.write_text(yaml.safe_dump({"workers": workers}))
        self._models = set(workers)


def wait_until_it_says(child: Child, words: str, after: int = 0) -> int:
    """Read a child's log, from this character on, until these words are in it; return where they end."""
    deadline = time.monotonic() + _START_S
    while True:
        text = child.log.read_text(errors="replace")
        if (found := text.find(words, after)) >= 0:
            return found + len(words)
        assert child.exit_code is None, text
        assert time.monotonic() < deadline, text
        # Nothing tells of a line in a file; a pipe would have to be read for as long as the child runs.
        time.sleep(0.05)


@contextmanager
def somebody_elses_ray(*options: str, **environment: str) -> Iterator[tuple[Child, Path]]:
    """Start a Ray as an operator does; return it and the directory of its files, which its Python also imports from."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port=0"]
        command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats", *options]
        own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_TMPDIR": name, "PYTHONPATH": f"{_ROOT}:{name}"}
        # By default it asks for a token if this user has one in ~/.ray, whoever put it there.
        own |= {"RAY_AUTH_MODE": "disabled"}
        # Many Python processes start at once here; what is not up in Ray's own 15, 60 and 30 seconds ends the start.
        own |= {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_raylet_start_wait_time_s": f"{_START_S:.0f}"}
        own |= dict.fromkeys(
            ("RAY_DASHBOARD_STARTUP_TIMEOUT_S", "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT"), f"{_START_S:.0f}"
        )
        head = Child(command, Path(name) / "log", own | environment)
        try:
            # Its last words at a start: the file that names the cluster is written before them.
            wait_until_it_says(head, "will now block")
            yield head, Path(name)
        finally:
            head.stop(5)
            head.sweep()


@contextmanager
def running_cluster(directory: Path, workers: dict[str, Any]) -> Iterator[Cluster]:
    """Run these workers until the context is left."""
    cluster = Cluster(directory, workers)
    try:
        cluster.wait_until_it_says(READY)
        yield cluster
    finally:
        cluster.stop()


@dataclass
class Stream:
    """What came of one streamed completion. ``broken`` is how it ended too early, or how it was refused."""

    replica: str
    asked: int
    read: ChatStream = field(default_factory=ChatStream)
    broken: str = ""

    @property
    def whole(self) -> bool:
        """Whether every token and the end marker came."""
        return self.read.done and len(self.read.text) == self.asked and not self.broken


@dataclass
class View:
    """The replicas as a gateway sees them. ``lines`` is the last word of each, ``gone`` when a lease broke."""

    session: aiohttp.ClientSession
    models: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    views: list[dict[str, list[str]]] = field(default_factory=list)
    """Every view that the directory gave: model to ids."""
    failed: list[Stream] = field(default_factory=list)
    _version: int | None = None
    _leases: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def listed(self, model: str) -> dict[str, str]:
        """Return what the directory says: id to URL."""
        return {entry["id"]: entry["url"] for entry in self.models.get(model, {}).get("replicas", ())}

    def ready(self, model: str) -> dict[str, str]:
        """Return the replicas that new requests go to: those that are heard and say so."""
        return {
            replica: line["url"]
            for replica, line in self.lines.items()
            if line["model"] == model and line["state"] == "ready"
        }

    async def until(self, condition: Callable[[], bool]) -> float:
        """Wait until the condition holds, and return how long that took, in seconds."""
        begun = time.monotonic()
        while not condition():
            self._changed.clear()
            await self._changed.wait()
        return time.monotonic() - begun

    async def stream(self, model: str, tokens: int, url: str | None = None) -> Stream:
        """Ask for so many tokens, of the least busy ready replica or at ``url``, and read to the end."""
        if url is None:
            # Those that drain still serve, as ADR 0006 has it.
            ready = self.ready(model) or {
                each: line["url"] for each, line in self.lines.items() if line["model"] == model
            }
            replica = min(ready, key=lambda each: self.lines[each]["in_flight"])
            url = ready[replica]
        stream = Stream(url, tokens)
        body = {"model": model, "messages": [{"role": "user", "content": "on and on"}], "stream": True}
        body |= {"max_tokens": tokens, "ignore_eos": True}
        try:
            async with self.session.post(f"{url}/v1/chat/completions", json=body) as reply:
                if reply.status != 200:
                    stream.broken = f"{reply.status} {await reply.text()}"
                async for part in reply.content.iter_any():
                    stream.read.feed(part)
        except (aiohttp.ClientError, OSError) as error:
            stream.broken = repr(error)
        if not stream.whole:
            self.failed.append(stream)
        return stream

    async def watch(self, url: str) -> None:
        """Follow the directory for ever, through its absences."""
        while True:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                after = "" if self._version is None else f"?after={self._version}"
                async with self.session.get(f"{url}/tollway/replicas{after}") as reply:
                    if reply.status == 200:
                        self._take(await reply.json())
                        continue
            # The directory is away; nothing tells when it is back.
            await asyncio.sleep(0.1)

    def _take(self, said: dict[str, Any]) -> None:
        self._version, self.models = said["version"], said["models"]
        self.views.append({model: list(self.listed(model)) for model in self.models})
        for model in self.models:
            for replica, url in self.listed(model).items():
                if replica not in self._leases and replica not in self.gone:
                    self._leases[replica] = asyncio.create_task(self._hear(replica, url))
        self._changed.set()

    async def _hear(self, replica: str, url: str) -> None:
        try:
            async with self.session.get(f"{url}/tollway/load") as reply:
                async for line in reply.content:
                    self.lines[replica] = {**json.loads(line), "url": url}
                    self._changed.set()
        except (aiohttp.ClientError, OSError):
            pass
        finally:
            self.gone[replica] = time.monotonic()
            self.lines.pop(replica, None)
            self._leases.pop(replica, None)
            self._changed.set()


class Addressed(Protocol):
    """A cluster that answers at a base URL."""

    @property
    def url(self) -> str:
        """Return it."""


@asynccontextmanager
async def viewing(cluster: Addressed) -> AsyncIterator[View]:
    """Watch a cluster until the context is left."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=2)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=BEARER) as session:
        view = View(session)
        watching = asyncio.create_task(view.watch(cluster.url))
        try:
            yield view
        finally:
            tasks = [watching, *view._leases.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def callers(view: View, model: str, count: int, tokens: int) -> AsyncIterator[list[Stream]]:
    """Keep ``count`` callers asking the ready replicas one stream after another; they finish what they have begun."""
    done: list[Stream] = []
    leaving = asyncio.Event()

    async def call() -> None:
        while not leaving.is_set():
            done.append(await view.stream(model, tokens))

    tasks = [asyncio.create_task(call()) for _ in range(count)]
    try:
        yield done
    finally:
        leaving.set()
        await asyncio.gather(*tasks)
