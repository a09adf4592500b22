"""The price book: every price it has is ours, at every moment and for every usage."""

from collections.abc import Callable, Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import product
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ConditionalPrice, ModelInfo, Provider
from genai_prices.types import Usage as BookUsage

from gateway.accounting.pricing import _WEEKDAYS_ONLY, price_of
from gateway.tariff import Rates, Usage

USD = 10**9
NOW = datetime.now(UTC)
MONDAY = datetime(2026, 11, 30, tzinfo=UTC)
HOURS = tuple(MONDAY + timedelta(minutes=minutes) for minutes in range(29, 1440, 30))
LATER = tuple(MONDAY + timedelta(days=days, hours=2) for days in (1, 5, 6, 40))


def rates_of(provider: str, model: str, moment: str = "2026-11-30T20:00", **members: bytes) -> Rates:
    """Return the book's rates in force at a moment (UTC)."""
    rates = price_of(provider, model)
    assert rates is not None
    return rates.in_force(int(datetime.fromisoformat(f"{moment}Z").timestamp()) * USD, members)


USAGES: tuple[dict[str, int], ...] = (
    {"input_tokens": 100, "output_tokens": 20},
    {"input_tokens": 479, "cached_input_tokens": 13_312, "output_tokens": 373},
    {"input_tokens": 3, "cache_write_tokens": 12_304, "cache_write_1h_tokens": 777, "output_tokens": 550},
    {"input_tokens": 9, "audio_input_tokens": 375, "output_tokens": 248, "audio_output_tokens": 51},
    {"input_tokens": 9, "cached_audio_tokens": 30, "cached_image_tokens": 70, "image_input_tokens": 256},
    {"input_tokens": 9, "output_tokens": 5, "image_output_tokens": 1290, "reasoning_tokens": 704},
    {"input_tokens": 90_000, "cached_input_tokens": 10_000, "output_tokens": 1000},
    {"input_tokens": 90_001, "cached_input_tokens": 10_000, "output_tokens": 1000},
    {"input_tokens": 150_000, "cache_write_tokens": 50_001, "output_tokens": 1000},
    {"input_tokens": 300_000, "audio_input_tokens": 5, "output_tokens": 1000, "reasoning_tokens": 9},
    {"audio_ms": 61_000},
    {"input_tokens": 10, "output_tokens": 7, "web_searches": 3},
)


def in_the_book(usage: Usage, model: ModelInfo, provider: Provider, moment: datetime) -> int | None:
    """Let the library itself price a usage; None: it has no price for a class of it."""
    cached = usage.cached_input_tokens + usage.cached_audio_tokens + usage.cached_image_tokens
    written = usage.cache_write_tokens + usage.cache_write_1h_tokens
    audio = usage.audio_input_tokens + usage.cached_audio_tokens
    image = usage.image_input_tokens + usage.cached_image_tokens
    told: dict[str, Any] = {
        "input_tokens": usage.read_tokens,
        "cache_read_tokens": cached,
        "cache_write_tokens": written,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "input_audio_tokens": audio,
        "cache_audio_read_tokens": usage.cached_audio_tokens,
        "input_image_tokens": image,
        "cache_image_read_tokens": usage.cached_image_tokens,
        "output_tokens": usage.written_tokens,
        "output_reasoning_tokens": usage.reasoning_tokens,
        "output_audio_tokens": usage.audio_output_tokens,
        "output_image_tokens": usage.image_output_tokens,
        "audio_seconds": Decimal(usage.audio_ms) / 1000,
        "input_audio_seconds": Decimal(usage.audio_ms) / 1000,
        "web_searches": usage.web_searches,
    }
    usd = model.calc_price(BookUsage(**told), provider, genai_request_timestamp=moment).total_price
    return int((usd * USD).to_integral_value(ROUND_HALF_UP))


def reason_to_differ(usage: Usage, model: ModelInfo, provider: Provider, moment: datetime) -> str:
    """Name the reason why a price is not the book's; empty: there is none."""
    price = model.get_prices(moment)
    if provider.id == "perplexity" and price.requests_kcount:
        return "the book has the fee of the largest search; the smallest is the usual one"
    if model.id in _WEEKDAYS_ONLY and moment.weekday() > 4:
        return "the book has no days, and DeepSeek's peak hours are none at weekends"
    if usage.written_tokens and price.output_mtok is None:
        return "the book lets an embedding model write for nothing"
    if usage.audio_ms and price.audio_hours is None:
        return "the book has no price for the length of speech: by 36,000 tokens an hour"
    return ""


def models() -> Iterator[tuple[Provider, ModelInfo]]:
    """Yield every model of the book that can be found by its own name."""
    snapshot = get_snapshot()
    for provider in snapshot.providers:
        for model in provider.models:
            try:
                found = snapshot.find_provider_model(model.id, None, provider.id, None)[1]
            except LookupError:
                continue
            if found is model:
                yield provider, model


def of_each_kind(provider: Provider, model: ModelInfo) -> Any:
    """Name the kind of prices: which classes they tell apart, which of them have tiers, and when which hold."""
    prices = model.prices if isinstance(model.prices, list) else [ConditionalPrice(prices=model.prices)]
    classes = {(key, type(price)) for each in prices for key, price in vars(each.prices).items() if price is not None}
    special = provider.id if provider.id in {"deepseek", "groq", "perplexity"} else ""
    return special, frozenset(classes), tuple(type(each.constraint) for each in prices)


def of_all(provider: Provider, model: ModelInfo) -> Any:
    return provider.id, model.id


@pytest.mark.parametrize(
    "kind", [of_each_kind, pytest.param(of_all, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_cost_is_the_books_own(kind: Callable[[Provider, ModelInfo], Any]) -> None:
    """Of every usage, at hours of a day and at days to come; each difference has a reason, and there are such."""
    differences, reasons = [], set()
    for provider, model in {kind(*each): each for each in models()}.values():
        rates = price_of(provider.id, model.id)
        if rates is None:
            assert not is_priced(model), model.id
            continue
        is_hourly = any(variant.ends_s < 86_400 or variant.begins_s for variant in rates.variants)
        moments = (*HOURS, *LATER) if is_hourly else (NOW, LATER[-1]) if isinstance(model.prices, list) else (NOW,)
        for moment, counts in product(moments, USAGES[:2] if is_hourly else USAGES):
            usage = Usage(**counts)
            ours = rates.in_force(int(moment.timestamp()) * USD, {}).cost(usage)
            theirs = in_the_book(usage, model, provider, moment)
            if ours != theirs:
                reasons.add(reason := reason_to_differ(usage, model, provider, moment))
                differences += [] if reason else [(provider.id, model.id, moment, counts, ours, theirs)]
    assert not differences, (len(differences), differences[:5])
    assert len(reasons) == 4


def is_priced(model: ModelInfo) -> bool:
    """Whether the book prices a model's tokens or its speech."""
    price = model.get_prices(NOW)
    return price.input_mtok is not None or price.audio_hours is not None


def test_cost_is_the_books_own_for_what_requests_ask() -> None:
    """Of the members of a request that have prices of their own, for every model that has some."""
    checked = 0
    for provider, model in models():
        for variant in model.price_variants or ():
            ((member, value), *_) = variant.when.items()
            rates = price_of(provider.id, model.id)
            if rates is None or member not in {"service_tier", "speed"}:
                continue
            usage = Usage(input_tokens=1000, cached_input_tokens=300, output_tokens=70)
            ours = rates.in_force(int(NOW.timestamp()) * USD, {member: f'"{value}"'.encode()}).cost(usage)
            asked = copy(model)
            asked.prices = model.get_prices(NOW, variant.when)
            assert ours == in_the_book(usage, asked, provider, NOW), (provider.id, model.id, variant.when)
            checked += 1
    assert checked > 50


def test_cache_writes_are_billed_once() -> None:
    """The figures of litellm #9812: $0.054399 by the provider's own console, where $0.091311 was computed."""
    rates = rates_of("anthropic", "claude-3-7-sonnet-20250219")
    assert rates.cost(Usage(input_tokens=3, cache_write_tokens=12_304, output_tokens=550)) == 54_399_000


def test_cache_writes_for_an_hour_cost_twice_the_input() -> None:
    """And those for five minutes a quarter more than it (platform.claude.com/docs: prompt caching)."""
    rates = rates_of("anthropic", "claude-haiku-4-5")
    assert rates.cost(Usage(cache_write_1h_tokens=1_000_000)) == 2 * USD
    assert rates.cost(Usage(cache_write_tokens=1_000_000)) == USD * 5 // 4


def test_reasoning_tokens_are_billed() -> None:
    """Litellm #10567: hidden reasoning costs what output costs when the book has no price of its own for it."""
    rates = rates_of("openai", "gpt-5-mini")
    assert rates.cost(Usage(output_tokens=100, reasoning_tokens=900)) == 10 * rates.cost(Usage(output_tokens=100))


@pytest.mark.parametrize(
    ("moment", "usd"),
    [
        ("2026-11-30T00:29", "0.55"),
        ("2026-11-30T00:30", "1.1"),
        ("2026-11-30T16:29", "1.1"),
        ("2026-11-30T16:30", "0.55"),
        ("2026-11-28T12:00", "1.1"),  # a Saturday like any other day
    ],
)
def test_deepseek_chat_is_cheaper_by_night(moment: str, usd: str) -> None:
    assert rates_of("deepseek", "deepseek-chat", moment).cost(Usage(output_tokens=1_000_000)) == int(Decimal(usd) * USD)


@pytest.mark.parametrize(
    ("moment", "usd"),
    [
        ("2026-11-27T00:59", "0.6"),
        ("2026-11-27T01:00", "1.2"),  # a Friday
        ("2026-11-27T04:00", "0.6"),
        ("2026-11-27T09:59", "1.2"),
        ("2026-11-28T01:00", "0.6"),
        ("2026-11-29T09:59", "0.6"),
        ("2026-11-30T06:00", "1.2"),
    ],
)
def test_deepseek_flash_has_no_peak_at_weekends(moment: str, usd: str) -> None:
    rates = rates_of("deepseek", "deepseek-flash", moment)
    assert rates.cost(Usage(output_tokens=1_000_000)) == int(Decimal(usd) * USD)


def test_long_prompts_pay_the_higher_tier_with_their_output() -> None:
    """Gemini 2.5 Pro: above 200,000 tokens, cached ones included, $2.50 and $15 in place of $1.25 and $10."""
    rates = rates_of("google", "gemini-2.5-pro")
    assert rates.cost(Usage(input_tokens=200_000, output_tokens=1000)) == USD // 4 + USD // 100
    assert rates.cost(Usage(input_tokens=200_001, output_tokens=1000)) == 500_002_500 + 15_000_000


def test_a_search_of_another_size_has_its_fee() -> None:
    """Perplexity's fee for a request follows the size of its search."""
    for size, fee in ((b"null", 5), (b'{"search_context_size": "low"}', 5), (b'{"search_context_size": "high"}', 12)):
        assert rates_of("perplexity", "sonar", web_search_options=size).cost(Usage()) == fee * 1_000_000


def test_speech_is_priced_by_its_length_or_its_tokens() -> None:
    """Ten seconds of whisper-1 are a tenth of a cent; Groq bills ten seconds for one; tokens are ten a second."""
    assert rates_of("openai", "whisper-1").cost(Usage(audio_ms=10_000)) == USD // 1000
    groq = rates_of("groq", "whisper-large-v3-turbo")
    assert groq.cost(Usage(audio_ms=1000)) == groq.cost(Usage(audio_ms=10_000)) > 0
    tokens = rates_of("openai", "gpt-4o-transcribe")
    assert tokens.cost(Usage(audio_ms=10_000)) == tokens.cost(Usage(audio_input_tokens=100)) == 600_000


def test_the_price_book_names_its_version() -> None:
    assert rates_of("openai", "gpt-5-mini").version.startswith("genai-prices/")
    assert rates_of("openai", "text-embedding-3-small").cost(Usage(output_tokens=1_000_000)) == USD // 50


def test_model_that_the_book_cannot_price_has_no_price() -> None:
    """Unknown names, and a model whose book entry prices no tokens, must not look like free ones."""
    assert price_of("openai", "no-such-model") is None
    assert price_of("no-such-provider", "gpt-5-mini") is None
    assert price_of("openai", "tts-1") is None
    assert price_of("github-copilot", "gpt-4o") is None
