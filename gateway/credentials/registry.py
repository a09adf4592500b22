"""Every signer. A new one is a line here; a provider's row names it."""

from gateway.clock import Clock
from gateway.credentials.base import Signer
from gateway.credentials.header import InHeader
from gateway.transport.base import Transport


def signers(_clock: Clock, _transport: Transport) -> dict[str, Signer]:
    """Make them for one process. What a signer fetches and keeps for a while, it fetches and times by these."""
    return {
        "bearer": InHeader("authorization", "Bearer "),
        "x-api-key": InHeader("x-api-key"),
        "api-key": InHeader("api-key"),
    }
