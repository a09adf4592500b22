"""Runs a trace through a whole gateway in virtual time: its pipeline, policy, limits and ledger, and modelled targets.

The same configuration, trace and seed give the same ledger, byte for byte.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.app import Gateway
from gateway.clock import Ids
from gateway.config.simulation import SimulatedModelSection, SimulatedProviderSection, SimulatedReplicaSection
from gateway.config.snapshot import Snapshot
from gateway.formats.openai.decode import CHAT, ChatEndpoint
from gateway.formats.tokens import estimate_input_tokens, output_bytes
from gateway.simulation.cluster_model import ClusterModel
from gateway.simulation.dialects import DIALECTS, Dialect
from gateway.simulation.memory_ledger import MemoryLedger
from gateway.simulation.prefixes import text_of
from gateway.simulation.provider_model import ProviderModel
from gateway.simulation.replica_model import ReplicaModel
from gateway.simulation.trace import Row
from gateway.simulation.transport import ROW, Handler, ModelledStream, ModelledTransport
from gateway.simulation.virtual_time import SequentialIds, VirtualClock, run_virtual
from gateway.types import Envelope, Inbound, Target, UpstreamRequest

_CHAT_TEMPLATE_TOKENS = estimate_input_tokens(0)
_KEY = "simulated"
_DIGEST = hashlib.sha256(_KEY.encode()).digest()


class _Named(Struct):
    model: str


_named = msgspec.json.Decoder(_Named).decode


def simulate(
    snapshot: Snapshot,
    sections: Mapping[str, SimulatedModelSection],
    rows: Sequence[Row],
    *,
    route: str,
    seed: int = 0,
    closed_loop: bool = False,
) -> MemoryLedger:
    """Send every request of a trace to this route at its time, and return the ledger when the last one has ended.

    ``closed_loop``: a session's next request comes when the one before has ended here, and as long after that as it
    did when it was recorded. One that was recorded to begin before that end, or where no end was recorded, comes as
    long after the beginning of the one before.

    No key holds it up, unless the snapshot is ``under_key``.
    """
    if _DIGEST not in snapshot.keys:
        snapshot = replace(snapshot, keys={})
    sessions = _sessions(rows) if closed_loop else [[row] for row in rows]
    return run_virtual(_run(snapshot, sections, sessions, route, Random(seed)))  # noqa: S311 - no secret


def _sessions(rows: Sequence[Row]) -> list[list[Row]]:
    """Group the requests that wait for one another, in the order of their first ones."""
    sessions: dict[object, list[Row]] = {}
    for place, row in enumerate(rows):
        sessions.setdefault(place if row.session is None else row.session, []).append(row)
    return list(sessions.values())


def under_key(snapshot: Snapshot, key_id: str) -> Snapshot:
    """Return a snapshot that simulates under the limits of this key. Raises KeyError when there is none."""
    principals = {each.key_id: each for each in snapshot.keys.values()}
    return replace(snapshot, keys={_DIGEST: principals[key_id]})


async def _run(
    snapshot: Snapshot,
    sections: Mapping[str, SimulatedModelSection],
    sessions: Sequence[Sequence[Row]],
    route: str,
    random: Random,
) -> MemoryLedger:
    ledger, ids = MemoryLedger(), SequentialIds()
    gateway = Gateway(
        snapshot,
        reread=lambda: snapshot,
        transport=ModelledTransport(_Models(snapshot, sections, random).handler_of),
        ledger=ledger,
        clock=VirtualClock(),
        ids=ids,
        random=random,
    )
    await gateway.start()
    try:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with asyncio.TaskGroup() as calls:

            def send(row: Row) -> asyncio.Task[None]:
                return calls.create_task(_call(gateway, row, route, ids))

            for rows in sessions:
                await asyncio.sleep(max(0.0, began_s + rows[0].at_s - loop.time()))
                first = send(rows[0])
                if len(rows) > 1:
                    calls.create_task(_go_on(rows, first, send))
    finally:
        await gateway.stop()
    return ledger


async def _go_on(rows: Sequence[Row], first: asyncio.Task[None], send: Callable[[Row], asyncio.Task[None]]) -> None:
    """Send the requests of a session behind its first one, which has just been sent."""
    loop = asyncio.get_running_loop()
    began_s, running = loop.time(), first
    for before, row in pairwise(rows):
        gap_s = row.at_s - before.at_s
        if before.took_s is not None and before.took_s <= gap_s:
            await running
            await asyncio.sleep(gap_s - before.took_s)
        else:
            await asyncio.sleep(max(0.0, began_s + gap_s - loop.time()))
        began_s, running = loop.time(), send(row)


async def _call(gateway: Gateway, row: Row, route: str, ids: Ids) -> None:
    ROW.set(row)
    limit = {} if row.cap is None else {"max_tokens": row.cap}
    messages = [{"role": "user", "content": text_of(row.prompt)}]
    body = msgspec.json.encode({"model": route, "messages": messages, "stream": True, **limit})

    async def read_body(_hold: object) -> bytes:
        return body

    inbound = Inbound(
        id=ids("req"),
        endpoint=_ENDPOINT,
        headers={"authorization": f"Bearer {_KEY}", **({"x-session-id": row.session} if row.session else {})},
        received_at_ns=VirtualClock.monotonic_ns(),
        read_body=read_body,
        caller_left=lambda: False,
    )
    await gateway.pipeline.handle(inbound, _Caller())


class _Endpoint(ChatEndpoint):
    """Chat completions whose prompts are as long as the trace says, whatever stands for their text."""

    def decode(self, body: bytes) -> Envelope:
        text_tokens = ROW.get().input_tokens - _CHAT_TEMPLATE_TOKENS
        return replace(super().decode(body), content_bytes=output_bytes(max(1, text_tokens)))


_ENDPOINT = _Endpoint(path=CHAT.path, operation="chat", summary=CHAT.summary, schema=CHAT.schema, read=CHAT.read)


class _Caller:
    """Takes an answer and keeps nothing of it: a ``Sink``."""

    def __init__(self) -> None:
        self.started = False
        self.further = b""

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        self.started = True

    def write(self, data: bytes, *, last: bool = False) -> bool:  # noqa: ARG002
        return True

    async def drained(self) -> None:
        pass


class _Models:
    """The modelled targets of a configuration, by address."""

    def __init__(self, snapshot: Snapshot, sections: Mapping[str, SimulatedModelSection], random: Random) -> None:
        self._by_model: dict[tuple[str, str], ProviderModel | ReplicaModel] = {}
        """By origin and the model's own name: two targets that are one model there share it."""
        self._clusters: dict[str, ClusterModel] = {}
        fleets: dict[str, dict[str, SimulatedModelSection]] = {}
        for target in snapshot.targets.values():
            section = sections.get(target.id, SimulatedModelSection())
            if target.cluster_url is not None:
                fleets.setdefault(target.cluster_url, {})[target.upstream_model] = section
                continue
            key = _origin(target.base_url), target.upstream_model
            if key not in self._by_model:
                self._by_model[key] = _model(target, section, random)
        for url, models in fleets.items():
            self._clusters[url] = ClusterModel(
                {name: section.replica or SimulatedReplicaSection() for name, section in models.items()}
            )

    def handler_of(self, request: UpstreamRequest) -> Handler | None:
        """Return what answers a request; None: nothing is there."""
        url = request.url
        base, is_control, what = url.partition("/tollway/")
        if is_control:
            if (cluster := self._clusters.get(base)) is not None:
                return cluster.answer
            replica = self._replica(base)
            return None if replica is None or what != "load" else lambda _request: self._load(replica)
        model = self._replica(_origin(url)) or self._by_model.get((_origin(url), _named(request.body).model))
        dialect = next((each for path, each in DIALECTS.items() if url.endswith(path)), None)
        if model is None or dialect is None:
            return None
        return lambda _request: _answer(model, dialect)

    def _replica(self, origin: str) -> ReplicaModel | None:
        return next((each.replicas[origin][1] for each in self._clusters.values() if origin in each.replicas), None)

    def _load(self, replica: ReplicaModel) -> ModelledStream:
        cluster = next(each for each in self._clusters.values() if replica in (it for _, it in each.replicas.values()))
        return cluster.load(replica)


def _answer(model: ProviderModel | ReplicaModel, dialect: Dialect) -> ModelledStream:
    return model.answer(ROW.get(), dialect)


def _model(target: Target, section: SimulatedModelSection, random: Random) -> ProviderModel | ReplicaModel:
    if target.own_hardware:
        return ReplicaModel(target.id, target.upstream_model, section.replica or SimulatedReplicaSection())
    rates = target.rates
    writes = rates.cache_write_nano_usd_per_mtok != rates.input_nano_usd_per_mtok
    return ProviderModel(section.provider or SimulatedProviderSection(), Random(random.random()), bills_writes=writes)  # noqa: S311 - no secret


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
