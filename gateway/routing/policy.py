"""Decides the order in which targets are tried for one call, and says why. What was measured comes in, a plan goes out.

Filters rule targets out, predictors say what the call would cost and take at each of the others, the route's objective
orders them, its ceilings move those that break one behind those that do not. A target whose prediction breaks a ceiling
is measured again from time to time (a *probe*), if the objective would prefer it to what is used instead: only then is
it worth knowing whether it has recovered. A probe is a caller's request. The plan has fallbacks behind it, if there are
any. A price list is changed by no try, so a target that is too dear by its tokens is never probed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from copy import copy
from itertools import repeat
from operator import attrgetter
from typing import Any

from gateway.errors import ErrorKind, GatewayError
from gateway.routing.base import Demand, Fault, Filter, Objective, Predictors
from gateway.routing.ceilings import Ceilings
from gateway.types import Call, Candidate, Dropped, Plan, Prediction, Target, TargetView

RETRY_AFTER_S = 1.0
"""When nothing better is known: the shortest time a breaker stays open."""
PROBE_RETRY_AFTER_S = 10.0
"""About when a target that breaks a ceiling is tried again."""
_is_cold, _is_within = attrgetter("cold"), attrgetter("within_ceilings")
_MEMBER = re.compile(r"'([^']+)'")
_SHOWN = 5
"""Targets named in one error message."""


class Policy:
    """That of one route, as the snapshot was built: see ``gateway.types.Policy``."""

    def __init__(
        self,
        *,
        targets: Sequence[Target],
        demands: Mapping[str, Demand],
        filters: Mapping[str, Filter],
        predictors: Predictors,
        ceilings: Ceilings,
        objective: Objective,
        strategy: object,
        insists: bool,
    ) -> None:
        """Decide what no call changes. ``insists``: what breaks a ceiling is tried only to see if it still does."""
        self.ruled_out = tuple([each for target in targets if (each := _unmet(demands, target)) is not None])
        out = {each.target_id for each in self.ruled_out}
        self.targets = tuple([target for target in targets if target.id not in out])
        # What a moment changes comes last: the first rejection of a target is the one recorded.
        ordered = sorted(filters.items(), key=lambda item: item[1].fault == "health")
        concerned = [(name, each) for name, each in ordered if any(map(each.concerns, self.targets))]
        self._rejecters = [(name, each.reject) for name, each in concerned]
        self._faults = {name: each.fault for name, each in concerned}
        self._predictors = predictors
        self._ceilings = ceilings
        self._objective = objective
        self.strategy: Any = strategy
        self._insists = insists

    @property
    def probe_ms(self) -> float | None:
        """How long a probe may be waited for: the ceiling on TTFT, by which it shows how the target is."""
        return None if self._ceilings.ttft_ms is None else self._ceilings.ttft_ms.ms

    @property
    def objective(self) -> Objective:
        """The order of preference."""
        return self._objective

    def varied(self, *, name: str, reject: Callable[[Call, TargetView], str | None], objective: Objective) -> "Policy":
        """Return the policy of one call that rules out more than its route, and prefers in another order."""
        varied = copy(self)
        varied.__dict__ |= {
            "_rejecters": [(name, reject), *self._rejecters],
            "_faults": {**self._faults, name: "request"},
            "_objective": objective,
        }
        return varied

    def plan(self, call: Call, views: Sequence[TargetView]) -> Plan:
        """Return the targets to try, in order; if none, see ``refusal``. ``views`` are of the route, in its order."""
        remaining, dropped = self._filter(call, views)
        preferred = self._objective.order(call, self._candidates(call, remaining))
        cold = [each for each in preferred if each.cold] if any(map(_is_cold, preferred)) else []
        ordered = others = (cold and [each for each in preferred if not each.cold]) or preferred
        probe = None
        beyond: tuple[Candidate, ...] = ()
        if not all(map(_is_within, preferred)):
            over = [each for each in preferred if not each.within_ceilings]
            probe = _probe(ordered)
            others = self._within_first(call, ordered) or ([] if probe else self._within_first(call, cold))
            if self._insists:
                beyond = tuple([each for each in over if each is not probe])
        if not others and not probe:
            return Plan(candidates=(), beyond=beyond, dropped=tuple(dropped), reason="")
        if probe:
            others = [probe, *[each for each in others if each is not probe]]
        first = others[0]
        wanted = _wanted(preferred, first) if cold else None
        reason = self._reason(call, ordered, first, len(dropped))
        if cold:  # they come last: the others bridge the time until there is a replica
            others = [*others, *self._within_first(call, [each for each in cold if each not in others])]
        return Plan(
            candidates=tuple(others),
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
        name, ceilings = call.route.name, self._ceilings
        faults = {self._faults.get(each.filter, "route") for each in plan.dropped}  # the route's own are not a filter
        out = [f"{each.target_id}: {each.reason}" for each in plan.dropped]
        over = [f"{each.target.id}: {ceilings.breach(each.prediction, call).text}" for each in plan.beyond]
        details = _listed([*over, *out])
        if not plan.beyond and "health" not in faults:
            return self._never(call, plan, faults, details)
        waits = [each.retry_after_s for each in plan.dropped if each.retry_after_s is not None]
        if not all(ceilings.is_too_dear(each.target, each.prediction, call) for each in plan.beyond):
            waits.append(PROBE_RETRY_AFTER_S)
        if not plan.beyond:
            sentence = f"No target of '{name}' can be reached now; retry later"
            waits = waits or [RETRY_AFTER_S]
        elif waits:
            sentence = f"No target of '{name}' is predicted within the route's ceilings now; retry later"
        else:
            sentence = f"No target of '{name}' is predicted within the route's ceilings; ask for less, or raise them"
        return GatewayError(ErrorKind.NO_TARGET, f"{sentence} ({details}).", retry_after_s=min(waits, default=None))

    def _never(self, call: Call, plan: Plan, faults: AbstractSet[Fault], details: str) -> GatewayError:
        """Make the error of a plan that no later moment changes."""
        name = call.route.name
        if "request" in faults:
            message = f"No target of '{name}' can do what is asked for ({details})."
            return GatewayError(ErrorKind.UNSUPPORTED, message, param=_param(plan.dropped))
        if "context" in faults:
            message = f"The request is too long for every target of '{name}' ({details})."
            error = GatewayError(ErrorKind.CONTEXT_LENGTH, message)
            error.tokens = call.input_tokens_estimate, max(each.context_length or 0 for each in self.targets)
            return error
        message = f"No target of '{name}' meets the route's own demands; the configuration has to change ({details})."
        return GatewayError(ErrorKind.NO_TARGET, message if plan.dropped else f"The route '{name}' has no targets.")

    def _filter(self, call: Call, views: Sequence[TargetView]) -> tuple[list[TargetView], list[Dropped]]:
        """Ask the filters in turn about what the ones before have left; both lists are in the targets' order."""
        remaining, dropped = list(views), []
        nothing: list[str | None] = [None] * len(remaining)
        for name, reject in self._rejecters:
            reasons = list(map(reject, repeat(call), remaining))
            if reasons != nothing:
                dropped += _dropped(name, remaining, reasons)
                remaining = [view for view, reason in zip(remaining, reasons, strict=True) if reason is None]
                nothing = [None] * len(remaining)
        if len(dropped) > 1:
            order = [view.target.id for view in views]
            dropped.sort(key=lambda each: order.index(each.target_id))
        return remaining, [*self.ruled_out, *dropped]

    def _candidates(self, call: Call, views: Sequence[TargetView]) -> list[Candidate]:
        predictors, ceilings, calls, candidates = self._predictors, self._ceilings, repeat(call), list[Candidate]()
        outputs = list(map(predictors.output_tokens.predict, calls, views))
        ttfts = list(map(predictors.ttft_ms.predict, calls, views))
        tpots = list(map(predictors.tpot_ms.predict, calls, views))
        costs = map(predictors.cost_nano_usd.predict, calls, views, outputs, ttfts, tpots)
        for view, output, ttft, tpot, cost in zip(views, outputs, ttfts, tpots, costs, strict=True):
            prediction = Prediction(
                output_tokens=output,
                ttft_ms=ttft,
                tpot_ms=tpot,
                cost_nano_usd=cost,
                billed_output_tokens=view.billed_output_tokens,
                cached_tokens=None if view.expected is None else view.expected.cached_tokens,
            )
            candidate = Candidate(
                target=view.target,
                prediction=prediction,
                within_ceilings=ceilings.keeps(prediction, call),
                probe_due=view.probe_due and not ceilings.is_too_dear(view.target, prediction, call),
                cold=view.cold,
                expected=view.expected,
            )
            candidates.append(candidate)
        return candidates

    def _within_first(self, call: Call, ordered: Sequence[Candidate]) -> list[Candidate]:
        """Move those beyond a ceiling behind the others, the least excess first; on a route that insists, drop them."""
        within = [each for each in ordered if each.within_ceilings]
        if self._insists or len(within) == len(ordered):
            return within
        beyond = [each for each in ordered if not each.within_ceilings]
        return within + sorted(beyond, key=lambda each: self._ceilings.breach(each.prediction, call).excess)

    def _reason(self, call: Call, ordered: Sequence[Candidate], first: Candidate, dropped: int) -> str:
        objective, ceilings = self._objective, self._ceilings
        if not first.within_ceilings:
            worst = ceilings.breach(first.prediction, call).text
            if first.probe_due:
                times = "again" if first.prediction.ttft_ms is not None else "for the first time"
                return f"{first.target.id} is measured {times} by this call, although predicted {worst}"
            return f"none within ceilings: {first.target.id} is predicted {worst}"
        if len(ordered) == 1:
            return f"only target left, {dropped} ruled out" if dropped else "only target"
        if ordered[0] is not first:
            broken = ceilings.breach(ordered[0].prediction, call).text
            return f"{ordered[0].target.id} predicted {broken}: next {objective.superlative}"
        return f"{objective.superlative}{' within ceilings' if ceilings.any else ''} ({objective.figure(first)})"


def _unmet(demands: Mapping[str, Demand], target: Target) -> Dropped | None:
    """Return the first demand that a target does not meet, as the plan shows it; None: it meets all."""
    for name, demand in demands.items():
        if (reason := demand.unmet(target)) is not None:
            return Dropped(target_id=target.id, filter=name, reason=reason)
    return None


def _dropped(name: str, views: Sequence[TargetView], reasons: Sequence[str | None]) -> list[Dropped]:
    """Return those that a filter rejects. The wait is None but for what is a matter of time."""
    return [
        Dropped(target_id=view.target.id, filter=name, reason=reason, retry_after_s=view.retry_after_s)
        for view, reason in zip(views, reasons, strict=True)
        if reason is not None
    ]


def _wanted(preferred: Sequence[Candidate], first: Candidate) -> Target | None:
    """Return the target without a replica that would have been first."""
    for each in preferred:
        if each.cold and each.within_ceilings:
            return each.target
        if each is first:
            break
    return first.target if first.cold else None


def _probe(ordered: Sequence[Candidate]) -> Candidate | None:
    """Return the due candidate beyond a ceiling that the objective prefers to all within."""
    for each in ordered:
        if each.within_ceilings:
            return None
        if each.probe_due:
            return each
    return None


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
