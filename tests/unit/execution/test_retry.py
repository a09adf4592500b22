"""When a call is sent to its last candidate once more, and what pays for it."""

from random import Random

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.execution.retry import LONGEST_WAIT_S, MOST_SAVED, RetryBudget


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


def failure(kind: ErrorKind, status: int | None = None, retry_after_s: float | None = None) -> UpstreamError:
    return UpstreamError(kind, "x", upstream_status=status, retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("error", "least_s", "most_s"),
    [
        (failure(ErrorKind.UPSTREAM_ERROR, 500), 0.0, LONGEST_WAIT_S),
        (failure(ErrorKind.UPSTREAM_OVERLOADED, 503), 0.0, LONGEST_WAIT_S),
        (failure(ErrorKind.UPSTREAM_CUT), 0.0, LONGEST_WAIT_S),
        (failure(ErrorKind.UPSTREAM_RATE_LIMITED, 429, 1.0), 1.0, 1.0 + LONGEST_WAIT_S),
        (failure(ErrorKind.UPSTREAM_OVERLOADED, 503, 2.0), 2.0, 2.0 + LONGEST_WAIT_S),
    ],
)
def test_momentary_failure_is_tried_again(error: UpstreamError, least_s: float, most_s: float) -> None:
    """After a wait drawn at random, and never before the time that the upstream named."""
    waits_s = [RetryBudget(HandClock(), Random(seed)).wait_s(error, 60.0) for seed in range(200)]
    assert all(wait_s is not None and least_s <= wait_s <= most_s for wait_s in waits_s)
    assert len(set(waits_s)) > 100


@pytest.mark.parametrize(
    "error",
    [
        failure(ErrorKind.UPSTREAM_ERROR, 404),
        failure(ErrorKind.UPSTREAM_RATE_LIMITED, 429),
        failure(ErrorKind.UPSTREAM_RATE_LIMITED, 429, 60.0),
        failure(ErrorKind.UPSTREAM_OVERLOADED, 503, 2.1),
        failure(ErrorKind.UPSTREAM_CREDENTIALS, 401),
        failure(ErrorKind.UPSTREAM_TIMEOUT),
        failure(ErrorKind.UPSTREAM_STALLED),
        failure(ErrorKind.UPSTREAM_PROTOCOL),
        failure(ErrorKind.BREAKER_OPEN),
        failure(ErrorKind.UPSTREAM_UNSUPPORTED, 501),
    ],
)
def test_failure_that_a_moment_does_not_mend_is_not_tried_again(error: UpstreamError) -> None:
    assert RetryBudget(HandClock(), Random(1)).wait_s(error, 60.0) is None


def test_wait_lies_within_what_is_left_of_the_call() -> None:
    error = failure(ErrorKind.UPSTREAM_RATE_LIMITED, 429, 1.0)
    assert RetryBudget(HandClock(), Random(1)).wait_s(error, 0.9) is None


def test_budget_is_a_fifth_of_the_calls_and_one_a_second() -> None:
    """In an outage every call asks for a retry: what was saved is used up, then a fifth of them get one."""
    clock = HandClock()
    budget = RetryBudget(clock, Random(1))
    error = failure(ErrorKind.UPSTREAM_ERROR, 500)

    def granted(calls: int) -> int:
        count = 0
        for _ in range(calls):
            budget.calls += 1
            count += budget.wait_s(error, 60.0) is not None
        return count

    assert granted(1_000) == pytest.approx(MOST_SAVED + 200, abs=2)
    assert granted(1_000) == pytest.approx(200, abs=2)
    clock.now_ns += 5_000_000_000
    assert granted(10) == pytest.approx(7, abs=1)
