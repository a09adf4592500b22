"""A price written in the file can say all that a price book can."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.prices import PriceSection, rates_of
from gateway.tariff import Rates, Usage

USD = 10**9
FLAT: dict[str, Any] = {"input": 1, "output": 10, "cached_input": 0.1}


def cost(price: dict[str, Any], usage: Usage, moment: str = "2026-11-30T12:00", **members: bytes) -> int:
    """Price a usage at a moment (UTC) by what the file says."""
    wall_ns = int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()) * USD
    return rates_of(PriceSection.model_validate(price)).in_force(wall_ns, members).cost(usage)


@pytest.mark.parametrize(
    ("price", "usage", "nano_usd"),
    [
        ({}, Usage(input_tokens=100, output_tokens=20), 300_000),
        ({}, Usage(cached_audio_tokens=10, cached_image_tokens=10), 2_000),
        ({}, Usage(audio_input_tokens=10, image_output_tokens=1, reasoning_tokens=1), 30_000),
        ({"cache_write": 1.25}, Usage(cache_write_1h_tokens=100), 125_000),
        ({"cache_write": 1.25, "cache_write_1h": 2}, Usage(cache_write_1h_tokens=100), 200_000),
        ({"audio_input": 40, "audio_output": 80}, Usage(audio_input_tokens=10, audio_output_tokens=10), 1_200_000),
        ({"image_input": 5, "cached_image": 2}, Usage(image_input_tokens=10, cached_image_tokens=10), 70_000),
        ({"web_search": 0.025, "per_request": 0.005}, Usage(web_searches=2), 55_000_000),
    ],
)
def test_price_of_a_class(price: dict[str, Any], usage: Usage, nano_usd: int) -> None:
    """One without a price of its own costs what the class that it belongs to costs."""
    assert cost(FLAT | price, usage) == nano_usd


def test_tiers_hold_by_their_length_in_any_order() -> None:
    price = FLAT | {"tiers": [{"above_tokens": 2000, "input": 4}, {"above_tokens": 1000, "input": 2, "output": 15}]}
    assert cost(price, Usage(input_tokens=1000, output_tokens=1)) == 1_010_000
    assert cost(price, Usage(input_tokens=901, cached_input_tokens=100, output_tokens=1)) == 1_802_000 + 10_000 + 15_000
    assert cost(price, Usage(input_tokens=2001, output_tokens=1)) == 8_004_000 + 10_000


def test_variant_keeps_what_it_leaves_out() -> None:
    night = {"hours": "22:00-06:00", "days": ["fri"], "output": 5, "tiers": [{"above_tokens": 10, "output": 7}]}
    flex = {"request": {"service_tier": "flex"}, "input": 0.5}
    price = FLAT | {"variants": [night, flex], "tiers": [{"above_tokens": 10, "output": 20}]}
    usage, long = Usage(input_tokens=1, output_tokens=1), Usage(input_tokens=11, output_tokens=1)
    assert (cost(price, usage), cost(price, long)) == (11_000, 31_000)
    assert (cost(price, usage, "2026-11-28T01:00"), cost(price, long, "2026-11-28T01:00")) == (6_000, 18_000)
    assert cost(price, usage, "2026-11-28T01:00", service_tier=b'"flex"') == 10_500


def test_variant_without_tiers_keeps_those_of_the_price() -> None:
    """Longer prompts stay dearer, but for the classes that the variant states."""
    flex = {"request": {"service_tier": "flex"}, "output": 5}
    price = FLAT | {"variants": [flex], "tiers": [{"above_tokens": 10, "input": 2, "output": 20}]}
    long = Usage(input_tokens=11, output_tokens=1)
    assert (cost(price, long), cost(price, long, service_tier=b'"flex"')) == (42_000, 27_000)


@pytest.mark.parametrize(
    ("price", "problem"),
    [
        ({"tiers": [{"input": 2}]}, "above_tokens"),
        ({"variants": [{"input": 2}]}, "say when these prices hold"),
        ({"variants": [{"hours": "6-8", "input": 2}]}, "should be hours of the day in UTC, such as '16:30-00:30'"),
        ({"variants": [{"hours": "25:00-26:00", "input": 2}]}, "should be hours of the day"),
        ({"variants": [{"hours": "06:00-06:00", "input": 2}]}, "should begin and end at different times"),
        ({"variants": [{"days": ["monday"], "input": 2}]}, "'mon'"),
        ({"variants": [{"request": {"a": "b", "c": "d"}, "input": 2}]}, "at most 1 item"),
    ],
)
def test_price_that_says_nothing_is_refused(price: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        PriceSection.model_validate(FLAT | price)


def test_price_of_nothing_is_free() -> None:
    assert rates_of(PriceSection.model_validate({"input": 0, "output": 0})) == Rates()
