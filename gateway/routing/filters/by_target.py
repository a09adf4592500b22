"""Rule out targets by what they are (licence, hosting) and by how they fare (health), whatever the call asks for."""

from gateway.routing.base import Fault
from gateway.types import Call, Licence, TargetView

NOT_COMMERCIAL: frozenset[Licence] = frozenset({"non-commercial", "unknown"})
"""``restricted`` (use-based), ``no-derivatives`` and a provider's own terms allow commercial use of what they allow."""


class CommercialLicence:
    """A route that demands it gets only licences known to allow commercial use."""

    name = "licence"
    fault: Fault = "route"

    def reject(self, call: Call, view: TargetView) -> str | None:
        """Name the licence class."""
        if call.route.constraints.commercial and view.target.licence in NOT_COMMERCIAL:
            return f"licence is {view.target.licence}"
        return None


class OwnHardware:
    """A route that demands it stays on own hardware."""

    name = "hosting"
    fault: Fault = "route"

    def reject(self, call: Call, view: TargetView) -> str | None:
        """Say that the target is somebody else's machine."""
        if call.route.constraints.own_hardware and not view.target.own_hardware:
            return "not on own hardware"
        return None


class Health:
    """The breaker lets attempts through."""

    name = "health"
    fault: Fault = "health"

    def reject(self, call: Call, view: TargetView) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Pass on the breaker's reason."""
        return None if view.available else view.unavailable_reason or "unavailable"
