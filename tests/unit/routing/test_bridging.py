"""Routing while an own model has no replica: others bridge the time, and it is known who was wanted."""

import pytest

from gateway.errors import ErrorKind, GatewayError
from tests.ground.builders import build_view
from tests.unit.routing.test_router import CHEAP, DEAR, flat, order, plan_of

FAST = {"ttft_ms": {"p95": 1500.0}}
SLOW = flat(3000.0)


def test_a_target_without_a_replica_comes_last_and_is_wanted() -> None:
    """The cheapest has none: the next serves, the reason says so, and it stays as the last resort."""
    plan = plan_of(build_view(CHEAP, cold=True), build_view(DEAR))
    assert order(plan) == ["dear", "cheap"]
    assert plan.wanted is CHEAP
    assert plan.reason.startswith("cheap has no replica ready: ")


def test_cold_target_that_would_not_have_been_first_is_not_wanted() -> None:
    """Nobody starts a replica for a call that would go elsewhere anyway."""
    plan = plan_of(build_view(CHEAP), build_view(DEAR, cold=True))
    assert order(plan) == ["cheap", "dear"]
    assert plan.wanted is None


def test_cold_target_beyond_a_ceiling_is_not_wanted() -> None:
    plan = plan_of(build_view(CHEAP, cold=True, ttft_ms=SLOW), build_view(DEAR), limits=FAST)
    assert (order(plan), plan.wanted) == (["dear", "cheap"], None)


def test_only_target_is_first_and_wanted_while_cold() -> None:
    plan = plan_of(build_view(CHEAP, cold=True))
    assert (order(plan), plan.wanted) == (["cheap"], CHEAP)


def test_route_that_rejects_waits_for_a_cold_target_within_its_ceilings() -> None:
    """Refusing would be wrong: a replica that keeps the ceilings can be had."""
    views = (build_view(CHEAP, cold=True), build_view(DEAR, ttft_ms=SLOW))
    plan = plan_of(*views, limits=FAST, when_none_fits="reject")
    assert (order(plan), plan.wanted) == (["cheap"], CHEAP)


def test_route_that_rejects_keeps_no_target_beyond_a_ceiling_as_its_last() -> None:
    views = (build_view(CHEAP, cold=True, ttft_ms=SLOW), build_view(DEAR))
    assert order(plan_of(*views, limits=FAST, when_none_fits="reject")) == ["dear"]
    with pytest.raises(GatewayError) as refused:
        plan_of(
            build_view(CHEAP, cold=True, ttft_ms=SLOW),
            build_view(DEAR, ttft_ms=SLOW),
            limits=FAST,
            when_none_fits="reject",
        )
    assert refused.value.kind is ErrorKind.NO_TARGET


def test_each_candidate_is_tried_once() -> None:
    """Whatever is cold, due or beyond a ceiling, nobody stands twice in a plan."""
    for cold in (True, False):
        for due in (True, False):
            views = (build_view(CHEAP, cold=True, probe_due=due, ttft_ms=SLOW), build_view(DEAR, cold=cold))
            assert sorted(order(plan_of(*views, limits=FAST))) == ["cheap", "dear"]
