"""Anthropic's Messages are said to an OpenAI-compatible upstream as a chat completion, or refused by name."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.formats.anthropic.decode import MESSAGES
from gateway.formats.anthropic.written import UNSIGNED, engines_tool_id, tool_id
from gateway.formats.openai.chat_request import Translated
from gateway.providers.registry import ADAPTERS
from gateway.types import Call
from tests.ground.builders import build_call, build_target

_PNG: dict[str, Any] = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
_SEEN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
_PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}}
_CALL = {"type": "tool_use", "id": "t1", "name": "look", "input": {"n": 1.50, "s": "ü"}}
_TOOL = {"name": "look", "description": "Look.", "input_schema": {"type": "object", "properties": {}}}
_FUNCTION = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": _TOOL["input_schema"]},
}
_BRIEF = {"role": "system", "content": "Now be brief."}
_STRICT = {"name": "look", "parameters": {"type": "object"}, "strict": True}
_ASKS = {"role": "user", "content": "Hi"}
_OPEN = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"$ref": "#"}}, "required": ["a"]}
_CLOSED = _OPEN | {"required": ["b", "a"], "additionalProperties": False}
_FOUND = {"type": "search_result", "title": "T", "source": "s.test", "content": [{"type": "text", "text": "F"}]}
_NO_STRINGS: tuple[Any, ...] = (123, None, True, [1, ", ", ": "], {"a": "b"})
_NULLS = {"not_invented_yet": None, "transformations": {}, "toolset_name": None, "cache_control": None}


def _call(**members: Any) -> Call:
    body = {"model": "auto", "max_tokens": 9, "messages": [_ASKS]} | members
    return build_call(MESSAGES.decode(json.dumps(body, ensure_ascii=False).encode()))


def _sent(
    adapter: str = "vllm", target: dict[str, Any] | None = None, **members: Any
) -> tuple[dict[str, Any], list[str]]:
    """Return the body that a target gets, without what every one has, and what was left out."""
    prepared = ADAPTERS[adapter].prepare(_call(**members))
    assert isinstance(prepared, Translated)
    request = prepared(build_target(adapter=adapter, **target or {}), "att_1")
    assert request.url.endswith("/v1/chat/completions")
    body = json.loads(request.body)
    assert body.pop("model") == "small-upstream"
    return body, prepared.left_out


def _messages(*turns: dict[str, Any], adapter: str = "vllm", **members: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = _sent(adapter, messages=list(turns), **members)[0]["messages"]
    return messages


def _user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def _said(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def _text(text: str, **members: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **members}


def _result(content: Any = None, **members: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content, **members}


def _calls(call_id: str, arguments: str = '{"n": 1.5, "s": "ü"}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "look", "arguments": arguments}}


_USES = [_ASKS, _said(_text("I look."), _CALL)]
_CALLED = {"role": "assistant", "content": "I look.", "tool_calls": [_calls("t1")]}


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([_ASKS], [_ASKS]),
        ([_user(_text("a"), _text('b "ü"\n'))], [{"role": "user", "content": 'a\n\nb "ü"\n'}]),
        ([_ASKS, _ASKS], [{"role": "user", "content": "Hi\n\nHi"}]),
        ([_user(_text("a"), _PNG)], [{"role": "user", "content": [_text("a"), _SEEN]}]),
        (
            [_user({"type": "image", "source": {"type": "url", "url": "https://a.test/b.png"}})],
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.test/b.png"}}]}],
        ),
        (
            [
                _user(
                    {
                        "type": "document",
                        "source": {"type": "text", "media_type": "text/plain", "data": "D"},
                        "title": "T",
                    }
                )
            ],
            [{"role": "user", "content": "T\n\nD"}],
        ),
        ([_ASKS, _BRIEF, _ASKS], [_BRIEF, {"role": "user", "content": "Hi\n\nHi"}]),
        ([*_USES, _user(_result("ok"))], [_ASKS, _CALLED, {"role": "tool", "tool_call_id": "t1", "content": "ok"}]),
        ([*_USES, _user(_result())], [_ASKS, _CALLED, {"role": "tool", "tool_call_id": "t1", "content": ""}]),
        (
            [*_USES, _user(_result([_text("no"), _PNG], is_error=True), _text("and?"))],
            [
                _ASKS,
                _CALLED,
                {"role": "tool", "tool_call_id": "t1", "content": "Error: no"},
                {"role": "user", "content": [_SEEN, _text("and?")]},
            ],
        ),
        (
            [_ASKS, _said({"type": "thinking", "thinking": "hm", "signature": "Eq"}, _text("a"), _text("b")), _ASKS],
            [_ASKS, {"role": "assistant", "content": "ab"}, _ASKS],
        ),
        (
            [
                _ASKS,
                _said(
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                    {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
                    _text("x", citations=[{"type": "web_search_result_location"}]),
                ),
                _ASKS,
            ],
            [_ASKS, {"role": "assistant", "content": "x"}, _ASKS],
        ),
        (
            [_ASKS, _said(_text("I look.")), _said(_CALL), _user(_result("ok"))],
            [_ASKS, _CALLED, {"role": "tool", "tool_call_id": "t1", "content": "ok"}],
        ),
        (
            [_ASKS, _said(_CALL), _said(_CALL | {"id": "t2"}), _user(_result("1"), _result("2", tool_use_id="t2"))],
            [
                _ASKS,
                {"role": "assistant", "content": None, "tool_calls": [_calls("t1"), _calls("t2")]},
                {"role": "tool", "tool_call_id": "t1", "content": "1"},
                {"role": "tool", "tool_call_id": "t2", "content": "2"},
            ],
        ),
        (
            [*_USES, _user(_result([{"type": "tool_reference", "tool_name": "look"}, _FOUND]))],
            [_ASKS, _CALLED, {"role": "tool", "tool_call_id": "t1", "content": "look\n\nT\n\ns.test\n\nF"}],
        ),
        ([_user(_FOUND)], [{"role": "user", "content": "T\n\ns.test\n\nF"}]),
        (
            [
                _ASKS,
                _said(
                    {"type": "compaction", "content": "Sum.", "encrypted_content": "e"},
                    {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
                    _text("a"),
                ),
                _said({"type": "compaction", "content": None}),
                _ASKS,
            ],
            [_ASKS, {"role": "assistant", "content": "Sum.\n\na"}, _ASKS],
        ),
        (
            [
                {**_ASKS, **_NULLS},
                _said(_text("I look.", **_NULLS), {**_CALL, **_NULLS, "input": {"a": None, "b": []}}),
                _user(_result("ok", **_NULLS), {"type": "image", "source": {**_PNG["source"], **_NULLS}, **_NULLS}),
            ],
            [
                _ASKS,
                {"role": "assistant", "content": "I look.", "tool_calls": [_calls("t1", '{"a": null, "b": []}')]},
                {"role": "tool", "tool_call_id": "t1", "content": "ok"},
                {"role": "user", "content": [_SEEN]},
            ],
        ),
        ([_user(), _said(_text("a")), _ASKS], [{"role": "assistant", "content": "a"}, _ASKS]),
    ],
)
def test_turns_are_said_in_openais_words(turns: list[Any], expected: list[Any]) -> None:
    """Texts and arguments byte for byte; what a tool showed follows as the user's; thinking stays with its provider."""
    assert _messages(*turns) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 5}, {"temperature": 0.5, "top_p": 0.9, "top_k": 5}),
        ({"stop_sequences": ["END"]}, {"stop": ["END"]}),
        ({"tools": [_TOOL]}, {"tools": [_FUNCTION]}),
        ({"tools": [_TOOL], "tool_choice": {"type": "auto"}}, {"tools": [_FUNCTION]}),
        ({"tools": [_TOOL], "tool_choice": {"type": "any"}}, {"tools": [_FUNCTION], "tool_choice": "required"}),
        ({"tools": [_TOOL], "tool_choice": {"type": "none"}}, {"tools": [_FUNCTION], "tool_choice": "none"}),
        (
            {"tools": [_TOOL], "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True}},
            {
                "tools": [_FUNCTION],
                "tool_choice": {"type": "function", "function": {"name": "look"}},
                "parallel_tool_calls": False,
            },
        ),
        (
            {"tools": [{"name": "look", "type": "custom", "input_schema": {"type": "object"}, "strict": True}]},
            {
                "tools": [
                    {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}
                ]
            },
        ),
        ({"tools": [{**_TOOL, **_NULLS}]}, {"tools": [_FUNCTION]}),
        ({"tools": [], "metadata": {}, "stop_sequences": None, "output_config": {"effort": None, "x": None}}, {}),
    ],
)
def test_members_are_said_in_openais_words(members: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each as OpenAI's reference names it; a default needs no word."""
    body, left_out = _sent(**members)
    assert {name: value for name, value in body.items() if name not in {"messages", "max_tokens"}} == expected
    assert left_out == []


@pytest.mark.parametrize(
    ("schema", "is_strict"),
    [
        (_CLOSED, True),
        (_CLOSED | {"anyOf": [_CLOSED, {"type": "null"}], "$defs": {"object": _CLOSED}}, True),
        ({"anyOf": [_CLOSED]}, False),
        ({"type": "string"}, False),
        ({}, False),
        (_CLOSED | {"properties": {"a": {}}}, False),
        ({"type": "object", "additionalProperties": False}, True),
        (_OPEN, False),
        (_CLOSED | {"required": ["a"]}, False),
        (_CLOSED | {"required": 5}, False),
        (_OPEN | {"required": ["a", "b"]}, False),
        (_CLOSED | {"properties": {"a": {"type": ["object", "null"]}}}, False),
        (_CLOSED | {"$defs": {"d": {"items": [_OPEN]}}}, False),
        (_CLOSED | {"default": _OPEN}, True),
        ({"type": {"object": 1}, "properties": 5}, False),
    ],
)
@pytest.mark.parametrize("member", ["output_config", "output_format"])
def test_schema_is_strict_where_it_can_be(member: str, schema: dict[str, Any], is_strict: bool) -> None:
    """OpenAI refuses a strict one in which a property is optional, or others may be added."""
    wanted: dict[str, Any] = {"type": "json_schema", "schema": schema}
    body, _ = _sent(**{member: {"format": wanted} if member == "output_config" else wanted})
    strict = {"strict": True} if is_strict else {}
    said = {"name": "answer", "schema": schema} | strict
    assert body["response_format"] == {"type": "json_schema", "json_schema": said}


def test_instruction_in_mid_conversation_stays_where_it_is_at_openai() -> None:
    """Where it may not be taken there, as by many chat templates, it moves to the front."""
    assert _messages(_ASKS, _BRIEF, adapter="openai") == [_ASKS, _BRIEF]


@pytest.mark.parametrize(("adapter", "thought", "left_out"), [("vllm", "hm\n\nso", []), ("openai", None, ["thinking"])])
def test_thinking_goes_back_to_own_engines_alone(adapter: str, thought: str | None, left_out: list[str]) -> None:
    """What another provider has signed goes to neither."""
    thoughts = [{"type": "thinking", "thinking": each, "signature": UNSIGNED} for each in ("hm", "so")]
    body, named = _sent(adapter, messages=[_ASKS, _said(*thoughts, _CALL), _user(_result("ok"))])
    assert (body["messages"][1].get("reasoning"), named) == (thought, left_out)
    signed = {"type": "thinking", "thinking": "x", "signature": "Eq"}
    body, named = _sent(adapter, messages=[_ASKS, _said(signed, _text("a")), _ASKS])
    assert (body["messages"][1], named) == ({"role": "assistant", "content": "a"}, ["thinking"])


def test_instruction_among_calls_and_results_goes_behind_them() -> None:
    """OpenAI refuses calls that no results follow at once."""
    twice = _said(_CALL, _CALL | {"id": "t2"})
    results = [{"role": "tool", "tool_call_id": each, "content": "ok"} for each in ("t1", "t2")]
    messages = [_ASKS, twice, _BRIEF, _user(_result("ok")), _user(_result("ok", tool_use_id="t2")), _said(_text("a"))]
    assert _messages(*messages, _ASKS, adapter="openai")[2:5] == [*results, _BRIEF]


def test_system_blocks_become_one_message_without_the_billing_header() -> None:
    """A client's version in the first block would spoil the prefix cache of an engine."""
    header = _text("x-anthropic-billing-header: cc_version=2.1.197; cch=1;")
    mark = {"cache_control": {"type": "ephemeral"}}
    body, left_out = _sent(system=[header, _text("a", **mark), _text("b")])
    assert body["messages"][0] == {"role": "system", "content": "a\n\nb"}
    assert left_out == ["cache_control", "system[0]"]
    assert _sent(system="s")[0]["messages"][0] == {"role": "system", "content": "s"}


@pytest.mark.parametrize("escaped", ["", '\\"\\n', "\\", '"'])
def test_line_of_a_client_is_left_out_of_a_system_text(escaped: str) -> None:
    """And not what follows it, whatever the line holds."""
    line = f"x-anthropic-billing-header: cc_version=2.1.197; {escaped};"
    said = {"role": "system", "content": 'You are "Claude".\nBe brief.'}
    for system in (f"{line}\n\n{said['content']}", [_text(f" {line}\n{said['content']}")]):
        body, left_out = _sent(system=system)
        assert body["messages"] == [said, _ASKS]
        assert left_out == ["system[0]" if isinstance(system, list) else "system"]
    assert _sent(system=line)[0]["messages"] == [_ASKS]


@pytest.mark.parametrize(
    ("members", "left_out"),
    [
        ({"cache_control": {"type": "ephemeral"}}, ["cache_control"]),
        ({"context_management": {"edits": [{}]}}, ["context_management"]),
        ({"service_tier": "standard_only"}, ["service_tier"]),
        ({"service_tier": "auto"}, []),
        ({"metadata": {"user_id": "u"}}, ["metadata.user_id"]),
        ({"tools": [{**_TOOL, "cache_control": {}, "eager_input_streaming": True}]}, ["eager_input_streaming"]),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, ["thinking"]),
        ({"output_config": {"effort": "max"}}, ["output_config.effort"]),
        ({"thinking": {"type": "adaptive"}}, ["thinking"]),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, ["output_config.effort"]),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"}},
            ["thinking.display", "thinking"],
        ),
        ({"thinking": {"type": "disabled"}}, ["thinking"]),
        ({"thinking": {"type": "disabled", "display": None}, "output_config": {"effort": "low"}}, ["thinking"]),
        ({"tool_choice": {"type": "any"}}, ["tool_choice"]),
        ({"tool_choice": {"type": "tool", "name": "look"}, "tools": []}, ["tool_choice"]),
        ({"tool_choice": {"type": "auto"}}, []),
        ({"messages": [_ASKS, {**_BRIEF, "clear_at": "next_user_message"}]}, ["clear_at"]),
    ],
)
def test_hints_are_left_out_and_named(members: dict[str, Any], left_out: list[str]) -> None:
    """The answer is the same without them."""
    assert _sent(**members)[1] == left_out


def test_user_tier_and_pdf_reach_openai() -> None:
    """A user's id that is longer than OpenAI takes goes up as a digest, the same each time."""
    body, left_out = _sent(
        "openai", metadata={"user_id": "u" * 65}, service_tier="standard_only", messages=[_user(_PDF)]
    )
    assert (len(body["user"]), body["service_tier"], left_out) == (64, "default", [])
    file = {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBE"}
    assert body["messages"][0]["content"] == [{"type": "file", "file": file}]


@pytest.mark.parametrize(
    ("members", "effort", "named"),
    [
        ({"output_config": {"effort": "low"}}, "low", []),
        ({"output_config": {"effort": "max"}}, "high", ["output_config.effort"]),
        ({"thinking": {"type": "enabled", "budget_tokens": 10_000}}, "medium", []),
        ({"thinking": {"type": "disabled"}}, "low", ["thinking"]),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "low", ["thinking"]),
    ],
)
def test_effort_goes_to_what_is_known_to_reason(members: dict[str, Any], effort: str, named: list[str]) -> None:
    """A budget of thinking is said as the effort that it stands for; another word than the caller's is named."""
    target = {"capabilities": frozenset(("chat", "reasoning"))}
    body, left_out = _sent(target=target, **members)
    assert (body["reasoning_effort"], left_out) == (effort, named)


@pytest.mark.parametrize(
    ("target", "limit"),
    [
        ({}, 32_000),
        ({"max_output_tokens": 4_096}, 4_096),
        ({"context_length": 8_192}, None),
        ({"context_length": 40_000}, 32_000),
        ({"context_length": 32_008, "max_output_tokens": 16_000}, 16_000),
    ],
)
def test_limit_is_lowered_to_what_fits(target: dict[str, Any], limit: int | None) -> None:
    """Beside a prompt that fills the context together with it, the engine knows best what is left."""
    body, left_out = _sent(target=target, max_tokens=32_000)
    assert body.get("max_tokens") == limit
    assert left_out == ([] if limit == 32_000 else ["max_tokens"])


def test_lowered_limit_has_the_name_that_the_model_knows() -> None:
    """GPT-5 takes it as max_completion_tokens only."""
    target = {"max_output_tokens": 8, "upstream_model": "gpt-5"}
    request = ADAPTERS["openai"].prepare(_call())(build_target(**target), "att_1")
    body = json.loads(request.body)
    assert (body.get("max_tokens"), body["max_completion_tokens"]) == (None, 8)


def test_answer_that_has_begun_is_continued_by_an_own_engine() -> None:
    """VLLM goes on with it; of no other provider that is known."""
    body, _ = _sent(messages=[_ASKS, {"role": "assistant", "content": "{"}])
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    ("adapter", "members", "place"),
    [
        ("openai", {"top_k": 5}, "top_k"),
        ("vllm", {"mcp_servers": [{"url": "https://a.test"}]}, "mcp_servers"),
        ("vllm", {"not_invented_yet": 1}, "not_invented_yet"),
        ("vllm", {"tools": [{"type": "web_search_20250305", "name": "w", "allowed_domains": []}]}, "tools[0].type"),
        ("vllm", {"tools": [{**_TOOL, "allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_callers"),
        ("vllm", {"messages": [_user(_PDF)]}, "messages[0].content[0].source"),
        ("vllm", {"messages": [_user({**_PDF, "citations": {"enabled": True}})]}, "messages[0].content[0].citations"),
        ("vllm", {"messages": [_user({"type": "image", "source": {"type": "file", "file_id": "f"}})]}, "content[0]"),
        ("vllm", {"messages": [_user({"type": "invented"})]}, "messages[0].content[0]"),
        ("vllm", {"messages": [_user(_result("x"))]}, "messages[0].content[0].tool_use_id"),
        ("vllm", {"messages": [*_USES, _user(_result(), _result())]}, "messages[2].content[1].tool_use_id"),
        ("vllm", {"messages": [*_USES, _ASKS, _said(_text("a")), _ASKS]}, "messages[1].content[1].id"),
        ("vllm", {"messages": [*_USES, _ASKS]}, "messages[1].content[1].id"),
        ("vllm", {"messages": _USES}, "messages[1].content[1].id"),
        ("vllm", {"messages": [*_USES, _said(_CALL), _user(_result())]}, "messages[2].content[0].id"),
        ("vllm", {"tools": [_TOOL, _TOOL]}, "tools[1].name"),
        ("vllm", {"tools": [_TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "there is no such tool"),
        ("vllm", {"messages": [_user({**_text("x"), "y": 1})]}, "messages[0].content[0].y"),
        ("openai", {"messages": [_ASKS, {"role": "assistant", "content": "{"}]}, "messages[1]"),
        ("vllm", {"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ("vllm", {"max_tokens": 0}, "'max_tokens'"),
        ("vllm", {"messages": [{"role": "user", "content": ""}]}, "it holds no message with content"),
        ("vllm", {"messages": [_user()]}, "it holds no message with content"),
        ("vllm", {"messages": [_user(_FOUND | {"citations": {"enabled": True}})]}, "messages[0].content[0].citations"),
        ("vllm", {"messages": [_ASKS, {**_BRIEF, "output_config": {"effort": "low"}}]}, "messages[1].output_config"),
        ("vllm", {"thinking": {"type": "adaptive", "x": 1}}, "thinking.x"),
        *(
            ("vllm", {"messages": [_user(_FOUND | {"content": [each]})]}, "[0].content[0]")
            for each in ({}, *_NO_STRINGS)
        ),
        *(("vllm", {"messages": [_user(_text(each))]}, "messages[0].content[0].text") for each in _NO_STRINGS),
        *(("vllm", {"system": [_text(each)]}, "system[0].text") for each in _NO_STRINGS),
        *(("vllm", {"messages": [_ASKS, _said(_text(each)), _ASKS]}, "[1].content[0].text") for each in _NO_STRINGS),
        *(("vllm", {"messages": [*_USES, _user(_result([_text(each)]))]}, "content[0].text") for each in _NO_STRINGS),
        *(
            ("vllm", {"messages": [_user({"type": kind, "source": source})]}, f"[0].source.{place}")
            for kind, source, place in (
                ("image", {"type": "url", "url": 12}, "url"),
                ("image", {"type": "url"}, "url"),
                ("image", {"type": "base64", "media_type": "image/png"}, "data"),
                ("image", {"type": "base64", "media_type": "image/png", "data": [1]}, "data"),
                ("image", {"type": "base64", "data": "iVBO"}, "media_type"),
                ("document", {"type": "text", "media_type": "text/plain"}, "data"),
                ("document", {"type": "text", "media_type": "text/plain", "data": {"a": "b"}}, "data"),
                ("document", {"type": "url", "url": 12}, "url"),
                ("document", {"type": "base64", "media_type": "application/pdf"}, "data"),
            )
        ),
        ("openai", {"messages": [_user({**_PDF, "title": 5})]}, "messages[0].content[0].title"),
        ("openai", {"messages": [_user({**_PDF, "context": [1]})]}, "messages[0].content[0].context"),
        ("vllm", {"messages": [_user(_FOUND | {"source": {"a": "b"}})]}, "messages[0].content[0].source"),
        ("vllm", {"messages": [_ASKS, _said({"type": "compaction", "content": 5}), _ASKS]}, "[1].content[0].content"),
        ("vllm", {"messages": [_ASKS, _said(_CALL | {"input": "x"}), _ASKS]}, "messages[1].content[0].input"),
        ("vllm", {"tools": [_TOOL | {"input_schema": 5}]}, "tools[0].input_schema"),
        ("vllm", {"tools": [_TOOL | {"input_schema": json.loads('{"a":' * 60 + "{}" + "}" * 60)}]}, "nested deeper"),
    ],
)
def test_member_without_an_equivalent_is_refused_by_name(adapter: str, members: dict[str, Any], place: str) -> None:
    """As true of this target only: Anthropic's own may follow on the route. Nothing but strings becomes a string."""
    call = _call(**members)
    with pytest.raises(UpstreamError) as caught:
        ADAPTERS[adapter].prepare(call)
    assert caught.value.kind is ErrorKind.UPSTREAM_UNSUPPORTED
    assert place in caught.value.message


@pytest.mark.parametrize("given", ["call_1", "functions.look:0", "a_2e_b", "ü/\U0001f600"])
def test_engines_tool_id_survives(given: str) -> None:
    """Anthropic's clients and servers take letters, digits, ``_`` and ``-`` only."""
    written = tool_id(given)
    assert written.isascii()
    assert engines_tool_id(written) == (given if given != "a_2e_b" else "a.b")


_VALUES = st.recursive(
    st.sampled_from([None, True, 0, 1.5, "", "t1", "ü", "x-anthropic-billing-header: v", UNSIGNED]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "name"]), inner),
    max_leaves=4,
)
_KINDS = (
    *("text", "image", "document", "tool_use", "tool_result", "thinking", "server_tool_use", "invented"),
    *("tool_reference", "search_result", "compaction", "fallback"),
)
_MEMBERS = (
    *("text", "source", "id", "name", "input", "tool_use_id", "content", "thinking", "signature", "citations"),
    *("tool_name", "title", "data", "url"),
)
_BLOCKS = st.builds(
    lambda kind, members: {"type": kind, **members},
    st.sampled_from(_KINDS),
    st.dictionaries(st.sampled_from(_MEMBERS), _VALUES, max_size=4),
)
_TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.lists(_BLOCKS, max_size=3) | _VALUES}
)
_OPTIONS = st.dictionaries(
    st.sampled_from(["system", "tools", "tool_choice", "thinking", "output_config", "metadata", "stop_sequences", "x"]),
    _VALUES | st.lists(_BLOCKS, max_size=2),
    max_size=2,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_TURNS, min_size=1, max_size=3), _OPTIONS)
def test_generated_body_is_sent_or_refused(turns: list[Any], options: dict[str, Any]) -> None:
    """Whatever a caller writes, nothing but a refusal of ours comes of it."""
    with contextlib.suppress(GatewayError):
        call = _call(messages=turns, **options)
        for adapter in ("vllm", "openai", "anthropic"):
            request = ADAPTERS[adapter].prepare(call)(build_target(adapter=adapter, context_length=8192), "att_1")
            assert json.loads(request.body)["model"] == "small-upstream"
