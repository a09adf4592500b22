"""Anthropic's Messages go up to Anthropic in the caller's own bytes, with as little changed as must be."""

import json
from typing import Any

import pytest

from gateway.formats.anthropic.decode import MESSAGES
from gateway.formats.anthropic.messages import AnthropicAdapter
from gateway.formats.anthropic.written import UNSIGNED
from tests.ground.builders import build_call, build_target

_ASKS = {"role": "user", "content": "Hi"}
_UNSIGNED = {"type": "thinking", "thinking": "hm", "signature": UNSIGNED}
_SIGNED = {"type": "thinking", "thinking": "hm", "signature": "Eq"}
_TEXT = {"type": "text", "text": "a"}
_HINT = {"role": "system", "content": "s", "clear_at": "never", "output_config": {"effort": "low"}}


def _sent(limit: int | None = None, **members: Any) -> tuple[dict[str, Any], list[str]]:
    """Return what goes up, and what was left out."""
    body = {"model": "auto", "max_tokens": 9, "messages": [_ASKS]} | members
    prepared = AnthropicAdapter().prepare(build_call(MESSAGES.decode(json.dumps(body).encode())))
    request = prepared(build_target(max_output_tokens=limit), "att_1")
    return json.loads(request.body), list(getattr(prepared, "left_out", ()))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            [_ASKS, _HINT, {"role": "assistant", "x": {"y": None}, "content": [_UNSIGNED, _TEXT, _SIGNED]}, _ASKS],
            [_ASKS, _HINT, {"role": "assistant", "x": {"y": None}, "content": [_TEXT, _SIGNED]}, _ASKS],
        ),
        ([_ASKS, {"role": "assistant", "content": [_UNSIGNED]}, _HINT, _ASKS], [_ASKS, _HINT, _ASKS]),
    ],
)
def test_unsigned_thinking_alone_is_taken_out(messages: list[Any], expected: list[Any]) -> None:
    """Other messages, and other members of the same one, stay."""
    body, left_out = _sent(messages=messages)
    assert body["messages"] == expected
    assert left_out == ["thinking"]


def test_text_about_our_signature_is_no_thinking() -> None:
    """Nothing is taken out, so nothing is named."""
    messages = [{"role": "user", "content": [{"type": "text", "text": UNSIGNED}]}]
    body, left_out = _sent(messages=messages)
    assert (body["messages"], left_out) == (messages, [])


@pytest.mark.parametrize("limit", [None, 100])
def test_limit_of_nothing_fills_the_prompt_cache(limit: int | None) -> None:
    """Anthropic reads the prompt and writes nothing."""
    assert _sent(limit, max_tokens=0)[0]["max_tokens"] == 0


@pytest.mark.parametrize(
    ("limit", "thinking", "expected", "left_out"),
    [
        (
            5_000,
            {"type": "enabled", "budget_tokens": 6_000, "display": "omitted"},
            {"type": "enabled", "budget_tokens": 2_500, "display": "omitted"},
            ["max_tokens", "thinking.budget_tokens"],
        ),
        (
            1_100,
            {"type": "enabled", "budget_tokens": 1_100},
            {"type": "enabled", "budget_tokens": 1_024},
            ["max_tokens", "thinking.budget_tokens"],
        ),
        (1_000, {"type": "enabled", "budget_tokens": 4_000}, {"type": "disabled"}, ["max_tokens", "thinking"]),
        (5_000, *[{"type": "enabled", "budget_tokens": 4_999}] * 2, ["max_tokens"]),
        (1_000, *[{"type": "adaptive"}] * 2, ["max_tokens"]),
        (1_000, *[None] * 2, ["max_tokens"]),
        (1_000, *[{"type": "enabled", "budget_tokens": "many"}] * 2, ["max_tokens"]),
        (9_000, *[{"type": "enabled", "budget_tokens": 9_000}] * 2, []),
    ],
)
def test_thinking_stays_below_a_lowered_limit(limit: int, thinking: Any, expected: Any, left_out: list[str]) -> None:
    """Anthropic refuses a budget that is not; what the caller got wrong itself is Anthropic's to say."""
    body, named = _sent(limit, max_tokens=8_000, thinking=thinking)
    assert (body["thinking"], body["max_tokens"]) == (expected, min(limit, 8_000))
    assert named == left_out


@pytest.mark.parametrize(
    "members",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
        {"output_format": {"type": "json_schema", "schema": {}}},
        {"output_format": {"type": "json_schema", "schema": {}}, "output_config": {"effort": "low"}},
    ],
)
def test_schema_needs_a_target_that_knows_schemas(members: dict[str, Any]) -> None:
    """Under its old name and its new one."""
    body = {"model": "auto", "max_tokens": 9, "messages": [_ASKS]} | members
    assert "json_schema" in MESSAGES.decode(json.dumps(body).encode()).needs


def test_whole_answer_on_many_lines_becomes_events_of_one_line_each() -> None:
    """A body may be written for people; the data of an event ends with its line."""
    message = {"id": "m", "model": "c", "content": [_TEXT], "stop_reason": "end_turn", "usage": {"input_tokens": 1}}
    body = {"model": "auto", "max_tokens": 9, "messages": [_ASKS], "stream": True}
    call = build_call(MESSAGES.decode(json.dumps(body).encode()))
    decoder = AnthropicAdapter().decoder(call, build_target())
    written = decoder.feed(json.dumps(message, indent=1).encode()) + decoder.finish()
    for event in written.decode().removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        assert f"event: {json.loads(data.removeprefix('data: '))['type']}" == name
