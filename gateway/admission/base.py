"""The interface of admission: lets a call in or refuses it. The implementations decide what is counted, and where."""

from typing import Protocol

from gateway.errors import Allowance
from gateway.tariff import Hold
from gateway.types import BodyBudget, Principal


class Admission(Hold, Protocol):
    """A call that was let in: it counts among its key's running calls, and its body's bytes among the key's."""

    allowance: Allowance | None
    """What is left to the key behind this call; None: its requests a minute are not limited."""

    def take_body(self, size_bytes: int) -> None:
        """Count the call's body with so many bytes from now on, until the call ends.

        Raises GatewayError with ``retry_after_s``, and counts what it did before: TOO_MANY_BODY_BYTES when the key
        holds its share, BODY_MEMORY_FULL when all keys together hold what there is.
        """


class Gate(Protocol):
    """Let calls in."""

    async def admit(self, key: Principal, budget: BodyBudget) -> Admission:
        """Count a request against its key's rate and concurrency, or raise; its body has not been read yet.

        Checking and counting are one step, so that callers at the same moment cannot all find room for one. A request
        refused here is not counted; one that is let in counts, also if its body turns out to be bad. ``budget`` is what
        ``take_body`` goes by. Raises GatewayError with ``retry_after_s`` and ``allowance``: RATE_LIMITED,
        TOO_MANY_CONCURRENT.
        """
