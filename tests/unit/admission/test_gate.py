"""Rate and concurrency: exact under any interleaving, and nothing left behind."""

import asyncio
import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.base import Admission, Gate
from gateway.admission.gate import InProcessGate
from gateway.admission.shared import SharedGate
from gateway.clock import Clock, SystemClock
from gateway.errors import ErrorKind, GatewayError
from gateway.tariff import Amounts, Spent
from gateway.types import BodyBudget, Principal
from tests.ground.builders import build_principal

SECOND_NS = 1_000_000_000
NewGate = Callable[[Clock], Gate]
BUDGET = BodyBudget(per_key_bytes=100, in_all_bytes=150)
SPENT = Spent(Amounts(), 0)


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_ns = 5 * SECOND_NS

    def monotonic_ns(self) -> int:
        """Return what the test set."""
        return self.now_ns

    def wall_ns(self) -> int:
        """Return the same; nothing here reads it."""
        return self.now_ns


def a_key(key_id: str = "demo", *, per_minute: int | None = None, at_a_time: int | None = None) -> Principal:
    return build_principal(key_id, requests_per_minute=per_minute, concurrency=at_a_time)


class InTurn:
    """Three processes' gates as one: each call comes to the next of them."""

    def __init__(self, gates: list[SharedGate]) -> None:
        self._gates = itertools.cycle(gates)

    async def admit(self, key: Principal, budget: BodyBudget) -> Admission:
        """Ask the next one."""
        return await next(self._gates).admit(key, budget)


def started(directory: Path, slot: int, clock: Clock) -> SharedGate:
    gate = SharedGate(directory, slot, clock)
    gate.start()
    return gate


@pytest.fixture(scope="module", params=["one process", "three processes"])
def new_gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewGate]:
    """Make gates that have counted nothing."""
    opened: list[SharedGate] = []

    def make(clock: Clock) -> Gate:
        if request.param == "one process":
            return InProcessGate(clock)
        for gate in opened:  # of the example before: each holds descriptors
            gate.stop()
        opened.clear()
        directory = tmp_path_factory.mktemp("limits")
        gates = [started(directory, slot, clock) for slot in range(3)]
        opened.extend(gates)
        return InTurn(gates)

    yield make
    for gate in opened:
        gate.stop()


async def is_let_in(gate: Gate, key: Principal) -> Admission | None:
    try:
        return await gate.admit(key, BUDGET)
    except GatewayError:
        return None


async def refusal(gate: Gate, key: Principal) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await gate.admit(key, BUDGET)
    return caught.value


async def test_the_rate_is_exact_under_concurrency(new_gate: NewGate) -> None:
    """A hundred calls at the same moment, ten places: ten get in."""
    gate = new_gate(HandClock())
    key = a_key(per_minute=10)
    holds = await asyncio.gather(*(is_let_in(gate, key) for _ in range(100)))
    assert sum(hold is not None for hold in holds) == 10


async def test_refused_call_is_admitted_after_its_retry_after(new_gate: NewGate) -> None:
    """Retry-After is the moment when the oldest admission leaves the window: not a nanosecond sooner."""
    clock = HandClock()
    gate = new_gate(clock)
    key = a_key(per_minute=2)
    await gate.admit(key, BUDGET)
    clock.now_ns += 10 * SECOND_NS
    await gate.admit(key, BUDGET)
    clock.now_ns += 20 * SECOND_NS
    error = await refusal(gate, key)
    assert error.kind is ErrorKind.RATE_LIMITED
    assert error.status == 429
    assert error.retry_after_s == 30
    clock.now_ns += 30 * SECOND_NS - 1
    assert await is_let_in(gate, key) is None
    clock.now_ns += 1
    assert await is_let_in(gate, key) is not None
    assert (await refusal(gate, key)).retry_after_s == 10


async def test_admission_and_refusal_say_what_is_left(new_gate: NewGate) -> None:
    """Of the limit, and when all of it is there again: a minute after the last admission."""
    clock = HandClock()
    gate = new_gate(clock)
    key = a_key(per_minute=3, at_a_time=2)
    first = await gate.admit(key, BUDGET)
    assert first.allowance == (3, 2, 60)
    clock.now_ns += 10 * SECOND_NS
    assert (await gate.admit(key, BUDGET)).allowance == (3, 1, 60)
    clock.now_ns += 20 * SECOND_NS
    assert (await refusal(gate, key)).allowance == (3, 1, 40)
    first.settle(SPENT)
    last = await gate.admit(key, BUDGET)
    last.settle(SPENT)
    clock.now_ns += SECOND_NS
    assert (await refusal(gate, key)).allowance == (3, 0, 59)
    assert (await refusal(gate, a_key(per_minute=1, at_a_time=2))).allowance == (1, 0, 59)
    assert (await gate.admit(a_key("other", at_a_time=1), BUDGET)).allowance is None
    assert (await refusal(gate, a_key("other", at_a_time=1))).allowance is None


async def test_a_refused_call_does_not_count(new_gate: NewGate) -> None:
    """A client that hammers is let in again as soon as one that waits."""
    clock = HandClock()
    gate = new_gate(clock)
    key = a_key(per_minute=1)
    await gate.admit(key, BUDGET)
    for _ in range(59):
        clock.now_ns += SECOND_NS
        assert await is_let_in(gate, key) is None
    clock.now_ns += SECOND_NS
    assert await is_let_in(gate, key) is not None


@given(limit=st.integers(1, 4), pauses_ms=st.lists(st.integers(0, 40_000), max_size=60))
async def test_no_sixty_seconds_hold_more_than_the_limit(new_gate: NewGate, limit: int, pauses_ms: list[int]) -> None:
    """Whatever the rhythm; and who is refused is told when the oldest of them leaves."""
    clock = HandClock()
    gate = new_gate(clock)
    key = a_key(per_minute=limit)
    admitted: list[int] = []
    for pause_ms in pauses_ms:
        clock.now_ns += pause_ms * 1_000_000
        if await is_let_in(gate, key):
            admitted.append(clock.now_ns)
        else:
            retry_after_s = (await refusal(gate, key)).retry_after_s
            assert retry_after_s == (admitted[-limit] + 60 * SECOND_NS - clock.now_ns) / 1e9
    for start in admitted:
        assert sum(start <= other < start + 60 * SECOND_NS for other in admitted) <= limit


async def test_concurrency_is_exact_and_given_back_once(new_gate: NewGate) -> None:
    """Settling frees one place, however often it is called."""
    gate = new_gate(HandClock())
    key = a_key(at_a_time=2)
    holds = [hold for hold in await asyncio.gather(*(is_let_in(gate, key) for _ in range(9))) if hold]
    assert len(holds) == 2
    error = await refusal(gate, key)
    assert error.kind is ErrorKind.TOO_MANY_CONCURRENT
    assert error.retry_after_s == 1
    holds[0].settle(Spent(Amounts(output_tokens=3), 20))
    holds[0].settle(SPENT)
    assert await is_let_in(gate, key) is not None
    assert await is_let_in(gate, key) is None
    holds[1].settle(SPENT)
    assert await is_let_in(gate, key) is not None


async def test_a_call_refused_for_concurrency_costs_no_rate(new_gate: NewGate) -> None:
    """Both are checked before either is counted."""
    gate = new_gate(HandClock())
    key = a_key(per_minute=2, at_a_time=1)
    first = await gate.admit(key, BUDGET)
    for _ in range(5):
        assert (await refusal(gate, key)).kind is ErrorKind.TOO_MANY_CONCURRENT
    first.settle(SPENT)
    second = await gate.admit(key, BUDGET)
    second.settle(SPENT)
    assert (await refusal(gate, key)).kind is ErrorKind.RATE_LIMITED


async def test_keys_do_not_count_against_each_other(new_gate: NewGate) -> None:
    """What one key uses up, another still has."""
    gate = new_gate(HandClock())
    await gate.admit(a_key("a", per_minute=1, at_a_time=1), BUDGET)
    assert await is_let_in(gate, a_key("a", per_minute=1, at_a_time=1)) is None
    assert await is_let_in(gate, a_key("b", per_minute=1, at_a_time=1)) is not None


async def test_body_bytes_are_counted_per_key_and_in_all(new_gate: NewGate) -> None:
    """A key's share is its own fault (429), what all hold together is not (503); both say when to come back."""
    gate = new_gate(HandClock())
    one, other, third = [await gate.admit(a_key(name), BUDGET) for name in ("a", "a", "b")]
    one.take_body(60)
    with pytest.raises(GatewayError) as caught:
        other.take_body(41)
    assert (caught.value.kind, caught.value.status) == (ErrorKind.TOO_MANY_BODY_BYTES, 429)
    assert caught.value.retry_after_s == 2
    other.take_body(40)
    with pytest.raises(GatewayError) as caught:
        third.take_body(51)
    assert (caught.value.kind, caught.value.status) == (ErrorKind.BODY_MEMORY_FULL, 503)
    assert caught.value.retry_after_s == 2
    third.take_body(50)
    one.settle(SPENT)
    third.take_body(100)


async def test_growing_body_is_counted_once_and_given_back_once(new_gate: NewGate) -> None:
    """What it grew to, not the sum of the steps; a step that was refused leaves the count as it was."""
    gate = new_gate(HandClock())
    growing, other = [await gate.admit(a_key(at_a_time=2), BUDGET) for _ in range(2)]
    for size in (10, 50, 90):
        growing.take_body(size)
    with pytest.raises(GatewayError):
        growing.take_body(101)
    with pytest.raises(GatewayError):
        other.take_body(11)
    other.take_body(10)
    growing.settle(SPENT)
    growing.settle(SPENT)
    growing.take_body(1_000)  # too late to count
    other.take_body(100)
    other.settle(SPENT)
    (await gate.admit(a_key("another"), BUDGET)).take_body(100)


async def test_bodies_of_a_dead_process_are_given_back(tmp_path: Path) -> None:
    """The next process in its slot starts with none."""
    dead, other = started(tmp_path, 0, HandClock()), started(tmp_path, 1, HandClock())
    (await dead.admit(a_key(), BUDGET)).take_body(100)
    with pytest.raises(GatewayError):
        (await other.admit(a_key(), BUDGET)).take_body(1)
    dead.stop()
    successor = started(tmp_path, 0, HandClock())
    (await other.admit(a_key(), BUDGET)).take_body(100)
    successor.stop()
    other.stop()


async def test_limits_that_cannot_be_counted_refuse_the_call(tmp_path: Path) -> None:
    """Without a place for the count (the directory is gone) it is our 503, not an internal error."""
    gate = started(tmp_path / "limits", 0, HandClock())
    (tmp_path / "limits").rmdir()
    assert (await refusal(gate, a_key(per_minute=1))).kind is ErrorKind.STORAGE_UNAVAILABLE
    with pytest.raises(GatewayError) as caught:
        (await gate.admit(a_key(), BUDGET)).take_body(1)
    assert caught.value.kind is ErrorKind.STORAGE_UNAVAILABLE


async def test_counts_survive_a_reload_with_another_limit(new_gate: NewGate) -> None:
    """They hang on the key's id: a higher limit gives the rest, a lower one waits for the window to drain below it."""
    clock = HandClock()
    gate = new_gate(clock)
    for _ in range(3):
        await gate.admit(a_key(per_minute=3), BUDGET)
        clock.now_ns += SECOND_NS
    assert await is_let_in(gate, a_key(per_minute=4)) is not None
    assert (await refusal(gate, a_key(per_minute=4))).retry_after_s == 57
    assert (await refusal(gate, a_key(per_minute=1))).retry_after_s == 60


async def test_silent_key_leaves_nothing_behind() -> None:
    """A thousand keys that called once are forgotten after a minute, at the next admission of any other."""
    clock = HandClock()
    gate = InProcessGate(clock)
    for number in range(1_000):
        hold = await gate.admit(a_key(f"key-{number}", per_minute=5, at_a_time=5), BUDGET)
        hold.settle(SPENT)
    clock.now_ns += 60 * SECOND_NS
    await gate.admit(a_key("other", per_minute=5), BUDGET)
    assert list(gate._windows) == ["other"]
    assert gate._running == {}


async def test_a_busy_key_does_not_keep_a_silent_one() -> None:
    """The key that came first and goes on calling does not stand in the way of forgetting the second."""
    clock = HandClock()
    gate = InProcessGate(clock)
    await gate.admit(a_key("busy", per_minute=50), BUDGET)
    await gate.admit(a_key("silent", per_minute=50), BUDGET)
    for _ in range(3):
        clock.now_ns += 30 * SECOND_NS
        await gate.admit(a_key("busy", per_minute=50), BUDGET)
    assert list(gate._windows) == ["busy"]


async def test_a_key_without_limits_is_not_recorded() -> None:
    """Nor is anything held for it."""
    gate = InProcessGate(HandClock())
    for _ in range(1_000):
        hold = await gate.admit(a_key(), BUDGET)
    hold.settle(SPENT)
    hold.settle(SPENT)
    assert not gate._windows
    assert not gate._running


def _hammer(directory: Path, slot: int, start: Barrier, admitted: "multiprocessing.Queue[int]") -> None:
    async def run() -> int:
        gate = started(directory, slot, SystemClock())
        key = a_key(per_minute=300, at_a_time=1_000)
        start.wait()
        return sum([await is_let_in(gate, key) is not None for _ in range(400)])

    admitted.put(asyncio.run(run()))


@pytest.mark.slow
async def test_a_limit_is_exact_over_processes_at_the_same_moment(tmp_path: Path) -> None:
    """Three processes, four hundred calls each at once, three hundred a minute: three hundred get in."""
    context = multiprocessing.get_context("spawn")
    start, admitted = context.Barrier(3), context.Queue()
    children = [context.Process(target=_hammer, args=(tmp_path, slot, start, admitted)) for slot in range(3)]
    for child in children:
        child.start()
    counts = [admitted.get() for _ in children]
    for child in children:
        child.join()
    assert sum(counts) == 300, counts


async def test_limits_held_by_a_dead_process_are_free_again(tmp_path: Path) -> None:
    """For whoever takes its slot starts with nothing running; the others keep theirs, and the rate stays counted."""
    key = a_key(per_minute=3, at_a_time=2)
    dead, other = started(tmp_path, 0, HandClock()), started(tmp_path, 1, HandClock())
    await dead.admit(key, BUDGET)
    await other.admit(key, BUDGET)
    assert (await refusal(other, key)).kind is ErrorKind.TOO_MANY_CONCURRENT
    dead.stop()
    successor = started(tmp_path, 0, HandClock())
    await successor.admit(key, BUDGET)
    assert (await refusal(successor, key)).kind is ErrorKind.RATE_LIMITED
    successor.stop()
    other.stop()


async def test_shared_file_of_a_limit_has_its_disk_before_it_counts(tmp_path: Path) -> None:
    """Also when a reload has raised it: a mapped page without disk kills the process that writes to it."""
    gate = SharedGate(tmp_path, 0, SystemClock())
    for limit in (1, 10_000):
        await gate.admit(a_key(per_minute=limit), BUDGET)
        (file,) = tmp_path.iterdir()
        assert file.stat().st_blocks * 512 >= file.stat().st_size > limit * 8
    gate.stop()
