"""Writes in the caller's dialect how many requests its key has left, as header lines of every answer.

Only a key's own limit is said, never an upstream's; of tokens a key has no limit, so nothing is said of them.

Sources: platform.claude.com/docs/en/api/rate-limits ("Response headers"); platform.openai.com/docs/guides/rate-limits
("Rate limits in headers").
"""

import time
from math import ceil

from gateway.errors import Allowance

_OPENAI = b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\nx-ratelimit-reset-requests: %ds\r\n"
_ANTHROPIC = (
    b"anthropic-ratelimit-requests-limit: %d\r\n"
    b"anthropic-ratelimit-requests-remaining: %d\r\n"
    b"anthropic-ratelimit-requests-reset: %b\r\n"
)


def openai_allowance(allowance: Allowance | None) -> bytes:
    """Write ``x-ratelimit-*``, where there is a limit; a reset is a duration."""
    return b"" if allowance is None else _OPENAI % allowance


def anthropic_allowance(allowance: Allowance | None) -> bytes:
    """Write ``anthropic-ratelimit-*``, where there is a limit; a reset is a moment (RFC 3339)."""
    if allowance is None:
        return b""
    limit, left, full_in_s = allowance
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ceil(time.time()) + full_in_s))
    return _ANTHROPIC % (limit, left, moment.encode())
