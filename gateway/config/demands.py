"""What a route demands of a target, whatever the call: licence, hosting, region, quality.

None of it changes within a snapshot, so it is decided when one is built, and a request meets only what is left. Of
licences, ``restricted`` (use-based), ``no-derivatives`` and a provider's own terms allow commercial use of what they
allow; a region or a score that is not configured meets no demand.
"""

from collections.abc import Iterator

from gateway.config.schema import RequireSection
from gateway.config.snapshot import matches
from gateway.types import Dropped, Target

_NOT_COMMERCIAL = frozenset({"non-commercial", "unknown"})


def unmet(require: RequireSection, target: Target) -> Dropped | None:
    """Return the first demand that a target does not meet, as the plan shows it; None: it meets all."""
    for demand, reason in _unmet(require, target):
        return Dropped(target_id=target.id, filter=demand, reason=reason)
    return None


def _unmet(require: RequireSection, target: Target) -> Iterator[tuple[str, str]]:
    if require.commercial == "allowed" and target.licence in _NOT_COMMERCIAL:
        yield "licence", f"licence is {target.licence}"
    if require.hosting == "own" and not target.own_hardware:
        yield "hosting", "not on own hardware"
    if require.region and not (target.region and matches(target.region, require.region)):
        yield "region", f"region is {target.region or 'not known'}"
    for name, least in require.quality.items():
        if (score := target.quality.get(name, -1.0)) < least:
            yield "quality", f"{name} is {'not known' if score < 0 else f'{score:g}'}, at least {least:g} is demanded"
