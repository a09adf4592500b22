"""Rules out targets by their present state."""

from gateway.routing.base import Filter
from gateway.types import Call, TargetView


class Health(Filter):
    """The breaker lets attempts through."""

    fault = "health"

    def reject(self, call: Call, view: TargetView) -> str | None:  # noqa: ARG002 - the protocol's signature
        """Pass on the reason."""
        return view.refusal
