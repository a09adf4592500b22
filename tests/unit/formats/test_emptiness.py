"""Null, ``[]``, ``{}`` and ``none`` ask for nothing, and our own answers are legal history for every target."""

import json
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.formats.openai.decode import CHAT
from gateway.providers.registry import ADAPTERS
from gateway.types import Call
from tests.ground.builders import build_call, build_target

NOTHING = [None, [], {}, "none"]
MEMBERS = [
    *("tools", "tool_choice", "functions", "function_call", "reasoning_effort", "structured_outputs"),
    *("guided_json", "guided_choice", "audio", "kv_transfer_params"),
]


def asked(**members: Any) -> Call:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **members}
    return build_call(CHAT.decode(json.dumps(body).encode()))


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("member", MEMBERS)
def test_member_that_asks_for_nothing_needs_no_capability(member: str, nothing: Any) -> None:
    call = asked(**{member: nothing})
    assert call.envelope.needs == {"chat"}
    assert call.envelope.streamable


@pytest.mark.parametrize("nothing", NOTHING[:3])
@pytest.mark.parametrize("member", [*MEMBERS, "response_format", "plugins", "documents", "stop", "user_location"])
def test_member_that_asks_for_nothing_is_no_obstacle_to_a_translation(member: str, nothing: Any) -> None:
    """Tests of an object where none can stand are left out."""
    if member not in {"stop", "tools", "functions"} or nothing != {}:
        assert ADAPTERS["anthropic"].refuses(asked(**{member: nothing})) is None


# What each server adds to a message beside OpenAI's members, empty and full.
VLLM = {
    "reasoning": None, "reasoning_content": None, "provider_specific_fields": None, "images": [], "refusal": None,
    "annotations": None, "audio": None, "function_call": None, "tool_calls": [],
}  # fmt: skip
HISTORY: dict[str, dict[str, Any]] = {
    "vllm": VLLM,
    "vllm thinking": VLLM | {"reasoning": "hm"},
    "vllm calling": VLLM | {"content": None, "tool_calls": [
        {"id": "t", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}", "x": None}}]},
    "openai": {"refusal": None, "annotations": []},
    "openai citing": {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}]},
    "deepseek": {"reasoning_content": "hm"},
    "openrouter": {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}], "images": []},
    "groq": {"reasoning": "hm", "executed_tools": [{"index": 0}], "channel": "final"},
    "vercel": {"provider_metadata": {"gateway": {"cost": "0.1"}}},
    "gemini": {"tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"},
                               "extra_content": {"google": {"thought_signature": "x"}}}]},
    "mistral": {"prefix": False, "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                                             {"type": "text", "text": "hello"}]},
    "none": {"content": None, "tool_calls": None},
    "empty": {"content": "", "tool_calls": []},
}  # fmt: skip


@pytest.mark.parametrize("message", HISTORY.values(), ids=HISTORY)
def test_answer_of_one_target_is_history_for_another(message: dict[str, Any]) -> None:
    """With its text and calls; what stands beside them is no part of what was said."""
    answer = {"role": "assistant", "content": "hello"} | message
    result = [{"role": "tool", "tool_call_id": "t", "content": "1"}] if answer.get("tool_calls") else []
    user = {"role": "user", "content": "hi"}
    call = asked(messages=[user, answer, *result, user])
    assert ADAPTERS["anthropic"].refuses(call) is None
    turns = json.loads(ADAPTERS["anthropic"].prepare(call)(build_target(), "att").body)["messages"]
    said = [block for turn in turns if turn["role"] == "assistant" for block in turn["content"]]
    texts = [block["text"] for block in said if block["type"] == "text"]
    assert texts == (["hello"] if answer["content"] else [])
    assert [block["id"] for block in said if block["type"] == "tool_use"] == ["t"] * len(answer.get("tool_calls") or ())


@pytest.mark.parametrize(("options", "refused"), [(None, False), ({}, True)])
def test_empty_options_of_a_search_are_not_left_out_of_a_translation(options: Any, refused: bool) -> None:
    """OpenAI's reference: the member's presence switches the search on."""
    assert (ADAPTERS["anthropic"].refuses(asked(web_search_options=options)) is not None) is refused


def test_history_that_says_something_else_is_still_refused_by_name() -> None:
    messages = [{"role": "assistant", "content": "a", "images": [{"url": "x"}]}, {"role": "user", "content": "hi"}]
    with pytest.raises(UpstreamError, match=r"messages\[0\]\.images"):
        ADAPTERS["anthropic"].prepare(asked(messages=messages))


@pytest.mark.parametrize(
    ("members", "whole"),
    [
        ({"max_tokens": 16.0}, {"max_tokens": 16}),
        ({"max_completion_tokens": 16.00}, {"max_completion_tokens": 16}),
        ({"n": 2.0, "seed": -7.0}, {"n": 2, "seed": -7}),
        ({"top_k": 40.0, "temperature": 1.0, "x": 3.0}, {"top_k": 40, "temperature": 1.0, "x": 3.0}),
    ],
)
@pytest.mark.parametrize("padding", [0, 10_000, 100_000])
def test_integral_float_is_an_integer(members: dict[str, Any], whole: dict[str, int], padding: int) -> None:
    """For the gateway and for the upstream, which may refuse a float."""
    call = asked(messages=[{"role": "user", "content": "x" * padding}], **members)
    body = json.loads(call.envelope.body)
    assert {name: repr(body[name]) for name in whole} == {name: repr(value) for name, value in whole.items()}
    assert call.envelope.max_output_tokens == whole.get("max_tokens", whole.get("max_completion_tokens"))
