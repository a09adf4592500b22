"""What a strategy is: it takes a plan and yields one answer, of which nothing has been sent yet."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct

from gateway.accounting.attempt import Attempt
from gateway.accounting.meter import Meter
from gateway.execution.patience import Patience
from gateway.formats.base import Decoder
from gateway.transport.base import UpstreamStream
from gateway.types import Call, Plan


class Reply(Struct, kw_only=True):
    """An answer that has begun: its first bytes for the caller, and where the rest comes from."""

    attempt: Attempt
    decoder: Decoder
    stream: UpstreamStream
    patience: Patience
    head: bytes
    """Decoded, for the caller: the whole body if ``ended``."""
    ended: bool
    reason: str


class Strategy(Protocol):
    """One way to carry out a plan; a file of its own, and a line in ``registry``."""

    def run(self, plan: Plan, call: Call, meter: Meter) -> AbstractAsyncContextManager[Reply]:
        """Try targets until one answers; leaving the context ends the attempt and frees its connection.

        Before it yields, the next target may be tried; afterwards never, for the caller may have seen bytes. Raises
        GatewayError when no target answered.
        """
