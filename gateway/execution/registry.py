"""Names every execution strategy. A new one is a file and a line here (docs/extend)."""

from collections.abc import Callable
from typing import Any

from gateway.execution.base import Strategy
from gateway.execution.hedged import Hedged
from gateway.execution.in_order import InOrder

STRATEGIES: dict[str, Callable[[Any, Any], Strategy]] = {
    "in_order": InOrder,
    "hedged": Hedged,
}
"""By the name that a route gives: what makes one of its options and ``config.parts.Tools``."""
