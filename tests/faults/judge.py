"""Judge what a caller saw against what was true, by rules that know nothing of the fault.

- ``pass``: the whole right answer in time, told truly: its text, why it ended, its model, its usage.
- ``partial``: the same too late, or a part of it that says of itself that it is one.
- ``safe``: a clear error, and nothing wrong shown as right.
- ``fail``: a part shown as the whole, a wrong text, model, usage or bill, an error that says nothing, or no end.

Whatever the caller saw, the ledger has to say the same: an attempt for every request that a provider got, its bill by
the price and what the provider counted, and nothing for what was refused or never arrived.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tests.ground.model import prompt_words
from tests.ground.script import Seen

Verdict = Literal["pass", "partial", "safe", "fail"]
BEST_FIRST: tuple[Verdict, ...] = ("pass", "partial", "safe", "fail")
_MARKS_OF_A_PART = frozenset({"length", "content_filter"})


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a provider's answer is, had nothing gone wrong with it."""

    text: str
    finish_reason: str
    first_model: str = "first-model"
    """As the first target calls its model; the other calls it as it was asked for."""


@dataclass(kw_only=True)
class Saw:
    """What the official client gave its user for one call. Times are seconds from sending."""

    status: int | None = None
    error: str | None = None
    """What was raised, if anything: its code and message."""
    text: str = ""
    finish_reason: str | None = None
    model: str | None = None
    usage: tuple[int, int] | None = None
    """Tokens of prompt and completion."""
    target: str | None = None
    """By the header: ``first`` or ``second``."""
    request_id: str | None = None
    first_s: float | None = None
    """The first content; of a plain call the whole answer."""
    ended_s: float | None = None
    """None: it never did."""


class Judged(NamedTuple):
    """A verdict and why it is no better."""

    verdict: Verdict
    why: str = ""


def worst(judged: Iterable[Judged]) -> Judged:
    """Return the worst of several verdicts; of none, ``pass``."""
    return max(judged, key=lambda each: BEST_FIRST.index(each.verdict), default=Judged("pass"))


def is_worse(verdict: Verdict, than: Verdict) -> bool:
    """Tell whether one verdict is worse than another."""
    return BEST_FIRST.index(verdict) > BEST_FIRST.index(than)


def judge(saw: Saw, truth: Truth, *, prompt_tokens: int, late_s: float) -> Judged:
    """Judge what one caller saw; ``late_s`` is the longest wait for the first content that is in time."""
    return worst(_findings(saw, truth, (prompt_tokens, len(truth.text.split())), late_s))


def _findings(saw: Saw, truth: Truth, usage: tuple[int, int], late_s: float) -> Iterator[Judged]:
    if saw.ended_s is None:
        yield Judged("fail", "no end")
    if not truth.text.startswith(saw.text):
        yield Judged("fail", "a wrong text")
    if saw.error is not None:
        yield Judged("safe", saw.error) if saw.error.strip(" :") else Judged("fail", "an error that says nothing")
    elif saw.text == truth.text and saw.finish_reason == truth.finish_reason:
        model = truth.first_model if saw.target == "first" else "second-model"
        if saw.model != model:
            yield Judged("fail", f"told the model {saw.model}, which was {model}")
        if saw.usage != usage:
            yield Judged("fail", f"told the usage {saw.usage}, which was {usage}")
        if saw.first_s is None or saw.first_s > late_s:
            yield Judged("partial", f"late: more than {late_s:g} s")
    elif saw.text and saw.finish_reason in _MARKS_OF_A_PART:
        yield Judged("partial", f"a part, marked {saw.finish_reason}")
    else:
        yield Judged("fail", "a part shown as the whole")


def judge_ledger(
    saw: Saw, record: Mapping[str, Any] | None, seen: Mapping[str, Seen], prices: Mapping[str, int]
) -> str:
    """Say what the ledger has wrong of a call, or nothing.

    ``seen`` are the requests that providers got, by attempt; ``prices`` in nano-dollars a token of a prompt at each
    target, twice that for the completion's.
    """
    if record is None:
        return "the ledger does not know the call"
    attempts: list[dict[str, Any]] = record["attempts"]
    if record["cost_nano_usd"] != sum(each["cost_nano_usd"] for each in attempts):
        return "the call does not cost what its attempts cost"
    if (record["outcome"] == "ok") is not (saw.error is None):
        return f"the ledger calls it {record['outcome']}"
    if saw.error is None and not str(record["target"]).endswith(str(saw.target)):
        return f"the ledger names {record['target']}"
    return next(filter(None, (_wrong_bill(each, seen, prices) for each in attempts)), "")


def _wrong_bill(attempt: Mapping[str, Any], seen: Mapping[str, Seen], prices: Mapping[str, int]) -> str:
    usage, cost = attempt["usage"], attempt["cost_nano_usd"]
    read, written = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    target = str(attempt["target_id"]).rpartition("-")[2]
    if cost != prices[target] * (read + 2 * written):
        return f"{cost} nano-dollars for {read} and {written} tokens"
    request = seen.get(attempt["attempt_id"])
    if cost and (request is None or request.status not in {None, 200}):
        return "billed what was refused or never arrived"
    if request is not None and attempt["outcome"] == "ok":
        counted = prompt_words(request.json), request.tokens_written
        if (read, written, usage.get("origin", "provider")) != (*counted, "provider"):
            return f"billed {read} and {written} tokens where {counted} were counted"
    elif cost and usage.get("origin") != "estimated":
        return "billed a broken answer as if it had been counted"
    return ""
