"""Every execution strategy. A new one is a file and a line in ``strategies``."""

from collections.abc import Callable, Mapping

from gateway.clock import Clock
from gateway.execution.base import Strategy
from gateway.execution.in_order import InOrder
from gateway.formats.base import Adapter
from gateway.transport.base import Transport


def strategies(
    *, transport: Transport, adapters: Mapping[str, Adapter], clock: Clock, random: Callable[[], float]
) -> Mapping[str, Strategy]:
    """Make each strategy once; a route names it. ``random`` draws from [0, 1)."""
    return {
        "in_order": InOrder(transport=transport, adapters=adapters, clock=clock, random=random),
    }
