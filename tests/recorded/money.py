"""What a recorded answer should be billed as: tokens in disjoint classes, and what they cost.

Written from the providers' documentation and apart from the gateway, so that the two can disagree. Where a recording
leaves more than one reading open, ``open`` says so and which one is taken.
"""

import math
from dataclasses import dataclass
from typing import Any

from tests.recorded.reading import Reading

_OF_MOST = {
    "input": 1.0,
    "cached_input": 0.1,
    "cache_write": 1.25,
    "output": 10.0,
    "audio_hour": 0.36,
    "web_search": 0.01,
}
_OF_MODEL = {  # ai.google.dev/gemini-api/docs/pricing: the upstream's price tells two readings apart only at true rates
    "gemini-2.5-flash": _OF_MOST | {"input": 0.3, "output": 2.5},
    "gemini-3-pro-preview": _OF_MOST | {"input": 2.0, "output": 12.0},
}
OWN_PRICE_IS_THE_BILL = frozenset({"openrouter", "perplexity", "xai"})
"""Providers whose own price counts, where they say one."""


def prices_of(model: str) -> dict[str, float]:
    """Return what the gateway is configured with: USD for a million tokens, an hour of speech, or a search."""
    return _OF_MODEL.get(model.rpartition("/")[2], _OF_MOST)


@dataclass
class Bill:
    """What the ledger should hold."""

    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0
    reasoning: int = 0
    audio_ms: int = 0
    audio_input: int = 0
    image_input: int = 0
    audio_output: int = 0
    image_output: int = 0
    for_an_hour: int = 0
    searches: int = 0
    price_nano_usd: int | None = None
    """The upstream's own."""
    told: tuple[int, int] | None = None
    """Prompt and completion as the answer puts them; None: it does not say."""
    open: str = ""
    is_cut: bool = False
    """A part was larger than its whole, or a count was missing: the ledger has to say that it is estimated."""

    @property
    def prompt_is_counted(self) -> bool:
        """Whether there is a count of what was read: zero beside an answer is none."""
        return any((self.input, self.audio_input, self.image_input, self.cached, self.written, self.audio_ms))

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes in the ledger's order."""
        text = (self.input, self.cached, self.written, self.output, self.reasoning, self.audio_ms)
        media = (self.audio_input, self.image_input, self.audio_output, self.image_output)
        return *text, *media, self.for_an_hour, self.searches

    def cost_nano_usd(self, provider: str, prices: dict[str, float]) -> int:
        """Return what the attempt costs: the upstream's own price where that is the bill, else ours."""
        if self.price_nano_usd and provider in OWN_PRICE_IS_THE_BILL:
            return self.price_nano_usd
        read = self.input + self.audio_input + self.image_input
        written = self.written + self.for_an_hour
        wrote = self.output + self.reasoning + self.audio_output + self.image_output
        counts = {"input": read, "cached_input": self.cached, "cache_write": written, "output": wrote}
        tokens = sum(count * prices[name] * 1000 for name, count in counts.items())
        rest = self.audio_ms * prices["audio_hour"] / 3.6e-3 + self.searches * prices["web_search"] * 1e9
        return math.floor(tokens + rest + 0.5)


def bill_of(reading: Reading, prices: dict[str, float] = _OF_MOST) -> Bill | None:
    """Read the reports of an answer together: of each number the largest. None when it counts nothing."""
    usage: dict[str, Any] = {}
    for report in reading.usages:
        _merge(usage, report)
    if reading.anthropic:
        return _anthropic(usage)
    prompt = _first(usage, "prompt_tokens", "input_tokens")
    completion = _first(usage, "completion_tokens", "output_tokens")
    total = _first(usage, "total_tokens")
    if not (prompt or completion or total):
        seconds = _first(usage, "seconds")
        return Bill(audio_ms=round(seconds * 1000)) if seconds else None
    if reading.vectors:
        return Bill(input=prompt or total, told=(prompt, completion), price_nano_usd=_price(usage))
    bill = _openai(usage, prompt, completion, total, prices)
    bill.searches = max(bill.searches, reading.searches)
    return bill


def _openai(usage: dict[str, Any], prompt: int, completion: int, total: int, prices: dict[str, float]) -> Bill:
    details = usage.get("prompt_tokens_details") or {}
    cached = max(
        _first(details, "cached_tokens"),
        _first(usage, "prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens", "cache_read_input_tokens"),
    )
    written = max(_first(details, "cache_write_tokens"), _first(usage, "cache_creation_input_tokens"))
    reasoning = _first(usage.get("completion_tokens_details") or {}, "reasoning_tokens")
    bill = Bill(told=(prompt, completion), price_nano_usd=_price(usage))
    rest = max(0, total - prompt - completion)
    if rest and rest == reasoning:
        completion += reasoning
    elif rest and (rest == cached + written or _first(details, "audio_tokens")):
        prompt += rest
    elif rest:
        completion, reasoning = completion + rest, reasoning + rest
    _place(bill, (prompt, cached, written), (completion, reasoning), total, prices)
    _tell_media_apart(bill, usage)
    return bill


def _place(
    bill: Bill, read: tuple[int, int, int], wrote: tuple[int, int], total: int, prices: dict[str, float]
) -> None:
    """Put the counts into their classes, and the parts that are larger than their whole by the upstream's price."""
    prompt, cached, written = read
    completion, reasoning = wrote
    if reasoning > completion:
        cut, both = (
            1000 * (prompt * prices["input"] + n * prices["output"]) for n in (completion, completion + reasoning)
        )
        price = bill.price_nano_usd or 0
        beside = bool(price) and abs(both - price) < abs(cut - price)
        reading = "beside it, by the price" if beside else "cut to it, by the price" if price else "cut to it"
        bill.open, bill.is_cut = (
            f"reasoning {reasoning} of completion {completion}, total {total}: {reading}",
            not beside,
        )
        completion, reasoning = (completion + reasoning, reasoning) if beside else (completion, completion)
    if cached + written > prompt:
        bill.open, bill.is_cut = (
            f"cached {cached} + written {written} of prompt {prompt}, total {total}: cut to it",
            True,
        )
        cached = min(cached, prompt)
        written = min(written, prompt - cached)
    if not prompt:
        bill.open, bill.is_cut = f"prompt 0 of total {total} is no count: estimated from the request", True
    bill.input, bill.cached, bill.written = prompt - cached - written, cached, written
    bill.output, bill.reasoning = completion - reasoning, reasoning


def _tell_media_apart(bill: Bill, usage: dict[str, Any]) -> None:
    """Take out of what was read and written as text what the details name otherwise."""
    details = usage.get("prompt_tokens_details") or usage.get("input_token_details") or {}
    output_details = usage.get("completion_tokens_details") or {}
    bill.audio_input = min(bill.input, _first(details, "audio_tokens"))
    bill.image_input = min(bill.input - bill.audio_input, _first(details, "image_tokens"))
    bill.audio_output = min(bill.output, _first(output_details, "audio_tokens"))
    bill.image_output = min(bill.output - bill.audio_output, _first(output_details, "image_tokens"))
    bill.input -= bill.audio_input + bill.image_input
    bill.output -= bill.audio_output + bill.image_output
    bill.searches = _first(usage.get("server_tool_use_details") or {}, "web_search_requests")


def _anthropic(usage: dict[str, Any]) -> Bill | None:
    read, cached, written, output = (
        _first(usage, name)
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    )
    thinking = min(output, _first(usage.get("output_tokens_details") or {}, "thinking_tokens"))
    if not (read or cached or written or output):
        return None
    bill = Bill(read, cached, written, output - thinking, thinking, told=(read + cached + written, output))
    bill.for_an_hour = min(written, _first(usage.get("cache_creation") or {}, "ephemeral_1h_input_tokens"))
    bill.written -= bill.for_an_hour
    bill.searches = _first(usage.get("server_tool_use") or {}, "web_search_requests")
    return bill


def _price(usage: dict[str, Any]) -> int | None:
    """Return the upstream's own price in nano-dollars; None: it says none."""
    cost = usage.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    if cost is not None:
        through = (usage.get("cost_details") or {}).get("upstream_inference_cost") if usage.get("is_byok") else 0
        return round((cost + (through or 0)) * 1e9)
    ticks = usage.get("cost_in_usd_ticks")
    return None if ticks is None else round(ticks / 10)


def _merge(into: dict[str, Any], report: dict[str, Any]) -> None:
    for name, value in report.items():
        known = into.get(name)
        if isinstance(value, dict):
            if not isinstance(known, dict):
                known = into[name] = {}
            _merge(known, value)
        elif isinstance(value, int | float) and isinstance(known, int | float):
            into[name] = max(known, value)
        elif known is None:
            into[name] = value


def _first(values: dict[str, Any], *names: str) -> int:
    return next((values[name] for name in names if values.get(name)), 0)
