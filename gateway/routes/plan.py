"""Lays out where a call would go, in the words of ``GET /v1/requests/{id}``."""

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.accounting.meter import considered
from gateway.routes.question import Headers
from gateway.targets.pool import Pool
from gateway.types import Call, Plan


def explained(pool: Pool) -> Callable[[Call], Awaitable[tuple[object, Headers]]]:
    """Return what answers with a call's plan at this moment: see ``routes.question.Answer``."""

    async def explain(call: Call) -> tuple[object, Headers]:
        return planned(call, call.route.policy.plan(call, pool.view(call))), []

    return explain


def planned(call: Call, plan: Plan) -> dict[str, Any]:
    """Lay out a plan. ``error``: what the caller would be told if no target may be tried."""
    first = plan.candidates[0].target.id if plan.candidates else None
    return {
        "object": "tollway.plan",
        "model": call.route.name,
        "policy_version": call.route.version,
        "input_tokens_estimate": call.input_tokens_estimate,
        "max_output_tokens": call.output_cap,
        "target": first,
        "reason": plan.reason or None,
        "error": None if first is not None else call.route.policy.refusal(call, plan).message,
        "considered": considered(plan),
        "dropped": plan.dropped,
    }
