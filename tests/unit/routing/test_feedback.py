"""The loop: what the pool measures moves the router's order, and back. Time is moved by hand."""

import asyncio
import random

import pytest

from gateway.targets.pool import Pool
from gateway.tariff import Rates
from gateway.types import Sample
from tests.ground.builders import build_call, build_route, build_target

CHEAP = build_target("cheap", rates=Rates(output_nano_usd_per_mtok=100_000_000))
DEAR = build_target("dear", rates=Rates(output_nano_usd_per_mtok=1_000_000_000))


class Traffic:
    """One call after the other, two a second, served by targets of a given TTFT."""

    def __init__(self, *, objective: str = "cost", ttft_p95_ms: float | None = 1000.0) -> None:
        limits = {} if ttft_p95_ms is None else {"ttft_ms": {"p95": ttft_p95_ms}}
        route = build_route(CHEAP, DEAR, objective=objective, limits=limits, clock=self)
        self.call = build_call(route=route, input_tokens_estimate=100)
        self.now_ns = 0
        self.ttft_ms = {"cheap": 200.0, "dear": 150.0}
        self.pool = Pool(self)
        self.draw = random.Random(4)
        self.hidden_tokens = {"cheap": 0, "dear": 0}

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns

    def one(self) -> str:
        """Serve one call and return where it went."""
        target = self.call.route.policy.plan(self.call, self.pool.view(self.call)).candidates[0].target
        lease = self.pool.begin(target, build_call())
        ttft_ms = self.ttft_ms[target.id] * self.draw.uniform(0.9, 1.1)
        self.now_ns += round((ttft_ms + 100) * 1e6)
        lease.end(
            Sample(
                ok=True,
                trips_breaker=False,
                input_tokens=100,
                output_tokens=11,
                hidden_tokens=self.hidden_tokens[target.id],
                ttft_ms=ttft_ms,
                tpot_ms=10.0,
            )
        )
        self.now_ns += 500_000_000
        return target.id

    def many(self, count: int) -> list[str]:
        return [self.one() for _ in range(count)]


@pytest.mark.parametrize("warm", [10, 100])
def test_traffic_leaves_a_target_that_slows_and_comes_back_when_it_recovers(warm: int) -> None:
    """From 200 to 3000 ms over a ceiling of 1000: at most four calls meet it, then one in ten as a probe.

    When it is fast again, the next probe and at most three more in a row bring all traffic back.
    """
    traffic = Traffic()
    assert set(traffic.many(warm)) == {"cheap"}
    traffic.ttft_ms["cheap"] = 3000.0
    slow = traffic.many(200)
    assert slow.index("dear") <= 4
    after = slow[slow.index("dear") :]
    assert after.count("cheap") <= len(after) / 10
    assert after.count("cheap") >= len(after) / 20
    traffic.ttft_ms["cheap"] = 200.0
    recovered = traffic.many(100)
    assert recovered.index("cheap") <= 20
    back = recovered[recovered.index("cheap") :]
    assert set(back) == {"cheap"}


def test_latency_finds_the_target_that_has_become_faster() -> None:
    """By latency the loser is tried now and then, and takes over when it wins."""
    traffic = Traffic(objective="latency", ttft_p95_ms=None)
    assert traffic.many(60).count("dear") > 50
    traffic.ttft_ms["dear"] = 2000.0
    assert traffic.many(100)[-20:].count("cheap") >= 18
    traffic.ttft_ms["dear"] = 20.0
    assert traffic.many(100)[-20:].count("dear") >= 18


def test_probing_a_slow_target_is_done_by_one_call_at_a_time() -> None:
    """However many plans are made while the probe is under way, only it goes to the slow target."""
    traffic = Traffic()
    traffic.many(20)
    traffic.ttft_ms["cheap"] = 3000.0
    while traffic.one() == "cheap":
        pass
    traffic.now_ns += 60_000_000_000
    served = []
    for _ in range(40):
        target = traffic.call.route.policy.plan(traffic.call, traffic.pool.view(traffic.call)).candidates[0].target
        traffic.pool.begin(target, build_call())
        served.append(target.id)
    assert served.count("cheap") == 1


async def test_a_half_open_target_gets_exactly_one_of_a_hundred_concurrent_calls() -> None:
    """All plans are made before the first attempt begins; asking again just before beginning lets one through."""
    traffic = Traffic(ttft_p95_ms=None)
    for _ in range(3):
        lease = traffic.pool.begin(CHEAP, build_call())
        lease.end(
            Sample(
                ok=False,
                trips_breaker=True,
                input_tokens=0,
                output_tokens=0,
                ttft_ms=None,
                tpot_ms=None,
            )
        )
    assert traffic.one() == "dear"
    traffic.now_ns += 1_000_000_000

    async def serve() -> str:
        plan = traffic.call.route.policy.plan(traffic.call, traffic.pool.view(traffic.call))
        assert plan.candidates[0].target.id == "cheap"
        await asyncio.sleep(0)
        for candidate in plan.candidates:
            if traffic.pool.refusal(candidate.target, traffic.call) is None:
                lease = traffic.pool.begin(candidate.target, build_call())
                await asyncio.sleep(0)
                lease.abandon()
                return candidate.target.id
        return "none"

    served = await asyncio.gather(*[serve() for _ in range(100)])
    assert served.count("cheap") == 1
    assert served.count("dear") == 99


def test_hidden_reasoning_counts_in_the_predicted_cost() -> None:
    """A target whose tokens are cheap but many goes behind; the length that TPOT multiplies stays as shown."""
    traffic = Traffic(ttft_p95_ms=None)
    assert traffic.one() == "cheap"
    traffic.hidden_tokens["cheap"] = 1_000
    assert traffic.many(30)[-10:].count("cheap") <= 2
    view = traffic.pool.view(traffic.call)[0]
    assert view.output_tokens is not None
    assert view.output_tokens.p95 == pytest.approx(11)
