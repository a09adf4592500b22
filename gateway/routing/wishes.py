"""Reads what a caller wishes of the choice for one call, and makes the policy of that call from its route's.

In the words of OpenRouter (openrouter.ai/docs/guides/routing/provider-routing): the object ``provider`` in the body, or
in a header. A wish chooses among what the route allows: its demands, ceilings and strategy hold, and a key may be
allowed some wishes only (``may_override``). ``only``, ``ignore`` and ``max_price`` rule out; ``order`` and the
``preferred_`` ones put behind. In a call of an OpenRouter model by its own name all that stays in the body: it is
OpenRouter that chooses there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, cast

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from gateway.config.snapshot import Snapshot
from gateway.formats.malformed import UNREADABLE
from gateway.formats.splice import asks_nothing, members_of, without
from gateway.formats.typed import refuse
from gateway.routing.base import Objective
from gateway.routing.ceilings import tpot_ms, ttft_ms
from gateway.routing.objectives.cost import Cheapest
from gateway.routing.policy import Policy
from gateway.types import Call, Candidate, Envelope, Prediction, Principal, Quantile, Route, Target, TargetView

MEMBER = "provider"
HEADER = "x-tollway-provider"

_NANO_USD_PER_USD = 1_000_000_000
_Read = Callable[[Prediction, Quantile], float | None]
_Positive = Annotated[float, Meta(gt=0)]
_Quantiles = _Positive | dict[Quantile, _Positive]
_Price = dict[Literal["prompt", "completion"], Annotated[float, Meta(ge=0)]]
_MOST_NAMES = 100
_Names = Annotated[list[str], Meta(max_length=_MOST_NAMES)]
_NAMES = f"should be a list of at most {_MOST_NAMES} names of providers or models"
_KNOWN: Mapping[str, tuple[Any, str]] = {
    "sort": (Literal["price", "latency", "throughput"], "should be 'price', 'latency' or 'throughput'"),
    "max_price": (_Price, "should have 'prompt', 'completion' or both, in USD per 1M tokens, and nothing else"),
    "preferred_max_latency": (_Quantiles, "should be seconds, or seconds at p50, p90, p95 or p99"),
    "preferred_min_throughput": (_Quantiles, "should be tokens a second, or these at p50, p90, p95 or p99"),
    "only": (_Names, _NAMES),
    "ignore": (_Names, _NAMES),
    "order": (_Names, _NAMES),
}


def granted(
    envelope: Envelope, route: Route, principal: Principal, snapshot: Snapshot, headers: Mapping[str, str]
) -> tuple[Envelope, Route]:
    """Return the call's body without its wishes, and its route with a policy that heeds them.

    Raises GatewayError: INVALID_REQUEST, for a wish that is not known, not well said, or not for this key.
    """
    said = headers.get(HEADER, "").encode("latin-1")
    if MEMBER in envelope.members and not _is_for_upstream(route, snapshot):
        raw = envelope.members[MEMBER]
        if said and not asks_nothing(raw):
            refuse(MEMBER, f"is said in the body and in the header {HEADER}; keep one")
        said = said or raw
        body, members = without(envelope.body, envelope.members, MEMBER)
        envelope = replace(envelope, body=body, members=members)
    wishes = _read(said or b"null", principal)
    return (
        (envelope, replace(route, policy=_policy(cast("Policy", route.policy), wishes)))
        if wishes
        else (envelope, route)
    )


def _is_for_upstream(route: Route, snapshot: Snapshot) -> bool:
    """Whether it is a single model, by its own name, of a provider that has these wishes itself."""
    if [each.id for each in route.targets] != [route.name]:
        return False
    kind = snapshot.provider_types.get(route.targets[0].provider)
    return kind is not None and kind.takes_wishes


def _read(said: bytes, principal: Principal) -> dict[str, Any]:
    if asks_nothing(said.strip()):
        return {}
    try:
        members = members_of(said)
    except UNREADABLE:
        refuse(MEMBER, 'should be an object, such as {"sort": "price"}')
    wishes = {}
    for name, raw in members.items():
        if asks_nothing(raw):
            continue
        path = f"{MEMBER}.{name[:100]}"
        if name not in _KNOWN:
            refuse(path, f"is not known here; {MEMBER} may have {', '.join(_KNOWN)}")
        if principal.may_override is not None and name not in principal.may_override:
            refuse(path, f"is not for the key '{principal.key_id}' to say (may_override)")
        kind, must_be = _KNOWN[name]
        try:
            wishes[name] = msgspec.json.decode(raw, type=kind)
        except UNREADABLE:
            refuse(path, must_be)
    return wishes


def _policy(policy: Policy, wishes: Mapping[str, Any]) -> Policy:
    rules = _Rules(
        only=_folded(wishes.get("only", ())),
        ignore=_folded(wishes.get("ignore", ())),
        max_price=wishes.get("max_price", {}),
    )
    bounds = [
        *_bounds(wishes.get("preferred_max_latency", {}), ttft_ms, lambda seconds: seconds * 1e3),
        *_bounds(wishes.get("preferred_min_throughput", {}), tpot_ms, lambda per_s: 1e3 / per_s),
    ]
    sort = wishes.get("sort")
    objective: Objective | None = _SORTS[sort] if sort else None
    return policy.varied(
        name=MEMBER,
        reject=rules.reject,
        objective=_Wished(objective or policy.objective, _folded(wishes.get("order", ())), bounds),
    )


def _bounds(said: Any, read: _Read, ms_of: Callable[[float], float]) -> list[tuple[_Read, Quantile, float]]:
    """Return what a preference bounds, in ms; a bare number is of the median."""
    quantiles: dict[Quantile, float] = said if isinstance(said, dict) else {"p50": said}
    return [(read, quantile, ms_of(value)) for quantile, value in quantiles.items()]


def _folded(names: Sequence[str]) -> tuple[str, ...]:
    return tuple([name.casefold() for name in names])


def _place(target: Target, names: Sequence[str]) -> int | None:
    """Return where a list names a target, by its provider or itself; None: nowhere."""
    own = (target.provider.casefold(), target.id.casefold())
    return next((place for place, name in enumerate(names) if name in own), None)


class _Rules(NamedTuple):
    """What a call will not have. Reasons begin with the member, in quotes."""

    only: tuple[str, ...]
    ignore: tuple[str, ...]
    max_price: Mapping[str, float]

    def reject(self, call: Call, view: TargetView) -> str | None:  # noqa: ARG002 - a filter's signature
        target = view.target
        if self.only and _place(target, self.only) is None:
            return "'provider.only' does not name it"
        if _place(target, self.ignore) is not None:
            return "'provider.ignore' names it"
        for name, usd in self.max_price.items():
            if (costs := _usd_per_mtok(target, name)) > usd:
                return f"'provider.max_price' is ${usd:g} per 1M tokens of the {name}, its price ${costs:g}"
        return None


def _usd_per_mtok(target: Target, name: str) -> float:
    """Return the list price, of several by hour or request the highest; own hardware has none."""
    lists = [target.rates, *[variant.rates for variant in target.rates.variants]]
    prices = [rates.input_nano_usd_per_mtok if name == "prompt" else rates.output_nano_usd_per_mtok for rates in lists]
    return max(prices) / _NANO_USD_PER_USD


class _Wished:
    """The order of a call that says more of it than its route."""

    def __init__(
        self, objective: Objective, order: tuple[str, ...], bounds: Sequence[tuple[_Read, Quantile, float]]
    ) -> None:
        self._objective, self._order, self._bounds = objective, order, bounds
        self.superlative = "first in the caller's order" if order else objective.superlative
        self.figure = objective.figure

    def order(self, call: Call, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Put behind what the caller does not name or prefer."""
        return sorted(self._objective.order(call, candidates), key=self._rank)

    def _rank(self, candidate: Candidate) -> tuple[int, bool]:
        place = _place(candidate.target, self._order)
        return len(self._order) if place is None else place, not (candidate.probe_due or self._keeps(candidate))

    def _keeps(self, candidate: Candidate) -> bool:
        return all(
            (value := read(candidate.prediction, quantile)) is None or value <= most_ms
            for read, quantile, most_ms in self._bounds
        )


class _Least:
    """The least of one latency, by its median; see ``latency.Fastest`` for what is not known."""

    def __init__(self, superlative: str, read: _Read) -> None:
        self.superlative = superlative
        self._read = read

    def order(self, call: Call, candidates: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002 - the protocol's
        """Sort by the median."""
        return sorted(candidates, key=self._rank)

    def figure(self, candidate: Candidate) -> str:
        """Write milliseconds."""
        median_ms = self._read(candidate.prediction, "p50")
        return "not measured yet" if median_ms is None else f"{median_ms:.0f} ms predicted"

    def _rank(self, candidate: Candidate) -> float:
        median_ms = self._read(candidate.prediction, "p50")
        if candidate.probe_due:
            return -1.0
        return float("inf") if median_ms is None else median_ms


_SORTS: Mapping[str, Objective] = {
    "price": cast("Objective", Cheapest(None, cast("Any", None))),
    "latency": _Least("soonest", ttft_ms),
    "throughput": _Least("highest throughput", tpot_ms),
}
