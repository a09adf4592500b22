"""The pool: shares of own hardware, probes, leases that end once."""

import gc
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.errors import ErrorKind
from gateway.targets.pool import MAX_TARGETS, PROBE_EVERY, Lease, Lesson, Pool
from gateway.targets.stats import SIZE
from gateway.tariff import Rates
from gateway.types import Sample, Target, TargetView, Timeouts
from tests.ground.builders import build_call, build_route, build_target

TARGET = build_target("own")
CALL = build_call(route=build_route(TARGET), input_tokens_estimate=100)


class HandClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


def sample(ttft_ms: float | None = 100.0, *, ok: bool = True, **fields: object) -> Sample:
    given_fields = {
        "trips_breaker": not ok,
        "input_tokens": 100,
        "output_tokens": 20 if ok else 0,
        "tpot_ms": 10.0 if ok else None,
    }
    return Sample(ok=ok, ttft_ms=ttft_ms, **(given_fields | fields))  # type: ignore[arg-type]


def view(pool: Pool) -> TargetView:
    return pool.view(CALL)[0]


@given(st.lists(st.tuples(st.integers(1, 5_000_000_000), st.booleans(), st.integers(0, 9)), max_size=60))
def test_shares_of_concurrent_attempts_add_up_to_the_busy_time(steps: list[tuple[int, bool, int]]) -> None:
    """Whoever begins and ends when, the replica-seconds add up to the time in which at least one attempt ran."""
    clock = HandClock()
    pool = Pool(clock)
    running: list[Lease] = []
    busy_ns, shares_s = 0, []
    for step_ns, begins, which in steps:
        clock.now_ns += step_ns
        busy_ns += step_ns if running else 0
        if begins or not running:
            running.append(pool.begin(TARGET, build_call()))
        else:
            lease = running.pop(which % len(running))
            shares_s.append(lease.abandon() if which % 2 else lease.end(sample()))
    clock.now_ns += 7
    busy_ns += 7 if running else 0
    shares_s += [lease.abandon() for lease in running]
    assert math.isclose(math.fsum(shares_s), busy_ns / 1e9, rel_tol=1e-12, abs_tol=1e-9)
    assert pool.in_flight().get("own", 0) == 0


def test_two_calls_side_by_side_pay_half_each() -> None:
    """One second alone, one second together, one second alone: 1.5 replica-seconds each."""
    clock = HandClock()
    pool = Pool(clock)
    first = pool.begin(TARGET, build_call())
    clock.pass_s(1)
    second = pool.begin(TARGET, build_call())
    assert (first.in_flight_at_start, second.in_flight_at_start) == (1, 2)
    assert view(pool).share == pytest.approx(1 / 3)
    clock.pass_s(1)
    assert first.end(sample()) == pytest.approx(1.5)
    clock.pass_s(1)
    assert second.abandon() == pytest.approx(1.5)


def test_a_lease_ends_once() -> None:
    """Ending again, or abandoning what has ended, changes no count and returns the same share."""
    clock = HandClock()
    pool = Pool(clock)
    lease = pool.begin(TARGET, build_call())
    clock.pass_s(2)
    assert lease.end(sample()) == pytest.approx(2.0)
    clock.pass_s(5)
    assert lease.end(sample(9000.0)) == lease.abandon() == pytest.approx(2.0)
    assert sum(pool.in_flight().values()) == 0
    assert view(pool).ttft_ms is not None
    assert view(pool).ttft_ms.p99 == pytest.approx(100.0)  # type: ignore[union-attr]


def test_lease_leaves_its_place_when_learning_fails() -> None:
    """A fault of ours, in a lesson or in telling the other processes of it, keeps no place and no probe."""

    def fail(_: Lesson) -> None:
        raise ArithmeticError

    clock = HandClock()
    pool = Pool(clock, publish=fail)
    for _ in range(3):
        with pytest.raises(ArithmeticError):
            pool.begin(TARGET, build_call()).end(sample(ok=False))
    assert sum(pool.in_flight().values()) == 0
    assert pool.breaker_states() == {"own": "open"}
    clock.pass_s(1)
    with pytest.raises(ArithmeticError):
        pool.begin(TARGET, build_call()).end(sample())
    assert pool.breaker_states() == {"own": "closed"}


def test_a_target_never_measured_has_no_prediction_and_is_worth_a_try_once() -> None:
    """Cold: None everywhere, due until somebody tries, and not due for others meanwhile."""
    pool = Pool(HandClock())
    cold = view(pool)
    assert (cold.ttft_ms, cold.tpot_ms, cold.output_tokens, cold.refusal, cold.share) == (None, None, None, None, 1.0)
    assert cold.probe_due
    lease = pool.begin(TARGET, build_call())
    assert not view(pool).probe_due
    lease.abandon()
    assert view(pool).probe_due


def test_a_target_passed_over_becomes_due_after_time_and_calls() -> None:
    """Ten seconds without news make a target due, but not before ten calls have looked: a rare call is no probe."""
    clock = HandClock()
    pool = Pool(clock)
    pool.begin(TARGET, build_call()).end(sample())
    for _ in range(30):
        assert not view(pool).probe_due
    clock.pass_s(10)
    assert view(pool).probe_due
    probe = pool.begin(TARGET, build_call())
    assert not view(pool).probe_due
    probe.end(sample())
    clock.pass_s(60)
    assert [view(pool).probe_due for _ in range(10)] == [False] * 9 + [True]


def test_a_surprisingly_fast_sample_asks_for_another_at_once() -> None:
    """A recovered target needs a few calls, not a few probe intervals."""
    clock = HandClock()
    pool = Pool(clock)
    for _ in range(5):
        pool.begin(TARGET, build_call()).end(sample(2000.0, tpot_ms=None))
    assert not view(pool).probe_due
    pool.begin(TARGET, build_call()).end(sample(100.0, tpot_ms=None))
    assert view(pool).probe_due


def test_a_quick_failure_is_no_fast_sample() -> None:
    """An error after a millisecond leaves the prediction as it was; a refused connection gives a cold target none."""
    clock = HandClock()
    pool = Pool(clock)
    lease = pool.begin(TARGET, build_call())
    clock.pass_s(0.001)
    lease.end(sample(None, ok=False))
    assert view(pool).ttft_ms is None
    for ttft_ms in (300.0, 400.0, 500.0, 600.0, 700.0):
        pool.begin(TARGET, build_call()).end(sample(ttft_ms))
    before = view(pool).ttft_ms
    for _ in range(10):
        lease = pool.begin(TARGET, build_call())
        clock.pass_s(0.001)
        lease.end(sample(None, ok=False))
    assert view(pool).ttft_ms == before


@pytest.mark.parametrize("known_ms", [None, 200.0])
def test_a_wait_in_vain_is_a_slow_sample(known_ms: float | None) -> None:
    """Whoever waited 5 s for nothing, by timeout or by giving up, has learnt that TTFT is more than that."""
    clock = HandClock()
    pool = Pool(clock)
    if known_ms is not None:
        for _ in range(4):
            pool.begin(TARGET, build_call()).end(sample(known_ms))
    lease = pool.begin(TARGET, build_call())
    clock.pass_s(5)
    lease.end(sample(None, ok=False, trips_breaker=False, input_tokens=0))
    learnt = view(pool).ttft_ms
    assert learnt is not None
    assert learnt.p99 > 5000


def test_a_probe_cut_short_by_a_ceiling_does_not_open_the_breaker() -> None:
    """Slow is not broken: probes that time out leave the breaker closed, other timeouts open it."""
    clock = HandClock()
    pool = Pool(clock)
    pool.begin(TARGET, build_call()).end(sample(3000.0))
    for _ in range(5):
        clock.pass_s(10)
        for _ in range(PROBE_EVERY - 1):
            view(pool)
        assert view(pool).probe_due
        probe = pool.begin(TARGET, build_call())
        clock.pass_s(1.5)
        probe.end(sample(1500.0, ok=False, trips_breaker=False, error_kind=ErrorKind.UPSTREAM_TIMEOUT))
        assert not view(pool).probe_due
    assert pool.breaker_states() == {"own": "closed"}
    for _ in range(3):
        pool.begin(TARGET, build_call()).end(sample(1500.0, ok=False, error_kind=ErrorKind.UPSTREAM_TIMEOUT))
    assert pool.breaker_states() == {"own": "open"}
    assert view(pool).refusal is not None
    assert view(pool).retry_after_s == pytest.approx(1.0)


def test_answer_lengths_are_kept_apart_by_cap() -> None:
    """Answers cut off at 16 tokens say nothing of uncapped ones; a cap never tried cuts the uncapped prediction off."""
    pool = Pool(HandClock())
    for _ in range(5):
        pool.begin(TARGET, build_call()).end(sample(output_tokens=300))
        pool.begin(TARGET, build_call()).end(sample(output_tokens=16, max_output_tokens=16))

    def median(cap: int | None) -> float:
        known = pool.view(build_call(route=build_route(TARGET), max_output_tokens=cap))[0].output_tokens
        assert known is not None
        return known.p50

    assert median(None) == pytest.approx(300)
    assert median(16) == pytest.approx(16)
    assert median(100) == pytest.approx(100)


def test_removed_target_is_forgotten_once_idle() -> None:
    """A reload drops idle targets that are neither configured nor behind a wildcard; running ones stay until later."""
    pool = Pool(HandClock())
    for name in ("gone", "kept", "openai/one"):
        pool.begin(build_target(name), build_call()).abandon()
    lease = pool.begin(build_target("busy"), build_call())
    pool.follow(["kept"], lambda name: build_target(name) if name.startswith("openai/") or name == "kept" else None)
    assert set(pool.in_flight()) == {"kept", "openai/one", "busy"}
    lease.abandon()
    pool.follow(["kept"], lambda name: build_target(name) if name == "kept" else None)
    assert set(pool.in_flight()) == {"kept"}


REFUSED = sample(None, ok=False, error_kind=ErrorKind.UPSTREAM_CREDENTIALS.value)
OLD, NEW = build_target("own", pool="key 1"), build_target("own", pool="key 2")


def is_closed(pool: Pool) -> bool:
    return pool.breaker_states().get("own", "closed") == "closed"


def refused_twice(pool: Pool, target: Target = OLD) -> None:
    for lease in [pool.begin(target, build_call()) for _ in range(2)]:
        lease.end(REFUSED)


@pytest.mark.parametrize(
    ("changed", "closes"),
    [
        ({"pool": "key 2"}, True),
        ({"base_url": "http://moved.test/v1"}, True),
        ({"cluster_url": "http://cluster.test"}, True),
        ({"upstream_model": "another"}, True),
        ({"adapter": "anthropic"}, True),
        ({"headers": (("api-key", "2"),)}, True),
        ({}, False),
        ({"rates": Rates(), "timeouts": Timeouts(total_s=5), "context_length": 5, "always_stream": True}, False),
    ],
)
def test_breaker_is_closed_anew_where_a_target_is_reached_in_another_way(
    changed: dict[str, Any], *, closes: bool
) -> None:
    pool = Pool(HandClock())
    pool.follow(["own"], lambda _: OLD)
    refused_twice(pool)
    assert not is_closed(pool)
    pool.follow(["own"], lambda _: replace(OLD, **changed))
    assert is_closed(pool) is closes


def test_attempt_with_the_old_credential_says_nothing_of_the_new_one() -> None:
    """Neither one that was under way during the reload, nor one of a call that was planned before it."""
    pool = Pool(HandClock())
    pool.follow(["own"], lambda _: OLD)
    under_way = [pool.begin(OLD, build_call()) for _ in range(2)]
    pool.follow(["own"], lambda _: NEW)
    for lease in under_way:
        lease.end(REFUSED)
    refused_twice(pool, OLD)
    assert is_closed(pool)
    assert pool.in_flight()["own"] == 0
    refused_twice(pool, NEW)
    assert not is_closed(pool)


def test_probe_with_the_old_credential_leaves_the_new_breaker_alone() -> None:
    clock = HandClock()
    pool = Pool(clock)
    pool.follow(["own"], lambda _: OLD)
    refused_twice(pool)
    clock.pass_s(61)
    probe = pool.begin(OLD, build_call())
    pool.follow(["own"], lambda _: NEW)
    refused_twice(pool, NEW)
    probe.end(sample())
    assert pool.breaker_states()["own"] == "open"


@pytest.mark.parametrize("reread_first", [0, 1])
def test_failure_in_a_process_that_has_yet_to_reread_the_configuration_is_its_own(reread_first: int) -> None:
    """And what the first one has learnt with the new credential is nothing to the other until it has reread too."""
    lessons: list[Lesson] = []
    pools = [Pool(HandClock(), publish=lessons.append) for _ in range(2)]
    for pool in pools:
        pool.follow(["own"], lambda _: OLD)
    first, second = pools[reread_first], pools[1 - reread_first]
    first.follow(["own"], lambda _: NEW)
    refused_twice(second, OLD)
    for lesson in lessons:
        first.learn_from_peer(lesson)
    assert is_closed(first)
    lessons.clear()
    second.follow(["own"], lambda _: NEW)
    refused_twice(second, NEW)
    for lesson in lessons:
        first.learn_from_peer(lesson)
    assert not is_closed(first)


def test_configured_target_outlives_any_number_of_invented_names() -> None:
    """Names that callers make up push out each other, the longest idle first, and never what is configured."""
    pool = Pool(HandClock())
    pool.begin(build_target("configured"), build_call()).abandon()
    pool.follow(["configured"], build_target)
    for number in range(MAX_TARGETS + 10):
        pool.begin(build_target(f"openai/{number}"), build_call()).abandon()
    assert len(pool.in_flight()) == MAX_TARGETS
    assert "configured" in pool.in_flight()
    assert "openai/0" not in pool.in_flight()


def test_a_newcomer_is_taken_to_answer_as_long_as_the_others() -> None:
    """Or a cheap target never tried would look dearer than a dear one known to answer briefly."""
    pool = Pool(HandClock())
    pool.begin(build_target("other"), build_call()).end(sample(output_tokens=12))
    known = view(pool).output_tokens
    assert known is not None
    assert known.p50 == pytest.approx(12)


def test_embeddings_say_nothing_of_how_long_answers_are() -> None:
    """A hundred of them, and a target never tried is still predicted to answer as long as chats were."""
    pool = Pool(HandClock())
    pool.begin(TARGET, CALL).end(sample(output_tokens=300))
    for _ in range(100):
        pool.begin(build_target("embeds"), CALL).end(sample(output_tokens=0, max_output_tokens=0, tpot_ms=None))
    for target in (TARGET, build_target("embeds"), build_target("new")):
        known = pool.view(build_call(route=build_route(target)))[0].output_tokens
        assert known is not None
        assert known.p50 == pytest.approx(300, rel=0.01)


def test_measurements_of_a_target_take_no_block_of_the_c_heap() -> None:
    """What Python keeps in blocks of up to 512 bytes lies apart from the bodies of requests, and leaves them no holes.

    Each target was answered once, and failed once: names behind a wildcard come and go in thousands.
    """
    pool, targets = Pool(HandClock()), [build_target(f"any/{number}") for number in range(200)]
    pool.follow([], lambda _target_id: None, several_keys=True)
    gc.collect()
    tracemalloc.start()
    for target in targets:
        call = build_call(route=build_route(target))
        pool.begin(target, call).end(sample())
        pool.begin(target, call).end(sample(ok=False, body_digest="a", trips_breaker=False))
        pool.view(call)
    traces = tracemalloc.take_snapshot().traces
    tracemalloc.stop()
    large = [trace.size for trace in traces if trace.size > 512]
    assert len(large) < len(targets) / 10


def test_measurements_of_a_busy_target_take_no_block_of_the_c_heap() -> None:
    """Of many more answers than are kept, some waiting to be learnt."""
    pool = Pool(HandClock())
    tracemalloc.start()
    for _ in range(10 * SIZE):
        pool.begin(TARGET, CALL).end(sample())
    traces = tracemalloc.take_snapshot().traces
    tracemalloc.stop()
    assert not [trace.size for trace in traces if 512 < trace.size < 1_000]
