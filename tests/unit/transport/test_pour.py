"""Bytes that are handed on as they arrive, without a task being woken for them; the network's side is played here."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.transport.http1_connection import UpstreamAnswer, UpstreamConnection
from gateway.transport.http1_request import Origin, PoolKey
from gateway.turns import Turns

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"


ORIGIN = Origin(tls=False, host="upstream.test", port=80)


class Network(asyncio.Transport):
    """Notes whether more is wanted."""

    reading = True

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Pouring:
    """An answer that has begun, and a task that pours it; ``taken`` is what came, of which ``goes_on`` has its say."""

    def __init__(self, goes_on: Callable[[list[bytes]], bool] = lambda _taken: True) -> None:
        self.taken: list[bytes] = []

        def take(data: bytes) -> bool:
            self.taken.append(data)
            return goes_on(self.taken)

        self.network = Network()
        self.connection = UpstreamConnection(PoolKey(ORIGIN, "test"), Turns(), lambda _: None)
        self.connection.connection_made(self.network)
        self.answer: UpstreamAnswer = self.connection.exchange(b"", b"")
        self.connection.data_received(HEAD + b"0")
        self.task = asyncio.create_task(self.answer.pour(take))


async def test_bytes_are_taken_while_they_are_received() -> None:
    """Not a turn of the event loop later, and what came together comes together."""
    pouring = Pouring()
    await asyncio.sleep(0)
    assert pouring.taken == [b"0"]
    pouring.connection.data_received(b"1")
    pouring.connection.data_received(b"22")
    assert pouring.taken == [b"0", b"1", b"22"]
    pouring.task.cancel()


@pytest.mark.parametrize("turns", [0, 1])
async def test_bytes_behind_a_refusal_wait_for_the_next_reader(turns: int) -> None:
    """In order, and once there is much of it the upstream is held back."""
    pouring = Pouring(lambda taken: len(taken) < 2)
    await asyncio.sleep(0)
    pouring.connection.data_received(b"1")
    for _ in range(turns):
        await asyncio.sleep(0)
    pouring.connection.data_received(b"2")
    pouring.connection.data_received(b"3" * 100_000)
    assert pouring.taken == [b"0", b"1"]
    assert not pouring.network.reading
    assert await pouring.task
    assert await pouring.answer.read() == b"2" + b"3" * 100_000
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pouring.network.reading


async def test_a_heap_is_left_to_the_task() -> None:
    """Another may be behind it at once, and other connections have their turn first; nothing overtakes it."""
    pouring = Pouring()
    await asyncio.sleep(0)
    pouring.connection.data_received(b"1" * 100_000)
    pouring.connection.data_received(b"2")
    assert b"".join(pouring.taken) == b"0"
    assert not pouring.network.reading
    await asyncio.sleep(0)
    pouring.connection.data_received(b"3")
    assert b"".join(pouring.taken) == b"0" + b"1" * 100_000 + b"23"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pouring.network.reading
    pouring.task.cancel()


async def test_error_while_taking_is_raised_where_it_is_poured() -> None:
    """And the connection does not notice."""

    def refuse(taken: list[bytes]) -> bool:
        if taken[-1] == b"1":
            raise ZeroDivisionError
        return True

    pouring = Pouring(refuse)
    await asyncio.sleep(0)
    pouring.connection.data_received(b"1")
    pouring.connection.data_received(b"2")
    with pytest.raises(ZeroDivisionError):
        await pouring.task
    assert await pouring.answer.read() == b"2"


async def test_cancelled_task_takes_no_bytes() -> None:
    """Bytes may come before it learns of that."""
    pouring = Pouring()
    await asyncio.sleep(0)
    pouring.task.cancel()
    pouring.connection.data_received(b"1")
    with pytest.raises(asyncio.CancelledError):
        await pouring.task
    assert pouring.taken == [b"0"]


class Flood(Network):
    """An upstream that sends a heap whenever it may, and a caller who takes it at once."""

    def __init__(self, turns: Turns) -> None:
        self.heaps = 0
        self.connection = UpstreamConnection(PoolKey(ORIGIN, "test"), turns, lambda _: None)
        self.connection.connection_made(self)
        answer = self.connection.exchange(b"", b"")
        self.connection.data_received(HEAD)
        self.task = asyncio.create_task(answer.pour(self.take))
        self.resume_reading()

    def take(self, _data: bytes) -> bool:
        self.heaps += 1
        return True

    def resume_reading(self) -> None:
        asyncio.get_running_loop().call_soon(self.connection.data_received, b"1" * 100_000)


async def test_a_turn_of_the_loop_has_room_for_one_heap() -> None:
    """However many upstreams send as fast as they can: all else waits for a heap in each of its turns, not for 20."""
    shared = Turns()
    floods = [Flood(shared) for _ in range(20)]
    for _ in range(5):
        await asyncio.sleep(0)  # the first heap of each
    before = [flood.heaps for flood in floods]
    turns = 200
    for _ in range(turns):
        await asyncio.sleep(0)
    taken = [flood.heaps - earlier for flood, earlier in zip(floods, before, strict=True)]
    assert turns / 3 <= sum(taken) <= turns + 1
    assert max(taken) - min(taken) <= 1
    for flood in floods:
        flood.task.cancel()
