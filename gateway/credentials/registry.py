"""Every signer. A new one is a line here; a provider's row names it."""

from collections.abc import Callable

from gateway.clock import Clock
from gateway.credentials.base import Signer
from gateway.credentials.header import InHeader
from gateway.transport.base import Transport

SIGNERS: dict[str, Callable[[Clock, Transport], Signer]] = {
    "bearer": lambda *_: InHeader("authorization", "Bearer "),
    "x-api-key": lambda *_: InHeader("x-api-key"),
    "api-key": lambda *_: InHeader("api-key"),
}


def signers(clock: Clock, transport: Transport) -> dict[str, Signer]:
    """Make them for one process. What a signer fetches and keeps for a while, it fetches and times by these."""
    return {name: make(clock, transport) for name, make in SIGNERS.items()}
