"""What is sent when, as functions of time: the arrivals of a trace, and how many users a shape has."""

import csv
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Arrival:
    """One request of a trace: when it is due, in seconds after the replay's start, and its sizes in tokens."""

    due_s: float
    prompt_tokens: int
    output_tokens: int


def arrivals(trace: Iterable[str], *, speed: float, skip_s: float, seconds: float | None) -> Iterator[Arrival]:
    """Yield what is due in the next ``seconds`` (None: to the trace's end), at ``speed`` times the trace's clock.

    ``trace`` is the CSV's lines (TIMESTAMP, ContextTokens, GeneratedTokens; by time); the first ``skip_s`` seconds of
    its own clock are left out.
    """
    zero = None
    for row in csv.DictReader(trace):
        at = datetime.fromisoformat(row["TIMESTAMP"])
        zero = zero or at
        on_trace_s = (at - zero).total_seconds() - skip_s
        if seconds is not None and on_trace_s >= seconds * speed:
            return
        if on_trace_s >= 0:
            yield Arrival(on_trace_s / speed, int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def follow(
    schedule: Iterable[Arrival],
    send: Callable[[Arrival, float], object],
    *,
    now: Callable[[], float],
    sleep: Callable[[float], object],
    stopping: Callable[[], bool],
) -> None:
    """Have each arrival sent when it is due, and what is overdue at once; return after the last, or when ``stopping``.

    ``send`` gets the arrival and when it was due by the clock ``now``, in seconds, and does not wait for the answer.
    """
    started_s = now()
    for arrival in schedule:
        due_s = started_s + arrival.due_s
        sleep(max(0.0, due_s - now()))
        if stopping():
            return
        send(arrival, due_s)


def sized_prompt(tokens: int) -> str:
    """Write about so many tokens; each prompt begins with another word, so that no prefix cache has seen it."""
    return secrets.token_hex(4) + " road" * (tokens - 5)  # eight hexadecimal digits are about five tokens


def ramp(at_s: float, seconds: float, users: int) -> int:
    """Rise evenly from one user to ``users`` over the whole time."""
    return max(1, min(users, 1 + int(at_s / seconds * users)))


def spike(at_s: float, seconds: float, users: int) -> int:
    """Send a tenth of ``users``, and all of them in the middle fifth of the time."""
    return users if 0.4 * seconds <= at_s < 0.6 * seconds else max(1, users // 10)


SHAPES: dict[str, Callable[[float, float, int], int]] = {"ramp": ramp, "spike": spike}
"""Name -> users, by the seconds since the start, the seconds in all, and ``--users``."""


def tick(shape: str, at_s: float, seconds: float, users: int) -> tuple[int, float] | None:
    """Return how many users there should be now, and that they come and go at once; None when the time is up."""
    if at_s >= seconds:
        return None
    return SHAPES[shape](at_s, seconds, users), float(min(users, 100))
