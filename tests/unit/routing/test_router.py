"""The router: which targets may serve a call, in which order, and what it says when none may."""

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.errors import ErrorKind, GatewayError
from gateway.tariff import Rates, Tier, Variant
from gateway.types import Plan, Quantiles, Target, TargetView
from tests.ground.builders import (
    build_adapters,
    build_call,
    build_envelope,
    build_route,
    build_target,
    build_view,
    chat_body,
)


def flat(value: float) -> Quantiles:
    return Quantiles(value, value, value, value)


def priced(target_id: str, usd_per_mtok_out: float, **fields: object) -> Target:
    rates = Rates(output_nano_usd_per_mtok=round(usd_per_mtok_out * 1e9), version="test")
    return build_target(target_id, rates=rates, **fields)


CHEAP, DEAR = priced("cheap", 0.1), priced("dear", 1.0)


def plan_of(
    *views: TargetView,
    objective: str = "cost",
    limits: Mapping[str, Any] | None = None,
    when_none_fits: str = "best_effort",
    adapters: Any = None,
    require: Mapping[str, Any] | None = None,
    **call: Any,
) -> Plan:
    route = build_route(
        *[view.target for view in views],
        objective=objective,
        limits=limits or {},
        when_none_fits=when_none_fits,
        require=require or {},
        adapters=adapters,
    )
    made = build_call(route=route, **call)
    plan = route.policy.plan(made, [view for view in views if view.target in route.targets])
    if not plan.candidates:
        raise route.policy.refusal(made, plan)
    return plan


def order(plan: Plan) -> list[str]:
    return [candidate.target.id for candidate in plan.candidates]


TTFT = {"ttft_ms": {"p95": 1500.0}}


def test_cost_puts_the_cheapest_first() -> None:
    """The order is by predicted median cost, whatever the order of the configuration; all stay as fallbacks."""
    plan = plan_of(build_view(DEAR), build_view(CHEAP))
    assert order(plan) == ["cheap", "dear"]
    assert plan.reason == "cheapest ($0.000010 predicted)"
    assert plan.candidates[1].prediction.cost_nano_usd.p50 == pytest.approx(100 * 1000)


def test_equal_costs_keep_the_order_of_the_configuration() -> None:
    """Ties are broken by the operator."""
    views = [build_view(build_target(name)) for name in ("b", "a", "c")]
    assert order(plan_of(*views)) == ["b", "a", "c"]


def test_latency_puts_the_fastest_answer_first() -> None:
    """TTFT and decoding count together: a late first token may be made up for."""
    late_but_quick = build_view(CHEAP, ttft_ms=flat(500.0), tpot_ms=flat(5.0), output_tokens=flat(101.0))
    prompt_but_slow = build_view(DEAR, ttft_ms=flat(100.0), tpot_ms=flat(10.0), output_tokens=flat(101.0))
    plan = plan_of(prompt_but_slow, late_but_quick, objective="latency")
    assert order(plan) == ["cheap", "dear"]
    assert plan.reason == "fastest (1000 ms predicted)"


def test_latency_tries_an_unknown_target_once() -> None:
    """A target never measured comes first while nobody tries it, and last while somebody does."""
    known = build_view(DEAR)
    due = build_view(CHEAP, ttft_ms=None, tpot_ms=None, probe_due=True)
    under_way = build_view(CHEAP, ttft_ms=None, tpot_ms=None)
    first = plan_of(known, due, objective="latency")
    assert first.reason == "fastest (not measured yet)"
    assert order(first) == ["cheap", "dear"]
    assert first.candidates[0].probe_due
    assert order(plan_of(known, under_way, objective="latency")) == ["dear", "cheap"]


def test_target_beyond_a_ceiling_moves_behind_those_within() -> None:
    """The cheap target is predicted too slow: the dearer one serves, the cheap one stays as a fallback."""
    slow = build_view(CHEAP, ttft_ms=Quantiles(900.0, 1800.0, 2100.0, 2500.0))
    plan = plan_of(slow, build_view(DEAR), limits=TTFT)
    assert order(plan) == ["dear", "cheap"]
    assert [candidate.within_ceilings for candidate in plan.candidates] == [True, False]
    assert plan.reason == "cheap predicted ttft p95 2100 ms over 1500 ms: next cheapest"


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"tpot_ms": {"p50": 9.0}}, "tpot p50 10 ms over 9 ms"),
        ({"ttft_ms": {"p99": 299.0}}, "ttft p99 300 ms over 299 ms"),
        ({"usd_per_request": 0.000009999}, "cost $0.000010 over $0.000010"),
    ],
)
def test_each_ceiling_looks_at_its_own_quantile(limits: Mapping[str, Any], text: str) -> None:
    """TTFT, TPOT and cost are compared in their own units, at the quantile that the route names."""
    assert text in plan_of(build_view(CHEAP), limits=limits).reason


def test_best_effort_prefers_what_breaks_the_ceilings_least() -> None:
    """None fits: the dear target is 1.5 times over, the cheap one twice."""
    twice, half_more = build_view(CHEAP, ttft_ms=flat(3000.0)), build_view(DEAR, ttft_ms=flat(2250.0))
    plan = plan_of(twice, half_more, limits=TTFT)
    assert order(plan) == ["dear", "cheap"]
    assert plan.reason == "none within ceilings: dear is predicted ttft p95 2250 ms over 1500 ms"


def test_reject_refuses_and_names_the_ceilings() -> None:
    """A route that insists gets a 503 that says by how much which target breaks which ceiling."""
    with pytest.raises(GatewayError, match=r"cheap: ttft p95 3000 ms over 1500 ms") as caught:
        plan_of(build_view(CHEAP, ttft_ms=flat(3000.0)), limits=TTFT, when_none_fits="reject")
    assert caught.value.kind is ErrorKind.NO_TARGET
    assert caught.value.retry_after_s is not None


def test_reject_keeps_no_fallback_beyond_a_ceiling() -> None:
    """With one target within, a route that insists does not fall back to one beyond."""
    slow = build_view(CHEAP, ttft_ms=flat(3000.0))
    assert order(plan_of(slow, build_view(DEAR), limits=TTFT, when_none_fits="reject")) == ["dear"]


def test_reject_still_lets_a_due_probe_through() -> None:
    """Or a target that broke a ceiling once would be refused for ever."""
    due = build_view(CHEAP, ttft_ms=flat(3000.0), probe_due=True)
    plan = plan_of(due, limits=TTFT, when_none_fits="reject")
    assert order(plan) == ["cheap"]
    assert plan.candidates[0].probe_due


def test_a_due_probe_goes_first_with_the_others_behind_it() -> None:
    """A cheaper target that breaks a ceiling and was not heard of for a while is tried again; nobody fails for it."""
    due = build_view(CHEAP, ttft_ms=flat(3000.0), probe_due=True)
    plan = plan_of(build_view(DEAR), due, limits=TTFT)
    assert order(plan) == ["cheap", "dear"]
    assert plan.candidates[0].probe_due
    assert not plan.candidates[0].within_ceilings
    assert plan.reason == "cheap is measured again by this call, although predicted ttft p95 3000 ms over 1500 ms"


COST = {"usd_per_request": 0.00002}
"""Half of what ``DEAR`` is predicted to cost, and ten times what ``CHEAP`` is."""


@pytest.mark.parametrize("objective", ["cost", "latency"])
@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("when_none_fits", ["reject", "best_effort"])
def test_target_too_dear_by_its_price_list_is_never_probed(
    objective: str, when_none_fits: str, *, measured: bool
) -> None:
    """No try changes a price list: alone it is refused or taken for what it is, and beside another it comes last."""
    never = {} if measured else {"ttft_ms": None, "tpot_ms": None, "output_tokens": None}
    due = build_view(DEAR, probe_due=True, **never)
    policy = {"objective": objective, "limits": COST, "when_none_fits": when_none_fits}
    beside = plan_of(due, build_view(CHEAP), **policy)
    assert beside.candidates[0].target is CHEAP
    if when_none_fits == "reject":
        assert [each.target for each in beside.beyond] == [DEAR]
        with pytest.raises(GatewayError, match=r"dear: cost \$0\.0.* over \$0\.000020") as caught:
            plan_of(due, **policy)
        assert caught.value.retry_after_s is None
        assert "retry" not in caught.value.message
    else:
        alone = plan_of(due, **policy)
        assert not alone.candidates[0].probe_due
        assert alone.reason.startswith("none within ceilings: dear is predicted cost")


def test_own_hardware_over_a_ceiling_on_cost_is_probed() -> None:
    """It gets cheaper when it gets faster; the reason says whether it was measured before."""
    own = build_target("own", rates=Rates(hardware_nano_usd_per_hour=3_600_000_000), own_hardware=True)
    policy: dict[str, Any] = {"limits": COST, "when_none_fits": "reject"}
    again = plan_of(build_view(own, probe_due=True), **policy)
    assert again.reason.startswith("own is measured again by this call, although predicted cost")
    first = plan_of(build_view(own, probe_due=True, ttft_ms=None, tpot_ms=None), **policy)
    assert first.reason.startswith("own is measured for the first time by this call, although predicted cost")


def test_refusal_names_those_over_a_ceiling_and_those_ruled_out() -> None:
    """Both groups stand in the message; later helps because a breaker closes again."""
    with pytest.raises(GatewayError) as caught:
        plan_of(build_view(DEAR), sick("sick"), limits=COST, when_none_fits="reject")
    message = caught.value.message
    assert "dear: cost" in message
    assert "sick: breaker open" in message
    assert caught.value.retry_after_s == 4.0


def test_a_target_not_worth_knowing_is_not_probed() -> None:
    """A dearer target beyond a ceiling would not be chosen if it recovered, so no call is spent on it."""
    due = build_view(DEAR, ttft_ms=flat(3000.0), probe_due=True)
    plan = plan_of(build_view(CHEAP), due, limits=TTFT)
    assert order(plan) == ["cheap", "dear"]
    assert not plan.candidates[0].probe_due


def test_unknown_latency_keeps_ceilings() -> None:
    """A target never measured is worth a try."""
    cold = build_view(CHEAP, ttft_ms=None, tpot_ms=None, output_tokens=None, probe_due=True)
    plan = plan_of(build_view(DEAR), cold, limits=TTFT)
    assert order(plan) == ["cheap", "dear"]
    assert plan.reason == "cheapest within ceilings ($0.000026 predicted, latency not measured yet)"


def test_own_hardware_costs_its_share_of_the_time() -> None:
    """3.6 USD an hour are a thousandth of a dollar a second; half a replica for 100 ms + 99 x 10 ms."""
    own = build_target("own", rates=Rates(hardware_nano_usd_per_hour=3_600_000_000), own_hardware=True)
    plan = plan_of(build_view(own, share=0.5))
    assert plan.candidates[0].prediction.cost_nano_usd.p50 == pytest.approx(1_000_000 * 0.5 * 1.09)


def test_the_price_of_the_prompts_length_and_of_the_request_decides() -> None:
    """A target that is cheap for short prompts is not for long ones, and one may be cheap for those that can wait."""
    high = Rates(input_nano_usd_per_mtok=9_000_000_000, output_nano_usd_per_mtok=9_000_000_000)
    low = Rates(input_nano_usd_per_mtok=1_000_000_000, output_nano_usd_per_mtok=1_000_000_000)
    tiered = build_target("tiered", rates=replace(low, tiers=(Tier(above_tokens=1000, rates=high),)))
    flex = replace(high, variants=(Variant(rates=Rates(), member="service_tier", value="flex"),))
    views = [
        build_view(tiered),
        build_view(
            build_target(
                "flat", rates=Rates(input_nano_usd_per_mtok=2_000_000_000, output_nano_usd_per_mtok=2_000_000_000)
            )
        ),
        build_view(build_target("flex", rates=flex)),
    ]
    assert order(plan_of(*views, input_tokens_estimate=1000)) == ["tiered", "flat", "flex"]
    assert order(plan_of(*views, input_tokens_estimate=1001)) == ["flat", "tiered", "flex"]
    asking = build_envelope(chat_body(service_tier="flex"))
    assert order(plan_of(*views, envelope=asking, input_tokens_estimate=1000))[0] == "flex"
    limit = {"usd_per_request": 0.005}
    assert plan_of(views[0], limits=limit, input_tokens_estimate=1000).candidates[0].within_ceilings
    assert not plan_of(views[0], limits=limit, input_tokens_estimate=1001).candidates[0].within_ceilings


def test_prices_of_input_and_requests_count() -> None:
    """The estimate of the prompt at full price, plus the flat price of a request."""
    rates = Rates(input_nano_usd_per_mtok=1_000_000_000, request_nano_usd=7)
    plan = plan_of(build_view(build_target("t", rates=rates)), input_tokens_estimate=500)
    assert plan.candidates[0].prediction.cost_nano_usd.p50 == pytest.approx(500_007)


def test_a_cold_target_is_predicted_to_answer_with_a_prior_or_the_cap() -> None:
    """256 tokens a choice, or the caller's own cap."""
    cold = build_view(CHEAP, output_tokens=None)
    assert plan_of(cold).candidates[0].prediction.output_tokens.p50 == pytest.approx(256)
    capped = plan_of(cold, max_output_tokens=16, envelope=build_envelope(choices=2))
    assert capped.candidates[0].prediction.output_tokens == flat(32.0)


@pytest.mark.parametrize(
    ("fields", "filter_name", "reason"),
    [
        ({"capabilities": frozenset({"chat"})}, "capability", "no tools"),
        ({"context_length": 100}, "context", "context of 100 tokens"),
        ({"max_output_tokens": 10}, "context", "at most 10 output tokens"),
    ],
)
def test_filters_say_what_they_dropped_and_why(fields: dict[str, object], filter_name: str, reason: str) -> None:
    """The other target serves, and the plan remembers who was ruled out, by which filter, for which reason."""
    bad = build_target("bad", **fields)
    plan = plan_of(
        build_view(bad),
        build_view(build_target("good")),
        needs=frozenset({"chat", "tools"}),
        input_tokens_estimate=240,
        max_output_tokens=11,
    )
    assert order(plan) == ["good"]
    assert [(each.target_id, each.filter) for each in plan.dropped] == [("bad", filter_name)]
    assert reason in plan.dropped[0].reason
    assert plan.reason == "only target left, 1 ruled out"


def test_an_estimate_that_may_be_too_high_does_not_refuse_a_call() -> None:
    """The bytes suggest 150 tokens, the context holds 100: it may well fit, so the upstream decides."""
    snug = build_view(build_target("snug", context_length=100))
    assert order(plan_of(snug, input_tokens_estimate=150, max_output_tokens=25)) == ["snug"]


def test_each_of_several_texts_has_the_context_to_itself() -> None:
    """Ten texts of about 100 tokens fit where one of a thousand does not."""
    small = build_view(build_target("small", context_length=200))
    ten = build_envelope(operation="embeddings", prompts=10, max_output_tokens=0)
    assert order(plan_of(small, input_tokens_estimate=1000, envelope=ten)) == ["small"]
    with pytest.raises(GatewayError, match="too long for every"):
        plan_of(small, input_tokens_estimate=1000)


def test_an_embedding_is_predicted_to_cost_what_is_read() -> None:
    """It has no output tokens: neither a prior nor what chats were measured to have."""
    reads = build_target("reads", rates=Rates(input_nano_usd_per_mtok=10**9, output_nano_usd_per_mtok=10**12))
    envelope = build_envelope(operation="embeddings", max_output_tokens=0)
    plan = plan_of(build_view(reads, output_tokens=None), envelope=envelope, input_tokens_estimate=50)
    assert plan.candidates[0].prediction.output_tokens == flat(0.0)
    assert plan.candidates[0].prediction.cost_nano_usd == flat(50_000.0)


def sick(target_id: str, **fields: object) -> TargetView:
    target = build_target(target_id, **fields)
    return build_view(target, refusal="breaker open for 4.0 s more", retry_after_s=4.0)


CHAT_ONLY = {"capabilities": frozenset({"chat"})}
NEEDS_TOOLS = {"needs": frozenset({"chat", "tools"})}
COMMERCIAL: dict[str, Any] = {"require": {"commercial": "allowed"}}


@pytest.mark.parametrize(
    ("views", "arguments", "kind", "text"),
    [
        (
            [build_view()],
            {"adapters": build_adapters(openai="'logit_bias' cannot be expressed")},
            ErrorKind.UNSUPPORTED,
            "small: 'logit_bias'",
        ),
        ([build_view(build_target("a", **CHAT_ONLY))], NEEDS_TOOLS, ErrorKind.UNSUPPORTED, "a: no tools"),
        ([sick("a", **CHAT_ONLY)], NEEDS_TOOLS, ErrorKind.UNSUPPORTED, "a: no tools"),
        ([build_view(build_target("a", **CHAT_ONLY)), sick("b")], NEEDS_TOOLS, ErrorKind.NO_TARGET, "b: breaker"),
        ([build_view(build_target("a", context_length=9))], {}, ErrorKind.CONTEXT_LENGTH, "too long for every"),
        ([build_view(build_target("b"))], COMMERCIAL, ErrorKind.NO_TARGET, "configuration"),
        (
            [build_view(build_target("a", licence="permissive", **CHAT_ONLY)), build_view(build_target("b"))],
            NEEDS_TOOLS | COMMERCIAL,
            ErrorKind.UNSUPPORTED,
            "b: licence is unknown; a: no tools",
        ),
        ([sick("a"), sick("b")], {}, ErrorKind.NO_TARGET, "retry later"),
    ],
)
def test_error_without_a_target_left_says_whose_fault_it_is(
    views: list[TargetView], arguments: dict[str, Any], kind: ErrorKind, text: str
) -> None:
    """What the call asks for is a 400 that names it; a sick target that could have served makes it a 503."""
    with pytest.raises(GatewayError, match=text) as caught:
        plan_of(*views, **arguments, input_tokens_estimate=100)
    assert caught.value.kind is kind
    assert caught.value.retry_after_s == (4.0 if "breaker" in caught.value.message else None)


def test_a_member_that_no_target_can_express_is_the_errors_param() -> None:
    """``param`` names the member when all targets stumble over the same one, and nothing when they differ."""
    adapters = build_adapters(a="'n' has no equivalent", b="'n' has no equivalent", c="'seed' has no equivalent")

    def param_of(*target_ids: str) -> str | None:
        with pytest.raises(GatewayError) as caught:
            plan_of(*[build_view(build_target(each, adapter=each)) for each in target_ids], adapters=adapters)
        return caught.value.param

    assert param_of("a", "b") == "n"
    assert param_of("a", "c") is None


def test_the_reason_fits_into_a_header() -> None:
    """Target ids may hold anything; a header may not."""
    plan = plan_of(build_view(build_target("größe\r\nx: y")), limits={"ttft_ms": {"p50": 1.0}})
    assert plan.reason.isascii()
    assert plan.reason.isprintable()
