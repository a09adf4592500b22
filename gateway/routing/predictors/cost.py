"""Predict what a call costs: a provider's by its tokens, own hardware's by its share of the machine's time.

Or, where the configuration says ``charge: average``, by its tokens at what they cost on that hardware lately, idle time
included.
"""

from gateway.tariff import Rates
from gateway.types import Call, Quantiles, TargetView

OPTIMISTIC_TTFT_MS = Quantiles(100.0, 100.0, 100.0, 100.0)
OPTIMISTIC_TPOT_MS = Quantiles(5.0, 5.0, 5.0, 5.0)
"""Own hardware that was never measured is taken for a fast engine: if it is dear even so, it is not worth a try."""

_MTOK = 1e6
_MS_PER_HOUR = 3.6e6


class RatesTimesTokens:
    """The input estimate at full price and the predicted output; or on own hardware, predicted time times share."""

    def predict(
        self,
        call: Call,
        view: TargetView,
        output_tokens: Quantiles,
        ttft_ms: Quantiles | None,
        tpot_ms: Quantiles | None,
    ) -> Quantiles:
        """Return nano-dollars. Each quantile takes the same quantile of its parts: on the safe side in the tail."""
        rates = view.target.rates
        if rates.hardware_nano_usd_per_hour is not None:
            average = view.average_nano_usd_per_mtok
            if average is not None:
                each = Rates(output_nano_usd_per_mtok=round(average))
                return _tokens(each, call.input_tokens_estimate * average / _MTOK, output_tokens)
            return _hardware(rates.hardware_nano_usd_per_hour * view.share, output_tokens, ttft_ms, tpot_ms)
        fixed = rates.request_nano_usd + call.input_tokens_estimate * rates.input_nano_usd_per_mtok / _MTOK
        if rates.audio_nano_usd_per_hour:
            fixed += call.envelope.audio_ms * rates.audio_nano_usd_per_hour / _MS_PER_HOUR
        return _tokens(rates, fixed, view.billed_output_tokens or output_tokens)


def _tokens(rates: Rates, fixed: float, output: Quantiles) -> Quantiles:
    each = rates.output_nano_usd_per_mtok / _MTOK
    return Quantiles(
        fixed + each * output.p50, fixed + each * output.p90, fixed + each * output.p95, fixed + each * output.p99
    )


def _hardware(nano_usd_per_hour: float, output: Quantiles, ttft: Quantiles | None, tpot: Quantiles | None) -> Quantiles:
    ttft, tpot, per_ms = ttft or OPTIMISTIC_TTFT_MS, tpot or OPTIMISTIC_TPOT_MS, nano_usd_per_hour / _MS_PER_HOUR
    return Quantiles(
        per_ms * (ttft.p50 + tpot.p50 * max(0.0, output.p50 - 1)),
        per_ms * (ttft.p90 + tpot.p90 * max(0.0, output.p90 - 1)),
        per_ms * (ttft.p95 + tpot.p95 * max(0.0, output.p95 - 1)),
        per_ms * (ttft.p99 + tpot.p99 * max(0.0, output.p99 - 1)),
    )
