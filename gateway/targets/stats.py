"""Predicts a latency or an answer length from recent measurements. It knows no target and decides no route.

How it works
------------
A ``Window`` holds the last 64 samples of one measurement of one target. A prediction is a small line times a spread:

    prediction(q) = (level + slope x prompt tokens + slope x calls in flight) x ratio(q)

*The line* says how the measurement grows with the prompt and with the load. It is a least-squares fit, updated in
constant time per sample, in which a sample's weight halves every 30 s. Slopes are never negative (a longer prompt
does not make an engine faster; noise may claim so) and shrink to nothing when all samples look alike. An outlier
moves the line by no more than a fivefold sample would. The time itself is never divided by tokens: TTFT per token
makes the slowest target look best for long prompts (BerriAI/litellm PR 40202).

*The spread* is the set of ratios between what was measured and what the line says, weighted by age in the same way;
its quantiles are those of the prediction. So a heavy tail is seen although the line is not robust against it.

*A change of regime.* A p95 over 64 samples notices a slowdown after four samples but would need sixty to notice a
recovery. So when four samples in a row lie 20% outside the central 80% of the window, on the same side, everything
before them is forgotten: the target is another one now. By chance that happens once in some thousands of samples and
costs only history. The bounds stand still while such a row is building up, or the row itself would move them.

*Age.* Relative weights do not change while nothing arrives, so quantiles are computed when a sample comes and kept
(of a busy target, when an eighth of the window is new, at most every 20 ms, or a quarter of a second has passed).
Samples older than 300 s leave when a new one comes, never before: an old sample beats none, and the pool sends a
probe to refresh it.

*Failures* give no sample here. A wait that ended without an answer is a lower bound; the pool adds it as it stands
when it says more than the window knows already.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from math import ceil, log2

from msgspec.structs import astuple

from gateway.types import Quantiles

SIZE = 64
"""Samples kept: p95 rests on three or four of them, p99 on the worst."""
HALF_LIFE_NS = 30e9
HORIZON_NS = 300_000_000_000
RUN = 4
"""Samples in a row on one side that make a new regime."""
MARGIN = 1.2
"""How far outside the central 80% they must lie, so that the jitter of a very steady target changes nothing."""
REFRESH_NS = 250_000_000
SOONEST_NS = 20_000_000
"""A full window's quantiles are not computed more often: with hundreds of samples a second, eight change nothing."""
OUTLIER = 5.0
_MAX_KEEP = (SIZE - 1) / SIZE
_KEPT_NS = -HALF_LIFE_NS * log2(_MAX_KEEP)
"""In less, weights decay by more than their age alone would have it."""
_PUSHED_OUT = slice(1 - SIZE)
"""The samples that one more makes leave. 64 pointers are as many as Python keeps apart from the C library's heap."""


class FittedLine:
    """A non-negative weighted least-squares line over prompt tokens and load, one update per sample."""

    __slots__ = (
        "_at_ns", "_ll", "_ly", "_weight", "_xl", "_xx", "_xy", "load", "per_load", "per_token", "tokens", "value",
    )  # fmt: skip

    def __init__(self) -> None:
        self._weight = self._xx = self._xl = self._ll = self._xy = self._ly = 0.0
        self._at_ns = 0
        self.tokens = self.load = self.value = 0.0
        self.per_token = self.per_load = 0.0

    def shape(self) -> tuple[float, float, float, float]:
        """Return start, slope per token, slope per call in flight, and a floor, where a steep line would cross zero."""
        start = self.value - self.per_token * self.tokens - self.per_load * self.load
        return start, self.per_token, self.per_load, self.value / 20

    def add(self, at_ns: int, value: float, tokens: float, load: float) -> None:
        """Move the line towards one sample (weighted means and co-moments after West, 1979, with decay)."""
        age_ns = at_ns - self._at_ns
        keep = _MAX_KEEP if age_ns < _KEPT_NS else 2.0 ** (-age_ns / HALF_LIFE_NS)
        self._at_ns = at_ns
        self._weight = weight = self._weight * keep + 1.0
        dx, dl, dy = tokens - self.tokens, load - self.load, value - self.value
        self.tokens += dx / weight
        self.load += dl / weight
        self.value += dy / weight
        if not (dx or dl or self._xx or self._ll):  # no slope, as ever: lengths of answers know neither size nor load
            return
        rest_l, rest_y = load - self.load, value - self.value
        self._xx = self._xx * keep + dx * (tokens - self.tokens)
        self._xl = self._xl * keep + dx * rest_l
        self._ll = self._ll * keep + dl * rest_l
        self._xy = self._xy * keep + dx * rest_y
        self._ly = self._ly * keep + dl * rest_y
        self._solve()

    def _solve(self) -> None:
        # The added terms are a ridge: prompts within a tenth of their mean, or a constant load, determine no slope.
        xx = self._xx + self._weight * (1.0 + 0.01 * self.tokens * self.tokens)
        ll = self._ll + self._weight * (0.05 + 0.01 * self.load * self.load)
        det = xx * ll - self._xl * self._xl
        per_token = (self._xy * ll - self._ly * self._xl) / det
        per_load = (self._ly * xx - self._xy * self._xl) / det
        if per_token < 0.0:
            per_token, per_load = 0.0, max(0.0, self._ly / ll)
        elif per_load < 0.0:
            per_token, per_load = max(0.0, self._xy / xx), 0.0
        self.per_token, self.per_load = per_token, per_load


class Window:
    """What was measured lately of one quantity, and its prediction. Values are positive, in the caller's unit."""

    __slots__ = ("_high", "_line", "_low", "_ratios", "_refreshed_at_ns", "_run", "_samples", "_shape", "_unseen")

    def __init__(self) -> None:
        self._samples: list[tuple[int, float, float, float]] = []
        self._line = FittedLine()
        self._shape = self._line.shape()
        self._ratios = (1.0, 1.0, 1.0, 1.0)
        self._low = self._high = 1.0
        self._run = 0
        self._unseen = 0
        self._refreshed_at_ns = 0

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def usual_tokens(self) -> float:
        """The mean prompt size of late; 0 before the first sample."""
        return self._line.tokens

    def add(self, at_ns: int, value: float, tokens: float = 0.0, load: float = 0.0) -> bool:
        """Learn one sample; return whether it was surprisingly low, which asks for another one soon."""
        fitted = value = value if value > 1e-3 else 1e-3
        if samples := self._samples:
            start, per_token, per_load, floor = self._shape
            expected = max(start + per_token * tokens + per_load * load, floor)
            ratio = value / expected
            if ratio > self._high:
                self._run = self._run + 1 if self._run > 0 else 1
            elif ratio < self._low:
                self._run = self._run - 1 if self._run < 0 else -1
            else:
                self._run = 0
            if len(samples) >= RUN:
                middle = expected * self._ratios[0]
                if not middle / OUTLIER <= value <= middle * OUTLIER:
                    fitted = middle / OUTLIER if value < middle else middle * OUTLIER
        del samples[_PUSHED_OUT]
        while samples and at_ns - samples[0][0] > HORIZON_NS:
            del samples[0]
        samples.append((at_ns, value, tokens, load))
        self._line.add(at_ns, fitted, tokens, load)
        self._unseen += 1
        surprisingly_low = self._run < 0
        if changed := not -RUN < self._run < RUN:
            self._forget_all_but(RUN)
        if changed or self._is_due(at_ns - self._refreshed_at_ns):
            self._refresh(at_ns)
        return surprisingly_low

    def predict(self, now_ns: int, tokens: float = 0.0, load: float = 0.0) -> Quantiles | None:
        """Return the quantiles at a prompt size and a number of other calls in flight; None before the first sample."""
        if not self._samples:
            return None
        if self._unseen and now_ns - self._refreshed_at_ns >= REFRESH_NS:
            self._refresh(now_ns)
        start, per_token, per_load, floor = self._shape
        line = max(start + per_token * tokens + per_load * load, floor)
        p50, p90, p95, p99 = self._ratios
        return Quantiles(line * p50, line * p90, line * p95, line * p99)

    def _is_due(self, age_ns: int) -> bool:
        """Whether quantiles of that age are to be computed anew."""
        count = len(self._samples)
        return age_ns >= REFRESH_NS or (self._unseen * 8 >= count and (age_ns >= SOONEST_NS or count < SIZE))

    def _forget_all_but(self, newest: int) -> None:
        self._samples = self._samples[-newest:]
        self._line = FittedLine()
        for sample in self._samples:
            self._line.add(*sample)
        self._run = 0

    def _refresh(self, now_ns: int) -> None:
        newest_ns = self._samples[-1][0]
        self._shape = self._line.shape()
        ratios = _ratios(self._samples, *self._shape)
        totals: list[float] = []
        total = float(len(ratios))
        if newest_ns - self._samples[0][0] < HALF_LIFE_NS / 30:  # all about equally old: no need to weigh them
            ratios.sort()
        else:
            weights = [2.0 ** ((at_ns - newest_ns) / HALF_LIFE_NS) for at_ns, _, _, _ in self._samples]
            weighed = sorted(zip(ratios, weights, strict=True))
            ratios = [ratio for ratio, _ in weighed]
            totals = list(accumulate([weight for _, weight in weighed]))
            total = totals[-1]

        def quantile(q: float) -> float:
            part = q * total - 1e-9  # rounding must not carry it past the last partial sum
            return ratios[bisect_left(totals, part) if totals else ceil(part) - 1]

        self._ratios = (quantile(0.50), quantile(0.90), quantile(0.95), quantile(0.99))
        if not self._run:
            self._low, self._high = quantile(0.10) / MARGIN, self._ratios[1] * MARGIN
        self._unseen, self._refreshed_at_ns = 0, now_ns


def _ratios(
    samples: Iterable[tuple[int, float, float, float]], start: float, per_token: float, per_load: float, floor: float
) -> list[float]:
    if not (per_token or per_load):
        return [value / start for _, value, _, _ in samples]
    if start >= floor:  # then nothing lies below the floor: no need to look each time
        return [value / (start + per_token * tokens + per_load * load) for _, value, tokens, load in samples]
    return [value / max(start + per_token * tokens + per_load * load, floor) for _, value, tokens, load in samples]


class Lengths:
    """How many tokens answers have, apart by the caller's cap: answers cut off at 16 say nothing of uncapped ones."""

    __slots__ = ("_by_cap",)

    def __init__(self) -> None:
        self._by_cap: dict[int, _Answers] = {}

    def add(self, at_ns: int, tokens: int, cap: int | None) -> None:
        """Learn one complete answer; caps within a factor of two are learnt together (at most 40 windows)."""
        if cap == 0:  # an embedding has no length
            return
        key = (cap or 0).bit_length()
        answers = self._by_cap.get(key) or self._by_cap.setdefault(key, _Answers())
        del answers.waiting[_PUSHED_OUT]
        answers.waiting.append((at_ns, tokens))

    def predict(self, now_ns: int, cap: int | None) -> Quantiles | None:
        """Predict tokens under a cap; if there was none like it, as an uncapped answer cut off there."""
        by_cap = self._by_cap
        answers = by_cap.get((cap or 0).bit_length()) or by_cap.get(0)
        if answers is None:
            return None
        known = answers.predict(now_ns) if answers.waiting else answers.known
        if cap is None or known.p99 <= cap:
            return known
        if answers.cut_from is not known or answers.cut_at != cap:  # many calls in a row have one cap
            answers.cut_from, answers.cut_at = known, cap
            answers.cut = Quantiles(min(cap, known.p50), min(cap, known.p90), min(cap, known.p95), min(cap, known.p99))
        return answers.cut


class _Answers:
    """The lengths of answers under one cap, learnt when they are asked for: of a busy target, now and then."""

    __slots__ = ("_learnt_at_ns", "_window", "cut", "cut_at", "cut_from", "known", "waiting")

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int]] = []
        self._window = Window()
        self.known = self.cut = self.cut_from = Quantiles(1, 1, 1, 1)
        self.cut_at = 0
        """``cut``: the answers of ``cut_from`` as they end at this cap."""
        self._learnt_at_ns = 0

    def predict(self, now_ns: int) -> Quantiles:
        count = len(self._window)
        if (len(self.waiting) * 8 >= count and count < SIZE) or now_ns - self._learnt_at_ns >= REFRESH_NS:
            for at_ns, tokens in self.waiting:
                self._window.add(at_ns, max(1, tokens))
            self.waiting.clear()
            self._learnt_at_ns = now_ns
            self.known = Quantiles(*map(round, astuple(self._window.predict(now_ns) or self.known)))
        return self.known
