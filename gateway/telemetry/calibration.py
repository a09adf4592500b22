"""How good the predictions were: what a call measured beside what was predicted of the target that answered it.

Only calls answered whole by their one attempt are compared: after a failover the call's figures are not one target's,
and an answer cut short has neither the length nor the cost that were predicted.

A prediction is counted for each of three quantiles. ``covered`` are the calls that came in at or under it: of many,
50% should lie under p50, 90% under p90 and 95% under p95. ``loss`` is the pinball loss at that quantile, q x (measured
- predicted) above it and (1 - q) x (predicted - measured) below, in the quantity's unit (Koenker and Bassett, 1978): of
two predictors that cover as much, the one that loses less says more.
"""

from collections.abc import Callable, Iterable
from typing import Final

from gateway.telemetry.figures import Figures
from gateway.types import CallRecord, Quantiles

CALLS: Final = "tollway_predicted_calls"
COVERED: Final = "tollway_predictions_covered"
LOSS: Final = "tollway_prediction_loss"
QUANTILES: Final = (0.5, 0.9, 0.95)
BATCH: Final = 64
"""Calls that wait to be compared: the work is done at once for all of them, or when somebody reads the figures."""


def compare(record: CallRecord) -> dict[str, tuple[Quantiles, float]]:
    """Return by quantity what was predicted of the answering target, and what was measured; nothing if neither fits.

    Names carry the unit. TTFT is the attempt's, from its dispatch, as it is predicted.
    """
    if record.outcome != "ok" or len(record.attempt_ids) != 1:
        return {}
    predicted = next((each.prediction for each in record.considered if each.target_id == record.target_id), None)
    if predicted is None:
        return {}
    pairs: dict[str, tuple[Quantiles, float]] = {"cost_nano_usd": (predicted.cost_nano_usd, record.cost_nano_usd)}
    if predicted.ttft_ms is not None and record.ttft_ms is not None:
        pairs["ttft_ms"] = (predicted.ttft_ms, record.ttft_ms - (record.overhead_ms or 0.0))
    if predicted.tpot_ms is not None and record.tpot_ms is not None:
        pairs["tpot_ms"] = (predicted.tpot_ms, record.tpot_ms)
    if record.output_tokens:  # embeddings and transcriptions have none
        pairs["output_tokens"] = (predicted.output_tokens, record.output_tokens)
    return pairs


def count(figures: Figures, records: Iterable[CallRecord], label_of: Callable[[str], str]) -> None:
    """Add calls to the figures of the targets that answered them."""
    values = figures.values
    for record in records:
        for quantity, (predicted, measured) in compare(record).items():
            label = label_of(record.target_id or "")
            values[figures.counter(CALLS, (label, quantity))] += 1.0
            for quantile, value in zip(QUANTILES, (predicted.p50, predicted.p90, predicted.p95), strict=True):
                labels = (label, quantity, str(quantile))
                above = measured - value
                values[figures.counter(COVERED, labels)] += above <= 0.0
                values[figures.counter(LOSS, labels)] += max(quantile * above, (quantile - 1.0) * above)
