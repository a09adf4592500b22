"""What letting a call in means to the pipeline. Who counts, and where, is left to the implementations."""

from typing import Protocol

from gateway.types import Call, Plan, Usage


class Hold(Protocol):
    """Something taken for the length of a call. The first of the two ends it; every later call of either does nothing.

    Neither raises nor waits: they run while a request is being cleaned up.
    """

    def settle(self, usage: Usage) -> None:
        """Give back what is held and keep what was used."""

    def release(self) -> None:
        """Give back all of it: nothing was used."""


class Gate(Protocol):
    """Let calls in."""

    async def admit(self, call: Call) -> Hold:
        """Count a call against its key's rate and concurrency, or raise.

        Checking and counting are one step, so that callers at the same moment cannot all find room for one. A refused
        call is not counted. Raises GatewayError with ``retry_after_s``: RATE_LIMITED, TOO_MANY_CONCURRENT.
        """

    async def reserve(self, call: Call, plan: Plan) -> Hold:
        """Set aside what the dearest target of the plan may use, until the hold is settled."""
