"""Money: what usage costs at given rates, and the rates that the price book knows.

Integers throughout; one rounding, at the end. Which rates a target has (a configured price wins over the book), and
how much of a replica a call had to itself, are decided elsewhere. ``price_of`` takes milliseconds and belongs where a
snapshot is built, never on the path of a request.
"""

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from importlib.metadata import version

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

from gateway.tariff import Rates, Usage

_MTOK = 1_000_000
_HOUR_NS = 3_600_000_000_000
_HOUR_MS = 3_600_000
_NANO = Decimal(10**9)


def cost_nano_usd(usage: Usage, rates: Rates) -> int:
    """Price the tokens of one attempt, each class once and at its own rate, plus the flat price of a request.

    Nano-dollars, rounded half up once. The classes of ``Usage`` are disjoint, so nothing is subtracted here: whoever
    decodes a provider's usage has taken cached tokens out of the input and reasoning out of the output.
    """
    per_mtok = (
        usage.input_tokens * rates.input_nano_usd_per_mtok
        + usage.cached_input_tokens * rates.cached_input_nano_usd_per_mtok
        + usage.cache_write_tokens * rates.cache_write_nano_usd_per_mtok
        + usage.output_tokens * rates.output_nano_usd_per_mtok
        + usage.reasoning_tokens * rates.reasoning_nano_usd_per_mtok
    )
    cost = rates.request_nano_usd + (per_mtok + _MTOK // 2) // _MTOK
    if usage.audio_ms:
        cost += (usage.audio_ms * rates.audio_nano_usd_per_hour + _HOUR_MS // 2) // _HOUR_MS
    return cost


def hardware_cost_nano_usd(rates: Rates, share_s: float) -> int:
    """Price the seconds of one replica that a call had: its duration divided by the calls that ran beside it.

    Nano-dollars, rounded half up; 0 when the rates have no hourly price.
    """
    if rates.hardware_nano_usd_per_hour is None:
        return 0
    share_ns = round(share_s * 1e9)
    return (rates.hardware_nano_usd_per_hour * share_ns + _HOUR_NS // 2) // _HOUR_NS


def price_of(price_provider: str, upstream_model: str) -> Rates | None:
    """Return the price book's rates, or None when it does not know the model or has no price for its tokens.

    Source: the installed ``genai-prices`` package (its own ``provider`` ids); nothing is fetched. Where the book is
    richer than flat rates: of prices that depend on the size of the prompt, the base tier; of prices that depend on
    the hour, the dearest of today (UTC); of cache writes, the short-lived kind. A class without a price of its own
    costs what the class it belongs to costs: cached input and cache writes as input, reasoning as output; and what an
    embedding model would write, which it does not, as input.
    """
    try:
        _, model = get_snapshot().find_provider_model(upstream_model, None, price_provider, None)
    except LookupError:
        return None
    price = _dearest_today(model)
    input_nano = _nano_usd(price.input_mtok)
    audio_nano = _first(_nano_usd(price.audio_hours), 0)
    if input_nano is None:
        if not audio_nano:
            return None
        input_nano = 0
    output_nano = _first(_nano_usd(price.output_mtok), input_nano)
    requests_nano = _nano_usd(price.requests_kcount)
    return Rates(
        input_nano_usd_per_mtok=input_nano,
        cached_input_nano_usd_per_mtok=_first(_nano_usd(price.cache_read_mtok), input_nano),
        cache_write_nano_usd_per_mtok=_first(_nano_usd(price.cache_write_mtok), input_nano),
        output_nano_usd_per_mtok=output_nano,
        reasoning_nano_usd_per_mtok=_first(_nano_usd(price.output_reasoning_mtok), output_nano),
        request_nano_usd=_first(requests_nano, 0) // 1000,
        audio_nano_usd_per_hour=audio_nano,
        version=f"genai-prices/{version('genai-prices')}",
    )


def _dearest_today(model: ModelInfo) -> ModelPrice:
    now = datetime.now(tz=UTC)
    hours = (model.get_prices(now.replace(hour=hour, minute=45)) for hour in range(24))
    return max(hours, key=lambda price: (_nano_usd(price.output_mtok) or 0, _nano_usd(price.input_mtok) or 0))


def _nano_usd(price: Decimal | TieredPrices | None) -> int | None:
    if price is None:
        return None
    usd = price.base if isinstance(price, TieredPrices) else price
    # The book holds a few binary fractions (0.18000000000000002), so exact integers are got by rounding.
    return int((usd * _NANO).to_integral_value(ROUND_HALF_UP))


def _first(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value
