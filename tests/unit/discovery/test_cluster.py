"""What a directory or a replica says may be wrong: it costs that replica, never the view of the others."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.credentials.registry import signers
from gateway.discovery.cluster import Cluster, Discovery
from gateway.simulation.virtual_time import SequentialIds, VirtualClock, VirtualTimeLoop, run_virtual
from gateway.targets.replicas import Replicas
from gateway.types import Secret
from tests.ground.builders import build_target
from tests.ground.cluster import clustered
from tests.ground.in_memory import Exchange, InMemoryTransport
from tests.ground.virtual_gateway import virtual_gateway

CLUSTER = "http://cluster.test"
TARGET = build_target("own", upstream_model="own", cluster_url=CLUSTER)
SPAN = {"up_s": 60.0, "busy_s": 0.0}
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def line(replica: str, **members: Any) -> bytes:
    fixed = {"id": replica, "model": "own", "state": "ready", "in_flight": 0, "limit": 8, "total": SPAN, "window": SPAN}
    return json.dumps(fixed | members).encode() + b"\n"


class Scripted:
    """A replica that says the same line again and again, and does with requests what ``answer`` does."""

    def __init__(self, said: bytes, answer: Callable[["Exchange"], Any] | None = None) -> None:
        self.said = said
        self.hangs = False
        """Takes the next request for its load and never answers."""
        self.is_silent = False
        """Says no more, and keeps the connection."""
        self.said_at = 0.0
        self.asked = self.listened_to = 0
        self._answer = answer

    async def serve(self, exchange: Exchange) -> None:
        if not exchange.request.url.endswith("/tollway/load"):
            self.asked += 1
            assert self._answer is not None
            await self._answer(exchange)
            return
        self.listened_to += 1
        if self.hangs:
            self.hangs = False
            await exchange.left.wait()
            return
        await exchange.write(HEAD)
        while not self.is_silent:
            self.said_at = asyncio.get_running_loop().time()
            await exchange.write(b"%x\r\n%b\r\n" % (len(self.said), self.said))
            await asyncio.sleep(0.19)  # never in step with who waits for it
        await exchange.left.wait()


class Book:
    """The directory."""

    def __init__(self, *listed: tuple[str, str]) -> None:
        self.listed = listed
        self.body: bytes | None = None
        """Said instead, once."""
        self.served = asyncio.Semaphore(1)
        self._version = 0

    async def serve(self, exchange: Exchange) -> None:
        if exchange.request.method == "POST":
            await exchange.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        await self.served.acquire()
        self._version += 1
        replicas = [{"id": name, "url": url} for name, url in self.listed]
        model = {"replicas": replicas, "serves": ["own"], "usd_per_hour": 1.0}
        body = self.body or json.dumps({"version": self._version, "models": {"own": model}}).encode()
        self.body = None
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


class Ground:
    """Discovery before a directory and replicas at ``http://NAME.test``."""

    def __init__(self, book: Book, **replicas: Scripted) -> None:
        handlers = {f"http://{name}.test": each.serve for name, each in replicas.items()}
        self.book = book
        self.replicas = Replicas(VirtualClock())
        transport = InMemoryTransport({CLUSTER: book.serve} | handlers)
        signed = signers(VirtualClock(), transport)
        self.discovery = Discovery(self.replicas, transport, SequentialIds(), signed)

    def urls(self) -> list[str]:
        """Return the addresses that would be used."""
        fleet = self.replicas.fleet(TARGET)
        return [] if fleet is None else sorted(each.url for each in fleet.usable())

    async def list(self, *listed: tuple[str, str]) -> None:
        """Have the directory say something else, and let it be heard."""
        self.book.listed = listed
        self.book.served.release()
        await asyncio.sleep(1)


def run(ground: Callable[[], Ground], story: Callable[[Ground], Any]) -> None:
    """Start, play and stop in virtual time."""

    async def play() -> None:
        made = ground()
        await made.discovery.start({Cluster(CLUSTER, None)})
        try:
            await story(made)
        finally:
            await made.discovery.stop()

    run_virtual(play())


A, B = ("a", "http://a.test"), ("b", "http://b.test")


def test_a_replica_with_another_address_is_followed_there() -> None:
    """Under the same id: it has started anew on another port."""

    async def story(made: Ground) -> None:
        assert made.urls() == [A[1]]
        await made.list(("a", B[1]))
        assert B[1] in made.urls()

    run(lambda: Ground(Book(A), a=Scripted(line("a")), b=Scripted(line("a"))), story)


def test_replica_listed_twice_is_followed_once_and_ends_once() -> None:
    """Nothing of it stays when it is struck off and falls silent."""

    async def story(made: Ground) -> None:
        fleet = made.replicas.fleet(TARGET)
        assert fleet is not None
        assert (len(fleet.replicas), gone.listened_to) == (1, 1)
        gone.said = b"no line\n"
        await made.list()
        assert fleet.replicas == {}
        listened_to = gone.listened_to
        await asyncio.sleep(10)
        assert gone.listened_to == listened_to

    gone = Scripted(line("a"))
    run(lambda: Ground(Book(A, A), a=gone), story)


def test_replica_silent_on_its_connection_is_asked_again() -> None:
    """As after a pause of its machine: the answer that never came is not waited for."""

    async def story(made: Ground) -> None:
        await asyncio.sleep(5)
        assert made.urls() == [A[1]]

    silent = Scripted(line("a"))
    silent.hangs = True
    run(lambda: Ground(Book(A), a=silent), story)


def test_silent_replica_is_out_after_one_second_and_before_one_and_a_half() -> None:
    async def story(made: Ground) -> None:
        loop = asyncio.get_running_loop()
        for offset in range(10):  # of the silence's beginning to the beats
            await asyncio.sleep(offset * 0.03)
            talker.is_silent = True
            while made.urls():
                await asyncio.sleep(0.001)
            assert 1.0 <= loop.time() - talker.said_at <= 1.5
            talker.is_silent = False
            while not made.urls():
                await asyncio.sleep(0.001)

    talker = Scripted(line("a"))
    run(lambda: Ground(Book(A), a=talker), story)


@pytest.mark.parametrize("held_s", [0.9, 1.0, 1.2, 30.0])
def test_a_pause_of_the_gateways_own_is_no_silence_of_the_replicas(held_s: float) -> None:
    """What they said meanwhile waits to be read, and all of them would be lost at once."""

    async def story(made: Ground) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        for step in range(10):  # of the pause's beginning to lines and beats
            await asyncio.sleep(1 + step * 0.03)
            loop.now_s += held_s
            for _ in range(100):
                await asyncio.sleep(0.005)
                assert made.urls() == [A[1], B[1]]

    run(lambda: Ground(Book(A, B), a=Scripted(line("a")), b=Scripted(line("b"))), story)


def test_other_replica_at_the_same_address_is_not_mistaken_for_it() -> None:
    """A port that is free again may be another model's."""
    run(lambda: Ground(Book(A), a=Scripted(line("z"))), lambda made: _urls_stay(made, []))


async def _urls_stay(made: Ground, urls: list[str]) -> None:
    for _ in range(20):
        await asyncio.sleep(0.33)
        assert made.urls() == urls


NONSENSE = {
    "no json": b"hello\n",
    "no text": line("a").replace(b'"a"', b'"\xff"'),
    "no end of brackets": line("a")[:-2] + b', "x": ' + b"[" * 100_000 + b"\n",
    "a negative cache": line("a", kv_tokens=-1),
    "negative tokens": line("a", window=SPAN | {"output_tokens": -1}),
    "other types": line("a", limit="many"),
    "an absurd count": line("a", in_flight=2**60),
    "an absurd time": line("a", window=SPAN | {"busy_s": 1e300}),
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_replica_that_sends_nonsense_costs_only_itself(said: bytes) -> None:
    """The other one is used throughout."""
    run(lambda: Ground(Book(A, B), a=Scripted(said), b=Scripted(line("b"))), lambda made: _urls_stay(made, [B[1]]))


@pytest.mark.parametrize("body", [b"hello", b'{"version": 1, "models": {"\xff": 1}}', b'{"x":' + b"[" * 100_000])
def test_directory_that_sends_nonsense_changes_nothing(body: bytes) -> None:
    """What is known stays."""

    async def story(made: Ground) -> None:
        made.book.body = body
        await made.list(A)
        await _urls_stay(made, [A[1]])

    run(lambda: Ground(Book(A), a=Scripted(line("a"))), story)


REPLICA = {"id": A[0], "url": A[1]}
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "another model is none": ({"own": {"replicas": [REPLICA], "serves": ["own"]}, "bad": 5}, [A[1]]),
    "another model costs absurdly": (
        {"own": {"replicas": [REPLICA], "serves": ["own"]}, "b": {"replicas": [], "serves": [], "usd_per_hour": 1e300}},
        [A[1]],
    ),
    "one replica is none": ({"own": {"replicas": [REPLICA, {"id": 7}, "b"], "serves": ["own"]}}, [A[1]]),
    "it is a new replica beside a bad one": (
        {"own": {"replicas": [{"id": B[0], "url": B[1]}, REPLICA, 5], "serves": ["own"]}},
        [A[1], B[1]],
    ),
    "the model itself is none": ({"own": {"replicas": 5}}, [A[1]]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_item_of_a_listing_spoils_nothing_else(name: str) -> None:
    """The rest of the listing counts; what is known of a model that cannot be read stays."""
    models, urls = BAD[name]

    async def story(made: Ground) -> None:
        made.book.body = json.dumps({"version": 7, "models": models}).encode()
        await made.list(A)
        await _urls_stay(made, urls)

    run(lambda: Ground(Book(A), a=Scripted(line("a")), b=Scripted(line("b"))), story)


def test_the_same_credential_read_again_is_the_same_cluster() -> None:
    """A reload must not drop what is known: every replica would be found anew, and who waits would wait in vain."""

    async def story(made: Ground) -> None:
        made.discovery.follow({Cluster(CLUSTER, Secret("old"))})
        for _ in range(2):  # who asked before waits first, though nobody listens
            made.book.served.release()
        await asyncio.sleep(1)
        fleet = made.replicas.fleet(TARGET)
        made.discovery.follow({Cluster(CLUSTER, Secret("old"))})
        assert made.replicas.fleet(TARGET) is fleet is not None
        made.discovery.follow({Cluster(CLUSTER, Secret("new"))})
        assert made.replicas.fleet(TARGET) is None

    run(lambda: Ground(Book(A), a=Scripted(line("a"))), story)


def test_a_request_ends_no_more_than_a_few_replicas(tmp_path: Path) -> None:
    """One whose prompt crashes the engine goes to three of them, not to all and not again and again."""

    async def crash(exchange: Exchange) -> None:
        await asyncio.sleep(0.3)  # by then, every other one has been heard again
        exchange.reset()

    async def story() -> None:
        names = [f"r{number}" for number in range(6)]
        replicas = {f"http://{name}.test": Scripted(line(name), crash) for name in names}
        book = Book(*((name, f"http://{name}.test") for name in names))
        upstreams: Any = {CLUSTER: book} | replicas
        async with virtual_gateway(clustered(CLUSTER), tmp_path, upstreams) as made:
            answered = await made.chat(model="auto")
            assert answered.status == 503
            assert sum(each.asked for each in replicas.values()) == 3

    run_virtual(story())
