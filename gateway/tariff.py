"""What is used and what it is charged at: the classes of usage, and a target's rates for each of them."""

from typing import Literal

from msgspec import Struct
from msgspec.structs import astuple

Origin = Literal["provider", "engine", "estimated"]


class Amounts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was used, in disjoint classes: they add up to what was read and written, each counted once.

    To add a class, add it here, with a default, and a revision in ``store/migrations/versions``; ``Rates`` has the
    rates of the token classes in the same order. First what was read, then what was written, then what is no token.
    """

    input_tokens: int = 0
    """Read at full price: neither from a cache nor written to one. Text, and what is not told apart from it."""
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    """For the provider's usual time: five minutes at Anthropic."""
    cache_write_1h_tokens: int = 0
    """For an hour."""
    audio_input_tokens: int = 0
    cached_audio_tokens: int = 0
    image_input_tokens: int = 0
    cached_image_tokens: int = 0
    output_tokens: int = 0
    """Visible output; reasoning is counted apart."""
    reasoning_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    audio_ms: int = 0
    """Speech that is billed by its length."""
    web_searches: int = 0
    upstream_cost_nano_usd: int = 0
    """What the upstream itself says that it costs; 0: it does not say."""

    @property
    def read_tokens(self) -> int:
        """All that the model read."""
        return sum(astuple(self)[:8])

    @property
    def written_tokens(self) -> int:
        """All that the model wrote, reasoning included."""
        return sum(astuple(self)[8:12])


class Usage(Amounts, frozen=True, kw_only=True, omit_defaults=True):
    """What one attempt used, and from where it is known."""

    origin: Origin = "provider"


class Rates(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Flat prices of one target. Nano-dollars per million tokens: exact integers for every price list we know of."""

    input_nano_usd_per_mtok: int = 0
    cached_input_nano_usd_per_mtok: int = 0
    cache_write_nano_usd_per_mtok: int = 0
    output_nano_usd_per_mtok: int = 0
    reasoning_nano_usd_per_mtok: int = 0
    request_nano_usd: int = 0
    audio_nano_usd_per_hour: int = 0
    hardware_nano_usd_per_hour: int | None = None
    """Own hardware: the hourly price of one replica. Such a call costs its share of the time, not its tokens."""
    version: str = "free"
    """The price book and its version, or ``config``; stored with every ledger entry."""
