"""Predict what a call costs: a provider's by its tokens, own hardware's by its share of the machine's time.

Or, where the configuration says ``charge: average``, by its tokens at what they cost on that hardware lately, idle time
included.
"""

from gateway.config.parts import Part
from gateway.types import Call, Quantiles, TargetView

OPTIMISTIC_TTFT_MS = Quantiles(100.0, 100.0, 100.0, 100.0)
OPTIMISTIC_TPOT_MS = Quantiles(5.0, 5.0, 5.0, 5.0)
"""Own hardware that was never measured is taken for a fast engine: if it is dear even so, it is not worth a try."""

_MS_PER_HOUR = 3.6e6
_MTOK = 1_000_000


class RatesTimesTokens(Part):
    """The prompt, with its cached share, and the predicted output at the rates of the moment; or time times share."""

    def predict(
        self,
        call: Call,
        view: TargetView,
        output_tokens: Quantiles,
        ttft_ms: Quantiles | None,
        tpot_ms: Quantiles | None,
    ) -> Quantiles:
        """Return nano-dollars. Each quantile takes the same quantile of its parts: on the safe side in the tail."""
        rates, envelope, expected = view.target.rates, call.envelope, view.expected
        if rates.hardware_nano_usd_per_hour is not None:
            return _hardware(call, view, output_tokens, ttft_ms, tpot_ms)
        if rates.variants:
            rates = rates.in_force(self.tools.clock.wall_ns(), envelope.members)
        if expected is None:
            fixed, each = rates.predict(call.input_tokens_estimate, envelope.audio_ms, envelope.members)
        else:
            fixed, each = rates.predict_reads(expected.reads, envelope.audio_ms, envelope.members)
        out = view.billed_output_tokens or output_tokens
        return Quantiles(fixed + each * out.p50, fixed + each * out.p90, fixed + each * out.p95, fixed + each * out.p99)


def _hardware(
    call: Call, view: TargetView, output: Quantiles, ttft: Quantiles | None, tpot: Quantiles | None
) -> Quantiles:
    if view.average_nano_usd_per_mtok is not None:
        each = view.average_nano_usd_per_mtok / _MTOK
        fixed, out = each * call.input_tokens_estimate, view.billed_output_tokens or output
        return Quantiles(fixed + each * out.p50, fixed + each * out.p90, fixed + each * out.p95, fixed + each * out.p99)
    ttft, tpot = ttft or OPTIMISTIC_TTFT_MS, tpot or OPTIMISTIC_TPOT_MS
    per_ms = (view.target.rates.hardware_nano_usd_per_hour or 0) * view.share / _MS_PER_HOUR
    return Quantiles(
        per_ms * (ttft.p50 + tpot.p50 * max(0.0, output.p50 - 1)),
        per_ms * (ttft.p90 + tpot.p90 * max(0.0, output.p90 - 1)),
        per_ms * (ttft.p95 + tpot.p95 * max(0.0, output.p95 - 1)),
        per_ms * (ttft.p99 + tpot.p99 * max(0.0, output.p99 - 1)),
    )
