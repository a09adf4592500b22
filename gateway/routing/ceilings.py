"""Holds what is predicted of a candidate against a route's ceilings (``limits``) on latency and cost.

What is not known yet breaks none. What becomes of a candidate that breaks one is the policy's business.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, get_args

from msgspec import Struct
from msgspec.structs import astuple
from pydantic import Field, model_validator

from gateway.config.fields import Milliseconds, Usd
from gateway.config.section import Section
from gateway.types import Call, Prediction, Quantile, Target

_NANO = 1_000_000_000
_MTOK = 1_000_000
_SHARES = (0.50, 0.90, 0.95, 0.99)
"""Of the quantiles of a prediction."""


class QuantileOptions(Section):
    """A ceiling on one quantile of what is predicted."""

    p50: Milliseconds | None = Field(default=None, description="The median stays below this, in ms.")
    p90: Milliseconds | None = Field(default=None, description="90% stay below this, in ms.")
    p95: Milliseconds | None = Field(default=None, description="95% stay below this, in ms.")
    p99: Milliseconds | None = Field(default=None, description="99% stay below this, in ms.")

    @model_validator(mode="after")
    def _one(self) -> "QuantileOptions":
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give exactly one of p50, p90, p95, p99, such as {p95: 1500}")
        return self


class Options(Section):
    """Ceilings that a target must be predicted to keep."""

    ttft_ms: QuantileOptions | None = Field(default=None, description="Time to first token: `{p95: 1500}`.")
    tpot_ms: QuantileOptions | None = Field(default=None, description="Time per output token: `{p95: 250}`.")
    total_ms: QuantileOptions | None = Field(
        default=None,
        description="Time to the last token, TTFT and decoding of the predicted answer: `{p90: 20000}`.",
    )
    usd_per_request: Annotated[Usd, Field(gt=0)] | None = Field(
        default=None, description="Cost of the request in USD, at the median prediction."
    )
    usd_per_million_tokens: Annotated[Usd, Field(gt=0)] | None = Field(
        default=None,
        description="The same cost over the tokens of prompt and predicted answer together, in USD per 1M.",
    )


class Ceiling(Struct, frozen=True):
    """An upper bound on one quantile of a prediction, in ms."""

    quantile: Quantile
    ms: float


class Breach(NamedTuple):
    """A ceiling that a prediction breaks."""

    excess: float
    """Prediction over ceiling: 1.4 is 40% too much."""
    text: str


class Ceilings:
    """Those of one route."""

    def __init__(self, options: Options) -> None:
        self.ttft_ms, self._tpot_ms = _ceiling(options.ttft_ms), _ceiling(options.tpot_ms)
        self._total_ms = _ceiling(options.total_ms)
        # Prices have nine decimals at most: nano-dollars are whole.
        usd, usd_per_mtok = options.usd_per_request, options.usd_per_million_tokens
        self._cost_nano_usd = None if usd is None else int(usd * _NANO)
        self._nano_usd_per_mtok = None if usd_per_mtok is None else int(usd_per_mtok * _NANO)
        self._bounds_more = options.total_ms is not None or usd_per_mtok is not None
        self.any = options != Options()

    def keeps(self, prediction: Prediction, call: Call) -> bool:
        """Tell whether a prediction breaks none."""
        ttft, tpot, cost = self.ttft_ms, self._tpot_ms, self._cost_nano_usd
        if ttft is not None and prediction.ttft_ms is not None and getattr(prediction.ttft_ms, ttft.quantile) > ttft.ms:
            return False
        if tpot is not None and prediction.tpot_ms is not None and getattr(prediction.tpot_ms, tpot.quantile) > tpot.ms:
            return False
        if cost is not None and prediction.cost_nano_usd.p50 > cost:
            return False
        return not self._bounds_more or self._keeps_more(prediction, call)

    def is_too_dear(self, target: Target, prediction: Prediction, call: Call) -> bool:
        """Tell whether a price list alone breaks a ceiling on cost; own hardware costs less when it gets faster."""
        if not self.any or target.rates.hardware_nano_usd_per_hour is not None:
            return False
        limit = self._cost_nano_usd
        return (limit is not None and prediction.cost_nano_usd.p50 > limit) or self._is_dear(prediction, call)

    def breach(self, prediction: Prediction, call: Call) -> Breach:
        """Return the ceiling that a prediction breaks worst. Excess is at most 1 when none is."""
        worst = Breach(0.0, "no ceiling")
        for name, read, ceiling in (
            ("ttft", ttft_ms, self.ttft_ms),
            ("tpot", tpot_ms, self._tpot_ms),
            ("total time", total_ms, self._total_ms),
        ):
            value = None if ceiling is None else read(prediction, ceiling.quantile)
            if value is None or ceiling is None:
                continue
            excess = value / ceiling.ms
            if excess > worst.excess:
                worst = Breach(excess, f"{name} {ceiling.quantile} {value:.0f} ms over {ceiling.ms:.0f} ms")
        cost = prediction.cost_nano_usd.p50
        for limit, value, what, decimals in (
            (self._cost_nano_usd, cost, "cost", 6),
            (self._nano_usd_per_mtok, _per_mtok(prediction, call), "cost per 1M tokens", 2),
        ):
            if limit is not None and value / limit > worst.excess:
                text = f"{what} ${value / _NANO:.{decimals}f} over ${limit / _NANO:.{decimals}f}"
                worst = Breach(value / limit, text)
        return worst

    def chance(self, prediction: Prediction) -> float:
        """Return the chance to keep those on time, 0 to 1: of several the least; what is not known yet keeps them."""
        first, each = prediction.ttft_ms, prediction.tpot_ms
        chances = [1.0]
        if first is not None and self.ttft_ms is not None:
            chances.append(_share_below(self.ttft_ms.ms, astuple(first)))
        if each is not None and self._tpot_ms is not None:
            chances.append(_share_below(self._tpot_ms.ms, astuple(each)))
        if first is not None and self._total_ms is not None:
            whole = [total_ms(prediction, quantile) or 0.0 for quantile in get_args(Quantile)]
            chances.append(_share_below(self._total_ms.ms, whole))
        return min(chances)

    def _keeps_more(self, prediction: Prediction, call: Call) -> bool:
        """Look at the ceilings that few routes have."""
        total = self._total_ms
        if total is not None and (total_ms(prediction, total.quantile) or 0.0) > total.ms:
            return False
        return not self._is_dear(prediction, call)

    def _is_dear(self, prediction: Prediction, call: Call) -> bool:
        limit = self._nano_usd_per_mtok
        return limit is not None and _per_mtok(prediction, call) > limit


def ttft_ms(prediction: Prediction, quantile: Quantile) -> float | None:
    """Return the predicted time to the first token; None while nothing is known."""
    return None if prediction.ttft_ms is None else getattr(prediction.ttft_ms, quantile)


def tpot_ms(prediction: Prediction, quantile: Quantile) -> float | None:
    """Return the predicted time per token after the first; None while nothing is known."""
    return None if prediction.tpot_ms is None else getattr(prediction.tpot_ms, quantile)


def total_ms(prediction: Prediction, quantile: Quantile) -> float | None:
    """Return the predicted time to the last token; None while nothing is known.

    Each quantile takes the same quantile of its parts: on the safe side in the tail. Without a TPOT (nothing was
    streamed yet) it is TTFT alone, which is optimistic.
    """
    if prediction.ttft_ms is None:
        return None
    first_ms: float = getattr(prediction.ttft_ms, quantile)
    if prediction.tpot_ms is None:
        return first_ms
    each_ms: float = getattr(prediction.tpot_ms, quantile)
    tokens: float = getattr(prediction.output_tokens, quantile)
    return first_ms + each_ms * max(0.0, tokens - 1)


def _share_below(limit: float, quantiles: Sequence[float]) -> float:
    """Return the share of a distribution below a limit, by a line between the quantiles; 1 above the last."""
    below, share = 0.0, 0.0
    for value, reached in zip(quantiles, _SHARES, strict=True):
        if limit < value:
            return share + (reached - share) * (limit - below) / (value - below)
        below, share = value, reached
    return 1.0


def _per_mtok(prediction: Prediction, call: Call) -> float:
    """Return nano-dollars per 1M tokens, at the median of cost and length; hidden reasoning is billed, so it counts."""
    output = prediction.billed_output_tokens or prediction.output_tokens
    return prediction.cost_nano_usd.p50 / max(1.0, call.input_tokens_estimate + output.p50) * _MTOK


def _ceiling(options: QuantileOptions | None) -> Ceiling | None:
    given: dict[Any, float] = {} if options is None else options.model_dump(exclude_none=True)
    return Ceiling(*given.popitem()) if given else None
