"""Predict lengths and latencies as the pool measured them. How samples become quantiles is decided in targets.stats."""

from gateway.config.parts import Part
from gateway.types import Call, Quantiles, TargetView

PRIOR_OUTPUT_TOKENS = Quantiles(256, 768, 1024, 2048)
"""Of one choice, at a target never tried: a paragraph or two, and a long tail."""


class MeasuredOutputTokens(Part):
    """As this target answered under such a cap; before the first answer, a prior cut off at the cap."""

    def predict(self, call: Call, view: TargetView) -> Quantiles:
        """Return tokens over all choices."""
        if view.output_tokens is not None:
            return view.output_tokens
        prior, choices, cap = PRIOR_OUTPUT_TOKENS, call.envelope.choices, call.envelope.max_output_tokens
        limit = prior.p99 if cap is None else cap
        return Quantiles(
            choices * min(prior.p50, limit),
            choices * min(prior.p90, limit),
            choices * min(prior.p95, limit),
            choices * min(prior.p99, limit),
        )


class MeasuredTtft(Part):
    """As measured at this prompt size and load."""

    def predict(self, call: Call, view: TargetView) -> Quantiles | None:  # noqa: ARG002 - the view was read for the call
        """Return milliseconds."""
        return view.ttft_ms


class MeasuredTpot(Part):
    """As measured at this load."""

    def predict(self, call: Call, view: TargetView) -> Quantiles | None:  # noqa: ARG002 - the view was read for the call
        """Return milliseconds per token after the first."""
        return view.tpot_ms
