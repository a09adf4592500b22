"""Responses as a target's format: what a chat or a message is written as, and what its answers and events mean.

The answers have the shapes of platform.openai.com/docs/api-reference/responses-streaming.
"""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.anthropic.decode import MESSAGES
from gateway.formats.openai.decode import CHAT
from gateway.formats.responses.adapter import ResponsesAdapter
from gateway.formats.responses.decode import RESPONSES
from gateway.providers.registry import ADAPTERS
from gateway.types import Endpoint
from tests.ground.builders import build_call, build_envelope, build_target

ADAPTER = ResponsesAdapter(wall_ns=lambda: 1_700_000_000_000_000_000)
USAGE = {
    "input_tokens": 40,
    "input_tokens_details": {"cached_tokens": 30},
    "output_tokens": 12,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 52,
}
REASONING = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "First."}, {"type": "summary_text", "text": "Thén."}],
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Es schneit ❄.", "annotations": []}],
}
REFUSAL = MESSAGE | {"content": [{"type": "refusal", "refusal": "No."}]}


def call_item(number: int) -> dict[str, Any]:
    """Write a call of a tool."""
    arguments = f'{{"city":"Ulm {number}"}}'
    return {
        "id": f"fc_{number}",
        "type": "function_call",
        "call_id": f"call_{number}",
        "name": "weather",
        "arguments": arguments,
    }


def response(*output: dict[str, Any], **members: Any) -> dict[str, Any]:
    """Write a whole response."""
    known = {"id": "resp_1", "object": "response", "model": "o9-pro", "status": "completed", "service_tier": "flex"}
    return known | {"output": list(output), "usage": USAGE} | members


def events(*output: dict[str, Any], end: str = "response.completed", **members: Any) -> bytes:
    """Write the stream that a response is the end of."""
    whole = response(*output, **members)
    begun = whole | {"status": "in_progress", "output": [], "usage": None}
    said: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(output):
        said.append({"type": "response.output_item.added", "output_index": index, "item": item | {"arguments": ""}})
        said += [{"output_index": index, "item_id": item["id"]} | each for each in deltas(item)]
        said.append({"type": "response.output_item.done", "output_index": index, "item": item})
    said.append({"type": end, "response": whole})
    numbered = (each | {"sequence_number": number} for number, each in enumerate(said))
    return b"".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in numbered)


def deltas(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the pieces of an item: three characters each."""
    if item["type"] == "function_call":
        return pieces("response.function_call_arguments.delta", item["arguments"])
    if item["type"] == "reasoning":
        return [
            each | {"summary_index": number}
            for number, part in enumerate(item["summary"])
            for each in pieces("response.reasoning_summary_text.delta", part["text"])
        ]
    found: list[dict[str, Any]] = []
    for part in item.get("content", ()):
        name = "text" if part["type"] == "output_text" else "refusal"
        kind = "response.output_text.delta" if name == "text" else "response.refusal.delta"
        found += pieces(kind, part[name])
    return found


def pieces(kind: str, text: str) -> list[dict[str, Any]]:
    """Cut a text into deltas."""
    return [{"type": kind, "delta": text[at : at + 3]} for at in range(0, len(text), 3)]


def decoded(*chunks: bytes, stream: bool = False, always_stream: bool = True) -> tuple[Any, Any]:
    """Return the decoder and what a chat caller gets of an answer: a completion, or one put together from chunks."""
    body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    body |= {"stream_options": {"include_usage": True}} if stream else {}
    call = build_call(build_envelope(json.dumps(body).encode()))
    decoder = ADAPTER.decoder(call, build_target(always_stream=always_stream))
    got = b"".join(map(decoder.feed, chunks)) + decoder.finish()
    return decoder, together(got) if stream else json.loads(got)


def together(stream: bytes) -> dict[str, Any]:
    """Put chat chunks together, as a client does."""
    message: dict[str, Any] = {"tool_calls": {}}
    found: dict[str, Any] = {"choices": [{"message": message, "finish_reason": None}]}
    for event in stream.split(b"\n\n")[:-2]:
        chunk = json.loads(event.removeprefix(b"data: "))
        found["usage"] = chunk["usage"] or found.get("usage")
        for choice in chunk["choices"]:
            found["choices"][0]["finish_reason"] = choice["finish_reason"]
            for name, value in choice["delta"].items():
                if name != "tool_calls":
                    message[name] = message.get(name, "") + value
            for call in choice["delta"].get("tool_calls", ()):
                known = message["tool_calls"].setdefault(call["index"], {"id": call.get("id"), "arguments": ""})
                known["arguments"] += call["function"].get("arguments", "")
    assert stream.endswith(b"data: [DONE]\n\n")
    return found


ANSWERS = {
    "text": ((MESSAGE,), {}, "stop", {"content": "Es schneit ❄."}),
    "reasoning": ((REASONING, MESSAGE), {}, "stop", {"reasoning_content": "First.\n\nThén."}),
    "refusal": ((REFUSAL,), {}, "stop", {"refusal": "No."}),
    "calls": ((call_item(1), call_item(2)), {}, "tool_calls", {}),
    "length": (
        (MESSAGE,),
        {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "end": "response.incomplete",
        },
        "length",
        {},
    ),
    "filtered": (
        (MESSAGE,),
        {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}, "end": "response.incomplete"},
        "content_filter",
        {},
    ),
    "hosted tool": (({"id": "ws_1", "type": "web_search_call", "status": "completed"}, MESSAGE), {}, "stop", {}),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_means_the_same_streamed_assembled_and_whole(name: str) -> None:
    """Text, thinking, refusal, calls with their ids, the reason of the end, usage and service tier."""
    output, members, finish, said = ANSWERS[name]
    members = dict(members)
    stream = events(*output, **members)
    members.pop("end", None)
    whole = json.dumps(response(*output, **members)).encode()
    readings = [
        decoded(stream),
        decoded(stream, stream=True),
        decoded(whole, always_stream=False),
        decoded(*(stream[at : at + 1] for at in range(len(stream))), stream=True),
    ]
    for decoder, got in readings:
        (choice,) = got["choices"]
        assert choice["finish_reason"] == finish
        assert choice["message"].items() >= said.items()
        calls = choice["message"].get("tool_calls") or []
        calls = list(calls.values()) if isinstance(calls, dict) else calls
        names = [each["id"] for each in calls]
        assert names == [each["call_id"] for each in output if each["type"] == "function_call"]
        given = [each.get("arguments") or each["function"]["arguments"] for each in calls]
        assert given == [each["arguments"] for each in output if each["type"] == "function_call"]
        assert got["usage"]["prompt_tokens_details"]["cached_tokens"] == 30
        assert (got["usage"]["prompt_tokens"], got["usage"]["completion_tokens"]) == (40, 12)
        assert (decoder.usage.input_tokens, decoder.usage.cached_input_tokens) == (10, 30)
        assert (decoder.usage.output_tokens, decoder.usage.reasoning_tokens) == (7, 5)
        assert (decoder.service_tier, decoder.complete) == ("flex", True)


@pytest.mark.parametrize("endpoint", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("streamed", [True, False])
def test_searches_are_counted_for_callers_of_every_dialect(endpoint: Endpoint, *, streamed: bool) -> None:
    """By their items, where usage does not count them. To open a page, or to look into it, costs nothing."""
    actions: list[Any] = [None, "odd", *({"type": kind} for kind in ("search", "open_page", "find_in_page"))]
    output = [{"id": f"ws_{at}", "type": "web_search_call", "action": each} for at, each in enumerate(actions)]
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "input": "Hi"}
    call = build_call(endpoint.decode(json.dumps(body | {"stream": streamed}).encode()))
    decoder = ADAPTER.decoder(call, build_target())
    decoder.feed(events(*output, MESSAGE) if streamed else json.dumps(response(*output, MESSAGE)).encode())
    decoder.finish()
    assert decoder.usage is not None
    assert decoder.usage.web_searches == 3


def test_usage_of_a_message_names_thinking_and_searches() -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    decoder = ADAPTER.decoder(build_call(MESSAGES.decode(json.dumps(body).encode())), build_target())
    decoder.feed(json.dumps(response({"id": "ws_1", "type": "web_search_call"}, MESSAGE)).encode())
    counts = {"input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 30, "output_tokens": 12}
    apart = {"output_tokens_details": {"thinking_tokens": 5}}
    apart |= {"server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0}}
    assert json.loads(decoder.finish())["usage"] == counts | apart


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 6000), max_size=8))
def test_stream_gives_the_same_however_it_is_cut(cuts: list[int]) -> None:
    stream = events(REASONING, MESSAGE, call_item(1))
    ends = [0, *sorted(min(each, len(stream)) for each in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(ends)]
    assert decoded(*chunks, stream=True)[1] == decoded(stream, stream=True)[1]


def test_item_of_which_the_deltas_are_missing_is_taken_from_its_end() -> None:
    """Some servers send the whole only."""
    stream = b"\n\n".join(
        each for each in events(REASONING, MESSAGE, call_item(1)).split(b"\n\n") if b".delta" not in each
    )
    _, got = decoded(stream, stream=True)
    assert got["choices"][0]["message"]["content"] == "Es schneit ❄."
    assert got["choices"][0]["message"]["tool_calls"][0]["arguments"] == '{"city":"Ulm 1"}'
    only_end = b"\n\n".join(each for each in stream.split(b"\n\n") if b"output_item" not in each)
    assert decoded(only_end, stream=True)[1] == got


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("server_error", ErrorKind.UPSTREAM_ERROR),
        ("rate_limit_exceeded", ErrorKind.UPSTREAM_RATE_LIMITED),
        ("invalid_prompt", ErrorKind.UPSTREAM_REJECTED),
        ("invalid_base64_image", ErrorKind.UPSTREAM_REJECTED),
        ("image_content_policy_violation", ErrorKind.UPSTREAM_FLAGGED),
        ("context_length_exceeded", ErrorKind.CONTEXT_LENGTH),
    ],
)
def test_failure_within_an_answer_is_classified(code: str, kind: ErrorKind) -> None:
    error = {"code": code, "message": "This did not go well."}
    failed = response(status="failed", error=error, usage=None)
    for event in (
        {"type": "response.failed", "response": failed},
        {"type": "error", **error, "param": None, "sequence_number": 3},
        {"type": "error", "error": error | {"type": code}},
    ):
        with pytest.raises(UpstreamError) as caught:
            decoded(f"data: {json.dumps(event)}\n\n".encode(), stream=True)
        assert caught.value.kind is kind, event
    with pytest.raises(UpstreamError) as caught:
        decoded(json.dumps(failed).encode(), always_stream=False)
    assert caught.value.kind is kind


@pytest.mark.parametrize(
    "stream",
    [
        events(MESSAGE).partition(b"event: response.completed")[0],
        events(MESSAGE)[:-40],
        b"",
    ],
    ids=["no end", "in the end", "empty"],
)
def test_stream_without_its_end_is_cut(stream: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        decoded(stream, stream=True)
    assert caught.value.kind is ErrorKind.UPSTREAM_CUT


def test_last_event_needs_no_blank_line() -> None:
    assert decoded(events(MESSAGE).rstrip(), stream=True) is not None


@pytest.mark.parametrize(
    "answer", [b"{}", b"[]", b'{"object":"response","status":"queued","output":[]}', b'{"output":3}', b"<html>"]
)
def test_whole_answer_that_is_none_is_not_believed(answer: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        decoded(answer, always_stream=False)
    assert caught.value.kind is ErrorKind.UPSTREAM_PROTOCOL


def written(body: dict[str, Any], endpoint: Endpoint = CHAT, **target: Any) -> dict[str, Any]:
    """Return the request that a caller's body becomes."""
    envelope = endpoint.decode(json.dumps({"model": "auto"} | body).encode())
    prepared = ADAPTER.prepare(build_call(envelope))
    request = prepared(build_target(upstream_model="o9-pro", **target), "att_1")
    assert request.url.endswith("/v1/responses")
    found: dict[str, Any] = json.loads(request.body)
    assert (found.pop("model"), found.pop("store")) == ("o9-pro", False)
    return found


PICTURE = "data:image/png;base64,AAAA"
PDF = "data:application/pdf;base64,AAAA"
CALLED = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": 1.0}'}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
USER = {"role": "user", "content": "Hi"}
HI = [{"role": "user", "content": "Hi"}]
CHATS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "instructions": (
        {"messages": [{"role": "system", "content": "Be"}, {"role": "developer", "content": "brief."}, USER]},
        {"input": HI, "instructions": "Be\n\nbrief."},
    ),
    "only instructions": (
        {"messages": [{"role": "system", "content": "Be brief."}]},
        {"input": [{"role": "system", "content": "Be brief."}]},
    ),
    "parts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "See"},
                        {"type": "image_url", "image_url": {"url": PICTURE}},
                        {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}},
                        {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
                    ],
                }
            ]
        },
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "See"},
                        {"type": "input_image", "image_url": PICTURE, "detail": "auto"},
                        {"type": "input_image", "image_url": "https://a.test/b.png", "detail": "auto"},
                        {"type": "input_file", "filename": "document.pdf", "file_data": PDF},
                    ],
                }
            ]
        },
    ),
    "tools": (
        {
            "messages": [
                USER,
                {"role": "assistant", "content": "I look.", "tool_calls": [CALLED]},
                {"role": "tool", "tool_call_id": "call_1", "content": "snow"},
            ],
            "tools": [
                {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
                {"type": "function", "function": {"name": "time", "description": "Now", "strict": True}},
            ],
            "tool_choice": {"type": "function", "function": {"name": "time"}},
            "parallel_tool_calls": False,
        },
        {
            "input": [
                *HI,
                {"role": "assistant", "content": "I look."},
                {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": 1.0}'},
                {"type": "function_call_output", "call_id": "call_1", "output": "snow"},
            ],
            "tools": [
                {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False},
                {
                    "type": "function",
                    "name": "time",
                    "description": "Now",
                    "parameters": {"type": "object", "properties": {}},
                    "strict": True,
                },
            ],
            "tool_choice": {"type": "function", "name": "time"},
            "parallel_tool_calls": False,
        },
    ),
    "schema": (
        {
            "messages": [USER],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
            "verbosity": "low",
        },
        {
            "input": HI,
            "text": {
                "format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True},
                "verbosity": "low",
            },
        },
    ),
    "json object": (
        {"messages": [USER], "response_format": {"type": "json_object"}},
        {"input": HI, "text": {"format": {"type": "json_object"}}},
    ),
    "settings": (
        {
            "messages": [USER],
            "max_completion_tokens": 100,
            "reasoning_effort": "xhigh",
            "temperature": 0.5,
            "top_p": 0.9,
            "service_tier": "flex",
            "user": "me",
            "prompt_cache_key": "k",
            "metadata": {"a": "b"},
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        {
            "input": HI,
            "max_output_tokens": 100,
            "reasoning": {"effort": "xhigh"},
            "temperature": 0.5,
            "top_p": 0.9,
            "service_tier": "flex",
            "safety_identifier": "me",
            "prompt_cache_key": "k",
            "stream": True,
        },
    ),
    "tools for which there are none": (
        {"messages": [USER], "tools": [], "tool_choice": "none", "parallel_tool_calls": False},
        {"input": HI},
    ),
    "small limit": ({"messages": [USER], "max_tokens": 1}, {"input": HI, "max_output_tokens": 16}),
}


@pytest.mark.parametrize("adapter", ["responses", "anthropic"])
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_lowered_limit_is_named_as_the_chat_names_it(limit: str, adapter: str) -> None:
    body = json.dumps({"model": "auto", "messages": [USER], limit: 900}).encode()
    prepared = ADAPTERS[adapter].prepare(build_call(CHAT.decode(body)))
    prepared(build_target(adapter=adapter, max_output_tokens=100), "att_1")
    assert getattr(prepared, "left_out", None) == [limit]


@pytest.mark.parametrize("name", CHATS)
def test_chat_is_written_as_a_response_to_create(name: str) -> None:
    chat, expected = CHATS[name]
    assert written(chat) == expected


def test_message_is_written_as_a_response_to_create() -> None:
    """A picture that a tool returned stays with its result, and so does what says that it failed."""
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    long_id = "toolu_" + 70 * "x"
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [picture]},
        {"type": "tool_result", "tool_use_id": long_id, "content": "gone", "is_error": True},
    ]
    calls = [
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}},
        {"type": "tool_use", "id": long_id, "name": "look", "input": {}},
    ]
    found = written(
        {
            "max_tokens": 100,
            "system": "Be brief.",
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": calls},
                {"role": "user", "content": [*results, {"type": "text", "text": "So?"}]},
            ],
            "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        },
        MESSAGES,
    )
    assert (found["instructions"], found["max_output_tokens"]) == ("Be brief.", 100)
    _, _, called, seen, failed, user = found["input"]
    assert seen["output"] == [{"type": "input_image", "image_url": PICTURE, "detail": "auto"}]
    assert failed["output"] == "Error:\n\ngone"
    assert called["call_id"] == failed["call_id"]
    assert len(called["call_id"]) == 64
    assert user == {"role": "user", "content": "So?"}


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ({"stop": ["x"]}, "stop"),
        ({"n": 2}, "n"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"seed": 3}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, "messages"),
    ],
)
def test_member_that_responses_lacks_is_refused_by_name(members: dict[str, Any], name: str) -> None:
    call = build_call(CHAT.decode(json.dumps({"model": "auto", "messages": [USER]} | members).encode()))
    reason = ADAPTER.refuses(call)
    if reason is None:
        with pytest.raises(UpstreamError) as caught:
            ADAPTER.prepare(call)
        assert caught.value.kind is ErrorKind.UPSTREAM_UNSUPPORTED
        reason = caught.value.message
    assert reason.startswith(f"'{name}")
