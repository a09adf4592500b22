"""What an upstream may claim to have counted: the one place where foreign numbers become a ``Usage``.

Decides what is a count of tokens or a length of speech, how the classes that an upstream reports become disjoint, and
what stands after several reports. Which member holds what is the wire formats' affair; what stands in where there is no
count, accounting's.
"""

import re
from typing import Any

from msgspec.structs import replace

from gateway.tariff import Usage

MAX_TOKENS = 2**31 - 1
"""No answer has two thousand million tokens, and what such a count costs would fit no column of the ledger."""
MAX_AUDIO_MS = 2**31
"""Twenty-four days of speech in one request."""
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,20})?")


def is_count(value: Any) -> bool:
    """Tell whether a foreign value is a count: a whole number, not below zero, no truth value, text or fraction."""
    return type(value) is int and 0 <= value <= MAX_TOKENS


def usage_of(
    prompt: Any, output: Any, cached: Any = None, cache_write: Any = None, reasoning: Any = None, *, are_parts: bool
) -> Usage | None:
    """Make a usage of five foreign values, of which all may be anything; None when prompt or output is no count.

    ``are_parts``: ``prompt`` includes what was read from a cache or written to one; otherwise they stand beside it.
    ``output`` includes the reasoning. A part larger than its whole is cut down to it. Of the other three an empty value
    is a zero; one that is no count is left out, and the usage is marked as estimated.
    """
    if not (is_count(prompt) and is_count(output)):
        return None
    sound = prompt > 0 or (not are_parts and bool(cached or cache_write))
    if cached and not is_count(cached):
        cached, sound = 0, False
    if cache_write and not is_count(cache_write):
        cache_write, sound = 0, False
    if reasoning and not is_count(reasoning):
        reasoning, sound = 0, False
    cached, cache_write, reasoning = cached or 0, cache_write or 0, min(reasoning or 0, output)
    if are_parts:
        cached = min(cached, prompt)
        cache_write = min(cache_write, prompt - cached)
        prompt -= cached + cache_write
    return Usage(
        input_tokens=prompt,
        cached_input_tokens=cached,
        cache_write_tokens=cache_write,
        output_tokens=output - reasoning,
        reasoning_tokens=reasoning,
        origin="provider" if sound else "estimated",
    )


def later(known: Usage | None, report: Usage | None) -> Usage | None:
    """Return what stands after a further report of the same answer; None: it was no report of tokens.

    Counts are cumulative, so a sound report replaces the earlier ones. One that is not leaves what is known, and marks
    it as estimated.
    """
    if known is None or (report is not None and report.origin == "provider"):
        return report
    return replace(known, origin="estimated")


def audio_ms(seconds: Any) -> int:
    """Return a length of speech in milliseconds of a foreign value in seconds; 0 when it is none.

    A number above zero, or its plain decimal digits: OpenAI wrote the duration of verbose_json as a string for a while.
    """
    if isinstance(seconds, str) and _SECONDS.fullmatch(seconds):
        seconds = float(seconds)
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return round(seconds * 1000) if is_number and 0 < seconds < MAX_AUDIO_MS / 1000 else 0
