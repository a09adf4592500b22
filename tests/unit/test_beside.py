"""Bodies are decoded by size and age: small ones overtake, none waits for ever, and none is decoded for no caller."""

import asyncio
import threading
from functools import partial

import pytest

from gateway.beside import Beside, Lane
from gateway.errors import ErrorKind, GatewayError
from gateway.formats.openai.decode import CHAT
from gateway.types import Envelope
from tests.ground.builders import build_envelope


class Turnstile:
    """Work that waits for the test, and notes in which order it was done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.begun = threading.Event()
        self._may_end = threading.Event()

    def block(self) -> Envelope:
        """Keep the thread until ``open``."""
        self.begun.set()
        assert self._may_end.wait(10)
        return build_envelope()

    def open(self) -> None:
        """Let the thread go on."""
        self._may_end.set()

    def note(self, name: str) -> Envelope:
        """Do one piece of work."""
        self.done.append(name)
        return build_envelope()


async def busy(lane: Lane, turnstile: Turnstile) -> asyncio.Task[Envelope]:
    """Occupy a lane, so that what comes now waits."""
    first = asyncio.create_task(lane.run(0.0, turnstile.block))
    await asyncio.to_thread(turnstile.begun.wait, 10)
    return first


async def test_body_that_is_due_first_is_decoded_first() -> None:
    """Arrival and size together: a small one passes a large one, but not one that has waited for long enough."""
    lane, turnstile = Lane("test"), Turnstile()
    tasks = [await busy(lane, turnstile)]
    for name, due_s in (("20 MB at 0 s", 2.0), ("1 MB at 1 s", 1.1), ("1 MB at 1.95 s", 2.05)):
        tasks.append(asyncio.create_task(lane.run(due_s, lambda name=name: turnstile.note(name))))  # type: ignore[misc]
        await asyncio.sleep(0)
    turnstile.open()
    await asyncio.gather(*tasks)
    assert turnstile.done == ["1 MB at 1 s", "20 MB at 0 s", "1 MB at 1.95 s"]


async def test_body_of_a_caller_who_left_is_not_decoded() -> None:
    lane, turnstile = Lane("test"), Turnstile()
    first = await busy(lane, turnstile)
    left = asyncio.create_task(lane.run(1.0, lambda: turnstile.note("left")))
    stayed = asyncio.create_task(lane.run(2.0, lambda: turnstile.note("stayed")))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait([left])
    turnstile.open()
    await asyncio.gather(first, stayed)
    assert turnstile.done == ["stayed"]


async def test_refusal_comes_out_of_the_thread() -> None:
    """As it would on the loop."""
    for size in (1_000_000, 3_000_000):
        body = b"[" + b" " * size + b"]"
        with pytest.raises(GatewayError) as caught:
            await Beside(lambda: 0.0).run(body, partial(CHAT.decode, body))
        assert caught.value.kind is ErrorKind.INVALID_REQUEST


@pytest.mark.parametrize(
    ("body", "quick"),
    [
        (b"[]," * 20_000, True),
        (b"x" * 500_000, True),
        (b"[]," * 30_000, False),
        (b'"",' * 30_000, False),
        (b"x" * 600_000, False),
    ],
)
async def test_only_what_is_quick_is_decoded_on_the_loop(body: bytes, quick: bool) -> None:
    """By size, and between 64 KB and half a megabyte by what it is made of."""
    thread = await Beside(lambda: 0.0).run(body, threading.get_ident)
    assert (thread == threading.get_ident()) is quick
