"""What of a chat request arrives at Anthropic, what needs no word, and what is refused by name."""

import json
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.formats.anthropic.messages import AnthropicAdapter
from tests.ground.builders import build_call, build_envelope, build_target

USER = {"role": "user", "content": "Hello"}


def translated(**members: Any) -> dict[str, Any]:
    """Translate a body with one user message unless told otherwise."""
    raw = {name: json.dumps(value).encode() for name, value in ({"messages": [USER]} | members).items()}
    body: dict[str, Any] = json.loads(translate(raw))
    return body


def translate(members: dict[str, bytes]) -> bytes:
    """Write the request with these raw members."""
    call = build_call(build_envelope(members=members, max_output_tokens=100))
    return AnthropicAdapter().prepare(call)(build_target(upstream_model="claude"), "att_1").body


def tool_call(arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    """Write an assistant message with one tool call."""
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    "arguments",
    [
        '{"n": 1.10, "big": 123456789012345678901234567890, "e":1E+2}',
        '{"b":1,"a":2,\n "s":"\\u00e9 \\"q\\" \\\\ é 👋"}',
        '{"nested":{"z":[{}, [], null, -0.0]}}',
        "{}",
    ],
)
def test_tool_arguments_arrive_byte_for_byte(arguments: str) -> None:
    """Numbers, order, escapes and white space of tool arguments are the caller's own at the provider."""
    messages = json.dumps([USER, tool_call(arguments)]).encode()
    body = translate({"messages": messages})
    assert b'"input":' + arguments.encode() + b"}" in body


@pytest.mark.parametrize("arguments", ['{"n": "cut', "[1]", "7", '{"a":' * 2_000])
def test_arguments_that_are_no_object_are_history_too(arguments: str) -> None:
    """A model wrote them, and was answered; refused, the conversation could not go on."""
    body = json.loads(translate({"messages": json.dumps([USER, tool_call(arguments)]).encode()}))
    assert body["messages"][1]["content"][0]["input"] == {"unreadable": arguments}


def test_schemas_of_tools_arrive_byte_for_byte() -> None:
    """A tool's schema is spliced in as the caller wrote it."""
    parameters = b'{"type":"object", "properties":{"x":{"type":"number","maximum":1.50}}}'
    tools = b'[{"type":"function","function":{"name":"f","strict":true,"parameters":' + parameters + b"}}]"
    members = {"messages": json.dumps([USER]).encode(), "tools": tools}
    body = translate(members)
    assert b'"input_schema":' + parameters + b',"strict":true' in body


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"n": 2}, "'n'"),
        ({"logprobs": True}, "'logprobs'"),
        ({"top_logprobs": 3}, "'top_logprobs'"),
        ({"logit_bias": {"50256": -100}}, "'logit_bias'"),
        ({"seed": 0}, "'seed'"),
        ({"presence_penalty": 0.1}, "'presence_penalty'"),
        ({"frequency_penalty": -0.1}, "'frequency_penalty'"),
        ({"temperature": 1.5}, "'temperature'"),
        ({"temperature": -0.1}, "'temperature'"),
        ({"functions": [{"name": "f"}]}, "'functions'"),
        ({"function_call": "auto"}, "'function_call'"),
        ({"prediction": {"type": "content", "content": "x"}}, "'prediction'"),
        ({"audio": {"voice": "alloy"}}, "'audio'"),
        ({"modalities": ["text", "audio"]}, "'modalities'"),
        ({"web_search_options": {}}, "'web_search_options'"),
        ({"verbosity": "high"}, "'verbosity'"),
        ({"store": True}, "'store'"),
        ({"service_tier": "flex"}, "'service_tier'"),
        ({"reasoning_effort": "most"}, "'reasoning_effort'"),
        ({"response_format": {"type": "json_object"}}, "'response_format.type'"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "'tool_choice'"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "'tool_choice.type'"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "'tools[0].type'"),
        ({"guided_regex": "a+"}, "'guided_regex'"),
        ({"messages": [USER | {"name": "Ada"}]}, "'messages[0].name'"),
        ({"messages": [USER | {"weight": 0}]}, "'messages[0].weight'"),
        ({"messages": [{"role": "function", "name": "f", "content": "1"}]}, "'messages[0].role'"),
        ({"messages": [{"role": "system", "content": "x"}]}, "'messages'"),
    ],
)
def test_member_that_anthropic_lacks_is_refused_by_name(members: dict[str, Any], named: str) -> None:
    """The sentence begins with the member, and nothing is sent without it."""
    with pytest.raises(UpstreamError) as caught:
        translated(**members)
    assert str(caught.value).startswith(named + " ")
    assert "Anthropic" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "'messages[0].content[0].type'"),
        ({"type": "file", "file": {"file_id": "f"}}, "'messages[0].content[0].file.file_id'"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/bmp;base64,Qk0="}},
            "'messages[0].content[0].image_url.url'",
        ),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "'messages[0].content[0].image_url.url'"),
        (
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}},
            "'messages[0].content[0].image_url.detail'",
        ),
    ],
)
def test_content_parts_that_anthropic_cannot_read_are_refused_by_name(part: dict[str, Any], named: str) -> None:
    """Audio, files and other images are not dropped."""
    with pytest.raises(UpstreamError) as caught:
        translated(messages=[{"role": "user", "content": [part]}])
    assert str(caught.value).startswith(named)


def test_a_refusal_does_not_quote_the_prompt() -> None:
    """What the user said stays out of the error."""
    with pytest.raises(UpstreamError) as caught:
        translated(messages=[USER | {"name": "my secret words"}])
    assert "secret" not in str(caught.value)


def test_defaults_and_labels_need_no_word() -> None:
    """A client that spells out OpenAI's defaults is served, and nothing of them is sent."""
    spelled_out = {
        "n": 1,
        "logprobs": False,
        "top_logprobs": None,
        "logit_bias": {},
        "presence_penalty": 0.0,
        "frequency_penalty": 0,
        "seed": None,
        "stop": None,
        "temperature": 1,
        "top_p": 1.0,
        "store": False,
        "metadata": {"job": "1"},
        "prompt_cache_key": "k",
        "modalities": ["text"],
        "verbosity": "medium",
        "service_tier": "auto",
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "model": "x",
        "stream": False,
        "stream_options": None,
        "max_tokens": 5,
    }
    assert translated(**spelled_out) == translated()


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_k": 40}, {"top_k": 40}),
        ({"service_tier": "default"}, {"service_tier": "standard_only"}),
        ({"safety_identifier": "h", "user": "u"}, {"metadata": {"user_id": "h"}}),
        ({"reasoning_effort": "xhigh"}, {"output_config": {"effort": "xhigh"}}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    ],
)
def test_members_with_an_equivalent(members: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each is said in Anthropic's words."""
    body = translated(**members)
    assert {name: value for name, value in body.items() if name not in {"model", "max_tokens", "messages"}} == expected


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("auto", None, {"type": "auto"}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
        ({"type": "function", "function": {"name": "f"}}, None, {"type": "tool", "name": "f"}),
    ],
)
def test_tool_choice(choice: Any, parallel: bool | None, expected: dict[str, Any]) -> None:
    """All of OpenAI's words for it, with and without parallel calls."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert translated(tools=tools, tool_choice=choice, parallel_tool_calls=parallel)["tool_choice"] == expected


def test_ids_of_other_engines_are_written_as_anthropic_takes_them() -> None:
    """A history made by another model keeps its calls and results together, and different ids stay different."""
    messages = [
        USER,
        tool_call("{}", "functions.f:0"),
        {"role": "tool", "tool_call_id": "functions.f:0", "content": "1"},
    ]
    _, call, result = translated(messages=messages)["messages"]
    assert call["content"][0]["id"] == result["content"][0]["tool_use_id"] == "functions_2e_f_3a_0"


def test_blank_texts_and_echoed_members_of_earlier_answers_are_left_out() -> None:
    """An answer sent back as it came does no harm: Anthropic refuses blank texts, and unsigned reasoning."""
    echoed = tool_call("{}") | {
        "content": "\n\n",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "reasoning_content": "hm",
    }
    result = {"role": "tool", "tool_call_id": "call_1", "name": "f", "content": ""}
    assert translated(messages=[USER, echoed, result])["messages"][1:] == [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "call_1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1"}]},
    ]


def test_cache_control_is_carried_over_on_text_images_and_tools() -> None:
    """A caller who wrote Anthropic's cache marks gets them."""
    mark = {"type": "ephemeral"}
    image = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}, "cache_control": mark}
    body = translated(
        messages=[{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": mark}, image]}],
        tools=[{"type": "function", "function": {"name": "f"}, "cache_control": mark}],
    )
    assert [block["cache_control"] for block in body["messages"][0]["content"]] == [mark, mark]
    assert body["tools"][0]["cache_control"] == mark


def test_file_in_a_chat_is_a_document() -> None:
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
    (block,) = translated(messages=[{"role": "user", "content": [file]}])["messages"][0]["content"]
    assert block == {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
    }


def test_description_of_a_json_schema_moves_into_the_schema() -> None:
    """The model reads it, so it is not lost."""
    schema = {"name": "n", "description": "A person", "schema": {"type": "object"}}
    body = translated(response_format={"type": "json_schema", "json_schema": schema})
    assert body["output_config"]["format"]["schema"] == {"type": "object", "description": "A person"}


ENGINES_ANSWER = {
    "role": "assistant",
    "content": "Hi",
    "reasoning": None,
    "provider_specific_fields": None,
    "images": [],
    "annotations": [],
    "audio": None,
    "tool_calls": [],
}


def test_answers_of_engines_are_legal_history() -> None:
    """What is empty asks for nothing, whatever its name, and what the engine thought is left out."""
    for answer in (ENGINES_ANSWER, ENGINES_ANSWER | {"reasoning": "Hm.", "reasoning_content": "Hm."}):
        body = translated(messages=[USER, answer, USER])
        assert body["messages"][1] == {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        ("data:image/jpg;base64", "image/jpeg"),
        ("data:image/JPEG;base64", "image/jpeg"),
        ("data:image/png;name=a.png;charset=utf-8;base64", "image/png"),
        ("DATA:image/webp;BASE64", "image/webp"),
    ],
)
def test_spellings_of_data_urls_mean_the_same(head: str, media_type: str) -> None:
    """A synonym, upper case, parameters (RFC 2397)."""
    part = {"type": "image_url", "image_url": {"url": f"{head},QUJD"}}
    (block,) = translated(messages=[{"role": "user", "content": [part]}])["messages"][0]["content"]
    assert block["source"] == {"type": "base64", "media_type": media_type, "data": "QUJD"}
