"""Connections that bring much go on one after the other."""

import asyncio

from gateway.turns import Turns
from tests.ground.waiting import SOON_S


async def test_turn_of_the_loop_lets_one_connection_go_on() -> None:
    """In the order in which they began to wait, one that comes back behind all others, and none at once."""
    turns, went_on = Turns(), [""]
    seen: list[int] = []

    def go_on(name: str, *, again: bool) -> None:
        went_on[-1] += name
        if again:
            turns.wait(lambda: go_on(name, again=False))

    turns.wait(lambda: go_on("a", again=True))
    turns.wait(lambda: go_on("b", again=False))
    assert went_on == [""]
    for _ in range(8):
        await asyncio.sleep(0)
        seen.append(len(went_on[-1]))
    assert went_on == ["aba"]
    assert all(later - earlier <= 1 for earlier, later in zip([0, *seen], seen, strict=False))


async def test_pause_lies_between_two_turns() -> None:
    """For what else the loop has to do."""
    loop = asyncio.get_running_loop()
    turns, ended = Turns(0.01), loop.create_future()
    begun_s = loop.time()
    turns.wait(lambda: None)
    turns.wait(lambda: ended.set_result(loop.time()))
    assert await ended - begun_s >= 0.019


async def test_connection_that_cannot_go_on_keeps_no_other_from_it() -> None:
    """What it raises is the loop's to report."""
    loop = asyncio.get_running_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _loop, context: told.append(context["exception"]))
    turns, ended = Turns(), loop.create_future()
    failure = RuntimeError("closed")

    def fail() -> None:
        raise failure

    turns.wait(fail)
    turns.wait(lambda: ended.set_result(None))
    await asyncio.wait_for(ended, SOON_S)
    assert told == [failure]
