"""OpenAI's Responses are said to an OpenAI-compatible upstream as a chat completion, or refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.formats.anthropic.decode import MESSAGES
from gateway.formats.openai.chat_request import Translated
from gateway.formats.responses.decode import RESPONSES
from gateway.formats.responses.items import continued
from gateway.formats.responses.written import UNSIGNED
from gateway.providers.registry import ADAPTERS
from gateway.types import Call
from tests.ground.builders import build_call, build_target

_CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": '{"n": 1.50}'}
_DONE = {"type": "function_call_output", "call_id": "c1", "output": "found"}
_OTHER_CALL = _CALL | {"id": "fc_2", "call_id": "c2"}
_OTHER_DONE = _DONE | {"call_id": "c2", "output": [{"type": "input_text", "text": "more"}]}
_CUSTOM_CALL = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'a "b"'}
_CUSTOM_DONE = {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}
_SHELL_CALL = {"type": "shell_call", "call_id": "c1", "action": {"commands": ["ls"]}, "status": "completed"}
_SHELL_DONE = {"type": "shell_call_output", "call_id": "c1", "output": [{"stdout": "a", "stderr": ""}]}
_LOCAL_CALL = {"type": "local_shell_call", "id": "lsh_1", "call_id": "c1", "action": {"command": ["ls"]}}
_EDIT_CALL = {"type": "apply_patch_call", "call_id": "c1", "operation": {"path": "a"}, "status": "completed"}
_CLICK_CALL = {"type": "computer_call", "id": "cu_1", "call_id": "c1", "action": {"type": "wait"}}
_SCREEN = {"type": "computer_screenshot", "image_url": "data:image/png;base64,iVBO"}
_SAYS = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}
_WORDS = _SAYS | {"content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]}
_THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
_SEARCHED = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
_ASKS = {"role": "user", "content": "Hi"}
_LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": None}
_FUNCTION = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
_PATCH = {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"}}
_SEARCH = {"type": "web_search"}
_SPACE = {"type": "namespace", "name": "mcp__a", "description": "", "tools": [_LOOK]}
_ALLOWED = {"type": "allowed_tools", "mode": "auto"}
_SCHEMA = {"type": "object", "properties": {}}
_REASONS = {"capabilities": frozenset({"chat", "reasoning"})}


def _call(**members: Any) -> Call:
    body = {"model": "auto", "input": "Hi"} | members
    return build_call(RESPONSES.decode(json.dumps(body, ensure_ascii=False).encode()))


def _sent(
    adapter: str = "vllm", target: dict[str, Any] | None = None, *, drops: bool = False, **members: Any
) -> tuple[dict[str, Any], list[str]]:
    """Return the body that a target gets, without its model, and what was left out."""
    call = _call(**members)
    call = replace(call, route=replace(call.route, drops_unsupported_tools=drops))
    prepared = ADAPTERS[adapter].prepare(call)
    assert isinstance(prepared, Translated)
    body = json.loads(prepared(build_target(adapter=adapter, **target or {}), "att_1").body)
    assert body.pop("model") == "small-upstream"
    return body, prepared.left_out


def _messages(*items: Any, **members: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = _sent(input=list(items), **members)[0]["messages"]
    return messages


@pytest.mark.parametrize(("adapter", "thought", "left_out"), [("vllm", "hm", []), ("openai-chat", None, ["reasoning"])])
@pytest.mark.parametrize("member", ["content", "summary"])
def test_reasoning_goes_back_to_own_engines_alone(
    member: str, adapter: str, thought: str | None, left_out: list[str]
) -> None:
    """Also where a call goes on from a response that is kept, whose items lose other ids."""
    said = [{"type": "reasoning_text", "text": "hm"}]
    thinks = {"type": "reasoning", "id": f"{UNSIGNED}1", "summary": [], member: said}
    kept = json.dumps({"output": [thinks, _WORDS]}).encode()
    items = json.loads(continued(json.dumps([_ASKS]).encode(), kept, json.dumps([_ASKS]).encode()))
    for asked in ([_ASKS, thinks, _WORDS, _ASKS], items):
        body, named = _sent(adapter, input=asked)
        assert [body["messages"][1].get(name) for name in ("content", "reasoning")] == ["I look.", thought]
        assert named == left_out


def _tool_calls(*calls: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]


_CALLED = _tool_calls(("c1", "look", '{"n": 1.50}'))
_FOUND = {"role": "tool", "tool_call_id": "c1", "content": "found"}
_BOTH = _tool_calls(("c1", "look", '{"n": 1.50}'), ("c2", "look", '{"n": 1.50}'))
_MORE = {"role": "tool", "tool_call_id": "c2", "content": "more"}
_HI = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([{"role": "developer", "content": "Brief."}, _ASKS], [{"role": "system", "content": "Brief."}, _HI]),
        ([_ASKS, _THOUGHT, _WORDS, _CALL, _DONE], [_HI, {"content": "I look.", "tool_calls": _CALLED}, _FOUND]),
        ([_ASKS, _CALL, _OTHER_CALL, _DONE, _OTHER_DONE], [_HI, {"content": None, "tool_calls": _BOTH}, _FOUND, _MORE]),
        ([_ASKS, _CALL, _OTHER_CALL, _OTHER_DONE, _DONE], [_HI, {"content": None, "tool_calls": _BOTH}, _MORE, _FOUND]),
        # What a model wrote that is no object is history all the same.
        (
            [_ASKS, _CALL | {"arguments": '{"n": "'}, _DONE],
            [
                _HI,
                {"content": None, "tool_calls": _tool_calls(("c1", "look", '{"unreadable":"{\\"n\\": \\""}'))},
                _FOUND,
            ],
        ),
        # What stands between a call and its output comes behind that: chat knows no other order.
        ([_ASKS, _CALL, _ASKS, _DONE], [_HI, {"content": None, "tool_calls": _CALLED}, _FOUND, _HI]),
        (
            [_ASKS, _CALL, _DONE, _WORDS, _ASKS],
            [_HI, {"content": None, "tool_calls": _CALLED}, _FOUND, {"content": "I look."}, _HI],
        ),
        (
            [_ASKS, _CUSTOM_CALL, _CUSTOM_DONE],
            [
                _HI,
                {"content": None, "tool_calls": _tool_calls(("c1", "patch", '{"input":"a \\"b\\""}'))},
                _FOUND | {"content": "done"},
            ],
        ),
        (
            [_ASKS, _SEARCHED, _SHELL_CALL, _SHELL_DONE],
            [
                _HI,
                {"content": None, "tool_calls": _tool_calls(("c1", "shell", '{"commands": ["ls"]}'))},
                _FOUND | {"content": '[{"stdout": "a", "stderr": ""}]'},
            ],
        ),
        (
            [_ASKS, _CALL, _DONE | {"output": [{"type": "output_text", "text": "found"}]}],
            [_HI, {"content": None, "tool_calls": _CALLED}, _FOUND],
        ),
        (
            [_ASKS, _CALL, _DONE | {"output": []}],
            [_HI, {"content": None, "tool_calls": _CALLED}, _FOUND | {"content": ""}],
        ),
        (
            [_ASKS, _CALL | {"namespace": "mcp__a"}, _DONE],
            [_HI, {"content": None, "tool_calls": _tool_calls(("c1", "mcp__a__look", '{"n": 1.50}'))}, _FOUND],
        ),
        (
            [_ASKS, _LOCAL_CALL, {"type": "local_shell_call_output", "id": "lsh_1", "output": "found"}],
            [_HI, {"content": None, "tool_calls": _tool_calls(("c1", "local_shell", '{"command": ["ls"]}'))}, _FOUND],
        ),
        (
            [_ASKS, _EDIT_CALL, _EDIT_CALL | {"type": "apply_patch_call_output", "status": "failed"}],
            [
                _HI,
                {"content": None, "tool_calls": _tool_calls(("c1", "apply_patch", '{"path": "a"}'))},
                _FOUND | {"content": "Error:"},
            ],
        ),
        (
            [_ASKS, _CLICK_CALL, _CLICK_CALL | {"type": "computer_call_output", "output": _SCREEN}],
            [
                _HI,
                {"content": None, "tool_calls": _tool_calls(("c1", "computer", '{"type": "wait"}'))},
                _FOUND | {"content": ""},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": _SCREEN["image_url"]}}]},
            ],
        ),
        ([_ASKS, _SAYS | {"content": [{"type": "refusal", "refusal": "No."}]}], [_HI, {"content": "No."}]),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,iVBO"}]}],
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}],
                }
            ],
        ),
        (
            [{"role": "user", "content": [{"type": "input_file", "file_data": "data:text/plain;base64,SGk="}]}],
            [_HI],
        ),
    ],
)
def test_items_become_messages(items: list[Any], messages: list[dict[str, Any]]) -> None:
    """Ids and arguments go up as they came, and results stand behind the turn that called for them."""
    expected = [message if "role" in message else {"role": "assistant"} | message for message in messages]
    assert _messages(*items) == expected


@pytest.mark.parametrize(
    ("members", "expected", "left_out"),
    [
        ({"instructions": "Be brief."}, {"messages": [{"role": "system", "content": "Be brief."}, _HI]}, []),
        ({"max_output_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stream": True},
         {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stream": True, "stream_options": {"include_usage": True}},
         []),
        ({"tools": [_LOOK], "tool_choice": "none"}, {"tools": [_FUNCTION], "tool_choice": "none"}, []),
        (
            {"tools": [_LOOK, _LOOK | {"name": "b"}], "parallel_tool_calls": False,
             "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [_LOOK]}},
            {"tools": [_FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
            [],
        ),
        (
            {"tools": [_LOOK], "tool_choice": {"type": "function", "name": "look"}},
            {"tools": [_FUNCTION], "tool_choice": {"type": "function", "function": {"name": "look"}}},
            [],
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "A", "schema": _SCHEMA, "strict": True}}},
            {"response_format": {"type": "json_schema",
                                 "json_schema": {"name": "A", "schema": _SCHEMA, "strict": True}}},
            [],
        ),
        ({"text": {"format": {"type": "json_object"}, "verbosity": "low"}},
         {"response_format": {"type": "json_object"}}, ["text.verbosity"]),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {}, ["reasoning.effort"]),
        (
            {"store": False, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "user": "u",
             "metadata": {"a": "b"}, "truncation": "auto", "service_tier": "priority", "top_logprobs": 0,
             "previous_response_id": None, "conversation": None, "background": False,
             "stream_options": {"include_obfuscation": False}, "tools": []},
            {},
            ["prompt_cache_key", "truncation", "service_tier", "user"],
        ),
        ({"safety_identifier": "s"}, {}, ["safety_identifier"]),
    ],
)  # fmt: skip
def test_member_is_said_or_left_out_by_name(
    members: dict[str, Any], expected: dict[str, Any], left_out: list[str]
) -> None:
    """Members that ask for nothing are no matter; hints are named in the call's record."""
    body, named = _sent(**members)
    assert body.pop("messages") == expected.pop("messages", [_HI])
    assert (body, named) == (expected, left_out)


def test_effort_goes_to_a_model_that_reasons() -> None:
    """And to no other, see above."""
    body, named = _sent(target=_REASONS, reasoning={"effort": "low"})
    assert (body["reasoning_effort"], named) == ("low", [])


@pytest.mark.parametrize("effort", ["none", "minimal", "xhigh", "max"])
def test_effort_goes_up_in_the_callers_word(effort: str) -> None:
    """As a chat's does: the words of both dialects are OpenAI's."""
    body, named = _sent(target=_REASONS, reasoning={"effort": effort})
    assert (body["reasoning_effort"], named) == (effort, [])


@pytest.mark.parametrize(
    ("members", "target", "expected", "left_out"),
    [
        ({"include": ["web_search_call.action.sources"], "truncation": "auto"}, {}, {}, ["include", "truncation"]),
        ({"text": {"verbosity": "low"}, "service_tier": "priority"}, {}, {}, ["text.verbosity", "service_tier"]),
        ({"input": [_ASKS, _THOUGHT, _SEARCHED]}, {}, {}, ["reasoning", "web_search_call"]),
        ({"tools": [_SEARCH]}, {}, {}, ["tools[0].type (web_search)"]),
        ({"max_output_tokens": 9000}, {"max_output_tokens": 800}, {"max_tokens": 800}, ["max_output_tokens"]),
        ({"max_output_tokens": 9}, {"max_output_tokens": 800}, {"max_tokens": 9}, []),
        ({"reasoning": {"effort": "high"}}, {}, {}, ["reasoning.effort"]),
        ({"reasoning": {"effort": "none"}}, {}, {}, ["reasoning.effort"]),
        ({"reasoning": {"effort": "high"}}, _REASONS, {"output_config": {"effort": "high"}}, []),
        ({"reasoning": {"effort": "none"}}, _REASONS, {"thinking": {"type": "disabled"}}, []),
    ],
)
def test_record_names_what_anthropic_is_not_asked(
    members: dict[str, Any], target: dict[str, Any], expected: dict[str, Any], left_out: list[str]
) -> None:
    """As it is for a chat target."""
    call = _call(**members)
    prepared = ADAPTERS["anthropic"].prepare(replace(call, route=replace(call.route, drops_unsupported_tools=True)))
    body = json.loads(prepared(build_target(adapter="anthropic", **target), "att_1").body)
    said = {name: value for name, value in body.items() if name not in {"model", "messages"}}
    assert said == {"max_tokens": 4096} | expected
    assert getattr(prepared, "left_out", None) == left_out


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"reasoning": {"effort": "wat"}}, "reasoning.effort"),
        ({"input": [{"role": "system", "content": "S"}]}, "input"),
    ],
)
def test_anthropics_refusal_names_the_callers_member(members: dict[str, Any], param: str) -> None:
    """In the words of Responses."""
    with pytest.raises(UpstreamError, match=f"'{param}'"):
        ADAPTERS["anthropic"].prepare(_call(**members))


def test_limit_above_what_a_target_has_is_lowered() -> None:
    """Agents ask for more than any small model writes."""
    body, named = _sent(target={"max_output_tokens": 100}, max_output_tokens=32_000)
    assert (body["max_tokens"], named) == (100, ["max_output_tokens"])


def test_custom_tool_becomes_a_function_with_one_argument() -> None:
    """A grammar can only be described."""
    body, named = _sent(tools=[_PATCH])
    function = body["tools"][0]["function"]
    assert function["description"] == "The input follows this lark grammar:\nstart: X"
    assert (function["parameters"]["required"], named) == (["input"], ["tools.format"])


@pytest.mark.parametrize("tools", [[_SEARCH], [_LOOK, _SEARCH], [_SEARCH, {"type": "mcp", "server_label": "a"}]])
@pytest.mark.parametrize("adapter", ["vllm", "anthropic"])
def test_providers_own_tool_is_refused_by_name_unless_the_route_drops_it(tools: list[Any], adapter: str) -> None:
    """Of Codex's tools a chat target then gets the functions."""
    call = _call(tools=tools)
    with pytest.raises(UpstreamError, match=r"tools\[\d\]\.type") as refused:
        ADAPTERS[adapter].prepare(call)
    assert refused.value.kind is ErrorKind.UPSTREAM_UNSUPPORTED
    ADAPTERS[adapter].prepare(replace(call, route=replace(call.route, drops_unsupported_tools=True)))
    body, named = _sent(tools=tools, drops=True)
    assert body.get("tools", []) == [_FUNCTION for tool in tools if tool is _LOOK]
    assert [place.split(" ")[0] for place in named] == [
        f"tools[{number}].type" for number, tool in enumerate(tools) if tool is not _LOOK
    ]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", ["look", "mcp__a__look", "mcp__a__patch"]),
        (_ALLOWED | {"tools": [_LOOK]}, ["look"]),
        (_ALLOWED | {"tools": [{"type": "custom", "name": "patch"}]}, ["mcp__a__patch"]),
        (_ALLOWED | {"tools": [{"type": "namespace", "name": "mcp__a"}]}, ["mcp__a__look", "mcp__a__patch"]),
    ],
)
def test_tools_of_a_namespace_become_functions_under_both_names(choice: Any, names: list[str]) -> None:
    """Codex has those of its MCP servers there."""
    space = _SPACE | {"tools": [_LOOK, _PATCH]}
    body, _ = _sent(tools=[_LOOK, space], tool_choice=choice)
    assert [tool["function"]["name"] for tool in body["tools"]] == names


def test_function_of_a_long_namespace_has_a_name_that_fits() -> None:
    """Of two that begin alike, each its own."""
    tools = [_LOOK | {"name": "n" * 60 + end} for end in "ab"]
    names = [tool["function"]["name"] for tool in _sent(tools=[_SPACE | {"tools": tools}])[0]["tools"]]
    assert len(set(names)) == 2
    assert {len(name) for name in names} == {64}


def test_anthropics_own_tool_is_dropped_by_the_same_key() -> None:
    """One rule for both dialects."""
    body = {
        "model": "auto",
        "max_tokens": 9,
        "messages": [_ASKS],
        "tools": [{"type": "web_search_20250305", "name": "s"}],
    }
    call = build_call(MESSAGES.decode(json.dumps(body).encode()))
    prepared = ADAPTERS["vllm"].prepare(replace(call, route=replace(call.route, drops_unsupported_tools=True)))
    assert "tools" not in json.loads(prepared(build_target(), "att_1").body)
    assert getattr(prepared, "left_out", []) == ["tools[0].type"]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"input": [_DONE]}, "input[0].call_id"),
        ({"input": [_DONE, _CALL]}, "input[0].call_id"),
        ({"input": [_ASKS, _CALL]}, "input[1].call_id"),
        ({"input": [_ASKS, _CALL, _CALL, _DONE]}, "input[2].call_id"),
        ({"input": [{"type": "surprise"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "rs_1"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "surprise"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0]"),
        *(({"input": [_CALL | {"arguments": each}, _DONE]}, "input[0].arguments") for each in ({}, [], False, 7)),
        ({"tools": [_LOOK | {"name": 5}]}, "tools[0].name"),
        ({"tools": [_LOOK], "tool_choice": {"type": "function", "name": "b"}}, "tool_choice.name"),
        ({"tools": [_LOOK], "tool_choice": _ALLOWED | {"tools": [{"type": "function", "name": "b"}]}},
         "tool_choice.tools[0].name"),
        ({"tools": [_LOOK], "tool_choice": _ALLOWED | {"tools": [_SEARCH]}}, "tool_choice.tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [_LOOK | {"name": ""}]}, "tools[0].name"),
        ({"tools": [_SPACE, _LOOK | {"name": "mcp__a__look"}]}, "tools[1].name"),
        ({"input": [_ASKS, _CALL | {"name": ""}, _DONE]}, "input[1].name"),
        ({"text": {"format": {"type": "json_schema", "name": "A"}}}, "text.format.schema"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"text": {"format": {"type": "surprise"}}}, "text.format"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"not_invented_yet": 1}, "not_invented_yet"),
    ],
)  # fmt: skip
def test_item_that_chat_cannot_say_is_refused_by_its_place(members: dict[str, Any], param: str) -> None:
    """In the target's translation, or for all targets when the body is read."""
    with pytest.raises(GatewayError) as refused:
        ADAPTERS["vllm"].prepare(_call(**members))
    assert f"'{param}" in str(refused.value)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": ""}, "model"),
        ({"Model": "dear"}, "model"),
        ({"MAX_OUTPUT_TOKENS": 5}, "max_output_tokens"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"type": 5}]}, "input[0].type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"instructions": ["a"]}, "instructions"),
        ({"text": 5}, "text"),
        ({"tools": {}}, "tools"),
        ({"metadata": {"a": 5}}, "metadata[...]"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"truncation": "wat"}, "truncation"),
        ({"stream_options": 5}, "stream_options"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_malformed_body_is_refused_by_its_place(members: dict[str, Any], param: str) -> None:
    """Before any target is chosen."""
    with pytest.raises(GatewayError) as refused:
        _call(**members)
    assert (refused.value.kind, refused.value.param) == (ErrorKind.INVALID_REQUEST, param)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "ü", "c1", "look", "input_text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["type", "role", "content", "call_id", "name", "arguments", "output", "text", "input", "tools", "summary"]
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
_ITEMS = st.sampled_from(
    [_ASKS, _CALL, _DONE, _OTHER_CALL, _OTHER_DONE, _CUSTOM_CALL, _CUSTOM_DONE, _SHELL_CALL, _SHELL_DONE, _WORDS]
)
_BODIES = st.fixed_dictionaries(
    {"input": st.lists(_ITEMS | _JSON, max_size=6) | _JSON},
    optional={
        name: st.sampled_from([[_LOOK, _PATCH], [_SPACE], "none", {"type": "function", "name": "look"}]) | _JSON
        for name in ("tools", "tool_choice", "text", "reasoning", "instructions", "include", "max_output_tokens")
    },
)


@settings(max_examples=150)
@given(body=_BODIES)
def test_any_body_is_said_or_refused(body: dict[str, Any]) -> None:
    """No request is our own failure; what is said has its results behind their calls."""
    for adapter in ("vllm", "anthropic"):
        request, status = None, 400
        try:
            request = ADAPTERS[adapter].prepare(_call(**body))(build_target(adapter=adapter), "att_1")
        except GatewayError as error:
            status = error.status
        assert status // 100 == 4
        waiting: set[str] = set()
        for message in json.loads(request.body)["messages"] if request and adapter == "vllm" else ():
            if message["role"] == "tool":
                waiting.remove(message["tool_call_id"])
            else:
                assert not waiting
                waiting |= {each["id"] for each in message.get("tool_calls", ())}
        assert not waiting
