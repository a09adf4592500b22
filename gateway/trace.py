"""Traces: the header by which a caller marks its calls as parts of one whole, and the sums over them afterwards.

The mark is W3C Trace Context (https://www.w3.org/TR/trace-context/), which tracing libraries send by themselves.
"""

import re

from msgspec import Struct

from gateway.tariff import Amounts

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""Version, trace, parent, flags. Later versions may add fields behind these, and change none; ``ff`` is no version."""


def trace_id_of(traceparent: str) -> str | None:
    """Return the trace id of the header; None where it is malformed, which is never an error."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or (found[2] is not None and traceparent.startswith("00")):
        return None
    return found[1]


class Sums(Amounts, frozen=True, kw_only=True):
    """What was used and what it cost: over the attempts of a call, or of a whole trace."""

    cost_nano_usd: int


class TracedCall(Sums, frozen=True, kw_only=True):
    """One call of a trace."""

    call_id: str
    received_at_ns: int
    """Wall clock."""
    operation: str
    route: str | None
    target_id: str | None
    outcome: str
    status: int
    ttft_ms: float | None
    duration_ms: float


class Trace(Struct, frozen=True, kw_only=True):
    """All finished calls that were sent upstream with one trace id by one key."""

    trace_id: str
    calls: tuple[TracedCall, ...]
    """The first of them, by time of arrival."""
    call_count: int
    total: Sums
    """Over all, listed or not."""
