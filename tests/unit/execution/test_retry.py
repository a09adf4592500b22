"""When a call on which every target has failed asks one of them once more, and what pays for it."""

from random import Random

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.execution.budget import LARGEST_BALANCE
from gateway.execution.in_order import may_go_on
from gateway.execution.retry import JITTER_S, Failure, Retries
from gateway.types import Candidate, Prediction, Quantiles
from tests.ground.builders import build_target

NONE = Quantiles(0.0, 0.0, 0.0, 0.0)
PREDICTION = Prediction(output_tokens=NONE, ttft_ms=None, tpot_ms=None, cost_nano_usd=NONE)
DEADLINE_NS = 60_000_000_000


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


def failure(
    kind: ErrorKind,
    status: int | None = None,
    retry_after_s: float | None = None,
    *,
    target: str = "small",
    provider: str = "test",
    repeatable: bool = True,
) -> Failure:
    candidate = Candidate(target=build_target(target, provider=provider), prediction=PREDICTION, within_ceilings=True)
    error = UpstreamError(kind, "x", upstream_status=status, retry_after_s=retry_after_s)
    return Failure(candidate, error, repeatable)


def retries(seed: int = 1) -> Retries:
    return Retries(HandClock(), Random(seed).random)


@pytest.mark.parametrize(
    ("failed", "least_s"),
    [
        (failure(ErrorKind.UPSTREAM_ERROR, 500), 0.0),
        (failure(ErrorKind.UPSTREAM_ERROR), 0.0),
        (failure(ErrorKind.UPSTREAM_OVERLOADED, 503), 0.0),
        (failure(ErrorKind.UPSTREAM_CUT), 0.0),
        (failure(ErrorKind.UPSTREAM_CONNECT), 0.0),
        (failure(ErrorKind.UPSTREAM_RATE_LIMITED, 429, 1.0), 1.0),
        (failure(ErrorKind.UPSTREAM_OVERLOADED, 503, 2.0), 2.0),
    ],
)
def test_momentary_failure_is_tried_again(failed: Failure, least_s: float) -> None:
    """After a wait drawn at random, and never before the time that the upstream named."""
    found = [retries(seed).after([failed], DEADLINE_NS) for seed in range(200)]
    waits_s = [each.wait_s for each in found if each is not None]
    assert len(waits_s) == 200
    assert all(least_s <= wait_s <= least_s + JITTER_S for wait_s in waits_s)
    assert len(set(waits_s)) > 100


@pytest.mark.parametrize(
    "failed",
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
        failure(ErrorKind.UPSTREAM_ERROR, 500, repeatable=False),
        failure(ErrorKind.UPSTREAM_CUT, repeatable=False),
    ],
)
def test_failure_that_a_moment_does_not_mend_is_not_tried_again(failed: Failure) -> None:
    assert retries().after([failed], DEADLINE_NS) is None


def test_wait_lies_within_what_is_left_of_the_call() -> None:
    assert retries().after([failure(ErrorKind.UPSTREAM_RATE_LIMITED, 429, 1.0)], 900_000_000) is None


def test_target_that_may_be_well_first_is_the_one_that_is_tried_again() -> None:
    """Of equals the plan's first."""
    limited = failure(ErrorKind.UPSTREAM_RATE_LIMITED, 429, 2.0, target="limited")
    broken = failure(ErrorKind.UPSTREAM_ERROR, 500, target="broken")
    cut = failure(ErrorKind.UPSTREAM_CUT, target="cut")
    silent = failure(ErrorKind.UPSTREAM_TIMEOUT, target="silent")
    chosen = retries().after([silent, limited, broken, cut], DEADLINE_NS)
    assert chosen is not None
    assert chosen.candidate.target.id == "broken"


def test_budget_is_a_fifth_of_the_requests_and_one_a_second_of_each_provider() -> None:
    """In an outage every call asks for a retry: what was saved is used up, then a fifth of them get one."""
    clock = HandClock()
    budgets = Retries(clock, Random(1).random)

    def granted(calls: int, provider: str = "test") -> int:
        count = 0
        for _ in range(calls):
            budgets.asked[provider] += 1
            deadline_ns = clock.now_ns + DEADLINE_NS
            count += budgets.after([failure(ErrorKind.UPSTREAM_ERROR, 500, provider=provider)], deadline_ns) is not None
        return count

    assert granted(1_000) == pytest.approx(LARGEST_BALANCE + 200, abs=2)
    assert granted(1_000) == pytest.approx(200, abs=2)
    clock.now_ns += 5_000_000_000
    assert granted(10) == pytest.approx(7, abs=1)
    assert granted(10, "other") == 10


@pytest.mark.parametrize(
    ("kind", "replicas", "tries"),
    [
        (ErrorKind.UPSTREAM_CONNECT, 2, 3),
        (ErrorKind.UPSTREAM_CONNECT, 6, 6),
        (ErrorKind.UPSTREAM_CUT, 2, 3),
        (ErrorKind.UPSTREAM_CUT, 6, 3),
        (ErrorKind.UPSTREAM_CONNECT, 0, 1),  # no other one could serve
    ],
)
def test_replicas_of_a_target_are_tried_no_more_often_than_there_are(
    kind: ErrorKind, replicas: int, tries: int
) -> None:
    """Those that say how they are and cannot be connected to would be tried until the deadline."""
    tried = [failure(ErrorKind.UPSTREAM_CONNECT, target="other"), failure(kind)]
    while may_go_on(tried[-1].candidate.target, tried, replicas) and len(tried) < 100:
        tried.append(failure(kind))
    assert len(tried) - 1 == tries
