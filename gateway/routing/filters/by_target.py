"""Rules out targets by their present state. What they are (licence, hosting, region) is decided with the snapshot."""

from gateway.routing.base import Fault
from gateway.types import Call, TargetView


class Health:
    """The breaker lets attempts through."""

    name = "health"
    fault: Fault = "health"

    def reject(self, call: Call, view: TargetView) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Pass on the reason."""
        return view.refusal
