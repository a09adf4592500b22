"""Rules out targets that cannot do what the call asks for. A fact that is not listed rules out nothing."""

from typing import Annotated

from pydantic import Field

from gateway.config.fields import Number
from gateway.config.section import Section
from gateway.routing.base import Filter
from gateway.routing.task import task_of
from gateway.types import Call, Target, TargetView

_SHOWN_CHARACTERS = 60

ESTIMATE_MAY_BE_TOO_HIGH_BY = 2
"""Prompts are estimated from their bytes at about four to a token; the densest real text has about eight."""


class Capability(Filter):
    """Every capability that the call needs is among those that the target is known to have."""

    fault = "request"

    def concerns(self, target: Target) -> bool:
        """Leave out a target whose capabilities are not listed."""
        return target.capabilities is not None

    def reject(self, call: Call, view: TargetView) -> str | None:
        """Name the missing capabilities. A target whose capabilities are not listed passes."""
        known = view.target.capabilities
        if known is None or call.envelope.needs <= known:
            return None
        return "no " + ", ".join(sorted(call.envelope.needs - known))


class ContextLength(Filter):
    """The call fits: its output cap into the target's, and the prompt with it into the context.

    The prompt's size is an estimate, and refusing a call that fits is worse than sending one that does not: the
    upstream refuses that itself, precisely, and at no cost. So the prompt counts by half its estimate here, and of
    several the mean: the longest is no shorter. An output limit that is only a bound rules nothing out.
    """

    fault = "context"

    def concerns(self, target: Target) -> bool:
        """Leave out a target of unknown size."""
        return target.context_length is not None or target.max_output_tokens is not None

    def reject(self, call: Call, view: TargetView) -> str | None:
        """Say by how much the call is too big. A target of unknown size passes."""
        target = view.target
        output_tokens = call.envelope.max_output_tokens or 0
        most_tokens = target.max_output_tokens
        if most_tokens is not None and output_tokens > most_tokens and not call.envelope.limit_is_bound:
            return f"at most {most_tokens} output tokens, {output_tokens} asked for"
        context = target.context_length
        if context is None or call.input_tokens_estimate + output_tokens <= context:
            return None
        least_tokens = call.input_tokens_estimate // (ESTIMATE_MAY_BE_TOO_HIGH_BY * call.envelope.prompts)
        if least_tokens + (1 if call.envelope.limit_is_bound else output_tokens) <= context:
            return None
        return (
            f"context of {context} tokens; about {call.input_tokens_estimate} in the prompt"
            f" and {output_tokens} asked for"
        )


class Expressible(Filter):
    """The target's wire format can say what the call says."""

    fault = "request"

    def concerns(self, target: Target) -> bool:
        """Leave out a target whose format takes any call of its dialect."""
        return self.tools.adapters[target.adapter].may_refuse

    def reject(self, call: Call, view: TargetView) -> str | None:
        """Pass on the adapter's own words."""
        return self.tools.adapters[view.target.adapter].refuses(call)


class TaskQuality(Filter):
    """Its score in the call's task is high enough. A score that is not configured is none."""

    class Options(Section):  # noqa: D106 - a part's keys
        task_quality: Annotated[float, Number, Field(ge=0)] = Field(
            default=0,
            description="The least score in the task of the call (`x-tollway-task`, or the route's `task`): `0.6`. A "
            "call without a task is not held to it. 0: none.",
        )

    fault = "request"

    def concerns(self, target: Target) -> bool:  # noqa: ARG002 - the task may be any
        """Leave out routes without a floor."""
        return bool(self.options.task_quality)

    def reject(self, call: Call, view: TargetView) -> str | None:
        """Name task and score."""
        task, least = task_of(call), self.options.task_quality
        if task is None or (score := view.target.quality.get(task, -1.0)) >= least:
            return None
        shown = "".join(each if each.isprintable() else "?" for each in task[:_SHOWN_CHARACTERS])
        return f"{shown} is {'not known' if score < 0 else f'{score:g}'}, at least {least:g} is demanded"
