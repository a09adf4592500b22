"""A modelled cluster: the directory of its replicas, their load reports, and replicas that start when they are wanted.

It answers what discovery asks of a real one (ADR 0006). Nothing stops a replica.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping

import msgspec

from gateway.config.simulation import SimulatedReplicaSection
from gateway.discovery.cluster import BEAT_S, SILENCE_S
from gateway.fleet import ListedModel, ListedReplica
from gateway.simulation.replica_model import ReplicaModel
from gateway.simulation.transport import ModelledStream
from gateway.types import UpstreamRequest

_IDLE_BEAT_S = SILENCE_S * 0.75
"""A replica at which nothing changes says so less often than real ones do: each time costs the simulation some."""
_JSON = {"content-type": "application/json"}


class ClusterModel:
    """One cluster and its models, by the name under which each is asked."""

    def __init__(self, models: Mapping[str, SimulatedReplicaSection]) -> None:
        self._models = models
        self._loop = asyncio.get_running_loop()
        self._starting: Counter[str] = Counter()
        self._version = 0
        self._asking: list[ModelledStream] = []
        """Of the gateway, which waits for a change."""
        self.replicas: dict[str, tuple[str, ReplicaModel]] = {}
        """By address, with the name of its model."""
        for name, section in models.items():
            for _ in range(section.replicas):
                self._add(name)

    def answer(self, request: UpstreamRequest) -> ModelledStream:
        """Answer a request to the directory."""
        path = request.url.partition("/tollway/")[2]
        stream = ModelledStream(headers=_JSON)
        if path == "demand":
            for name in msgspec.json.decode(request.body)["waiting"]:
                self._want(name)
            stream.feed(b"{}", last=True)
        elif path == f"replicas?after={self._version}":
            self._asking.append(stream)
            timer = self._loop.call_later(10.0, self._list, stream)
            stream.left = timer.cancel
        else:
            self._list(stream)
        return stream

    def load(self, replica: ReplicaModel) -> ModelledStream:
        """Begin to report on a replica, line by line."""
        stream = ModelledStream(headers=_JSON)
        timer: asyncio.Handle
        last = -1

        def beat() -> None:
            nonlocal timer, last
            stream.feed(msgspec.json.encode(replica.report()) + b"\n")
            is_idle = replica.in_flight == last == 0
            last = replica.in_flight
            timer = self._loop.call_later(_IDLE_BEAT_S if is_idle else BEAT_S, beat)

        timer = self._loop.call_soon(beat)

        def leave() -> None:
            timer.cancel()

        stream.left = leave
        return stream

    def _want(self, name: str) -> None:
        section = self._models.get(name)
        has_one = any(model == name for model, _ in self.replicas.values())
        if section is not None and not has_one and not self._starting[name]:
            self._starting[name] += 1
            self._loop.call_later(section.start_s, self._started, name)

    def _started(self, name: str) -> None:
        self._starting[name] -= 1
        self._add(name)
        for stream in self._asking:
            self._list(stream)
        self._asking.clear()

    def _add(self, name: str) -> None:
        number = len(self.replicas)
        replica = ReplicaModel(f"replica-{number}", name, self._models[name])
        self.replicas[f"http://replica-{number}.{id_of(name)}.invalid"] = name, replica
        self._version += 1

    def _list(self, stream: ModelledStream) -> None:
        if stream.complete:
            return
        models = {
            name: ListedModel(
                tuple(ListedReplica(each.id, url) for url, (model, each) in self.replicas.items() if model == name),
                (name,),
            )
            for name in self._models
        }
        stream.feed(msgspec.json.encode({"version": self._version, "models": models}), last=True)


def id_of(name: str) -> str:
    """Make a part of a host's name of a model's."""
    return "".join(each if each.isalnum() and each.isascii() else "-" for each in name).lower()
