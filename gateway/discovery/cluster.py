"""Follows clusters: asks each one's directory where its replicas are, and listens to every replica. See ADR 0006.

One task asks the directory again and again (it answers when something has changed), one for each replica reads the
lines in which it says how it is, and one reports to the directory the models that calls wait for. What is learnt
goes into ``targets.replicas``. A directory that does not answer changes nothing there; a replica whose connection
breaks, or that is silent for a second, is out at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec
from msgspec import Raw, Struct

from gateway.clock import Ids
from gateway.credentials.base import Signer
from gateway.errors import ErrorKind, UpstreamError
from gateway.fleet import Amount, Count, ListedModel, ListedReplica, LoadReport
from gateway.targets.replicas import Fleet, Replica, Replicas
from gateway.transport.base import Transport, UpstreamStream
from gateway.types import Secret, UpstreamRequest

BEAT_S = 0.25
"""A replica says something four times a second."""
SILENCE_S = 1.0
FIRST_LINE_S = 2.0
ANSWER_S = 15.0
"""The directory answers within ten."""
PLEA_EVERY_S = 0.5
CONNECT_S = 1.0
RETRY_S = 0.25
LONGEST_RETRY_S = 2.0
FIRST_VIEW_S = 3.0
"""A gateway that starts waits at most so long for the first answer, so that its first requests find the replicas."""
_MAX_BYTES = 4 * 1024 * 1024
_UNUSABLE = (UpstreamError, TimeoutError, ValueError, RecursionError)
"""No answer, or one that cannot be decoded: all of ``msgspec``'s errors for bytes are among these."""

_log = logging.getLogger("tollway.discovery")
_load = msgspec.json.Decoder(LoadReport).decode


class Cluster(Struct, frozen=True):
    """A directory to follow."""

    url: str
    credential: Secret | None
    signer: str = "bearer"


class _Listing(Struct):
    version: Count
    models: dict[str, Raw]


class _RawModel(Struct):
    """A ``ListedModel`` whose replicas are read one by one."""

    replicas: tuple[Raw, ...]
    serves: tuple[str, ...]
    usd_per_hour: Amount = 0.0


_listing = msgspec.json.Decoder(_Listing).decode
_model = msgspec.json.Decoder(_RawModel).decode
_replica = msgspec.json.Decoder(ListedReplica).decode


class Discovery:
    """Follows the clusters that the configuration names: ``start``, ``follow`` whenever they change, ``stop``."""

    def __init__(self, replicas: Replicas, transport: Transport, ids: Ids, signers: Mapping[str, Signer]) -> None:
        self._replicas = replicas
        self._transport = transport
        self._signers = signers
        self._gateway_id = ids("gw")
        self._following: dict[Cluster, asyncio.Task[None]] = {}

    async def start(self, clusters: set[Cluster]) -> None:
        """Begin to follow, and wait a little for the first view."""
        views = self.follow(clusters)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_VIEW_S):
                for view in views:
                    await view.wait()

    def follow(self, clusters: set[Cluster]) -> list[asyncio.Event]:
        """Follow these clusters and no others; return what is set at the first view of each that is new."""
        for gone in self._following.keys() - clusters:
            self._following.pop(gone).cancel()
            self._replicas.forget(gone.url)
        views = []
        for cluster in clusters - self._following.keys():
            views.append(view := asyncio.Event())
            self._following[cluster] = asyncio.create_task(self._follow(cluster, view))
        return views

    async def stop(self) -> None:
        """End every task and connection."""
        tasks = list(self._following.values())
        self._following.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, cluster: Cluster, view: asyncio.Event) -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._plead(cluster))
                    await self._watch(cluster, view, tasks)
            # A fault of ours must not leave the gateway without a view for the rest of its life.
            except* Exception:  # noqa: BLE001
                _log.exception("following %s failed; beginning anew", cluster.url)
                self._replicas.forget(cluster.url)
            await asyncio.sleep(LONGEST_RETRY_S)

    async def _watch(self, cluster: Cluster, view: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        version: int | None = None
        retry_s = RETRY_S
        while True:
            try:
                listing = await self._ask(cluster, version)
            except _UNUSABLE as error:
                if retry_s == RETRY_S:
                    # With none at all (404) this is another's Ray Serve, whose proxy serves everything.
                    _log.warning("the directory of %s does not answer (%s); what is known stays", cluster.url, error)
                version = None
                view.set()
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, LONGEST_RETRY_S)
                continue
            retry_s = RETRY_S
            version = listing.version
            new = self._replicas.listed(cluster.url, *_read(listing, cluster.url))
            heard = [asyncio.Event() for _ in new]
            for (fleet, replica), event in zip(new, heard, strict=True):
                tasks.create_task(self._listen(cluster, fleet, replica, event))
            if not view.is_set():
                tasks.create_task(_see(view, heard))

    async def _ask(self, cluster: Cluster, version: int | None) -> _Listing:
        after = "" if version is None else f"?after={version}"
        async with asyncio.timeout(ANSWER_S), self._get(f"{cluster.url}/tollway/replicas{after}", cluster) as stream:
            body = b""
            while chunk := await stream.read():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "an endless answer")
            return _listing(body)

    async def _listen(self, cluster: Cluster, fleet: Fleet, replica: Replica, heard: asyncio.Event) -> None:
        """Read a replica's reports for as long as it is listed or sends them."""
        retry_s = RETRY_S
        while replica.is_listed:
            try:
                async with (
                    _unless_silent() as has_said,
                    self._get(f"{replica.url}/tollway/load", cluster) as stream,
                ):
                    async for line in _lines(stream):
                        load = _load(line)
                        if load.id != replica.id:
                            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "another replica is there")
                        has_said()
                        fleet.reported(replica, load)
                        heard.set()
                        retry_s = RETRY_S
            except _UNUSABLE as error:
                _log.info("replica %s of %s sends no load reports: %s", replica.id, fleet.name, error)
            fleet.lost(replica)
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, LONGEST_RETRY_S)
        heard.set()

    async def _plead(self, cluster: Cluster) -> None:
        """Report to the directory which models calls wait for, for as long as any does."""
        while True:
            await asyncio.sleep(PLEA_EVERY_S)
            fleets = self._replicas.fleets(cluster.url).values()
            waiting = {fleet.name: count for fleet in fleets if (count := fleet.wanted())}
            if not waiting:
                continue
            body = msgspec.json.encode({"gateway": self._gateway_id, "waiting": waiting})
            with contextlib.suppress(UpstreamError, TimeoutError):
                async with (
                    asyncio.timeout(ANSWER_S),
                    self._send("POST", f"{cluster.url}/tollway/demand", cluster, body) as reply,
                ):
                    while await reply.read():
                        pass

    @contextlib.asynccontextmanager
    async def _get(self, url: str, cluster: Cluster) -> AsyncIterator[UpstreamStream]:
        async with self._send("GET", url, cluster) as stream:
            if stream.status != 200:
                raise UpstreamError(ErrorKind.UPSTREAM_ERROR, f"status {stream.status}")
            yield stream

    @contextlib.asynccontextmanager
    async def _send(self, method: str, url: str, cluster: Cluster, body: bytes = b"") -> AsyncIterator[UpstreamStream]:
        headers, secret = (("content-type", "application/json"),), cluster.credential
        pool = "cluster" if secret is None else f"cluster {secret.fingerprint()}"
        request = UpstreamRequest(method=method, url=url, headers=headers, body=body, pool=pool)
        if secret is not None:
            request = await self._signers[cluster.signer].sign(request, secret)
        # Fresh: a lost connection would take the replica out until the next try.
        async with self._transport.send(request, connect_timeout_s=CONNECT_S, fresh=True) as stream:
            yield stream


@contextlib.asynccontextmanager
async def _unless_silent() -> AsyncIterator[Callable[[], None]]:
    """Raise ``TimeoutError`` in what is inside when the yielded function has not been called for ``SILENCE_S``.

    That is found within a beat. Before the first call it is ``FIRST_LINE_S``.
    """
    loop = asyncio.get_running_loop()
    left = round(FIRST_LINE_S / BEAT_S)
    timer: asyncio.TimerHandle

    # Beats are counted, for a pause of this process is one, however long: what was said in it is read before the next.
    def beat() -> None:
        nonlocal left, timer
        left -= 1
        if left == 0:
            patience.reschedule(loop.time())
        else:
            timer = loop.call_later(BEAT_S, beat)

    def has_said() -> None:
        nonlocal left
        left = round(SILENCE_S / BEAT_S) + 1

    timer = loop.call_later(BEAT_S, beat)
    try:
        async with asyncio.timeout(None) as patience:
            yield has_said
    finally:
        timer.cancel()


async def _see(view: asyncio.Event, heard: list[asyncio.Event]) -> None:
    for event in heard:
        await event.wait()
    view.set()


def _read(listing: _Listing, url: str) -> tuple[dict[str, ListedModel], set[str]]:
    """Read a listing's models, without the replicas that cannot be read; and name those that cannot be read at all."""
    models: dict[str, ListedModel] = {}
    unreadable = set()
    for name, raw in listing.models.items():
        try:
            model = _model(raw)
        except _UNUSABLE:
            unreadable.add(name)
            continue
        replicas = []
        for each in model.replicas:
            with contextlib.suppress(*_UNUSABLE):
                replicas.append(_replica(each))
        models[name] = ListedModel(tuple(replicas), model.serves, model.usd_per_hour)
        if len(replicas) < len(model.replicas):
            _log.warning("the directory of %s lists replicas of %s that cannot be read; they are left out", url, name)
    if unreadable:
        _log.warning("the directory of %s lists models that cannot be read; what is known of them stays", url)
    return models, unreadable


async def _lines(stream: UpstreamStream) -> AsyncIterator[bytes]:
    """Yield whole lines until the stream ends."""
    rest = b""
    while chunk := await stream.read():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(rest) > _MAX_BYTES:
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "an endless line")
