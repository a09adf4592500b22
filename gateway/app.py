"""The composition root: builds every part of a gateway and connects them.

A ``Gateway`` is built from a configuration file without side effects, then started, used and stopped. A reload swaps
the snapshot; connections, breakers, statistics, limits in use and the ledger live in the gateway and outlive it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from socket import socket

from gateway.accounting.base import Ledger
from gateway.accounting.ids import random_ids
from gateway.accounting.ledger import JournalLedger
from gateway.accounting.pricing import price_of
from gateway.admission.gate import InProcessGate
from gateway.admission.shared import SharedGate
from gateway.auth.static_keys import StaticKeys
from gateway.beside import Beside
from gateway.clock import Clock, Ids, SystemClock
from gateway.config.build import build, frozen_changes
from gateway.config.fields import Name
from gateway.config.load import load
from gateway.config.parts import Tools, narrowed, one_of
from gateway.config.problems import ConfigError
from gateway.config.schema import Config, RouteSection
from gateway.config.snapshot import Current, Snapshot, Storage
from gateway.credentials.registry import signers
from gateway.discovery.cluster import Cluster, Discovery
from gateway.errors import GatewayError
from gateway.execution.attempt import Means
from gateway.execution.budget import Budgets
from gateway.execution.hedged import HEDGES_PER_S
from gateway.execution.registry import STRATEGIES
from gateway.execution.retry import Retries
from gateway.execution.unstreamed import Unstreamed
from gateway.fleet import FleetReport
from gateway.formats.registry import COUNTING, ENDPOINTS
from gateway.formats.responses.decode import INPUT_TOKENS, RESPONSES
from gateway.formats.tokens import estimate_prompt_tokens
from gateway.kept.responses import ResponseStore
from gateway.pipeline import Pipeline
from gateway.providers.registry import ADAPTERS, PROVIDER_TYPES
from gateway.routes.api import Pages, create_api
from gateway.routes.asgi_bridge import AsgiBridge
from gateway.routes.count_tokens import CountTokens
from gateway.routes.front import Front
from gateway.routes.http1_server import HttpServer
from gateway.routes.kept_pages import KeptPages, add_kept_pages
from gateway.routes.llm import LlmRoute
from gateway.routes.plan import explained
from gateway.routes.question import Question
from gateway.routes.responses import KeptQuestion, ResponsesRoute
from gateway.routing.registry import keys, policy
from gateway.routing.resolve import resolve
from gateway.routing.sessions import SECRET_BYTES, Sessions
from gateway.siblings.peer_channel import PeerChannel
from gateway.siblings.process_slot import ProcessSlot, journal_dirs
from gateway.store.database_file import sqlite_url
from gateway.store.secret_file import secret_of
from gateway.targets.pool import Pool
from gateway.targets.replicas import Replicas
from gateway.telemetry.failures import FailureLog
from gateway.telemetry.figures import Figures, read_all
from gateway.telemetry.metrics import NO_ROUTE_LABEL, OTHER_LABEL, Metrics
from gateway.transport.base import Transport
from gateway.transport.http1 import HttpTransport

log = logging.getLogger("tollway.app")


def read_snapshot(
    path: Path,
    environ: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    clock: Clock | None = None,
) -> Snapshot:
    """Read and resolve a configuration file; what is given stands in for the file's own under ``server``.

    Raises ConfigError with everything that is wrong in it.
    """
    config = load(path, environ, configuration(), provider_types=PROVIDER_TYPES)
    config = config.with_server(host=host, port=port, workers=workers)
    tools = Tools(clock or SystemClock(), ADAPTERS)
    return build(config, provider_types=PROVIDER_TYPES, price_of=price_of, policy_of=partial(policy, tools=tools))


def configuration() -> type[Config]:
    """Return the schema of the file, with the keys of every part that is registered."""
    route = narrowed(RouteSection, **keys(), strategy=one_of("strategy", *STRATEGIES.items()))
    return narrowed(Config, routes=dict[Name, route])  # type: ignore[valid-type]  # made here


def journal_ledger(
    state_dir: Path, clock: Clock, storage: Callable[[], Storage], place: ProcessSlot | None = None
) -> JournalLedger:
    """Make the ledger of a process: each writes its own journal, and all fill one database.

    Without a place it recovers what processes of an earlier gateway left, too.
    """
    url = sqlite_url(state_dir / "ledger.sqlite")
    if place is not None:
        return JournalLedger(place.journal_dir, url, clock, state_dir=state_dir, makes_database=False, storage=storage)
    return JournalLedger(state_dir, url, clock, leftovers=partial(journal_dirs, state_dir), storage=storage)


class Gateway:
    """All parts of one gateway, and their life cycle. ``http`` is its front, ``pipeline`` answers the model routes.

    With a ``place`` it is one process of several (``siblings``): limits, figures, predictions and breakers are shared.
    ``random`` is given for a run that can be repeated: it makes the sessions' keys, too, and so keeps no secret.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        reread: Callable[[], Snapshot],
        transport: Transport | None = None,
        ledger: Ledger | None = None,
        clock: Clock | None = None,
        ids: Ids = random_ids,
        place: ProcessSlot | None = None,
        random: Random | None = None,
    ) -> None:
        self.current = Current(snapshot)
        self._reread = reread
        self._reloading = asyncio.Lock()
        clock = clock or SystemClock()
        self._sessions = Sessions()
        if random is None:
            random = Random()  # noqa: S311 - it spreads load and guards nothing
        else:
            self._sessions.secret = random.randbytes(SECRET_BYTES)
        replicas = Replicas(clock, random)
        state_dir = Path(snapshot.state_dir)
        self._shared_gate: SharedGate | None = None
        self._peers: PeerChannel | None = None
        self.ledger = ledger or journal_ledger(state_dir, clock, lambda: self.current.snapshot.storage, place)
        if place is None:
            self.pool, self.metrics = Pool(clock, replicas=replicas), Metrics(self._label_of)
        else:
            self._shared_gate = SharedGate(place.limits_dir, place.slot, clock)
            self._peers = PeerChannel(place.shared_dir, place.slot, self.ledger.flush)
            self.pool = Pool(clock, publish=self._peers.publish, replicas=replicas)
            self.metrics = Metrics(self._label_of, Figures(place.figures), lambda: read_all(place.all_figures()))
        self._failures = FailureLog()
        self.metrics.watch(self.pool.in_flight, self.pool.breaker_states)
        self.metrics.watch_replicas(self._replica_report)
        self.transport = transport or HttpTransport()
        signed = signers(clock, self.transport)
        self._discovery = Discovery(self.pool.replicas, self.transport, ids, signed)
        authenticator = StaticKeys()
        beside = Beside(lambda: clock.monotonic_ns() / 1e9)
        gate = self._shared_gate or InProcessGate(clock)
        self._secret_file = None if ledger is not None else state_dir / "session.key"
        resolved = partial(
            resolve,
            estimate_input_tokens=estimate_prompt_tokens,
            price_of=lru_cache(1024)(price_of),
            sessions=self._sessions,
        )
        means = Means(
            *(clock, ids, self.ledger, self.metrics, self.pool, self.transport, ADAPTERS, beside, signed),
            Retries(clock, random.random),
            Unstreamed(clock),
            Budgets(clock, floor_per_s=HEDGES_PER_S),
        )
        self.pipeline = Pipeline(
            current=self.current,
            authenticator=authenticator,
            resolve=resolved,
            gate=gate,
            means=means,
            failures=self._failures,
        )
        llm_routes = {
            each.path: LlmRoute(self.pipeline, each, current=self.current, clock=clock, ids=ids) for each in ENDPOINTS
        }
        self._responses = ResponseStore(state_dir, lambda: self.current.snapshot.responses, clock.wall_ns)
        llm_routes[RESPONSES.path] = ResponsesRoute(
            *(self.pipeline, RESPONSES),
            current=self.current,
            clock=clock,
            ids=ids,
            authenticator=authenticator,
            store=self._responses,
        )
        question = partial(
            Question, current=self.current, authenticator=authenticator, gate=gate, resolve=resolved, means=means
        )
        counting = {each.path: question(each, CountTokens(each, means)) for each in COUNTING}
        kept = {INPUT_TOKENS.path: KeptQuestion(question, means, self._responses)}
        explaining = {f"/v1/explain{each.path[3:]}": question(each, explained(self.pool)) for each in ENDPOINTS}
        pages = Pages(
            current=self.current,
            authenticator=authenticator,
            ledger=self.ledger,
            flush=self._flush,
            metrics=self.metrics,
            unready=self.unready,
            ids=ids,
            refused=self._refused,
        )
        api = create_api(pages, version=version("tollway"))
        add_kept_pages(api, KeptPages(self.current, authenticator, self._responses))
        pages_of_fastapi = AsgiBridge(api, self.current)
        front = Front({**llm_routes, **counting, **kept, **explaining}, pages_of_fastapi, self.current)
        self.http = HttpServer(front, self._refused, ids)

    async def start(self, listeners: Sequence[socket] = ()) -> None:
        """Take the state directory, recover what a dead gateway left, and serve on these bound sockets."""
        await self.ledger.start()
        if self._secret_file is not None:
            try:
                self._sessions.secret = await asyncio.to_thread(secret_of, self._secret_file, SECRET_BYTES)
            except BaseException:
                await self.ledger.stop()
                raise
        await self.transport.start()
        self._keep_states(self.current.snapshot)
        await self._discovery.start(_clusters(self.current.snapshot))
        await self._responses.start()
        if self._shared_gate is not None:
            self._shared_gate.start()
        if self._peers is not None:
            await self._peers.start(self.pool)
        await self.http.start(listeners)

    async def stop(self) -> None:
        """Let running requests end within ``server.drain_s``, and carry the journal into the store."""
        await self.http.stop(self.current.snapshot.server.drain_s)
        await self._discovery.stop()
        await self.transport.stop()
        await self._responses.stop()
        if self._peers is not None:
            await self._peers.stop()
        if self._shared_gate is not None:
            self._shared_gate.stop()
        await self.ledger.stop()
        self._failures.stop()

    def _refused(self, error: GatewayError, status: int) -> None:
        """Log and count a request that was refused before it was a call."""
        self._failures.note(error, call_id=None, target_id=None, then=f"the caller was told {status}")
        self.metrics.refused(status)

    async def _flush(self) -> None:
        """Carry everything that was written so far into the database, by whichever process of this gateway."""
        await self.ledger.flush()
        if self._peers is not None:
            await self._peers.flush_others()

    def unready(self) -> list[str]:
        """Say why requests would fail now; an empty list: they would not."""
        reasons = []
        sick = self.ledger.healthy()
        if sick is not None:
            reasons.append(sick)
        snapshot, states = self.current.snapshot, self.pool.breaker_states()
        # Behind a wildcard there are models that were never asked for.
        if not snapshot.wildcards and all(states.get(target_id) == "open" for target_id in snapshot.targets):
            reasons.append("the breaker of every target is open")
        return reasons

    def _replica_report(self) -> Mapping[str, FleetReport]:
        """Report on every target whose replicas a directory lists."""
        price = {each.id: each.rates.hardware_nano_usd_per_hour for each in self.current.snapshot.targets.values()}
        fleets = {each.id: self.pool.replicas.fleet(each) for each in self.current.snapshot.targets.values()}
        return {name: fleet.report(price[name]) for name, fleet in fleets.items() if fleet is not None}

    async def reload(self) -> bool:
        """Read the configuration again and swap it in; on any fault keep what is running, log why, return False.

        It is read beside the event loop: some hundred models take most of a second.
        """
        async with self._reloading:
            try:
                fresh = await asyncio.to_thread(self._reread)
            except ConfigError as error:
                log.error("configuration not reloaded, the last good one stays: %s", error)  # noqa: TRY400 - no traceback
                return False
            frozen = frozen_changes(self.current.snapshot, fresh)
            if frozen:
                log.error("configuration not reloaded, the last good one stays: %s", " ".join(frozen))
                return False
            self.current.snapshot = fresh
            self._discovery.follow(_clusters(fresh))
            self._keep_states(fresh)
            log.info("configuration reloaded: version %s", fresh.version)
            return True

    def _keep_states(self, snapshot: Snapshot) -> None:
        self.pool.follow(snapshot.targets, snapshot.target, several_keys=len(snapshot.keys) > 1)

    def _label_of(self, name: str) -> str:
        if name == NO_ROUTE_LABEL:
            return name
        return self.current.snapshot.configured_name(name) or OTHER_LABEL


def _clusters(snapshot: Snapshot) -> set[Cluster]:
    return {
        Cluster(target.cluster_url, target.credential, target.signer)
        for target in snapshot.targets.values()
        if target.cluster_url is not None
    }
