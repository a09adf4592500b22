"""The rules by which a fault's row is judged: each lie has its verdict."""

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.__main__ import is_bad
from tests.faults.judge import Judged, Saw, Truth, Verdict, is_worse, judge, judge_ledger, worst
from tests.faults.play import rows_of
from tests.faults.table import FAULTS
from tests.ground.script import Seen

TRUTH = Truth(text=" one two three", finish_reason="stop")
RIGHT = Saw(
    status=200,
    text=" one two three",
    finish_reason="stop",
    model="first-model",
    usage=(2, 3),
    target="first",
    request_id="req_1",
    first_s=1.0,
    ended_s=2.0,
)
ERROR = "upstream_cut: The upstream broke off."


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"target": "second", "model": "second-model"}, "pass"),
        ({"first_s": 11.0}, "partial"),
        ({"text": " one", "finish_reason": "length"}, "partial"),
        ({"text": " one", "finish_reason": "content_filter"}, "partial"),
        ({"text": " one", "error": ERROR}, "safe"),
        ({"text": "", "status": 503, "error": ERROR}, "safe"),
        ({"error": ERROR}, "safe"),
        ({"error": ": "}, "fail"),
        ({"text": " one", "finish_reason": None}, "fail"),
        ({"text": " one"}, "fail"),
        ({"text": ""}, "fail"),
        ({"finish_reason": None}, "fail"),
        ({"text": " one two three four"}, "fail"),
        ({"text": " two", "error": ERROR}, "fail"),
        ({"model": "second-model"}, "fail"),
        ({"target": "second"}, "fail"),
        ({"usage": None}, "fail"),
        ({"usage": (2, 1003)}, "fail"),
        ({"ended_s": None}, "fail"),
    ],
)
def test_verdict_follows_from_what_the_caller_saw(changes: dict[str, Any], verdict: Verdict) -> None:
    assert judge(replace(RIGHT, **changes), TRUTH, prompt_tokens=2, late_s=10).verdict == verdict


def seen(**changes: Any) -> Seen:
    body = b'{"messages": [{"role": "user", "content": "say three"}]}'
    given = Seen(method="POST", path="/", headers={}, body=body, received_at_s=0.0, status=200, tokens_written=3)
    return replace(given, **changes)


def attempt(**changes: Any) -> dict[str, Any]:
    usage = {"input_tokens": 2, "output_tokens": 3, "origin": "provider"}
    fields = {"attempt_id": "a", "target_id": "r1-first", "outcome": "ok", "usage": usage, "cost_nano_usd": 8_000}
    return fields | changes


FREE = {"usage": {"input_tokens": 0, "output_tokens": 0, "origin": "estimated"}, "cost_nano_usd": 0}
BROKEN = {"usage": {"input_tokens": 2, "output_tokens": 1, "origin": "estimated"}, "cost_nano_usd": 4_000}


@pytest.mark.parametrize(
    ("attempts", "requests", "is_right"),
    [
        ([attempt()], {"a": seen()}, True),
        ([attempt(attempt_id="b", outcome="refused", **FREE), attempt()], {"a": seen(), "b": seen(status=500)}, True),
        ([attempt(attempt_id="b", outcome="cut", **BROKEN), attempt()], {"a": seen(), "b": seen()}, True),
        ([attempt(attempt_id="b", outcome="cut", **FREE), attempt()], {"a": seen()}, True),
        ([attempt(cost_nano_usd=9_000)], {"a": seen()}, False),
        ([attempt(target_id="r1-second")], {"a": seen()}, False),
        ([attempt()], {"a": seen(tokens_written=4)}, False),
        ([attempt()], {}, False),
        ([attempt(attempt_id="b", outcome="refused"), attempt()], {"a": seen(), "b": seen(status=500)}, False),
        ([attempt(attempt_id="b", outcome="cut", **BROKEN), attempt()], {"a": seen()}, False),
        ([attempt(attempt_id="b", outcome="cut"), attempt()], {"a": seen(), "b": seen()}, False),
    ],
)
def test_ledger_says_what_the_providers_saw(
    attempts: list[dict[str, Any]], requests: dict[str, Seen], is_right: bool
) -> None:
    """A bill by price and count; nothing for what was refused or never arrived; broken answers are estimated."""
    cost = sum(each["cost_nano_usd"] for each in attempts)
    record = {"attempts": attempts, "cost_nano_usd": cost, "outcome": "ok", "target": "r1-first"}
    assert (judge_ledger(RIGHT, record, requests, {"first": 1_000, "second": 10_000}) == "") is is_right


@pytest.mark.parametrize(
    "changes", [{"cost_nano_usd": 1}, {"outcome": "cut"}, {"target": "r1-second"}, {"target": None}]
)
def test_record_of_a_call_agrees_with_its_caller(changes: dict[str, Any]) -> None:
    record = {"attempts": [attempt()], "cost_nano_usd": 8_000, "outcome": "ok", "target": "r1-first"}
    assert judge_ledger(RIGHT, record | changes, {"a": seen()}, {"first": 1_000})
    assert judge_ledger(RIGHT, None, {}, {})


@pytest.mark.parametrize(
    ("fault", "verdict", "bad"),
    [
        ("500 once", "pass", False),
        ("500 once", "partial", True),
        ("500 once", "safe", True),
        ("cut after 40 of 60", "pass", False),
        ("cut after 40 of 60", "safe", False),
        ("cut after 40 of 60", "fail", True),
    ],
)
def test_command_ends_with_an_error_for_what_is_worse_than_expected(fault: str, verdict: Verdict, bad: bool) -> None:
    (row,) = [each for each in rows_of(FAULTS) if (each.fault.name, each.mode) == (fault, "stream")]
    row.judged = Judged(verdict, "why")
    assert is_bad(row) is bad


def test_verdicts_have_an_order() -> None:
    order: tuple[Verdict, ...] = ("pass", "partial", "safe", "fail")
    assert [is_worse(one, "partial") for one in order] == [False, False, True, True]
    assert worst(map(Judged, ("safe", "pass", "partial"))).verdict == "safe"
