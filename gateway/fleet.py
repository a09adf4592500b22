"""Values about own replicas: what the directory and the replicas report (ADR 0006), and the report made of it."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""No more than a float, as metrics are, holds exactly: no life of a replica counts as far."""
Amount = Annotated[float, Meta(ge=0, le=1e15)]
"""Sums and products of some of these are still numbers."""


class Tally(Struct, frozen=True):
    """What a replica has done in a span of its life; tokens are None where its engine does not count them."""

    up_s: Amount
    busy_s: Amount
    prompt_tokens: Count | None = None
    cached_tokens: Count | None = None
    output_tokens: Count | None = None


class LoadReport(Struct, frozen=True):
    """What a replica reports of itself in one line; see ADR 0006."""

    id: str
    model: str
    state: Literal["ready", "draining"]
    in_flight: Count
    limit: Count
    total: Tally
    window: Tally
    running: Count | None = None
    waiting: Count | None = None
    kv_usage: Amount | None = None
    kv_tokens: Count | None = None
    ttft_ms: Amount | None = None


class ListedReplica(Struct, frozen=True):
    """A replica as the directory lists it."""

    id: str
    url: str


class ListedModel(Struct, frozen=True):
    """A model as the directory lists it; with no replicas it is at zero."""

    replicas: tuple[ListedReplica, ...]
    serves: tuple[str, ...]
    usd_per_hour: Amount = 0.0


class FleetReport(Struct, frozen=True, kw_only=True):
    """The replicas of one target at a glance; rates are means over the last minute."""

    replicas: Mapping[str, int]
    """By state: ``ready``, ``draining``, ``lost`` (listed, but it sends no reports)."""
    running: int
    """Requests that the engines work on."""
    waiting: int
    """Requests that wait in the engines."""
    wanted: int
    """Requests that want a replica while none is ready."""
    kv_usage: Amount | None
    """The fullest replica's, 0 to 1."""
    prefill_tokens_per_s: float
    """Prompt tokens, without those from a cache."""
    cached_tokens_per_s: float
    decode_tokens_per_s: float
    utilisation: float
    """The part of the replicas' time in which they had a request, 0 to 1."""
    nano_usd_per_hour: float
    average_nano_usd_per_mtok: float | None
    """Of tokens read and written, idle time included; None: there were none."""
    marginal_nano_usd_per_mtok: float | None
    """The same of busy time only."""


def nano_usd_per_mtok(nano_usd_per_hour: float, seconds: float, tally: Tally) -> float | None:
    """Return what a million tokens, read and written, cost at that price; None while there were none.

    With ``up_s`` for seconds it is the average price, idle time included; with ``busy_s`` the marginal one.
    """
    tokens = (tally.prompt_tokens or 0) + (tally.output_tokens or 0)
    return nano_usd_per_hour * seconds / 3600 / tokens * 1e6 if tokens else None
