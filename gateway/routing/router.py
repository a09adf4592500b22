"""Decide the order in which targets are tried for one call, and say why. What was measured comes in, a plan goes out.

Filters rule targets out, predictors say what the call would cost and take at each of the others, the route's objective
orders them, its ceilings move those that break one behind those that do not. A target whose prediction breaks a ceiling
is measured again from time to time (a *probe*), if the objective would prefer it to what is used instead: only then is
it worth knowing whether it has recovered. A probe is a caller's request. The plan has fallbacks behind it, if there are
any. A price list is changed by no try, so a target that is too dear by its tokens is never probed.
"""

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import repeat
from typing import NamedTuple

from gateway.errors import ErrorKind, GatewayError
from gateway.routing.base import Fault, Filter, Objective, Predictors
from gateway.types import Call, Candidate, Constraints, Dropped, Plan, Prediction, Target, TargetView

RETRY_AFTER_S = 1.0
"""When nothing better is known: the shortest time a breaker stays open."""
PROBE_RETRY_AFTER_S = 10.0
"""About when a target that breaks a ceiling is tried again."""
_MEMBER = re.compile(r"'([^']+)'")
_SHOWN = 5
"""Targets named in one error message."""


class Breach(NamedTuple):
    """A ceiling that a prediction breaks."""

    excess: float
    """Prediction over ceiling: 1.4 is 40% too much."""
    text: str


class Router:
    """The policy's machinery; the policy itself is in the route that a call carries."""

    def __init__(
        self, *, filters: Sequence[Filter], predictors: Predictors, objectives: Mapping[str, Objective]
    ) -> None:
        self._rejecters = tuple((each.reject, each.name) for each in filters)
        self._faults: dict[str, Fault] = {each.name: each.fault for each in filters}
        self._predictors = predictors
        self._objectives = objectives

    def plan(self, call: Call, views: Sequence[TargetView]) -> Plan:
        """Return the targets to try, in order; if none, see ``refusal``. ``views`` are of the route, in its order."""
        route = call.route
        remaining, dropped = self._filter(call, views)
        candidates = [self._candidate(call, view) for view in remaining]
        objective = self._objectives[route.objective]
        preferred = objective.order(call, candidates)
        cold = [each for each in preferred if each.cold]
        ordered = others = (cold and [each for each in preferred if not each.cold]) or preferred
        probe = None
        beyond: tuple[Candidate, ...] = ()
        over = [each for each in preferred if not each.within_ceilings]
        if over:
            probe = _probe(ordered)
            others = _within_first(call, ordered) or ([] if probe else _within_first(call, cold))
            if route.when_none_fits == "reject":
                beyond = tuple([each for each in over if each is not probe])
        if not others and not probe:
            return Plan(candidates=(), beyond=beyond, dropped=tuple(dropped), reason="")
        first = probe or others[0]
        wanted = _wanted(preferred, first) if cold else None
        reason = _reason(call, objective, ordered, first, len(dropped))
        return Plan(
            candidates=(
                first,
                *[each for each in others if each is not first],
                # Those without a replica come last: the others bridge the time until there is one.
                *(_within_first(call, [each for each in cold if each not in others]) if cold else ()),
            ),
            beyond=beyond,
            dropped=tuple(dropped),
            reason=_ascii(f"{wanted.id} has no replica ready: {reason}" if wanted else reason),
            wanted=wanted,
        )

    def refusal(self, call: Call, plan: Plan) -> GatewayError:
        """Make the error of a plan without a candidate, which names those over a ceiling and those ruled out.

        UNSUPPORTED or CONTEXT_LENGTH when every target was ruled out for what the call asks for, else NO_TARGET. It
        says when to try again only where that may help: a price list, a licence and a wire format stay as they are.
        """
        name, constraints = call.route.name, call.route.constraints
        faults = {self._faults.get(each.filter, "route") for each in plan.dropped}  # the route's own are not a filter
        out = [f"{each.target_id}: {each.reason}" for each in plan.dropped]
        over = [f"{each.target.id}: {breach(each, constraints).text}" for each in plan.beyond]
        details = _listed([*over, *out])
        if not plan.beyond and "health" not in faults:
            return self._never(name, plan, faults, details)
        waits = [each.retry_after_s for each in plan.dropped if each.retry_after_s is not None]
        if any(not _too_dear(each.target, each.prediction, constraints) for each in plan.beyond):
            waits.append(PROBE_RETRY_AFTER_S)
        if not plan.beyond:
            sentence = f"No target of '{name}' can be reached now; retry later"
            waits = waits or [RETRY_AFTER_S]
        elif waits:
            sentence = f"No target of '{name}' is predicted within the route's ceilings now; retry later"
        else:
            sentence = f"No target of '{name}' is predicted within the route's ceilings; ask for less, or raise them"
        return GatewayError(ErrorKind.NO_TARGET, f"{sentence} ({details}).", retry_after_s=min(waits, default=None))

    def _never(self, name: str, plan: Plan, faults: AbstractSet[Fault], details: str) -> GatewayError:
        """Make the error of a plan that no later moment changes."""
        if "request" in faults:
            message = f"No target of '{name}' can do what is asked for ({details})."
            return GatewayError(ErrorKind.UNSUPPORTED, message, param=_param(plan.dropped))
        if "context" in faults:
            return GatewayError(
                ErrorKind.CONTEXT_LENGTH, f"The request is too long for every target of '{name}' ({details})."
            )
        message = f"No target of '{name}' meets the route's own demands; the configuration has to change ({details})."
        return GatewayError(ErrorKind.NO_TARGET, message if plan.dropped else f"The route '{name}' has no targets.")

    def _filter(self, call: Call, views: Sequence[TargetView]) -> tuple[list[TargetView], list[Dropped]]:
        """Ask the filters in turn about what the ones before have left; both lists are in the targets' order."""
        remaining, dropped = list(views), []
        nothing: list[str | None] = [None] * len(remaining)
        for reject, name in self._rejecters:
            reasons = list(map(reject, repeat(call), remaining))
            if reasons != nothing:
                # The wait is None but for what is a matter of time.
                dropped += [
                    Dropped(target_id=view.target.id, filter=name, reason=reason, retry_after_s=view.retry_after_s)
                    for view, reason in zip(remaining, reasons, strict=True)
                    if reason is not None
                ]
                remaining = [view for view, reason in zip(remaining, reasons, strict=True) if reason is None]
                nothing = [None] * len(remaining)
        if len(dropped) > 1:
            order = [view.target.id for view in views]
            dropped.sort(key=lambda each: order.index(each.target_id))
        return remaining, [*call.route.ruled_out, *dropped]

    def _candidate(self, call: Call, view: TargetView) -> Candidate:
        predictors = self._predictors
        output_tokens = predictors.output_tokens.predict(call, view)
        ttft_ms = predictors.ttft_ms.predict(call, view)
        tpot_ms = predictors.tpot_ms.predict(call, view)
        cost_nano_usd = predictors.cost_nano_usd.predict(call, view, output_tokens, ttft_ms, tpot_ms)
        prediction = Prediction(
            output_tokens=output_tokens,
            ttft_ms=ttft_ms,
            tpot_ms=tpot_ms,
            cost_nano_usd=cost_nano_usd,
            billed_output_tokens=view.billed_output_tokens,
        )
        constraints = call.route.constraints
        return Candidate(
            target=view.target,
            prediction=prediction,
            within_ceilings=_is_within(prediction, constraints),
            probe_due=view.probe_due and not _too_dear(view.target, prediction, constraints),
            cold=view.cold,
        )


def breach(candidate: Candidate, constraints: Constraints) -> Breach:
    """Return the ceiling that a candidate breaks worst. Excess is at most 1 when none is; the unknown breaks none."""
    prediction = candidate.prediction
    worst = Breach(0.0, "no ceiling")
    for name, quantiles, ceiling in (
        ("ttft", prediction.ttft_ms, constraints.ttft_ms),
        ("tpot", prediction.tpot_ms, constraints.tpot_ms),
    ):
        if quantiles is None or ceiling is None:
            continue
        value: float = getattr(quantiles, ceiling.quantile)
        excess = value / ceiling.value if ceiling.value else float("inf")
        if excess > worst.excess:
            worst = Breach(excess, f"{name} {ceiling.quantile} {value:.0f} ms over {ceiling.value:.0f} ms")
    if constraints.cost_nano_usd is not None:
        cost, limit = prediction.cost_nano_usd.p50, constraints.cost_nano_usd
        excess = cost / limit if limit else float("inf") if cost else 0.0
        if excess > worst.excess:
            worst = Breach(excess, f"cost ${cost / 1e9:.6f} over ${limit / 1e9:.6f}")
    return worst


def _wanted(preferred: Sequence[Candidate], first: Candidate) -> Target | None:
    """Return the target without a replica that would have been first."""
    for each in preferred:
        if each.cold and each.within_ceilings:
            return each.target
        if each is first:
            break
    return first.target if first.cold else None


def _within_first(call: Call, ordered: Sequence[Candidate]) -> list[Candidate]:
    """Move those beyond a ceiling behind the others, the least excess first; on a route that insists, drop them."""
    within = [each for each in ordered if each.within_ceilings]
    if call.route.when_none_fits == "reject":
        return within
    beyond = [each for each in ordered if not each.within_ceilings]
    return within + sorted(beyond, key=lambda each: breach(each, call.route.constraints).excess)


def _is_within(prediction: Prediction, constraints: Constraints) -> bool:
    ttft, tpot, cost = constraints.ttft_ms, constraints.tpot_ms, constraints.cost_nano_usd
    if ttft is not None and prediction.ttft_ms is not None and getattr(prediction.ttft_ms, ttft.quantile) > ttft.value:
        return False
    if tpot is not None and prediction.tpot_ms is not None and getattr(prediction.tpot_ms, tpot.quantile) > tpot.value:
        return False
    return cost is None or prediction.cost_nano_usd.p50 <= cost


def _probe(ordered: Sequence[Candidate]) -> Candidate | None:
    """Return the due candidate beyond a ceiling that the objective prefers to all within."""
    for each in ordered:
        if each.within_ceilings:
            return None
        if each.probe_due:
            return each
    return None


def _too_dear(target: Target, prediction: Prediction, constraints: Constraints) -> bool:
    """Whether its price list alone puts a target over the ceiling. Own hardware gets cheaper when it gets faster."""
    if constraints.cost_nano_usd is None or target.rates.hardware_nano_usd_per_hour is not None:
        return False
    return prediction.cost_nano_usd.p50 > constraints.cost_nano_usd


def _reason(call: Call, objective: Objective, ordered: Sequence[Candidate], first: Candidate, dropped: int) -> str:
    constraints = call.route.constraints
    if not first.within_ceilings:
        worst = breach(first, constraints).text
        if first.probe_due:
            times = "again" if first.prediction.ttft_ms is not None else "for the first time"
            return f"{first.target.id} is measured {times} by this call, although predicted {worst}"
        return f"none within ceilings: {first.target.id} is predicted {worst}"
    if len(ordered) == 1:
        return f"only target left, {dropped} ruled out" if dropped else "only target"
    if ordered[0] is not first:
        return f"{ordered[0].target.id} predicted {breach(ordered[0], constraints).text}: next {objective.superlative}"
    has_ceilings = (constraints.ttft_ms or constraints.tpot_ms or constraints.cost_nano_usd) is not None
    scope = " within ceilings" if has_ceilings else ""
    return f"{objective.superlative}{scope} ({objective.figure(first)})"


def _param(dropped: Sequence[Dropped]) -> str | None:
    """Return the member that every target stumbles over: a wire format's refusal begins with it, in quotes."""
    named = {match[1] if (match := _MEMBER.match(each.reason)) else None for each in dropped}
    return named.pop() if len(named) == 1 else None


def _listed(items: Sequence[str]) -> str:
    more = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _ascii(text: str) -> str:
    """Make a header value: names in the configuration may hold anything."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in text)
