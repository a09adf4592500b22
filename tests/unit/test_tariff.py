"""Money, to the nano-dollar; with the cases in which peers got it wrong."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from gateway.tariff import Amounts, Rates, Tier, Usage, Variant, presume, with_variants

USD = 10**9
ISSUE = Rates(
    input_nano_usd_per_mtok=USD, cached_input_nano_usd_per_mtok=USD // 10, output_nano_usd_per_mtok=10 * USD
)  # fmt: skip
TOKEN_CLASSES = [name.removesuffix("_tokens") for name in Amounts.__struct_fields__ if name.endswith("_tokens")]


def ns(text: str) -> int:
    """Read a moment in UTC as wall clock nanoseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


def test_a_hundred_tokens_in_and_twenty_out_cost_300_000_nano_dollars() -> None:
    assert ISSUE.cost(Usage(input_tokens=100, output_tokens=20)) == 300_000
    fixed, each = ISSUE.predict(100, 0, {})
    assert fixed + 20 * each == 300_000


def test_rates_stand_in_the_order_of_the_classes() -> None:
    """Usage is priced by position: a class without its rate would be billed at another's."""
    rates = [name.removesuffix("_nano_usd_per_mtok") for name in Rates.__struct_fields__]
    assert rates[: len(TOKEN_CLASSES)] == TOKEN_CLASSES
    assert list(Amounts.__struct_fields__)[: len(TOKEN_CLASSES)] == [f"{name}_tokens" for name in TOKEN_CLASSES]


@pytest.mark.parametrize("name", TOKEN_CLASSES)
def test_each_class_of_tokens_is_billed_once_at_its_own_rate(name: str) -> None:
    usage = Usage(**{f"{name}_tokens": 1000})
    assert Rates(**{f"{name}_nano_usd_per_mtok": 7 * USD}).cost(usage) == 7_000_000
    others = {f"{other}_nano_usd_per_mtok": USD for other in TOKEN_CLASSES if other != name}
    assert Rates(**others).cost(usage) == 0
    assert (usage.read_tokens, usage.written_tokens) in {(1000, 0), (0, 1000)}


@pytest.mark.parametrize(
    ("usage", "rates", "cost"),
    [
        # litellm #31714, of the same kind as #11789: 27,146 of 27,147 prompt tokens came from the cache.
        (
            Usage(input_tokens=1, cached_input_tokens=27_146, output_tokens=351),
            Rates(
                input_nano_usd_per_mtok=1_400_000_000,
                cached_input_nano_usd_per_mtok=260_000_000,
                output_nano_usd_per_mtok=4_400_000_000,
            ),
            8_603_760,
        ),
        (Usage(audio_ms=5), Rates(audio_nano_usd_per_hour=360_000), 1),  # half a nano-dollar
        (Usage(audio_ms=1), Rates(audio_nano_usd_per_hour=3_600_000, least_audio_ms=10_000), 10_000),
        (Usage(), Rates(audio_nano_usd_per_hour=3_600_000, least_audio_ms=10_000), 0),
        (Usage(web_searches=3), Rates(web_search_nano_usd=25_000_000, request_nano_usd=5), 75_000_005),
        (Usage(input_tokens=1), Rates(input_nano_usd_per_mtok=500_000), 1),
        (Usage(input_tokens=1), Rates(input_nano_usd_per_mtok=499_999), 0),
        # A quarter each of three classes and of the speech: added first, rounded once.
        (
            Usage(input_tokens=1, output_tokens=1, audio_ms=1),
            Rates(input_nano_usd_per_mtok=250_000, output_nano_usd_per_mtok=250_000, audio_nano_usd_per_hour=1_800_000),
            1,
        ),
    ],
)
def test_usage_costs(usage: Usage, rates: Rates, cost: int) -> None:
    assert rates.cost(usage) == cost


tokens, rate = st.integers(0, 10**9), st.integers(0, 10**12)


@given(st.builds(Usage, input_tokens=tokens, cached_input_tokens=tokens, output_tokens=tokens), rate, rate, rate, rate)
def test_cost_is_the_sum_of_its_parts(usage: Usage, a: int, b: int, c: int, flat: int) -> None:
    """Each class is billed at its own rate; rounding each apart would differ by less than its number of classes."""
    rates = Rates(
        input_nano_usd_per_mtok=a,
        cached_input_nano_usd_per_mtok=b,
        output_nano_usd_per_mtok=c,
        request_nano_usd=flat,
    )
    exact_times_mtok = usage.input_tokens * a + usage.cached_input_tokens * b + usage.output_tokens * c
    assert abs((rates.cost(usage) - flat) * 10**6 - exact_times_mtok) <= 500_000


def test_own_hardware_costs_its_share_of_the_time() -> None:
    """Half an hour of a replica at $2.50 an hour is $1.25, whatever was read and written."""
    assert Rates(hardware_nano_usd_per_hour=2_500_000_000).cost(Usage(output_tokens=9), 1800.0) == 1_250_000_000
    assert Rates().cost(Usage(), 1800.0) == 0


TIERED = Rates(
    input_nano_usd_per_mtok=USD,
    output_nano_usd_per_mtok=10 * USD,
    tiers=(
        Tier(above_tokens=1000, rates=Rates(input_nano_usd_per_mtok=2 * USD, output_nano_usd_per_mtok=15 * USD)),
        Tier(above_tokens=2000, rates=Rates(input_nano_usd_per_mtok=3 * USD, output_nano_usd_per_mtok=20 * USD)),
    ),
)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(input_tokens=1000, output_tokens=10), 1_100_000),
        (Usage(input_tokens=1001, output_tokens=10), 2_152_000),  # all of it, the output too
        (Usage(input_tokens=1, cached_input_tokens=1000), 2_000),  # cached tokens count, also where they are free
        (Usage(input_tokens=1, cache_write_1h_tokens=900, audio_input_tokens=1100), 3_000),
        (Usage(output_tokens=5000), 50_000_000),  # what is written decides nothing
        (Usage(input_tokens=2001), 6_003_000),
    ],
)
def test_length_of_the_prompt_decides_what_all_tokens_cost(usage: Usage, cost: int) -> None:
    assert TIERED.cost(usage) == cost


def test_prediction_is_what_the_presumed_usage_costs() -> None:
    """By its tier, with its speech and its search."""
    assert TIERED.predict(1001, 0, {}) == (2_002_000, 15_000)
    assert Rates(audio_nano_usd_per_hour=3_600_000).predict(0, 1000, {}) == (1000, 0)
    searching = Rates(web_search_nano_usd=7, input_nano_usd_per_mtok=USD, request_nano_usd=5)
    assert searching.predict(1, 0, {"web_search_options": b"{}"}) == (1012, 0)
    assert searching.predict(1, 0, {}) == (1005, 0)


def test_rates_come_back_from_the_journal() -> None:
    rates = Rates(variants=(Variant(rates=TIERED, days=(5, 6), member="speed", value="fast"),))
    assert msgspec.json.decode(msgspec.json.encode(rates), type=Rates) == rates


NIGHT, PEAK = Rates(output_nano_usd_per_mtok=USD), Rates(output_nano_usd_per_mtok=2 * USD)


def from_to(begin: str, end: str, **others: object) -> Rates:
    """Build rates that are NIGHT but for some hours."""
    begins, ends = (int(text[:2]) * 3600 + int(text[3:]) * 60 for text in (begin, end))
    return Rates(
        output_nano_usd_per_mtok=USD,
        variants=(Variant(rates=PEAK, begins_s=begins, ends_s=ends, **others),),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("rates", "moment", "is_peak"),
    [
        (from_to("00:30", "16:30"), "2026-11-30T00:29:59", False),
        (from_to("00:30", "16:30"), "2026-11-30T00:30:00", True),
        (from_to("00:30", "16:30"), "2026-11-30T16:29:59", True),
        (from_to("00:30", "16:30"), "2026-11-30T16:30:00", False),
        (from_to("16:30", "00:30"), "2026-11-30T23:59:59", True),
        (from_to("16:30", "00:30"), "2026-11-30T00:00:00", True),
        (from_to("16:30", "00:30"), "2026-11-30T00:30:00", False),
        (from_to("16:30", "00:30"), "2026-11-30T16:29:59", False),
        (from_to("16:30", "24:00"), "2026-11-30T23:59:59", True),
        (from_to("01:00", "04:00", days=(0, 1, 2, 3, 4)), "2026-11-27T02:00:00", True),  # a Friday
        (from_to("01:00", "04:00", days=(0, 1, 2, 3, 4)), "2026-11-28T02:00:00", False),
        (from_to("01:00", "04:00", days=(0, 1, 2, 3, 4)), "2026-11-29T02:00:00", False),
        (from_to("01:00", "04:00", days=(0, 1, 2, 3, 4)), "2026-11-30T02:00:00", True),
        (from_to("22:00", "06:00", days=(4,)), "2026-11-27T23:00:00", True),
        (from_to("22:00", "06:00", days=(4,)), "2026-11-28T05:59:59", True),  # of Friday's night
        (from_to("22:00", "06:00", days=(4,)), "2026-11-27T05:00:00", False),  # of Thursday's
        (from_to("00:00", "24:00", since_s=ns("2026-12-01") // USD), "2026-11-30T23:59:59", False),
        (from_to("00:00", "24:00", since_s=ns("2026-12-01") // USD), "2026-12-01T00:00:00", True),
    ],
)
def test_rates_of_a_moment(rates: Rates, moment: str, is_peak: bool) -> None:
    assert rates.in_force(ns(moment), {}).output_nano_usd_per_mtok == (2 if is_peak else 1) * USD


def test_last_variant_in_force_sets_the_rates() -> None:
    later = Variant(rates=Rates(output_nano_usd_per_mtok=5), begins_s=3600)
    rates = Rates(variants=(Variant(rates=PEAK), later))
    assert rates.in_force(3600 * USD, {}) is later.rates
    assert rates.in_force(3599 * USD, {}) is PEAK
    assert Rates(variants=(Variant(rates=PEAK, days=()),)).in_force(0, {}).variants


def test_rates_in_force_take_no_variants_along() -> None:
    """Whichever holds: they are written into a line of the journal for each attempt."""
    rates = with_variants(Rates(output_nano_usd_per_mtok=1, version="x"), [Variant(rates=PEAK, begins_s=3600)])
    assert rates.in_force(0, {}) == Rates(output_nano_usd_per_mtok=1, version="x")
    assert rates.in_force(3600 * USD, {}) is PEAK
    assert with_variants(PEAK, []) is PEAK


@pytest.mark.parametrize(
    ("member", "value", "body", "is_asked"),
    [
        ("service_tier", "flex", {"service_tier": b'"flex"'}, True),
        ("service_tier", "flex", {"service_tier": b'"auto"'}, False),
        ("service_tier", "flex", {"service_tier": b"null"}, False),
        ("service_tier", "flex", {"service_tier": b"flex"}, False),  # a form's field is no JSON
        ("service_tier", "flex", {}, False),
        ("web.size", "high", {"web": b'{"size": "high"}'}, True),
        ("web.size", "high", {"web": b'{"size": "low"}'}, False),
        ("web.size", "high", {"web": b'"high"'}, False),
    ],
)
def test_rates_of_what_a_request_asks_for(member: str, value: str, body: dict[str, bytes], is_asked: bool) -> None:
    rates = Rates(variants=(Variant(rates=PEAK, member=member, value=value),))
    assert (rates.in_force(0, body) is PEAK) == is_asked


def test_a_request_with_a_search_is_presumed_to_make_one() -> None:
    assert presume(5, 0, {"web_search_options": b"{}"}).web_searches == 1
    assert presume(5, 0, {"web_search_options": b"null"}) == Usage(input_tokens=5, origin="estimated")
    assert set(asdict(presume(5, 7, {})).values()) == {0, 5, 7, "estimated"}
