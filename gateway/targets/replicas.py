"""Knows the replicas of own models and their load, and chooses one for each attempt. The sockets are in ``discovery``.

A target whose replicas a directory lists has no one address. Discovery passes on which replicas there are (``listed``)
and every load report of one (``reported``); from then on the replica is up, until its connection breaks or falls
silent (``lost``) or an attempt finds it dead. An attempt takes a lease, which has the replica's address, and ends the
lease with what became of it.

*Load.* Our own requests at a replica are counted here, to the last one. Those of others (another gateway, another
process of this one) are what the replica's last report said beyond ours: late by one report, never counted twice.

*Cold* is a target with no replica that takes requests: at zero, or still starting, or just died. Routing puts it last,
so that the next target serves meanwhile; where there is none, requests wait here, so many at most, until a replica is
up. Calls that want a cold target are counted, and discovery reports them to the cluster, which starts a replica.

A directory that is away changes nothing here: a replica that was listed stays for as long as it sends reports.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random

from gateway.clock import Clock
from gateway.errors import ErrorKind, UpstreamError
from gateway.fleet import FleetReport, ListedModel, ListedReplica, LoadReport, Tally, nano_usd_per_mtok
from gateway.targets.affinity.affinity import Hits, LongPrompt, expect_of_replicas
from gateway.targets.affinity.prompt import fingerprint
from gateway.targets.choice.base import ReplicaChoice, ReplicaView
from gateway.targets.choice.prefix_index import PrefixIndex
from gateway.targets.choice.registry import CHOICES
from gateway.types import Call, Expected, Target

MAX_WAITING = 256
"""Requests that wait for one model's first replica; one more is answered 503."""
WANTED_FOR_NS = 10_000_000_000
"""A target that was wanted stays so for this long: a caller who tries again is not always there."""
FULL_RETRY_AFTER_S = 1.0
_OWN_FAULTS = frozenset((ErrorKind.UPSTREAM_CONNECT.value, ErrorKind.UPSTREAM_CUT.value))
"""What says that a replica is gone, and nothing of the others."""


class Replica:
    """One replica: its last report, and what this process has sent it."""

    __slots__ = ("at_line", "full", "id", "in_flight", "is_listed", "listed", "load", "uncached_tokens", "url")

    def __init__(self, listed: ListedReplica) -> None:
        self.listed = listed
        self.id = listed.id
        self.url = listed.url
        self.is_listed = True
        self.full = False
        """It has refused a request since its last report."""
        self.load: LoadReport | None = None
        """Its last report; None while it is not up."""
        self.in_flight = 0
        self.at_line = 0
        """Of ``in_flight``, how much there was when the last report came."""
        self.uncached_tokens = 0

    @property
    def requests(self) -> int:
        """All requests there, ours and those of others."""
        others = self.load.in_flight - self.at_line if self.load is not None else 0
        return self.in_flight + max(0, others)

    @property
    def is_ready(self) -> bool:
        """Whether it is up and does not drain."""
        return self.load is not None and self.load.state == "ready"

    @property
    def has_room(self) -> bool:
        """Whether it would take one more."""
        return not self.full and (self.load is None or self.requests < self.load.limit)


class ReplicaLease:
    """One attempt at a replica. Ends once."""

    __slots__ = ("_fleet", "_is_reading", "_replica", "_uncached_tokens", "url")

    def __init__(self, fleet: "Fleet", replica: Replica, uncached_tokens: int) -> None:
        self.url = replica.url
        self._fleet = fleet
        self._replica = replica
        self._uncached_tokens = uncached_tokens
        self._is_reading = True
        replica.in_flight += 1
        replica.uncached_tokens += uncached_tokens

    def begun(self) -> None:
        """Note the first token: the prompt has been read."""
        if self._is_reading:
            self._is_reading = False
            self._replica.uncached_tokens -= self._uncached_tokens

    def end(self, error_kind: str | None) -> int:
        """Leave; return how many replicas there are if it failed for a reason of its own and another could serve."""
        self.begun()
        replica = self._replica
        replica.in_flight -= 1
        if error_kind in _OWN_FAULTS:
            # Until its next report, which comes within 250 ms if it lives.
            replica.load = None
        elif error_kind == ErrorKind.UPSTREAM_OVERLOADED.value:
            replica.full = True
        else:
            return 0
        fleet = self._fleet
        return len(fleet.replicas) if any(each.has_room for each in fleet.usable()) else 0


class Fleet:
    """The replicas of one model."""

    def __init__(self, name: str, clock: Clock, random: Random) -> None:
        self.name = name
        self.usd_per_hour = 0.0
        self.replicas: dict[ListedReplica, Replica] = {}
        """By id and address: under the same id at another one, it has begun anew."""
        self._now_ns = clock.monotonic_ns
        self._random = random
        self._waiters: set[asyncio.Future[None]] = set()
        self._wanting = 0
        self._wanted_until_ns = 0
        self._choices: dict[str, ReplicaChoice] = {}
        self._index = PrefixIndex()

    def usable(self) -> list[Replica]:
        """Return those that take requests: the ready ones, or while there is none, those that drain."""
        every = self.replicas.values()
        return [each for each in every if each.is_ready] or [each for each in every if each.load is not None]

    def refusal(self) -> str | None:
        """Say why no replica would take one more request now; None when one would, or may once it is there."""
        usable = self.usable()
        if usable and not any(each.has_room for each in usable):
            return f"all {len(usable)} replicas have as many requests as they take"
        return None

    def expect(self, target: Target, hits: Hits, long: LongPrompt, now_ns: int) -> Expected | None:
        """Say what of a prompt is probably cached here; None while no replica takes requests."""
        replicas = [each.id for each in self.usable()]
        if not replicas:
            return None
        prompt = long.prompt.chain_of(target.upstream_model)
        promise = 0.0 if target.prompt_cache is None else target.prompt_cache.promise
        return expect_of_replicas(hits, prompt, max(self._index.match(prompt, replicas)), promise, now_ns)

    def lease(self, call: Call, target: Target, expected: Expected | None = None) -> ReplicaLease | None:
        """Choose a replica for an attempt that begins now; None when there is none to choose from."""
        usable = self.usable()
        open_ones = [each for each in usable if each.has_room] or usable
        if not open_ones:
            return None
        tokens = call.input_tokens_estimate
        choice = self._choices.get(target.replica_choice)
        if choice is None:
            choice = self._choices[target.replica_choice] = CHOICES[target.replica_choice](self._random)
        prompt = None if expected is None else expected.note.prompt
        matched = [0] * len(open_ones)
        if choice.reads_prefixes and len(self.replicas) > 1:
            if prompt is None:
                prompt = fingerprint(call.envelope.members, tokens)[0].chain_of(target.upstream_model)
            matched = self._index.match(prompt, [each.id for each in open_ones])
        views = [ReplicaView(each.requests, each.uncached_tokens) for each in open_ones]
        index = choice.choose(tokens, views, matched)
        if not open_ones[index].is_ready:
            self._wanted_until_ns = self._now_ns() + WANTED_FOR_NS
        if prompt is not None:
            self._index.remember(open_ones[index].id, prompt)
        return ReplicaLease(self, open_ones[index], tokens - matched[index])

    def listed(self, replicas: Sequence[ListedReplica]) -> list[Replica]:
        """Take over the directory's list, and return the new ones. One that still sends reports stays for so long."""
        listed = set(replicas)
        new = {each: Replica(each) for each in listed - self.replicas.keys()}
        self.replicas |= new
        for replica in list(self.replicas.values()):
            replica.is_listed = replica.listed in listed
            if not replica.is_listed and replica.load is None:
                self.lost(replica)
        return list(new.values())

    def reported(self, replica: Replica, load: LoadReport) -> None:
        """Take in a report of one of the replicas."""
        if replica.load is None or replica.load.kv_tokens != load.kv_tokens:
            self._index.resize(replica.id, load.kv_tokens)
        replica.load = load
        replica.at_line = replica.in_flight
        replica.full = False
        self.wake()

    def lost(self, replica: Replica) -> None:
        """Take a replica for dead that sends no more reports; one that is not listed either is forgotten."""
        replica.load = None
        self._index.forget(replica.id)
        if not replica.is_listed:
            self.replicas.pop(replica.listed, None)

    def want(self) -> Callable[[], None]:
        """Count a call that would go here if a replica were up; call what is returned when that is over."""
        self._wanting += 1
        self._wanted_until_ns = self._now_ns() + WANTED_FOR_NS

        def no_longer() -> None:
            self._wanting -= 1

        return no_longer

    def wanted(self) -> int:
        """Return how many requests want a replica while none is ready; one that drains does not count."""
        if any(each.is_ready for each in self.replicas.values()):
            return 0
        return self._wanting or int(self._now_ns() < self._wanted_until_ns)

    async def wait(self, patience_s: float) -> None:
        """Wait until a replica takes requests, or the cluster is forgotten: look again afterwards.

        Raises UpstreamError: UPSTREAM_TIMEOUT, or OVERLOADED when many wait.
        """
        if len(self._waiters) >= MAX_WAITING:
            message = f"{MAX_WAITING} requests wait for a replica already."
            raise UpstreamError(ErrorKind.UPSTREAM_OVERLOADED, message, retry_after_s=FULL_RETRY_AFTER_S)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(patience_s):
                await waiter
        except TimeoutError:
            message = f"No replica was ready within {patience_s:.0f} s."
            raise UpstreamError(ErrorKind.UPSTREAM_TIMEOUT, message, retry_after_s=FULL_RETRY_AFTER_S) from None
        finally:
            self._waiters.discard(waiter)

    def wake(self) -> None:
        """Wake every call that waits for a replica."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def lately(self) -> Tally | None:
        """Add up the last minute of all replicas that are up; None when there is none."""
        windows = [each.load.window for each in self.replicas.values() if each.load is not None]
        if not windows:
            return None
        return Tally(
            up_s=sum(each.up_s for each in windows),
            busy_s=sum(each.busy_s for each in windows),
            prompt_tokens=sum(each.prompt_tokens or 0 for each in windows),
            cached_tokens=sum(each.cached_tokens or 0 for each in windows),
            output_tokens=sum(each.output_tokens or 0 for each in windows),
        )

    def report(self, nano_usd_per_hour: float | None) -> FleetReport:
        """Sum up, at this price of a replica or else at the one that the directory gives."""
        price = self.usd_per_hour * 1e9 if nano_usd_per_hour is None else nano_usd_per_hour
        up = [each.load for each in self.replicas.values() if each.load is not None]
        states: Counter[str] = Counter(load.state for load in up)
        tally = self.lately() or Tally(0.0, 0.0)
        # Every replica's span is the last minute or its life, so the sum of what each does per second is this.
        spans_s = max((load.window.up_s for load in up), default=0.0)
        per_s = 1.0 / spans_s if spans_s else 0.0
        prompt, cached = tally.prompt_tokens or 0, tally.cached_tokens or 0
        return FleetReport(
            replicas={**states, "lost": len(self.replicas) - len(up)},
            running=sum(load.running or 0 for load in up),
            waiting=sum(load.waiting or 0 for load in up),
            wanted=self.wanted(),
            kv_usage=max((load.kv_usage for load in up if load.kv_usage is not None), default=None),
            prefill_tokens_per_s=(prompt - cached) * per_s,
            cached_tokens_per_s=cached * per_s,
            decode_tokens_per_s=(tally.output_tokens or 0) * per_s,
            utilisation=tally.busy_s / tally.up_s if tally.up_s else 0.0,
            nano_usd_per_hour=price * len(up),
            average_nano_usd_per_mtok=nano_usd_per_mtok(price, tally.up_s, tally),
            marginal_nano_usd_per_mtok=nano_usd_per_mtok(price, tally.busy_s, tally),
        )


class Replicas:
    """Every model of every cluster that a directory lists."""

    def __init__(self, clock: Clock, random: Random | None = None) -> None:
        self._clock = clock
        self._random = random or Random()  # noqa: S311 - spreads load, guards nothing
        self._fleets: dict[str, dict[str, Fleet]] = {}
        self._serving: dict[tuple[str, str], Fleet] = {}

    def fleet(self, target: Target) -> Fleet | None:
        """Return the replicas of a target; None when no directory has listed its model yet."""
        return self._serving.get((target.cluster_url or "", target.upstream_model))

    def fleets(self, cluster_url: str) -> Mapping[str, Fleet]:
        """Return the models of a cluster by name."""
        return self._fleets.get(cluster_url, {})

    def listed(
        self, cluster_url: str, models: Mapping[str, ListedModel], unreadable: Collection[str] = ()
    ) -> list[tuple[Fleet, Replica]]:
        """Take over what the directory lists; return the replicas that are new, to be listened to.

        ``unreadable``: models that it lists too, in words that are not understood; they stay as they are.
        """
        fleets = self._fleets.setdefault(cluster_url, {})
        new: list[tuple[Fleet, Replica]] = []
        for name, model in models.items():
            fleet = fleets.get(name)
            if fleet is None:
                fleet = fleets[name] = Fleet(name, self._clock, self._random)
            fleet.usd_per_hour = model.usd_per_hour
            for served in model.serves or (name,):
                self._serving[cluster_url, served] = fleet
            new += [(fleet, replica) for replica in fleet.listed(model.replicas)]
        for name in fleets.keys() - models.keys() - set(unreadable):
            fleets[name].listed(())
            if not fleets[name].replicas:
                self._drop(fleets.pop(name))
        return new

    def forget(self, cluster_url: str) -> None:
        """Drop a cluster that the configuration no longer names, or that turned out to have no directory."""
        for fleet in self._fleets.pop(cluster_url, {}).values():
            self._drop(fleet)

    def _drop(self, fleet: Fleet) -> None:
        self._serving = {key: each for key, each in self._serving.items() if each is not fleet}
        fleet.wake()
