"""Rules out targets by what they are, whatever the call: licence, hosting, region, data policy, quality.

Of licences, ``restricted`` (use-based), ``no-derivatives`` and a provider's own terms allow commercial use of what they
allow; a region or a score that is not configured meets no demand.
"""

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.fields import Name, Number
from gateway.config.section import Section
from gateway.config.snapshot import matches
from gateway.routing.base import Demand
from gateway.types import Licence as LicenceClass
from gateway.types import Target

_NOT_COMMERCIAL = frozenset({"non-commercial", "unknown"})


class Licence(Demand):
    """Its licence allows commercial use, or is of one of some classes."""

    class Options(Section):  # noqa: D106 - a part's keys
        commercial: Literal["allowed", "any"] = Field(
            default="any", description="`allowed`: only licences under which commercial use is allowed."
        )
        licence: tuple[LicenceClass, ...] = Field(
            default=(), description="Only models whose licence is of one of these classes: `[permissive, copyleft]`."
        )

    def unmet(self, target: Target) -> str | None:
        """Name the licence."""
        classes = self.options.licence
        refused = self.options.commercial == "allowed" and target.licence in _NOT_COMMERCIAL
        refused = refused or (bool(classes) and target.licence not in classes)
        return f"licence is {target.licence}" if refused else None


class Hosting(Demand):
    """It runs on own hardware, or at a provider's."""

    class Options(Section):  # noqa: D106 - a part's keys
        hosting: Literal["own", "provider", "any"] = Field(
            default="any", description="`own`: only own hardware; no data leaves it. `provider`: all but that."
        )

    def unmet(self, target: Target) -> str | None:
        """Say where it runs."""
        hosting = "own" if target.own_hardware else "provider"
        if self.options.hosting in ("any", hosting):
            return None
        return "on own hardware" if target.own_hardware else "not on own hardware"


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


class DataUse(Demand):
    """What it does with prompts is no more than this."""

    class Options(Section):  # noqa: D106 - a part's keys
        data_policy: Literal["zero-retention", "no-training", "any"] = Field(
            default="any",
            description="`no-training`: only models whose `data_policy` is that or `zero-retention`, which includes "
            "it; `zero-retention`: only these.",
        )

    def unmet(self, target: Target) -> str | None:
        """Name the data policy."""
        wanted = self.options.data_policy
        met = {"any": True, "no-training": target.data_policy != "unknown"}
        return None if met.get(wanted, target.data_policy == wanted) else f"data policy is {target.data_policy}"


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
