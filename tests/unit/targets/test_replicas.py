"""The book of replicas: who takes requests, how many there are, who is wanted."""

import asyncio

import pytest
from msgspec.structs import replace

from gateway.config.parts import Tools
from gateway.config.section import Section
from gateway.errors import ErrorKind, UpstreamError
from gateway.fleet import ListedModel, ListedReplica, LoadReport, Tally
from gateway.routing.predictors.cost import RatesTimesTokens
from gateway.targets.pool import Pool
from gateway.targets.replicas import MAX_WAITING, WANTED_FOR_NS, Fleet, Replica, Replicas
from gateway.tariff import Rates
from gateway.types import Quantiles
from tests.ground.builders import build_call, build_principal, build_route, build_target
from tests.ground.waiting import SOON_S
from tests.unit.targets.test_pool import HandClock, sample

CLUSTER = "http://cluster.test"
TARGET = build_target("own", upstream_model="own", cluster_url=CLUSTER)
CALL = build_call(route=build_route(TARGET))


def load(*, in_flight: int = 0, limit: int = 8, state: str = "ready", **tally: float) -> LoadReport:
    spans = Tally(**({"up_s": 60.0, "busy_s": 0.0} | tally))  # type: ignore[arg-type]
    return LoadReport("r", "own", state, in_flight, limit, spans, spans)  # type: ignore[arg-type]


def book(*ids: str, clock: HandClock | None = None) -> tuple[Replicas, Fleet, list[Replica]]:
    """Return a book with these replicas, all of them heard once."""
    replicas = Replicas(clock or HandClock())
    listed = tuple(ListedReplica(each, f"http://{each}.test") for each in ids)
    new = replicas.listed(CLUSTER, {"own": ListedModel(listed, ("own", "adapter"), 3.6)})
    for fleet, replica in new:
        fleet.reported(replica, load())
    fleet = replicas.fleet(TARGET)
    assert fleet is not None
    return replicas, fleet, [replica for _, replica in new]


def test_a_replica_takes_requests_from_its_first_line_on() -> None:
    """Listed is not enough: only the replica knows whether it can be reached."""
    replicas = Replicas(HandClock())
    [(fleet, replica)] = replicas.listed(CLUSTER, {"own": ListedModel((ListedReplica("a", "http://a"),), ("own",))})
    assert fleet.usable() == []
    fleet.reported(replica, load())
    assert fleet.usable() == [replica]
    fleet.lost(replica)
    assert fleet.usable() == []


def test_every_served_name_finds_the_same_replicas() -> None:
    """An adapter lives in its model's replicas."""
    replicas, fleet, _ = book("a")
    assert replicas.fleet(build_target("x", upstream_model="adapter", cluster_url=CLUSTER)) is fleet
    assert replicas.fleet(build_target("x", upstream_model="stranger", cluster_url=CLUSTER)) is None


def test_unlisted_replica_stays_until_it_falls_silent() -> None:
    """It may be draining, and a directory may be wrong."""
    replicas, fleet, [one] = book("a")
    assert replicas.listed(CLUSTER, {"own": ListedModel((), ("own",))}) == []
    assert fleet.usable() == [one]
    fleet.lost(one)
    assert fleet.replicas == {}


def test_a_model_that_is_listed_no_more_is_forgotten_with_its_last_replica() -> None:
    """At zero it would be listed without replicas; so nobody waits for one that cannot come."""
    replicas, fleet, [one] = book("a")
    replicas.listed(CLUSTER, {})
    assert replicas.fleet(TARGET) is fleet
    fleet.lost(one)
    replicas.listed(CLUSTER, {})
    assert replicas.fleet(TARGET) is None
    assert replicas.fleets(CLUSTER) == {}


def test_draining_replicas_take_requests_only_while_no_other_does() -> None:
    _, fleet, [one, two] = book("a", "b")
    fleet.reported(one, load(state="draining"))
    assert fleet.usable() == [two]
    fleet.lost(two)
    assert fleet.usable() == [one]


def test_requests_of_others_are_counted_once() -> None:
    """A line counts ours too; what we began since comes on top, what ended since comes off."""
    _, fleet, [one] = book("a")
    lease = fleet.lease(CALL, TARGET)
    fleet.reported(one, load(in_flight=5))  # ours and four others
    assert one.requests == 5
    other = fleet.lease(CALL, TARGET)
    assert one.requests == 6
    assert lease is not None
    assert other is not None
    lease.end(None)
    other.end(None)
    assert one.requests == 4


def test_full_replicas_are_passed_over_and_all_full_is_a_refusal() -> None:
    _, fleet, [one, two] = book("a", "b")
    fleet.reported(one, load(in_flight=8, limit=8))
    lease = fleet.lease(CALL, TARGET)
    assert lease is not None
    assert lease.url == two.url
    assert fleet.refusal() is None
    fleet.reported(two, load(in_flight=8, limit=8))
    assert fleet.refusal() == "all 2 replicas have as many requests as they take"


def test_a_failure_of_one_of_several_says_nothing_of_the_target() -> None:
    """The breaker stays closed however often a replica is dead, as long as another is there; alone it opens."""
    clock = HandClock()
    replicas, fleet, both = book("a", "b", clock=clock)
    pool = Pool(clock, replicas=replicas)
    for _ in range(5):
        for replica in both:
            fleet.reported(replica, load())
        lease = pool.begin(TARGET, CALL)
        lease.end(sample(None, ok=False, error_kind=ErrorKind.UPSTREAM_CONNECT.value))
        assert lease.replicas_to_ask
        assert pool.refusal(TARGET, build_call()) is None
    for _ in range(3):
        fleet.lost(both[0])
        fleet.reported(both[1], load())
        lease = pool.begin(TARGET, CALL)
        lease.end(sample(None, ok=False, error_kind=ErrorKind.UPSTREAM_CONNECT.value))
        assert not lease.replicas_to_ask
    assert pool.refusal(TARGET, build_call()) is not None


def test_request_that_ends_replicas_is_closed_to_its_own_key() -> None:
    """Though others have room: three in a row are not let through to a fourth, and another key's are."""
    clock = HandClock()
    replicas, fleet, all_five = book(*"abcde", clock=clock)
    pool = Pool(clock, replicas=replicas)
    pool.follow(["own"], lambda _: TARGET, several_keys=True)
    killer = build_call(route=CALL.route, principal=build_principal("killer"))
    for _ in range(3):
        assert pool.refusal(TARGET, killer) is None
        lease = pool.begin(TARGET, killer)
        lease.end(sample(None, ok=False, error_kind=ErrorKind.UPSTREAM_CUT.value, body_digest="x"))
        assert lease.replicas_to_ask == len(all_five)
        for replica in all_five:
            fleet.reported(replica, load())
    assert pool.refusal(TARGET, killer) is not None
    assert pool.refusal(TARGET, build_call(principal=build_principal("other"))) is None


def test_load_that_a_call_meets_is_that_of_one_replica() -> None:
    """Six requests over three replicas are two each; the next pays for a third of one."""
    clock = HandClock()
    replicas, fleet, all_three = book("a", "b", "c", clock=clock)
    for replica in all_three:
        fleet.reported(replica, load(in_flight=2))
    [view] = Pool(clock, replicas=replicas).view(CALL)
    assert (view.share, view.cold) == (pytest.approx(1 / 3), False)


def test_a_wanted_model_stays_wanted_for_a_while() -> None:
    """Callers who were bridged are gone at once; the hint outlives them until a replica is there."""
    clock = HandClock()
    _, fleet, [one] = book("a", clock=clock)
    assert fleet.wanted() == 0
    fleet.lost(one)
    first, second = fleet.want(), fleet.want()
    assert fleet.wanted() == 2
    first()
    second()
    assert fleet.wanted() == 1
    clock.now_ns += WANTED_FOR_NS
    assert fleet.wanted() == 0


def test_call_at_a_draining_replica_wants_another() -> None:
    """It serves until it may no longer, so somebody has to ask for the next one before; a ready one ends that."""
    clock = HandClock()
    _, fleet, [one, two] = book("a", "b", clock=clock)
    fleet.lost(two)
    fleet.reported(one, load(state="draining"))
    assert fleet.wanted() == 0
    assert fleet.lease(CALL, TARGET) is not None
    assert fleet.wanted() == 1
    fleet.reported(two, load())
    assert fleet.wanted() == 0
    assert fleet.lease(CALL, TARGET) is not None
    fleet.lost(two)
    clock.now_ns += WANTED_FOR_NS
    assert fleet.wanted() == 0


async def test_calls_that_wait_for_a_replica_have_a_bound() -> None:
    """Nothing queues without limit; all that wait go on with the first line."""
    _, fleet, [one] = book("a")
    fleet.lost(one)
    waiting = [asyncio.create_task(fleet.wait(60)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(UpstreamError) as refused:
        await fleet.wait(60)
    assert refused.value.kind is ErrorKind.UPSTREAM_OVERLOADED
    fleet.reported(one, load())
    await asyncio.gather(*waiting)


async def test_call_that_waits_for_a_forgotten_cluster_waits_no_longer() -> None:
    """After a reload with another token its replicas are found anew, and not by these."""
    clock = HandClock()
    replicas, fleet, [one] = book("a", clock=clock)
    fleet.lost(one)
    pool = Pool(clock, replicas=replicas)
    waiting = asyncio.create_task(pool.ready(TARGET, clock.now_ns + 60_000_000_000))
    await asyncio.sleep(0)
    replicas.forget(CLUSTER)
    async with asyncio.timeout(SOON_S):
        await waiting


def test_targets_of_one_model_take_turns_together() -> None:
    """Two names for the same replicas: each next request goes to the next one, whichever name it came by."""
    _, fleet, _ = book("a", "b")
    names = [build_target(name, upstream_model="own", replica_choice="round_robin") for name in ("x", "y")]
    leases = [fleet.lease(CALL, target) for target in names * 3]
    urls = [lease.url for lease in leases if lease is not None]
    assert len(set(urls[::2])) == len(set(urls[1::2])) == 1
    assert urls[0] != urls[1]


def test_the_report_adds_up_and_prices_what_was_done() -> None:
    """Two replicas for a minute at $3.60 an hour, busy half the time, 6,000 tokens: $20 and $10 for a million."""
    _, fleet, both = book("a", "b")
    for replica in both:
        fleet.reported(replica, load(busy_s=30.0, prompt_tokens=2000, cached_tokens=500, output_tokens=1000))
    report = fleet.report(None)
    assert (report.utilisation, report.nano_usd_per_hour) == (0.5, 7.2e9)
    assert report.average_nano_usd_per_mtok == pytest.approx(20e9)
    assert report.marginal_nano_usd_per_mtok == pytest.approx(10e9)
    assert (report.prefill_tokens_per_s, report.cached_tokens_per_s, report.decode_tokens_per_s) == pytest.approx(
        (50, 1000 / 60, 2000 / 60)
    )


def test_the_average_price_is_charged_only_where_the_configuration_says_so() -> None:
    """Two minutes of replicas at $3.60 an hour over 6,000 tokens: $20 for a million, and $0.002 for a hundred."""
    clock = HandClock()
    replicas, fleet, both = book("a", "b", clock=clock)
    for replica in both:
        fleet.reported(replica, load(busy_s=30.0, prompt_tokens=2000, cached_tokens=500, output_tokens=1000))
    rates = Rates(hardware_nano_usd_per_hour=3_600_000_000)
    predicted = {}
    for charge in ("marginal", "average"):
        call = build_call(route=build_route(replace(TARGET, rates=rates, charge=charge)), input_tokens_estimate=60)
        [view] = Pool(clock, replicas=replicas).view(call)
        tokens = Quantiles(40.0, 40.0, 40.0, 40.0)
        predicted[charge] = RatesTimesTokens(Section(), Tools(clock, {})).predict(call, view, tokens, None, None).p50
        assert (view.average_nano_usd_per_mtok is None) == (charge == "marginal")
    assert predicted["average"] == pytest.approx(2_000_000)
    assert predicted["marginal"] == pytest.approx(3.6e9 / 3.6e6 * (100 + 5 * 39))
