"""The prices that a configuration file may state, and the rates made from them."""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from msgspec.structs import replace
from pydantic import Field, field_validator, model_validator

from gateway.config.fields import Count, Usd
from gateway.config.section import Section
from gateway.tariff import Rates, Tier, Variant, token_rates, with_variants

_NANO = 1_000_000_000
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


class PricesSection(Section):
    """Prices in USD per 1M tokens; a class that is left out costs what its tokens would cost otherwise."""

    input: Usd | None = Field(default=None, description="Tokens read.")
    output: Usd | None = Field(default=None, description="Tokens written.")
    cached_input: Usd | None = Field(default=None, description="Tokens read from a cache. Default: `input`.")
    cache_write: Usd | None = Field(default=None, description="Tokens written to the cache. Default: `input`.")
    cache_write_1h: Usd | None = Field(
        default=None, description="Tokens written to the cache for an hour. Default: `cache_write`."
    )
    reasoning: Usd | None = Field(default=None, description="Hidden reasoning tokens. Default: `output`.")
    audio_input: Usd | None = Field(default=None, description="Tokens of speech that is read. Default: `input`.")
    cached_audio: Usd | None = Field(default=None, description="The same from a cache. Default: `cached_input`.")
    audio_output: Usd | None = Field(default=None, description="Tokens of speech that is written. Default: `output`.")
    image_input: Usd | None = Field(default=None, description="Tokens of images that are read. Default: `input`.")
    cached_image: Usd | None = Field(default=None, description="The same from a cache. Default: `cached_input`.")
    image_output: Usd | None = Field(default=None, description="Tokens of images that are written. Default: `output`.")
    audio_hour: Usd | None = Field(default=None, description="USD for an hour of transcribed speech. Default: 0.")
    web_search: Usd | None = Field(default=None, description="USD for each web search of the upstream. Default: 0.")
    per_request: Usd | None = Field(default=None, description="USD for each request, whatever its size. Default: 0.")

    def stated(self) -> dict[str, int]:
        """Return the prices that are there, in nano-dollars; exactly, for no more than nine decimals are let in."""
        given = {name: getattr(self, name) for name in PricesSection.model_fields}
        return {name: int(usd * _NANO) for name, usd in given.items() if isinstance(usd, Decimal)}


class TierSection(PricesSection):
    """Prices of requests with a longer prompt, output included; what is left out costs what it costs below that."""

    above_tokens: Count = Field(description="Tokens of the prompt, cached ones too; a request with more pays these.")


class VariantSection(PricesSection):
    """Prices at some times or of some requests; what is left out costs what it costs otherwise."""

    hours: str | None = Field(default=None, description="Of the day in UTC: `16:30-00:30`, which is over midnight.")
    days: tuple[Day, ...] = Field(default=(), description="On which the hours begin: `[sat, sun]`. Default: all.")
    request: Annotated[dict[str, str], Field(max_length=1)] = Field(
        default={},
        description="What a request asks for: `{service_tier: flex}` (where the answer names its tier, that counts), "
        "or with a dot, `{web_search_options.search_context_size: high}`.",
    )
    tiers: tuple[TierSection, ...] = Field(default=(), description="Prices of longer prompts at such times.")

    @field_validator("hours")
    @classmethod
    def _in_a_day(cls, hours: str | None) -> str | None:
        if hours is not None:
            begins_s, ends_s = _seconds(hours)
            if begins_s == ends_s:
                raise ValueError("should begin and end at different times")
        return hours

    @model_validator(mode="after")
    def _conditional(self) -> "VariantSection":
        if self.hours is None and not self.days and not self.request:
            raise ValueError("say when these prices hold: hours, days or request")
        return self


class PriceSection(PricesSection):
    """Prices in USD per 1M tokens; a class that is left out costs what its tokens would cost otherwise."""

    tiers: tuple[TierSection, ...] = Field(default=(), description="Prices of longer prompts.")
    variants: tuple[VariantSection, ...] = Field(
        default=(), description="Prices at some times, or of some requests. Of several that hold, the last does."
    )

    @model_validator(mode="after")
    def _complete(self) -> "PriceSection":
        by_other = (self.per_request, self.audio_hour) != (None, None)
        without_tokens = self.input is None and self.output is None and by_other
        if not without_tokens and (self.input is None or self.output is None):
            raise ValueError("give both input and output (0 if it costs nothing), or write price: free")
        return self


def rates_of(price: PriceSection) -> Rates:
    """Make the rates that the file states."""
    stated = price.stated()
    rates = _tiered(stated, price.tiers)
    if rates == Rates() and not price.variants:
        return rates
    return with_variants(replace(rates, version="config"), [_variant(each, price) for each in price.variants])


def _variant(section: VariantSection, price: PriceSection) -> Variant:
    """Make a variant; what it leaves out costs what it costs otherwise, longer prompts included."""
    own = section.stated()
    tiers, always = (section.tiers, {}) if section.tiers else (price.tiers, own)
    rates = replace(_tiered(price.stated() | own, tiers, always), version="config")
    when: dict[str, Any] = {}
    if section.hours is not None:
        when["begins_s"], when["ends_s"] = _seconds(section.hours)
    if section.days:
        when["days"] = tuple(get_args(Day).index(day) for day in section.days)
    for member, value in section.request.items():
        when |= {"member": member, "value": value}
    return Variant(rates=rates, **when)


def _tiered(stated: dict[str, int], tiers: tuple[TierSection, ...], always: dict[str, int] | None = None) -> Rates:
    """Make rates with tiers, which hold what they state in place of ``stated``, but nothing in place of ``always``."""
    longer = sorted(tiers, key=lambda tier: tier.above_tokens)
    rates = [(each.above_tokens, _flat(stated | each.stated() | (always or {}))) for each in longer]
    return replace(_flat(stated), tiers=tuple(Tier(above_tokens=above, rates=each) for above, each in rates))


def _flat(stated: dict[str, int]) -> Rates:
    return Rates(
        **token_rates(stated),
        audio_nano_usd_per_hour=stated.get("audio_hour", 0),
        web_search_nano_usd=stated.get("web_search", 0),
        request_nano_usd=stated.get("per_request", 0),
    )


def _seconds(hours: str) -> tuple[int, int]:
    """Read ``HH:MM-HH:MM`` as seconds of the day. Raises ValueError."""
    found = _HOURS.fullmatch(hours)
    if found is None:
        raise ValueError("should be hours of the day in UTC, such as '16:30-00:30'")
    begin_h, begin_m, end_h, end_m = map(int, found.groups())
    return begin_h * 3600 + begin_m * 60, min(end_h * 3600 + end_m * 60, 86_400)
