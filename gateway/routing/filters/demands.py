"""Rules out targets by what they are, whatever the call: licence, hosting, region, quality.

Of licences, ``restricted`` (use-based), ``no-derivatives`` and a provider's own terms allow commercial use of what they
allow; a region or a score that is not configured meets no demand.
"""

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.fields import Name, Number
from gateway.config.section import Section
from gateway.config.snapshot import matches
from gateway.routing.base import Demand
from gateway.types import Target

_NOT_COMMERCIAL = frozenset({"non-commercial", "unknown"})


class Licence(Demand):
    """Its licence allows commercial use."""

    class Options(Section):  # noqa: D106 - a part's keys
        commercial: Literal["allowed", "any"] = Field(
            default="any", description="`allowed`: only licences under which commercial use is allowed."
        )

    def unmet(self, target: Target) -> str | None:
        """Name the licence."""
        refused = self.options.commercial == "allowed" and target.licence in _NOT_COMMERCIAL
        return f"licence is {target.licence}" if refused else None


class Hosting(Demand):
    """It runs on own hardware."""

    class Options(Section):  # noqa: D106 - a part's keys
        hosting: Literal["own", "any"] = Field(
            default="any", description="`own`: only own hardware; no data leaves it."
        )

    def unmet(self, target: Target) -> str | None:
        """Say so."""
        return "not on own hardware" if self.options.hosting == "own" and not target.own_hardware else None


class Region(Demand):
    """It runs in one of some regions."""

    class Options(Section):  # noqa: D106 - a part's keys
        region: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
            default=(), description="Only models whose `region` is one of these, such as `[eu-*]`; `*` is any text."
        )

    def unmet(self, target: Target) -> str | None:
        """Name the region."""
        wanted, region = self.options.region, target.region
        return None if not wanted or (region and matches(region, wanted)) else f"region is {region or 'not known'}"


class Quality(Demand):
    """It has at least these scores."""

    class Options(Section):  # noqa: D106 - a part's keys
        quality: dict[Name, Annotated[float, Number, Field(ge=0)]] = Field(
            default={}, description="Only models whose `quality` has at least these scores: `{mmlu: 0.3}`."
        )

    def unmet(self, target: Target) -> str | None:
        """Name the first score that is too low."""
        for name, least in self.options.quality.items():
            if (score := target.quality.get(name, -1.0)) < least:
                return f"{name} is {'not known' if score < 0 else f'{score:g}'}, at least {least:g} is demanded"
        return None
