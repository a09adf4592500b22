"""Send the lessons of attempts to the other processes of a gateway, so that all predict and open breakers alike.

Each has a datagram socket in a common directory. Twenty times a second, if anything has changed, a process sends every
other one the lessons of its attempts and how many it has under way. No answer is waited for and nothing depends on a
datagram: what counts (limits, figures, the ledger) is shared by files. A process that falls behind misses lessons; one
that has gone is noticed at the next sending, and what it had under way is forgotten.

One request is made: to carry the journal into the database, when a call that another process served is looked up.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Raw, Struct

from gateway.errors import GatewayError
from gateway.targets.pool import Lesson

INTERVAL_S = 0.05
ALIVE_EVERY = 20
"""After so many intervals without a change a process sends all the same, which shows it the peers that are gone."""
LESSONS_BYTES = RUNNING_BYTES = 80_000
"""Of each in one datagram: together well below what a socket's buffer takes by default (net.core.wmem_default, 208 KB).
A lesson has about 200 bytes."""
LESSONS_PER_TARGET = 16
"""Good answers of a target at one sending: a window holds 64 samples, and hundreds a second say no more."""
_FLUSH_TIMEOUT_S = 2.0

_log = logging.getLogger("tollway.siblings")


class Update(Struct, frozen=True, tag="news", array_like=True):
    """What one process learnt, and what it has under way by target.

    The tag is what earlier versions send and read: one is still draining while the next has started.
    """

    slot: int
    lessons: list[Lesson]
    running: Mapping[str, int]


class Flush(Struct, frozen=True, tag="flush", array_like=True):
    """A request to carry the journal into the database."""

    slot: int
    number: int


class Flushed(Struct, frozen=True, tag="flushed", array_like=True):
    """The answer to the ``Flush`` of that number, once that is done."""

    number: int


class _EncodedUpdate(Struct, frozen=True, tag="news", array_like=True):
    """``Update`` whose parts are encoded already, each by itself."""

    slot: int
    lessons: list[Raw]
    running: Raw


_Message = Update | Flush | Flushed
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Message).decode


class SharedPool(Protocol):
    """The part of ``targets.pool`` that is shared."""

    def learn_from_peer(self, lesson: Lesson) -> None:
        """Learn what another process measured."""

    def set_peers_running(self, running: Mapping[str, int]) -> None:
        """Set how many attempts the other processes have under way, by target."""

    def running_here(self) -> Mapping[str, int]:
        """Return how many attempts this process has under way, by target."""


class PeerChannel:
    """One process's end. ``flush`` carries its own journal into the database, and may raise."""

    def __init__(self, directory: Path, slot: int, flush: Callable[[], Awaitable[None]]) -> None:
        self._directory = directory
        self._slot = slot
        self._pool: SharedPool
        self._flush = flush
        self._lessons: list[Lesson] = []
        self._sent_running: Mapping[str, int] = {}
        self._silent = 0
        self._peers_running: dict[int, Mapping[str, int]] = {}
        self._known: list[int] = []
        """Slots of the other processes, as last read."""
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._directory_fd = -1
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.left_out = 0
        """What could not be sent, or not be taken in; the first is logged."""

    def publish(self, lesson: Lesson) -> None:
        """Send the other processes a lesson, at the next sending."""
        self._lessons.append(lesson)

    async def start(self, pool: SharedPool) -> None:
        """Open the socket and begin. ``pool``: the one whose lessons ``publish`` is given."""
        self._pool = pool
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._slot}.sock", dir_fd=self._directory_fd)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self._address(self._slot))
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._receive)
        self._timer = loop.call_later(INTERVAL_S, self._tick)

    async def stop(self) -> None:
        """Send that nothing is under way here any more, and close the socket."""
        if self._socket is None:
            return
        for slot in self._others():
            self._send(slot, _encode(Update(self._slot, [], {})))
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._slot}.sock", dir_fd=self._directory_fd)
        os.close(self._directory_fd)
        for task in self._tasks:
            task.cancel()

    async def flush_others(self) -> None:
        """Wait, for 2 s at most, until what the other processes have written so far is in the database."""
        asked: dict[int, asyncio.Future[None]] = {}
        for slot in self._others():
            number = next(self._numbers)
            if self._send(slot, _encode(Flush(self._slot, number))):
                asked[number] = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                await asyncio.gather(*asked.values())
        except TimeoutError:
            pass
        finally:
            for number in asked:
                self._asked.pop(number, None)

    def _address(self, slot: int) -> str:
        # By the open directory, for a path may be longer than the 108 bytes that such an address can have.
        return f"/proc/self/fd/{self._directory_fd}/{slot}.sock"

    def _others(self) -> list[int]:
        with contextlib.suppress(OSError):  # without a free descriptor it cannot be read: they are where they were
            slots = [int(path.stem) for path in self._directory.glob("*.sock")]
            self._known = [slot for slot in slots if slot != self._slot]
        return self._known

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)
        running = self._pool.running_here()
        self._silent += 1
        if not self._lessons and running == self._sent_running and self._silent < ALIVE_EVERY:
            return
        self._silent, self._sent_running = 0, running
        lessons, self._lessons = _worth_sending(self._lessons), []
        others = self._others()
        for update in self._datagrams(lessons, running):
            for slot in others:
                self._send(slot, update)
        if gone := self._peers_running.keys() - set(others):
            for slot in gone:
                del self._peers_running[slot]
            self._sum_up_peers()

    def _datagrams(self, lessons: list[Lesson], running: Mapping[str, int]) -> Iterator[bytes]:
        """Encode one by one, so that a lesson that cannot be encoded keeps no other from being sent."""
        shown = self._encoded(_heaviest(running)) or _NOTHING_RUNS
        batch: list[Raw] = []
        size = 0
        for lesson in lessons:
            encoded = self._encoded(lesson)
            if encoded is None:
                continue
            if size + len(encoded) > LESSONS_BYTES and batch:
                yield _encode(_EncodedUpdate(self._slot, batch, Raw(shown)))
                batch, size = [], 0
            batch.append(Raw(encoded))
            size += len(encoded)
        yield _encode(_EncodedUpdate(self._slot, batch, Raw(shown)))

    def _encoded(self, item: Lesson | Mapping[str, int]) -> bytes | None:
        try:
            return _encode(item)
        except (ArithmeticError, TypeError, ValueError) as error:
            self._leave_out(error)
            return None

    def _leave_out(self, error: Exception) -> None:
        self.left_out += 1
        if self.left_out == 1:
            _log.error("a lesson for the sibling processes is left out, and so will others be: %r", error)

    def _send(self, slot: int, message: bytes) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.sendto(message, self._address(slot))
        except BlockingIOError:
            return False  # it has fallen behind; it will learn from what comes
        except OSError:
            if self._peers_running.pop(slot, None):
                self._sum_up_peers()
            return False
        return True

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return
            try:
                message = _decode(data)
            except msgspec.DecodeError:
                _log.warning("a sibling process sent something that is no message; do their versions differ?")
                continue
            self._take(message)

    def _take(self, message: _Message) -> None:
        match message:
            case Update(slot, lessons, running):
                for lesson in lessons:
                    try:
                        self._pool.learn_from_peer(lesson)
                    except (ArithmeticError, TypeError, ValueError) as error:
                        self._leave_out(error)
                if running != self._peers_running.get(slot, {}):
                    self._peers_running[slot] = running
                    self._sum_up_peers()
            case Flush(slot, number):
                task = asyncio.create_task(self._flush_for(slot, number))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Flushed(number):
                waiting = self._asked.pop(number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)

    async def _flush_for(self, slot: int, number: int) -> None:
        with contextlib.suppress(GatewayError):  # then the process that asked gets no answer in time
            await self._flush()
        self._send(slot, _encode(Flushed(number)))

    def _sum_up_peers(self) -> None:
        total: Counter[str] = Counter()
        for running in self._peers_running.values():
            total.update(running)
        self._pool.set_peers_running(total)


_NOTHING_RUNS = _encode({})
_COUNT_BYTES = 10
"""What the number and the framing of an entry take beside its name, at most."""


def _heaviest(running: Mapping[str, int]) -> Mapping[str, int]:
    """Keep what fits into a datagram, of the targets with the most under way."""
    if sum(map(len, running)) + _COUNT_BYTES * len(running) <= RUNNING_BYTES:
        return running
    kept: dict[str, int] = {}
    left = RUNNING_BYTES
    for target_id, count in sorted(running.items(), key=lambda item: -item[1]):
        left -= len(target_id.encode(errors="replace")) + _COUNT_BYTES
        if left < 0:
            break
        kept[target_id] = count
    return kept


def _worth_sending(lessons: list[Lesson]) -> list[Lesson]:
    """Leave out what teaches nothing more: of a target that answered every time, all but the last lessons."""
    if len(lessons) <= LESSONS_PER_TARGET:
        return lessons
    # Where one failed, the order of good and bad is what a breaker goes by.
    failed = {each.target_id for each in lessons if not each.sample.ok}
    left: Counter[str] = Counter()
    kept = []
    for each in reversed(lessons):
        left[each.target_id] += 1
        if left[each.target_id] <= LESSONS_PER_TARGET or each.target_id in failed:
            kept.append(each)
    return kept[::-1]
