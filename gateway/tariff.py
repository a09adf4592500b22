"""Compute what a request costs: usage by class, times a target's rate for each class.

Integers throughout; one rounding, at the end. The one place for it: what is billed, what recovery writes, what routing
predicts and what ceilings are held to. Which rates a target has is decided in ``config.build``, how much of a replica a
call had to itself in ``targets``.
"""

from collections.abc import Mapping, Sequence
from operator import mul
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import astuple, replace

Origin = Literal["provider", "engine", "estimated"]

_MTOK = 1_000_000
_HOUR_MS = 3_600_000
_HOUR_NS = 3_600_000_000_000
_NS_PER_S = 1_000_000_000
_DAY_S = 86_400
_BELONGS_TO: dict[str, tuple[str, ...]] = {
    "input": (),
    "cached_input": ("input",),
    "cache_write": ("input",),
    "cache_write_1h": ("cache_write", "input"),
    "audio_input": ("input",),
    "cached_audio": ("cached_input", "audio_input", "input"),
    "image_input": ("input",),
    "cached_image": ("cached_input", "image_input", "input"),
    "output": (),
    "reasoning": ("output",),
    "audio_output": ("output",),
    "image_output": ("output",),
}
_TOKEN_CLASSES = len(_BELONGS_TO)
_READ_CLASSES = list(_BELONGS_TO).index("output")


class Amounts(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What was used, in disjoint classes: they add up to what was read and written, each counted once.

    To add a class, add it here, with a default, and a revision in ``store/migrations/versions``; ``Rates`` has the
    rates of the token classes in the same order. First what was read, then what was written, then what is no token.
    """

    input_tokens: int = 0
    """Read at full price: neither from a cache nor written to one. Text, and what is not counted apart from it."""
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
        return sum(astuple(self)[:_READ_CLASSES])

    @property
    def written_tokens(self) -> int:
        """All that the model wrote, reasoning included."""
        return self.output_tokens + self.reasoning_tokens + self.audio_output_tokens + self.image_output_tokens


class Usage(Amounts, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one attempt used, and from where it is known."""

    origin: Origin = "provider"


class Spent(Struct, frozen=True):
    """What a call used and what it cost: the sum over its attempts."""

    usage: Amounts
    cost_nano_usd: int


class Hold(Protocol):
    """Something taken for the length of a call."""

    def settle(self, spent: Spent) -> None:
        """Give back what is held but for what was spent; the first call ends the hold, later ones do nothing.

        Neither raises nor waits, since it runs while a request is cleaned up: messages to other processes are queued.
        """


class Rates(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The prices of one target. Per million tokens they are integers for every price list that is known.

    First those of the token classes, in the order of ``Amounts``.
    """

    input_nano_usd_per_mtok: int = 0
    cached_input_nano_usd_per_mtok: int = 0
    cache_write_nano_usd_per_mtok: int = 0
    cache_write_1h_nano_usd_per_mtok: int = 0
    audio_input_nano_usd_per_mtok: int = 0
    cached_audio_nano_usd_per_mtok: int = 0
    image_input_nano_usd_per_mtok: int = 0
    cached_image_nano_usd_per_mtok: int = 0
    output_nano_usd_per_mtok: int = 0
    reasoning_nano_usd_per_mtok: int = 0
    audio_output_nano_usd_per_mtok: int = 0
    image_output_nano_usd_per_mtok: int = 0
    audio_nano_usd_per_hour: int = 0
    least_audio_ms: int = 0
    """Shorter speech is billed as if it were as long."""
    web_search_nano_usd: int = 0
    request_nano_usd: int = 0
    hardware_nano_usd_per_hour: int | None = None
    """Own hardware: the hourly price of one replica. Such a call costs its share of the time, not its tokens."""
    tiers: tuple["Tier", ...] = ()
    """Ascending. The whole request, its output too, pays the rates of the highest that its prompt is above."""
    variants: tuple["Variant", ...] = ()
    """The last that holds takes the place of all else here; see ``with_variants``."""
    version: str = "free"
    """The price book and its version, or ``config``; stored with every ledger entry."""

    def in_force(self, wall_ns: int, members: Mapping[str, bytes]) -> "Rates":
        """Return the rates of a request with such a body that is sent then (wall clock); ask where there are variants.

        They are ``self`` where none holds.
        """
        wall_s = wall_ns // _NS_PER_S
        return next((variant.rates for variant in reversed(self.variants) if variant.holds(wall_s, members)), self)

    def cost(self, usage: Amounts, share_s: float = 0.0) -> int:
        """Return nano-dollars, rounded half up once; on own hardware those of ``share_s`` seconds of one replica."""
        if self.hardware_nano_usd_per_hour is not None:
            return (self.hardware_nano_usd_per_hour * round(share_s * _NS_PER_S) + _HOUR_NS // 2) // _HOUR_NS
        if self.tiers and (dearer := self._at(usage.read_tokens)) is not self:
            return dearer.cost(usage)
        per_mtok: int = sum(map(mul, astuple(usage)[:_TOKEN_CLASSES], astuple(self)))
        if usage.audio_ms or usage.web_searches:
            return self._with_others(per_mtok, usage)
        return self.request_nano_usd + (per_mtok + _MTOK // 2) // _MTOK

    def _with_others(self, per_mtok: int, usage: Amounts) -> int:
        """Add what is billed by its length or its number; still rounded once."""
        audio = max(usage.audio_ms, self.least_audio_ms if usage.audio_ms else 0) * self.audio_nano_usd_per_hour
        whole = _MTOK * _HOUR_MS
        tokens_and_audio = (per_mtok * _HOUR_MS + audio * _MTOK + whole // 2) // whole
        return self.request_nano_usd + usage.web_searches * self.web_search_nano_usd + tokens_and_audio

    def predict(self, input_tokens: int, audio_ms: int, members: Mapping[str, bytes]) -> tuple[float, float]:
        """Return the nano-dollars, integers if whole, of what such a request makes read and of each token written."""
        if self.tiers or audio_ms or self.web_search_nano_usd:
            written = self._at(input_tokens).output_nano_usd_per_mtok
            return self.cost(presume(input_tokens, audio_ms, members)), written / _MTOK
        read, written = input_tokens * self.input_nano_usd_per_mtok // _MTOK, self.output_nano_usd_per_mtok
        return self.request_nano_usd + read, written / _MTOK if written % _MTOK else written // _MTOK

    def predict_reads(self, reads: Amounts, audio_ms: int, members: Mapping[str, bytes]) -> tuple[float, float]:
        """Return the same where it is known how much of the prompt is in a cache or goes there."""
        presumed = replace(
            presume(reads.input_tokens, audio_ms, members),
            cached_input_tokens=reads.cached_input_tokens,
            cache_write_tokens=reads.cache_write_tokens,
            cache_write_1h_tokens=reads.cache_write_1h_tokens,
        )
        return self.cost(presumed), self._at(reads.read_tokens).output_nano_usd_per_mtok / _MTOK

    def _at(self, read_tokens: int) -> "Rates":
        for tier in reversed(self.tiers):
            if read_tokens > tier.above_tokens:
                return tier.rates
        return self


class Tier(Struct, frozen=True, kw_only=True):
    """The rates of requests whose prompt is longer than so many tokens, cached ones included."""

    above_tokens: int
    rates: Rates


class Variant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rates from a date on, at hours of the day, or of requests with a member of such a value."""

    rates: Rates
    since_s: int = 0
    """Unix time."""
    begins_s: int = 0
    ends_s: int = _DAY_S
    """Of the day in UTC, itself outside; before ``begins_s``, the hours go over midnight."""
    days: tuple[int, ...] = tuple(range(7))
    """On which the hours begin; 0 is Monday."""
    member: str = ""
    """Of the request's body; with a dot, a member of that member."""
    value: str = ""

    def holds(self, wall_s: int, members: Mapping[str, bytes]) -> bool:
        """Whether a request with such a body pays these rates if it is sent then (Unix time)."""
        day, second = divmod(wall_s, _DAY_S)
        if self.ends_s < self.begins_s and second < self.ends_s:
            day, second = day - 1, second + _DAY_S
        ends_s = self.ends_s + _DAY_S if self.ends_s < self.begins_s else self.ends_s
        is_time = wall_s >= self.since_s and self.begins_s <= second < ends_s
        # The first day of Unix time was a Thursday.
        return is_time and (day + 3) % 7 in self.days and (not self.member or self._is_asked(members))

    def _is_asked(self, members: Mapping[str, bytes]) -> bool:
        name, _, inner = self.member.partition(".")
        try:
            value = msgspec.json.decode(members[name])
        except (KeyError, msgspec.DecodeError):  # there is none; or it is a form's, and not JSON
            return False
        if inner:
            value = value.get(inner) if isinstance(value, dict) else None
        return bool(value == self.value)


def with_variants(rates: Rates, variants: Sequence[Variant]) -> Rates:
    """Return rates that the last of the variants that holds replaces.

    They stand first among the variants themselves: so what is in force never has any, and a line of the journal, which
    has the rates of its attempt, does not repeat them all.
    """
    return replace(rates, variants=(Variant(rates=rates), *variants)) if variants else rates


def presume(input_tokens: int, audio_ms: int, members: Mapping[str, bytes]) -> Usage:
    """Say what a request will use before its upstream has counted, but for what is written."""
    searches = int(members.get("web_search_options", b"null") != b"null")
    return Usage(input_tokens=input_tokens, audio_ms=audio_ms, web_searches=searches, origin="estimated")


def token_rates(prices: Mapping[str, int]) -> dict[str, Any]:
    """Return the members of ``Rates`` for the classes of tokens; one without a price costs what it belongs to costs."""
    return {
        f"{name}_nano_usd_per_mtok": next((prices[each] for each in (name, *others) if each in prices), 0)
        for name, others in _BELONGS_TO.items()
    }
