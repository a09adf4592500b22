"""Looks up the rates of a provider's model in the price book, the installed ``genai-prices`` package; fetches nothing.

``price_of`` takes milliseconds and belongs where a snapshot is built, never on the path of a request. That a configured
price wins over the book is decided in ``config.build``, and what usage costs at given rates in ``tariff``.
"""

from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime, time
from decimal import ROUND_HALF_UP, Decimal
from importlib.metadata import version
from typing import Any

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import (
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from msgspec.structs import replace

from gateway.tariff import Rates, Tier, Variant, token_rates, with_variants

_VERSION = f"genai-prices/{version('genai-prices')}"
_NANO = Decimal(10**9)
_KEYS = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "cache_audio_read_mtok": "cached_audio",
    "input_image_mtok": "image_input",
    "cache_image_read_mtok": "cached_image",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "output_audio_mtok": "audio_output",
    "output_image_mtok": "image_output",
}
_ASKED = {"service_tier", "speed"}
"""Members of a request for which the book has prices of their own."""
_WEEKDAYS_ONLY = {"deepseek-flash", "deepseek-v4-flash", "deepseek-v4-pro"}
"""DeepSeek's peak hours are those of Monday to Friday; the book has no days, and says so in its comments."""
_SEARCH_SIZE = "web_search_options.search_context_size"
_SEARCH_FEES = {12: {"low": 5, "medium": 8, "high": 12}, 14: {"low": 6, "medium": 10, "high": 14}}
"""Perplexity's fee for a thousand requests by the size of the search, ``low`` unless another is asked for; the book has
the largest (docs.perplexity.ai/getting-started/pricing; its answers of November 2025 name the fee)."""
_LEAST_AUDIO_MS = {"groq": 10_000}
"""Groq bills ten seconds at least (console.groq.com/docs/speech-to-text)."""
_AUDIO_TOKENS_PER_HOUR = 36_000
"""One for 100 ms (OpenAI's guide to the costs of audio): for what is known by its length and priced by its tokens."""


def price_of(price_provider: str, upstream_model: str) -> Rates | None:
    """Return the book's rates, or None when it does not know the model or has no price for its tokens or its speech.

    ``price_provider``: the book's own id. A class without a price costs what the class that it belongs to costs.
    """
    try:
        provider, model = get_snapshot().find_provider_model(upstream_model, None, price_provider, None)
    except LookupError:
        return None
    found: list[Variant] = []
    for when, price in _moments(model):
        rates = _rates(price, provider.id)
        if rates is None:
            return None
        if not when:  # it holds always, so what came before does not
            found.clear()
        found.append(Variant(rates=rates, **when))
        found.extend(_asked(model, price, when, provider.id))
    return with_variants(found[0].rates, found[1:])


def _moments(model: ModelInfo) -> Iterator[tuple[dict[str, Any], ModelPrice]]:
    """Yield the prices of a model and when each holds; the last that does is the one."""
    prices = model.prices if isinstance(model.prices, list) else [ConditionalPrice(prices=model.prices)]
    for index, each in enumerate(prices):
        when = _when(each.constraint) if index else {}  # the first also holds when no other does
        if "begins_s" in when and model.id in _WEEKDAYS_ONLY:
            when["days"] = tuple(range(5))
        yield when, each.prices


def _when(constraint: StartDateConstraint | TimeOfDateConstraint | None) -> dict[str, Any]:
    """Return the members of ``Variant`` that say when; none: always, from now on."""
    if isinstance(constraint, StartDateConstraint):
        since = datetime.combine(constraint.start_date, time(), UTC)
        return {} if since <= datetime.now(UTC) else {"since_s": int(since.timestamp())}
    if isinstance(constraint, TimeOfDateConstraint):
        return {"begins_s": _second(constraint.start_time), "ends_s": _second(constraint.end_time)}
    return {}


def _second(moment: time) -> int:
    return moment.hour * 3600 + moment.minute * 60 + moment.second


def _asked(model: ModelInfo, price: ModelPrice, when: dict[str, Any], provider: str) -> Iterator[Variant]:
    """Yield the rates at such a time of requests that ask for something."""
    for each in model.price_variants or ():
        (member, value), *others = each.when.items()
        if member not in _ASKED or others:
            continue
        changed = copy(price)
        changed.__dict__.update((key, other) for key, other in vars(each.prices).items() if other is not None)
        if (rates := _rates(changed, provider)) is not None:
            yield Variant(rates=rates, **(when | _when(each.constraint)), member=member, value=value)
    for size, fee in _search_fees(price, provider).items():
        if (rates := _rates(price, provider)) is not None:
            yield Variant(rates=replace(rates, request_nano_usd=fee), **when, member=_SEARCH_SIZE, value=size)


def _rates(price: ModelPrice, provider: str) -> Rates | None:
    starts = {tier.start for each in vars(price).values() if isinstance(each, TieredPrices) for tier in each.tiers}
    base = _rates_above(price, provider, -1)
    if base is None or not starts:
        return base
    tiers = [(start, _rates_above(price, provider, start)) for start in sorted(starts)]
    return replace(base, tiers=tuple(Tier(above_tokens=start, rates=rates) for start, rates in tiers if rates))


def _rates_above(price: ModelPrice, provider: str, above_tokens: int) -> Rates | None:
    """Return the flat rates of prompts above so many tokens, as far as the next tier."""

    def nano(key: str, per: int = 1) -> int | None:
        usd = getattr(price, key)
        if isinstance(usd, TieredPrices):
            usd = next((tier.price for tier in reversed(usd.tiers) if tier.start <= above_tokens), usd.base)
        # The book holds a few binary fractions (0.18000000000000002), so integers are got by rounding.
        return None if usd is None else int((usd * _NANO / per).to_integral_value(ROUND_HALF_UP))

    prices = {name: found for key, name in _KEYS.items() if (found := nano(key)) is not None}
    audio = nano("audio_hours")
    if audio is None:
        audio = prices.get("audio_input", 0) * _AUDIO_TOKENS_PER_HOUR // 10**6
    if "input" not in prices and not audio:
        return None
    # What an embedding model would write, which it does not, costs what it reads.
    prices.setdefault("output", prices.get("input", 0))
    fees = _search_fees(price, provider)
    return Rates(
        **token_rates(prices),
        audio_nano_usd_per_hour=audio,
        least_audio_ms=_LEAST_AUDIO_MS.get(provider, 0),
        web_search_nano_usd=nano("web_searches_kcount", 1000) or 0,
        request_nano_usd=fees["low"] if fees else nano("requests_kcount", 1000) or 0,
        version=_VERSION,
    )


def _search_fees(price: ModelPrice, provider: str) -> dict[str, int]:
    """Return the fees of a request by the size of its search, in nano-dollars; none: it has no such fee."""
    fees = _SEARCH_FEES.get(int(price.requests_kcount or 0), {}) if provider == "perplexity" else {}
    return {size: usd_per_thousand * 1_000_000 for size, usd_per_thousand in fees.items()}
