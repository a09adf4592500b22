"""Holds what is predicted of a candidate against a route's ceilings (``limits``) on latency and cost.

What is not known yet breaks none. What becomes of a candidate that breaks one is the policy's business.
"""

from typing import Annotated, Any, NamedTuple

from msgspec import Struct
from pydantic import Field, model_validator

from gateway.config.fields import Milliseconds, Usd
from gateway.config.section import Section
from gateway.types import Prediction, Quantile, Target


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
    usd_per_request: Annotated[Usd, Field(gt=0)] | None = Field(
        default=None, description="Cost of the request in USD, at the median prediction."
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
        usd = options.usd_per_request
        self._cost_nano_usd = None if usd is None else int(usd * 1_000_000_000)  # it has nine decimals at most
        self.any = options != Options()

    def keeps(self, prediction: Prediction) -> bool:
        """Tell whether a prediction breaks none."""
        ttft, tpot, cost = self.ttft_ms, self._tpot_ms, self._cost_nano_usd
        if ttft is not None and prediction.ttft_ms is not None and getattr(prediction.ttft_ms, ttft.quantile) > ttft.ms:
            return False
        if tpot is not None and prediction.tpot_ms is not None and getattr(prediction.tpot_ms, tpot.quantile) > tpot.ms:
            return False
        return cost is None or prediction.cost_nano_usd.p50 <= cost

    def is_too_dear(self, target: Target, prediction: Prediction) -> bool:
        """Tell whether a price list alone breaks the ceiling on cost; own hardware costs less when it gets faster."""
        if self._cost_nano_usd is None or target.rates.hardware_nano_usd_per_hour is not None:
            return False
        return prediction.cost_nano_usd.p50 > self._cost_nano_usd

    def breach(self, prediction: Prediction) -> Breach:
        """Return the ceiling that a prediction breaks worst. Excess is at most 1 when none is."""
        worst = Breach(0.0, "no ceiling")
        for name, quantiles, ceiling in (
            ("ttft", prediction.ttft_ms, self.ttft_ms),
            ("tpot", prediction.tpot_ms, self._tpot_ms),
        ):
            if quantiles is None or ceiling is None:
                continue
            value: float = getattr(quantiles, ceiling.quantile)
            excess = value / ceiling.ms
            if excess > worst.excess:
                worst = Breach(excess, f"{name} {ceiling.quantile} {value:.0f} ms over {ceiling.ms:.0f} ms")
        if self._cost_nano_usd is not None:
            cost, limit = prediction.cost_nano_usd.p50, self._cost_nano_usd
            if cost / limit > worst.excess:
                worst = Breach(cost / limit, f"cost ${cost / 1e9:.6f} over ${limit / 1e9:.6f}")
        return worst


def _ceiling(options: QuantileOptions | None) -> Ceiling | None:
    given: dict[Any, float] = {} if options is None else options.model_dump(exclude_none=True)
    return Ceiling(*given.popitem()) if given else None
