"""The directory: which models there are, where their replicas answer, and which model at zero is wanted.

It decides nothing else: the load of a replica is reported by the replica itself. All its state is announced to it again
within a second, so it may be killed at any time. The contract with the gateway is ADR 0006.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

import msgspec

from workers.config.spec import ModelSpec
from workers.engine import Message, Receive, Send
from workers.replica.asgi import answer, carries, gone, local_path, read_body, refuse

ANNOUNCE_S = 1.0
"""How often a replica announces itself."""
_TTL_S = 3.0
_LONG_POLL_S = 10.0
_EXPIRY_STEP_S = 0.5
_LONGEST_HINT = 64 * 1024


class ServedModel(msgspec.Struct, frozen=True):
    """What the configuration says of a model: the names its engine answers to, and a replica's price per hour."""

    serves: tuple[str, ...]
    usd_per_hour: float


def listed(specs: Mapping[str, ModelSpec]) -> dict[str, ServedModel]:
    """Return what the directory has to know of a configuration: while that is equal, it can stay as it is."""
    return {name: ServedModel(spec.serves(name), spec.usd_per_hour) for name, spec in specs.items()}


class _Hint(msgspec.Struct):
    gateway: str
    waiting: dict[str, int]


class Directory:
    """Remember the announcements of the last three seconds. ``now`` is the clock, in seconds."""

    def __init__(self, models: Mapping[str, ServedModel], now: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._now = now
        self._replicas: dict[str, dict[str, tuple[str, float]]] = {name: {} for name in models}
        # Never that of a directory that was killed: a gateway that waits for another version gets this one at once.
        self.version = time.time_ns() // 1000
        self.changed = asyncio.Event()
        """Set at the next change; another one is in its place then."""
        self._reached_at: float | None = None

    def announce(self, model: str, replica: str, url: str) -> None:
        """Enter a replica, or renew its entry. A model that is not configured any more is not listed."""
        self.listens_on_s()
        if (entries := self._replicas.get(model)) is not None:
            known = entries.get(replica)
            entries[replica] = (url, self._now() + _TTL_S)
            if known is None or known[0] != url:
                self._change()

    def listens_on_s(self) -> float:
        """Return how long it should still listen before it answers: one that has just started calls every model empty.

        It counts from the first call that reached it, by when Serve had made it known to the replicas too.
        """
        now = self._now()
        if self._reached_at is None:
            self._reached_at = now
        return max(0.0, self._reached_at + 1.5 * ANNOUNCE_S - now)

    def withdraw(self, model: str, replica: str) -> None:
        """Strike a replica off."""
        if self._replicas.get(model, {}).pop(replica, None) is not None:
            self._change()

    def expire(self) -> None:
        """Strike off what was not renewed."""
        now = self._now()
        for model, entries in self._replicas.items():
            for replica in [replica for replica, (_, until) in entries.items() if until < now]:
                self.withdraw(model, replica)

    def view(self) -> dict[str, object]:
        """Return everything, as the gateway reads it."""
        models = {
            name: {
                "replicas": [{"id": replica, "url": url} for replica, (url, _) in self._replicas[name].items()],
                "serves": listed.serves,
                "usd_per_hour": listed.usd_per_hour,
            }
            for name, listed in self._models.items()
        }
        return {"version": self.version, "models": models}

    def lists(self, model: str) -> bool:
        """Say whether a model of that name is configured."""
        return model in self._models

    def _change(self) -> None:
        self.version += 1
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class DirectoryApp:
    """The directory over HTTP. ``wake(model)`` is called whenever a gateway wants one that has no usable replica."""

    def __init__(self, directory: Directory, wake: Callable[[str], object], token: str | None) -> None:
        self.directory = directory
        self._wake = wake
        self._token = token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Speak ASGI 3."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
        elif not carries(scope, self._token):
            challenge = (b"www-authenticate", b"Bearer")
            await refuse(send, HTTPStatus.UNAUTHORIZED, "AuthenticationError", "A bearer token is needed.", challenge)
        else:
            match scope["method"], local_path(scope):
                case "GET", "/replicas":
                    await self._replicas(scope, receive, send)
                case "POST", "/demand":
                    await self._demand(receive, send)
                case method, path:
                    await refuse(send, HTTPStatus.NOT_FOUND, "NotFoundError", f"There is no {method} {path} here.")

    async def _replicas(self, scope: Message, receive: Receive, send: Send) -> None:
        directory, after = self.directory, scope["query_string"].partition(b"after=")[2].decode()
        left = asyncio.create_task(gone(receive))
        try:
            await asyncio.wait({left}, timeout=directory.listens_on_s())
            until = time.monotonic() + _LONG_POLL_S
            directory.expire()
            while after == str(directory.version) and not left.done() and (rest := until - time.monotonic()) > 0:
                changed = asyncio.create_task(directory.changed.wait())
                step = min(_EXPIRY_STEP_S, rest)
                await asyncio.wait({left, changed}, timeout=step, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                directory.expire()
        finally:
            left.cancel()
        await answer(send, HTTPStatus.OK, directory.view())

    async def _demand(self, receive: Receive, send: Send) -> None:
        body = await read_body(receive, _LONGEST_HINT)
        try:
            hint = msgspec.json.decode(body or b"", type=_Hint)
        except (msgspec.DecodeError, RecursionError) as error:
            await refuse(send, HTTPStatus.BAD_REQUEST, "BadRequestError", f"This is not a hint: {error}.")
            return
        # Listed replicas do not count: they may all be draining, or dead for a moment. The gateway has their reports.
        for name, count in hint.waiting.items():
            if count > 0 and self.directory.lists(name):
                self._wake(name)
        await answer(send, HTTPStatus.NO_CONTENT)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
