"""The rules by which upstreams cache prompts: dated data, a row for each family of models.

The rows are in ``catalogue/prompt_caches.toml``. What a cached token costs is the tariff's; what is probably cached of
a prompt is worked out in ``targets.affinity``.
"""

import re
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

_TABLE = Path(__file__).parent / "catalogue" / "prompt_caches.toml"


class PromptCache(Struct, frozen=True, kw_only=True):
    """How one target caches prompts; the table's head says what each field means."""

    match: Literal["longest", "end", "mark"]
    minimum_tokens: int
    grain_tokens: int = 1
    lifetime_s: float
    counts_from: Literal["start", "answer"] = "answer"
    keyed: bool = False
    bills_writes: bool = False
    promise: float


class Rule(PromptCache, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the table."""

    providers: frozenset[str]
    models: str
    source: str
    date: date

    def fits(self, provider_type: str, model: str) -> bool:
        """Whether the row is about this model of such a provider."""
        is_of_type = provider_type in self.providers or "*" in self.providers
        return is_of_type and re.fullmatch(self.models, model) is not None


CacheOf = Callable[[str, str], PromptCache]
"""(a provider's type, the provider's name of a model) -> how that caches."""


class _Table(Struct, forbid_unknown_fields=True):
    rule: list[Rule]


def read_rules() -> list[Rule]:
    """Read the table, in its order; it takes a millisecond."""
    return msgspec.convert(tomllib.loads(_TABLE.read_text(encoding="utf-8")), _Table).rule


def cache_lookup() -> CacheOf:
    """Read the table; what is returned takes the first row that fits."""
    rules = read_rules()

    def cache_of(provider_type: str, model: str) -> PromptCache:
        rule = next(rule for rule in rules if rule.fits(provider_type, model))
        return msgspec.convert(rule, PromptCache, from_attributes=True)

    return cache_of
