"""Turns the token counts that upstreams report into a ``Usage``; nothing else in the gateway reads foreign counts.

Decides what is a count, which names mean the same, what several reports of one answer say together, and how the classes
of an upstream become disjoint. Where in an answer a report stands is the formats' affair; what stands in where there is
no count, accounting's.
"""

import re
from collections.abc import Callable
from itertools import product
from typing import Any

from msgspec.structs import replace

from gateway.formats.tokens import estimate_output_tokens
from gateway.tariff import Rates, Usage

MAX_TOKENS = 2**31 - 1
"""No answer has two thousand million tokens, and what such a count costs would fit no column of the ledger."""
MAX_AUDIO_MS = 2**31
"""Twenty-four days of speech in one request."""
_MAX_USD = 1_000_000
_MAX_TIER_CHARS = 64
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,20})?")
NO_RATES = Rates()

_READ = {
    "cached_tokens": "cached",
    "cache_write_tokens": "written",
    "cache_creation_input_tokens": "written",
    "created_cache_tokens": "written",
    "audio_tokens": "audio_read",
    "image_tokens": "image_read",
}
_WROTE = {
    "reasoning_tokens": "reasoning",
    "thinking_tokens": "reasoning",
    "audio_tokens": "audio_wrote",
    "image_tokens": "image_wrote",
}
_NAMES: dict[str, str | dict[str, str]] = {
    # OpenAI's chat completions and its transcriptions; Anthropic.
    "prompt_tokens": "prompt",
    "input_tokens": "prompt",
    "completion_tokens": "output",
    "output_tokens": "output",
    "total_tokens": "total",
    "prompt_tokens_details": _READ,
    "prompt_token_details": _READ,  # Mistral
    "input_tokens_details": _READ,
    "input_token_details": _READ,
    "completion_tokens_details": _WROTE,
    "output_tokens_details": _WROTE,
    "reasoning_tokens": "reasoning",  # SGLang, Perplexity
    "cached_tokens": "cached",  # Moonshot, Together
    "num_cached_tokens": "cached",  # Mistral
    "prompt_cache_hit_tokens": "cached",  # DeepSeek
    "cache_read_input_tokens": "cached",  # Anthropic
    "cache_creation_input_tokens": "written",  # Anthropic
    "cache_creation": {"ephemeral_1h_input_tokens": "written_1h"},  # Anthropic
    "server_tool_use": {"web_search_requests": "searches"},  # Anthropic
    "server_tool_use_details": {"web_search_requests": "searches"},  # OpenRouter
    "num_search_queries": "searches",  # Perplexity
    "cost": "price",  # OpenRouter, Perplexity, Vercel
    "cost_details": "price",  # OpenRouter with a key of one's own
    "cost_in_usd_ticks": "price",  # xAI
}
"""What the members of a report are; of those that mean the same the largest counts."""
_ANTHROPIC = frozenset(("cache_read_input_tokens", "cache_creation_input_tokens"))
"""Beside ``input_tokens``; below ``prompt_tokens``, as others have them, they are parts of it."""
_OWN_ROUNDS = (None, "message", "compaction")
"""Of iterations, those of the model itself (platform.claude.com/docs/en/build-with-claude/compaction)."""
_LEVELS = 4
"""How deep reports are merged; none that is read has more than three."""
_RARE = frozenset(("audio_read", "image_read", "audio_wrote", "image_wrote", "written_1h", "searches", "price"))


def merged(known: dict[str, Any] | None, report: Any, levels: int = _LEVELS) -> dict[str, Any] | None:
    """Return what the reports of one answer say together; None when there was none."""
    if not isinstance(report, dict) or not report:
        return known
    return report if known is None or not levels else _together(known, report, levels - 1)


def _together(known: dict[str, Any], report: dict[str, Any], levels: int) -> dict[str, Any]:
    """Merge by member: counts are cumulative, so the larger is the later; a zero or no number takes nothing back."""
    together = dict(known)
    for name, value in report.items():
        before = together.get(name)
        if isinstance(value, dict):
            together[name] = merged(before if isinstance(before, dict) else None, value, levels)
        elif before is None or before == [] or (_is_number(value) and not (_is_number(before) and before >= value)):
            together[name] = value
    return together


def usage_of(report: dict[str, Any] | None, rates: Rates = NO_RATES, seen: tuple[int, int] = (0, 0)) -> Usage | None:
    """Sort what an upstream reported into disjoint classes; None when it counted nothing. ``rates``: see ``_by_price``.

    A prompt without a count and a value that is no count make the usage an estimate. ``seen``: its events and bytes.
    """
    counts: dict[str, int] = {}
    rounds = report.get("iterations") if report else None
    if rounds and isinstance(rounds, list):
        report = merged(report, _added_up(rounds))
    sound = _count(report or {}, _NAMES, counts) and not (rounds and _has_other_models(rounds))
    if not (report and counts):
        return None
    count = counts.get
    prompt, output, reasoning = count("prompt", 0), count("output", 0), count("reasoning", 0)
    cache = count("cached", 0) + count("written", 0)
    if count("total", 0) > prompt + output:
        prompt, output, reasoning, sound = _by_total(counts, seen, sound=sound)
    elif cache and "prompt_tokens" not in report and not _ANTHROPIC.isdisjoint(report):
        prompt += cache
    usage = _usage(counts, prompt, output, reasoning)
    if cache > prompt or reasoning > output:
        sound = sound and bool(usage.upstream_cost_nano_usd)
        usage = _by_price(usage, counts, (prompt, output, reasoning), rates)
    return usage if sound and prompt else replace(usage, origin="estimated")


def _added_up(rounds: list[Any], levels: int = 2) -> dict[str, Any]:
    """Add up the iterations of an answer (Anthropic): those that compact the context are in no other count of it."""
    added: dict[str, Any] = {}
    for each in rounds:
        for name, value in each.items() if isinstance(each, dict) else ():
            before = added.get(name, 0)
            if isinstance(value, dict) and levels and (not before or isinstance(before, dict)):
                added[name] = _added_up([before, value], levels - 1)
            elif _is_number(value) and _is_number(before) and value > 0:
                added[name] = before + value
    return added


def _has_other_models(rounds: Any) -> bool:
    """Whether some iterations are an adviser's or another model's, which costs what that does, or none can be read."""
    return not isinstance(rounds, list) or any(
        isinstance(each, dict) and each.get("type") not in _OWN_ROUNDS for each in rounds
    )


def tier_of(name: Any) -> str | None:
    """Return the service tier that an answer names: a short word of ASCII; None when it is anything else."""
    return name if type(name) is str and len(name) <= _MAX_TIER_CHARS and name.isascii() else None


def audio_ms(seconds: Any) -> int:
    """Return a length of speech in milliseconds of a foreign value in seconds; 0 when it is none.

    A number above zero, or its plain decimal digits: OpenAI wrote the duration of verbose_json as a string for a while.
    """
    if isinstance(seconds, str) and _SECONDS.fullmatch(seconds):
        seconds = float(seconds)
    return round(seconds * 1000) if _is_number(seconds) and 0 < seconds < MAX_AUDIO_MS / 1000 else 0


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold: JSON's integers have any length."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


def _count(report: dict[str, Any], names: dict[str, Any], counts: dict[str, int]) -> bool:
    """Note the counts of a report; return whether all that is named one is: a whole number, or nothing."""
    sound = True
    for name, value in report.items():
        meaning = names.get(name) if value else None
        if meaning is None:
            continue
        if meaning == "price":
            counts[meaning] = _price_nano_usd(report)
        elif type(meaning) is dict:
            sound = (type(value) is not dict or _count(value, meaning, counts)) and sound
        elif type(value) is int and 0 < value <= MAX_TOKENS:
            counts[meaning] = max(value, counts.get(meaning, 0))
        else:
            sound = False
    return sound


def _by_total(counts: dict[str, int], seen: tuple[int, int], *, sound: bool) -> tuple[int, int, int, bool]:
    """Return prompt, output, reasoning and ``sound`` where the total is more than the first two: what is beside them.

    As a rule the prompt includes what was read from a cache or written to one, and the output its reasoning. Where
    something cannot be read, the total says one side by the other, and nothing of their parts. Of a total alone, what
    was seen is output; there was a prompt, too.
    """
    count = counts.get
    prompt, output, reasoning = count("prompt", 0), count("output", 0), count("reasoning", 0)
    rest = counts["total"] - prompt - output
    if not sound:
        return prompt or rest * bool(output), output or rest * bool(prompt), reasoning, False
    if not prompt and not output and (wrote := max(estimate_output_tokens(*seen), reasoning)):
        wrote = min(wrote, rest - 1)
        return rest - wrote, wrote, reasoning, False
    cache = count("cached", 0) + count("written", 0)
    for thought, cached, audio in product((0, reasoning), (0, cache), (0, count("audio_read", 0))):
        if thought + cached + audio == rest:  # xAI's reasoning, a cache, Mistral's audio
            return prompt + cached + audio, output + thought, reasoning, True
    if not prompt:
        return rest, output, reasoning, True
    if not output:
        return prompt, rest, reasoning, True
    return (
        prompt,
        output + rest,
        reasoning + rest,
        True,
    )  # Gemini's thinking, which its OpenAI endpoint counts nowhere else


def _by_price(cut: Usage, counts: dict[str, int], wholes: tuple[int, int, int], rates: Rates) -> Usage:
    """Choose where a part is larger than its whole: beside it, or cut down to it, as without a price.

    Chosen is what brings the cost at ``rates`` nearest to the upstream's own price.
    """
    price = cut.upstream_cost_nano_usd
    if not price:
        return cut
    prompt, output, reasoning = wholes
    cache = counts.get("cached", 0) + counts.get("written", 0)
    beside = product((0, cache * (cache > prompt)), (0, reasoning * (reasoning > output)))
    readings = (_usage(counts, prompt + read, output + wrote, reasoning) for read, wrote in beside)
    return min(readings, key=lambda usage: abs(rates.cost(usage) - price))


def _usage(counts: dict[str, int], prompt: int, output: int, reasoning: int) -> Usage:
    """Make the classes disjoint, cutting parts that are larger than what is left of their whole."""
    cached = min(counts.get("cached", 0), prompt)
    written = min(counts.get("written", 0), prompt - cached)
    reasoning = min(reasoning, output)
    usage = Usage(
        input_tokens=prompt - cached - written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output - reasoning,
        reasoning_tokens=reasoning,
    )
    return usage if _RARE.isdisjoint(counts) else _with_rare(usage, counts.get)


def _with_rare(usage: Usage, count: Callable[[str, int], int]) -> Usage:
    """Take the classes out of the others that few answers have, and add what is no token."""
    audio = min(count("audio_read", 0), usage.input_tokens)
    image = min(count("image_read", 0), usage.input_tokens - audio)
    spoken = min(count("audio_wrote", 0), usage.output_tokens)
    drawn = min(count("image_wrote", 0), usage.output_tokens - spoken)
    for_an_hour = min(count("written_1h", 0), usage.cache_write_tokens)
    return replace(
        usage,
        input_tokens=usage.input_tokens - audio - image,
        cache_write_tokens=usage.cache_write_tokens - for_an_hour,
        cache_write_1h_tokens=for_an_hour,
        audio_input_tokens=audio,
        image_input_tokens=image,
        output_tokens=usage.output_tokens - spoken - drawn,
        audio_output_tokens=spoken,
        image_output_tokens=drawn,
        web_searches=count("searches", 0),
        upstream_cost_nano_usd=count("price", 0),
    )


def _price_nano_usd(report: dict[str, Any]) -> int:
    """Return what the upstream says that the answer costs; 0: it does not say.

    ``cost`` in USD (OpenRouter, Vercel), Perplexity's ``cost.total_cost``, or xAI's ticks, 10^10 for a dollar. With a
    key of one's own at OpenRouter (``is_byok``), its ``cost`` is the fee alone.
    """
    usd: Any = report.get("cost")
    ticks, details = report.get("cost_in_usd_ticks"), report.get("cost_details")
    parts: list[Any] = [usd.get("total_cost") if isinstance(usd, dict) else usd]
    if usd is None and ticks:
        parts = [ticks / 1e10] if _is_number(ticks) else []
    elif report.get("is_byok") is True and isinstance(details, dict):
        parts.append(details.get("upstream_inference_cost"))
    price: float = sum(part for part in parts if _is_number(part))
    return round(price * 1e9) if 0 < price < _MAX_USD else 0
