"""Makes the ids of calls and attempts. They are our own, never a provider's, since those may repeat.

They grow with time, so that a database's indexes are appended to instead of written all over; where the clock steps
back they do not, and are as unique as ever.
"""

import os
import time

_TAIL_DIGITS = 20
_tails: list[str] = []
# A child that inherited them would make the identifiers that its parent makes.
os.register_at_fork(after_in_child=_tails.clear)


def random_ids(prefix: str) -> str:
    """Write milliseconds since 1970 and 80 random bits in hexadecimal, 12 and 20 digits. Any thread may call."""
    try:
        tail = _tails.pop()
    except IndexError:
        tail = _draw()
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{tail}"


def _draw() -> str:
    """Draw 256 random endings with one system call; return one and keep the others."""
    digits = os.urandom(_TAIL_DIGITS // 2 * 256).hex()
    tail, *others = (digits[at : at + _TAIL_DIGITS] for at in range(0, len(digits), _TAIL_DIGITS))
    _tails.extend(others)
    return tail
