"""Looks up the addresses of hosts, so that a host whose look-up hangs delays no other host.

Each look-up has a daemon thread of its own: a hung one can be neither interrupted nor waited for at the end. There are
at most two for one host (the second because the first may be lost) and 64 in all; calls for the same host wait for the
same look-up. An answer holds for 30 s. After that it is stale, and for another hour it stands in whenever
a new look-up fails or does not answer soon, as RFC 8767 suggests. A failure holds for a second.

The system's own ``getaddrinfo`` is asked, and not a resolver library (aiodns on c-ares, which would know a record's
lifetime and need no threads): it alone has all that ``nsswitch.conf`` names, and agrees with every other program of the
machine or container on a name. What is decided here is how long to wait, not which of the addresses to use.
"""

import asyncio
import contextlib
import encodings.idna  # noqa: F401 - else the first name would have it read, for which no descriptor may be free
import math
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from gateway.errors import Cause, ErrorKind, UpstreamError
from gateway.shortage import ShortageError, lack_of

FRESH_S = 30.0
STALE_S = 3600.0
FAILURE_HOLDS_S = 1.0
SOON_S = 0.1
"""With a stale answer at hand, a new look-up is waited for until it is so old."""
SECOND_AFTER_S = 2.0
"""A look-up that has not answered for so long may be lost, and gets a second one beside it."""
DOUBTED_AFTER_S = 1.0
"""An answer of this age is not taken again for fresh once its addresses have turned out to be of no use."""
MAX_LOOK_UPS = 64
MAX_LOOK_UPS_PER_HOST = 2
BEGIN_WITHIN_S = 0.25
"""Where all places are taken, one is waited for so long: another target may do without a look-up."""
MAX_HOSTS = 1024


class HostAddress(NamedTuple):
    """One address of a host, without a port."""

    family: int
    address: tuple[Any, ...]
    """As the system writes it for this family; the port in it is 0."""

    def with_port(self, port: int) -> tuple[Any, ...]:
        """Return what a socket connects to."""
        return self.address[0], port, *self.address[2:]


class _Failure(NamedTuple):
    """Why a look-up failed; no exception is kept, for its traceback would keep what asked."""

    lack: Cause | None
    """Ours, where that was the reason; else the host does not resolve."""


LookUp = Callable[[str], Sequence[HostAddress]]
Run = Callable[[Callable[[], None]], None]


def look_up(host: str) -> list[HostAddress]:
    """Ask the system, for as long as that takes. Raises OSError, or UnicodeError for what can be no host's name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        # Without a free descriptor it cannot ask, and says that there is no such name. Then this raises what is true.
        socket.socket(socket.AF_UNIX).close()
        raise
    return [HostAddress(entry[0], entry[4]) for entry in found]


def run_in_thread(work: Callable[[], None]) -> None:
    """Run in a thread that keeps nothing from ending. Raises RuntimeError when there can be no more threads."""
    threading.Thread(target=work, name="look-up", daemon=True).start()


class _Host:
    """What is known of one host. Times are the loop's."""

    __slots__ = (
        "addresses", "answer_asked_s", "answers", "changed", "failed_until_s", "failure", "found_s", "fresh_until_s",
        "is_queued", "latest_s", "name", "running", "waited_since_s",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.addresses: tuple[HostAddress, ...] = ()
        self.found_s = self.fresh_until_s = self.failed_until_s = -math.inf
        self.failure = _Failure(None)
        self.answers = 0
        self.answer_asked_s = -math.inf
        """When the look-up began that brought the last answer: one that began before has nothing new to say."""
        self.running = 0
        self.is_queued = False
        self.latest_s = -math.inf
        """When the latest look-up began."""
        self.waited_since_s = -math.inf
        """When the first of those look-ups was wanted that have not answered yet."""
        self.changed: asyncio.Future[None] | None = None
        """Done when an answer has come."""

    def wake(self) -> None:
        changed, self.changed = self.changed, None
        if changed is not None:
            changed.set_result(None)


class Resolver:
    """The look-ups of one process, for use within one event loop. ``look_up`` blocks, ``run`` runs it beside us."""

    def __init__(self, look_up: LookUp = look_up, run: Run = run_in_thread) -> None:
        self._look_up = look_up
        self._run = run
        self._hosts: dict[str, _Host] = {}
        self._running = 0
        self._queue: deque[_Host] = deque()

    async def addresses(self, name: str, timeout_s: float) -> Sequence[HostAddress]:
        """Return a host's addresses, at least one. Raises UpstreamError: UPSTREAM_CONNECT or OWN_SHORTAGE."""
        host = self._hosts.get(name)
        if host is None:
            if literal := _literal(name):
                return literal
            host = self._add(name)
        now_s = asyncio.get_running_loop().time()
        if now_s >= host.fresh_until_s and now_s >= host.failed_until_s:
            self._want(host, now_s)
            until_s = now_s + timeout_s
            if now_s < host.found_s + STALE_S:
                until_s = min(until_s, host.waited_since_s + SOON_S)
            now_s = await _next_answer(host, until_s)
        if now_s < host.found_s + STALE_S:
            return host.addresses
        if now_s < host.failed_until_s:
            if host.failure.lack is not None:
                raise ShortageError(host.failure.lack)
            raise UpstreamError(ErrorKind.UPSTREAM_CONNECT, "The upstream's host name does not resolve.", cause="dns")
        if not host.running:
            raise ShortageError("look_ups")
        sentence = "The upstream's host name was not resolved in time."
        raise UpstreamError(ErrorKind.UPSTREAM_CONNECT, sentence, cause="dns")

    def doubt(self, name: str) -> None:
        """Note that no connection came about: the host may have moved, and is looked up anew the next time."""
        host = self._hosts.get(name)
        if host is not None:
            host.fresh_until_s = min(host.fresh_until_s, host.found_s + DOUBTED_AFTER_S)

    def _add(self, name: str) -> _Host:
        if len(self._hosts) >= MAX_HOSTS:
            oldest = next((each for each in self._hosts.values() if not (each.running or each.is_queued)), None)
            if oldest is not None:
                del self._hosts[oldest.name]
        host = self._hosts[name] = _Host(name)
        return host

    def _want(self, host: _Host, now_s: float) -> None:
        """Begin a look-up, or have it begin when there are fewer than 64, unless those under way are enough."""
        if host.is_queued:
            return
        if host.running:
            lost = now_s >= host.latest_s + SECOND_AFTER_S
            # The other half of the 64 is for hosts without a look-up under way.
            if lost and host.running < MAX_LOOK_UPS_PER_HOST and self._running < MAX_LOOK_UPS // 2:
                self._begin(host)
            return
        host.waited_since_s = now_s
        if self._running < MAX_LOOK_UPS:
            self._begin(host)
        else:
            host.is_queued = True
            self._queue.append(host)

    def _begin(self, host: _Host) -> None:
        loop = asyncio.get_running_loop()
        asked_s = host.latest_s = loop.time()
        host.running += 1
        self._running += 1
        try:
            self._run(partial(self._ask, loop, host, asked_s))
        except (RuntimeError, MemoryError) as error:
            loop.call_soon(self._take, host, asked_s, _Failure(lack_of(error)))

    def _ask(self, loop: asyncio.AbstractEventLoop, host: _Host, asked_s: float) -> None:
        """Look up, in a thread."""
        answer: tuple[HostAddress, ...] | _Failure
        try:
            answer = tuple(self._look_up(host.name)) or _Failure(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised in every caller that waits
            answer = _Failure(lack_of(error))
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._take, host, asked_s, answer)

    def _take(self, host: _Host, asked_s: float, answer: tuple[HostAddress, ...] | _Failure) -> None:
        """Take an answer, and begin the next look-up that waits."""
        host.running -= 1
        self._running -= 1
        if asked_s >= host.answer_asked_s:
            host.answer_asked_s = asked_s
            host.answers += 1
            now_s = asyncio.get_running_loop().time()
            if isinstance(answer, _Failure):
                host.failure, host.failed_until_s = answer, now_s + FAILURE_HOLDS_S
            else:
                host.addresses, host.found_s = answer, now_s
                host.fresh_until_s, host.failed_until_s = now_s + FRESH_S, -math.inf
            host.wake()
        if self._queue:
            following = self._queue.popleft()
            following.is_queued = False
            self._begin(following)


async def _next_answer(host: _Host, until_s: float) -> float:
    """Wait for an answer until a time, and ``BEGIN_WITHIN_S`` at most for the look-up to begin; return the time."""
    loop = asyncio.get_running_loop()
    answers, begin_until_s = host.answers, host.waited_since_s + BEGIN_WITHIN_S
    while True:
        now_s = loop.time()
        wait_s = (until_s if host.running else min(until_s, begin_until_s)) - now_s
        if host.answers != answers or wait_s <= 0:
            return now_s
        if host.changed is None:
            host.changed = loop.create_future()
        await asyncio.wait((host.changed,), timeout=wait_s)


def _literal(name: str) -> list[HostAddress]:
    """Return what an address written out stands for; nothing: it is a name. Raises UpstreamError: OWN_SHORTAGE."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, MemoryError) as error:
        if (lack := lack_of(error)) is not None:
            raise ShortageError(lack) from None
        return []
    return [HostAddress(entry[0], entry[4]) for entry in found]
