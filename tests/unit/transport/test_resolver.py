"""Look-ups in virtual time: what is shared, kept, stale, bounded, and raised when nothing answers."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.simulation.virtual_time import run_virtual
from gateway.transport.resolver import (
    BEGIN_WITHIN_S,
    DOUBTED_AFTER_S,
    FAILURE_HOLDS_S,
    FRESH_S,
    MAX_HOSTS,
    MAX_LOOK_UPS,
    SECOND_AFTER_S,
    SOON_S,
    STALE_S,
    HostAddress,
    Resolver,
)

OLD = HostAddress(socket.AF_INET, ("192.0.2.1", 0))
NEW = HostAddress(socket.AF_INET, ("192.0.2.2", 0))
TIMEOUT_S = 2.0
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class System:
    """The system's resolver and its threads: a look-up hangs until the test answers it."""

    def __init__(self) -> None:
        self.hanging: list[Callable[[], None]] = []
        self.begun = 0
        self._answer: Sequence[HostAddress] | BaseException = ()
        self.resolver = Resolver(look_up=self._look_up, run=self._run)

    def _run(self, work: Callable[[], None]) -> None:
        self.begun += 1
        self.hanging.append(work)

    def _look_up(self, _host: str) -> Sequence[HostAddress]:
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def answer(self, *answer: HostAddress, index: int = 0) -> None:
        """Answer the look-up that hangs longest, or another."""
        self._answer = answer
        self.hanging.pop(index)()

    def fail(self, error: BaseException, index: int = 0) -> None:
        self._answer = error
        self.hanging.pop(index)()

    def ask(self, host: str = "up.test", timeout_s: float = TIMEOUT_S) -> "asyncio.Task[Sequence[HostAddress]]":
        return asyncio.create_task(self.resolver.addresses(host, timeout_s))

    async def know(self, *answer: HostAddress, host: str = "up.test") -> None:
        """Have a host looked up."""
        asking = self.ask(host)
        await asyncio.sleep(0)
        self.answer(*answer, index=-1)
        assert tuple(await asking) == answer


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def failure(asking: Awaitable[Sequence[HostAddress]]) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await asking
    return caught.value


def virtual(scenario: Callable[[System], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of a scenario in virtual time."""

    def test() -> None:
        async def run() -> None:
            await scenario(System())

        run_virtual(run())

    test.__doc__ = scenario.__doc__
    return test


@virtual
async def test_look_up_is_shared_and_kept(system: System) -> None:
    """Three callers at once are one look-up, and so is everybody within 30 s; then there is another one."""
    asking = [system.ask() for _ in range(3)]
    await asyncio.sleep(0.5)
    system.answer(OLD)
    assert [list(await each) for each in asking] == [[OLD]] * 3
    await asyncio.sleep(FRESH_S - 0.1)
    assert await system.ask() == (OLD,)
    assert system.begun == 1
    await asyncio.sleep(0.1)
    asked = system.ask()
    await asyncio.sleep(0)
    system.answer(NEW)
    assert await asked == (NEW,)


@virtual
async def test_stale_answer_stands_in_for_a_look_up_that_hangs(system: System) -> None:
    """The first waits a tenth of a second for it, the next not at all; what comes later is taken."""
    await system.know(OLD)
    await asyncio.sleep(FRESH_S)
    began_s = now_s()
    assert await system.ask() == (OLD,)
    assert now_s() - began_s == pytest.approx(SOON_S)
    began_s = now_s()
    assert await system.ask() == (OLD,)
    assert now_s() == began_s
    system.answer(NEW)
    await asyncio.sleep(0)
    assert await system.ask() == (NEW,)


@virtual
async def test_stale_answer_stands_in_for_a_look_up_that_fails(system: System) -> None:
    """At once, for an hour from the last answer on and no longer."""
    await system.know(OLD)
    for wait_s in (FRESH_S, STALE_S - FRESH_S - 10.0):
        await asyncio.sleep(wait_s)
        asking = system.ask()
        await asyncio.sleep(0)
        system.fail(UNKNOWN)
        assert await asking == (OLD,)
    await asyncio.sleep(10.0)
    asking = system.ask()
    await asyncio.sleep(0)
    system.fail(UNKNOWN)
    assert (await failure(asking)).cause == "dns"


@virtual
async def test_failure_holds_for_a_second(system: System) -> None:
    """A flood of requests to a host that does not resolve is no flood of look-ups."""
    asking = system.ask()
    await asyncio.sleep(0)
    system.fail(UNKNOWN)
    await failure(asking)
    for _request in range(100):
        await failure(system.ask())
    assert system.begun == 1
    await asyncio.sleep(FAILURE_HOLDS_S)
    asking = system.ask()
    await asyncio.sleep(0)
    system.answer(OLD)
    assert await asking == (OLD,)


@virtual
async def test_hanging_host_fails_in_time(system: System) -> None:
    """It is the target's trouble, and takes the connect timeout."""
    error = await failure(system.ask(timeout_s=0.7))
    assert (error.kind, error.cause) == (ErrorKind.UPSTREAM_CONNECT, "dns")
    assert error.message == "The upstream's host name was not resolved in time."
    assert now_s() == pytest.approx(0.7)


@virtual
async def test_hanging_host_has_two_look_ups_and_recovers_by_the_second(system: System) -> None:
    """The first may be lost for ever; its late failure changes nothing, and a third is not begun."""
    first = system.ask(timeout_s=60.0)
    await asyncio.sleep(SECOND_AFTER_S)
    second = system.ask(timeout_s=60.0)
    await asyncio.sleep(3 * SECOND_AFTER_S)
    third = system.ask(timeout_s=60.0)
    await asyncio.sleep(0)
    assert system.begun == 2
    system.answer(OLD, index=1)
    assert [await each for each in (first, second, third)] == [(OLD,)] * 3
    system.fail(UNKNOWN)
    await asyncio.sleep(0)
    assert await system.ask() == (OLD,)


@virtual
async def test_late_answer_of_an_older_look_up_is_not_taken(system: System) -> None:
    """The host had moved between the two."""
    asking = system.ask()
    await asyncio.sleep(SECOND_AFTER_S - 0.1)
    asking = system.ask(timeout_s=60.0)
    await asyncio.sleep(0.1)
    system.ask()
    await asyncio.sleep(0)
    system.answer(NEW, index=1)
    assert await asking == (NEW,)
    system.answer(OLD)
    await asyncio.sleep(0)
    assert await system.ask() == (NEW,)


@virtual
async def test_hundreds_of_hanging_hosts_leave_known_hosts_alone(system: System) -> None:
    """There are 64 look-ups at most. A known host is used as it was; of a new one it is told that we have no place."""
    await system.know(OLD, host="known.test")
    await asyncio.sleep(FRESH_S)
    hanging = [system.ask(f"h{number}.test", timeout_s=1.0) for number in range(300)]
    await asyncio.sleep(0.5)
    assert len(system.hanging) == MAX_LOOK_UPS
    began_s = now_s()
    assert await system.ask("known.test") == (OLD,)
    error = await failure(system.ask("new.test"))
    assert (error.kind, error.cause) == (ErrorKind.OWN_SHORTAGE, "look_ups")
    assert "/etc/resolv.conf" in error.message
    assert now_s() - began_s < 0.5
    kinds = [(await failure(each)).kind for each in hanging]
    assert kinds == [ErrorKind.UPSTREAM_CONNECT] * MAX_LOOK_UPS + [ErrorKind.OWN_SHORTAGE] * (300 - MAX_LOOK_UPS)


@virtual
async def test_burst_of_new_hosts_waits_for_running_look_ups(system: System) -> None:
    """A gateway that starts with a hundred hosts has all of them looked up, 64 at a time."""
    asking = [system.ask(f"h{number}.test") for number in range(100)]
    await asyncio.sleep(BEGIN_WITHIN_S / 2)
    while system.hanging:
        system.answer(OLD)
        await asyncio.sleep(0)
    assert [await each for each in asking] == [(OLD,)] * 100
    assert system.begun == 100
    await asyncio.sleep(FRESH_S)
    await system.know(NEW, host="h99.test")


@virtual
async def test_hosts_that_hang_twice_leave_look_ups_to_others(system: System) -> None:
    """A second look-up takes no place of the other half."""
    for _round in range(2):
        asking = [system.ask(f"h{number}.test", timeout_s=0.1) for number in range(40)]
        await asyncio.gather(*asking, return_exceptions=True)
        await asyncio.sleep(SECOND_AFTER_S)
    assert len(system.hanging) == 40
    await system.know(OLD)


@pytest.mark.parametrize(
    ("error", "kind", "cause"),
    [
        (UNKNOWN, ErrorKind.UPSTREAM_CONNECT, "dns"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), ErrorKind.UPSTREAM_CONNECT, "dns"),
        (UnicodeError("label empty or too long"), ErrorKind.UPSTREAM_CONNECT, "dns"),
        (None, ErrorKind.UPSTREAM_CONNECT, "dns"),
        (OSError(errno.EIO, "Input/output error"), ErrorKind.UPSTREAM_CONNECT, "dns"),
        (ZeroDivisionError(), ErrorKind.UPSTREAM_CONNECT, "dns"),
        (OSError(errno.EMFILE, "Too many open files"), ErrorKind.OWN_SHORTAGE, "open_files"),
        (OSError(errno.ENFILE, "Too many open files in system"), ErrorKind.OWN_SHORTAGE, "system_open_files"),
        (socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"), ErrorKind.OWN_SHORTAGE, "memory"),
        (MemoryError(), ErrorKind.OWN_SHORTAGE, "memory"),
    ],
)
def test_failed_look_up_has_a_cause(error: BaseException | None, kind: ErrorKind, cause: str) -> None:
    """None: an answer without an address. What we lack is told from what the host lacks."""

    async def scenario() -> None:
        system = System()
        asking = system.ask()
        await asyncio.sleep(0)
        if error is None:
            system.answer()
        else:
            system.fail(error)
        told = await failure(asking)
        assert (told.kind, told.cause) == (kind, cause)
        assert told.__cause__ is None
        assert told.__context__ is None

    run_virtual(scenario())


def test_thread_that_cannot_start_is_our_shortage() -> None:
    """It gives its place back, and a second later there is another try."""

    async def scenario() -> None:
        def run(_work: Callable[[], None]) -> None:
            raise RuntimeError("can't start new thread")

        resolver = Resolver(look_up=lambda _host: [OLD], run=run)
        for number in range(2 * MAX_LOOK_UPS):
            error = await failure(resolver.addresses(f"h{number}.test", TIMEOUT_S))
            assert (error.kind, error.cause) == (ErrorKind.OWN_SHORTAGE, "threads")

    run_virtual(scenario())


def test_threads_that_cannot_start_keep_no_host_waiting() -> None:
    """Those that wait for a place are told the same, in turn."""

    async def scenario() -> None:
        system = System()
        asking = [system.ask(f"h{number}.test", timeout_s=60.0) for number in range(MAX_HOSTS)]
        await asyncio.sleep(BEGIN_WITHIN_S / 2)

        def run(_work: Callable[[], None]) -> None:
            raise RuntimeError("can't start new thread")

        system.resolver._run = run
        system.answer(OLD)
        assert await asking[0] == (OLD,)
        causes = [(await failure(each)).cause for each in asking[MAX_LOOK_UPS:]]
        assert causes == ["threads"] * (MAX_HOSTS - MAX_LOOK_UPS)

    run_virtual(scenario())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1"])
def test_literal_address_needs_no_look_up(address: str) -> None:
    async def scenario() -> None:
        system = System()
        (found,) = await system.resolver.addresses(address, TIMEOUT_S)
        assert found.with_port(443)[:2] == (address, 443)
        assert system.begun == 0

    run_virtual(scenario())


@virtual
async def test_answer_that_led_nowhere_is_not_taken_again_for_fresh(system: System) -> None:
    """A host that has moved is found again by the next request, and a flood of them does not ask each time."""
    await system.know(OLD)
    system.resolver.doubt("up.test")
    assert await system.ask() == (OLD,)
    await asyncio.sleep(DOUBTED_AFTER_S)
    asking = system.ask()
    await asyncio.sleep(0)
    system.answer(NEW)
    assert await asking == (NEW,)
    system.resolver.doubt("never-asked.test")


@virtual
async def test_caller_who_leaves_takes_no_answer_from_others(system: System) -> None:
    first, second = system.ask(), system.ask()
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.sleep(0.1)
    system.answer(OLD)
    assert await second == (OLD,)
    assert first.cancelled()


@virtual
async def test_hosts_are_forgotten_beyond_a_number(system: System) -> None:
    """What a long life of reloads has asked for does not stay."""
    for number in range(MAX_HOSTS + 10):
        await system.know(OLD, host=f"h{number}.test")
    assert len(system.resolver._hosts) == MAX_HOSTS
    assert await system.ask(f"h{MAX_HOSTS}.test") == (OLD,)
