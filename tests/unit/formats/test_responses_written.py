"""An answer of a chat is written as one of OpenAI's responses: every event in its order, or the whole alone."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.formats.base import Decoder
from gateway.formats.openai.decode import CHAT
from gateway.formats.responses.decode import RESPONSES
from gateway.formats.responses.written import UNSIGNED
from gateway.providers.registry import ADAPTERS
from gateway.types import Endpoint
from tests.ground.builders import build_call, build_target

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_TOOLS = [{"type": "function", "name": "look"}, {"type": "custom", "name": "patch"}]
_SPACE = {"type": "namespace", "name": "crm", "description": "", "tools": _TOOLS}
_USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
_GRAMMAR = re.compile(
    r"created in_progress "
    r"(?:output_item\.added "
    r"(?:(content_part|reasoning_summary_part)\.added (?:(output_text|refusal|reasoning_text|reasoning_summary_text)"
    r"\.delta )+\2\.done \1\.done "
    r"|(?:function_call_arguments\.delta )*function_call_arguments\.done "
    r"|custom_tool_call_input\.delta custom_tool_call_input\.done )"
    r"output_item\.done )*"
    r"(?:completed|incomplete)"
)


def _chunk(delta: dict[str, Any] | None = None, finish: str | None = None) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    usage = _USAGE if delta is None else None
    top = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: " + json.dumps(top | {"usage": usage}).encode() + b"\n\n"


def _called(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    named = {} if name is None else {"id": f"c{index}", "type": "function"}
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"tool_calls": [{"index": index, **named, "function": function}]}


_DELTAS = [
    {"reasoning_content": "Let me "},
    {"reasoning_content": "look."},
    {"content": "Grüße, "},
    {"content": "你好 👋\n"},
    _called(0, "", "look"),
    _called(1, "", "patch"),
    _called(0, '{"n"'),
    _called(1, '{"input": "a\\n'),
    _called(0, ": 1}"),
    _called(1, 'b"}'),
    _called(2, "", "look"),
]


def _decoder(**members: Any) -> Decoder:
    body = json.dumps({"model": "auto", "input": "Hi", "tools": _TOOLS} | members, indent=1).encode()
    return ADAPTERS["vllm"].decoder(build_call(RESPONSES.decode(body)), build_target(adapter="vllm"))


def _written(
    deltas: list[dict[str, Any]], finish: str = "stop", cuts: tuple[int, ...] = (), **members: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the events of a stream and the response at its end, or of no stream only that."""
    body = b"".join([*map(_chunk, deltas), _chunk({}, finish), _chunk(), b"data: [DONE]\n\n"])
    decoder = _decoder(**members)
    places = [0, *sorted(cut % len(body) for cut in cuts), len(body)]
    written = b"".join(decoder.feed(body[start:end]) for start, end in pairwise(places))
    written += decoder.finish()
    suffix = re.search(rb"resp_([0-9a-f]{32})", written)
    assert suffix is not None
    text = written.replace(suffix[1], b"X").decode()
    if not members.get("stream"):
        return [], json.loads(text)
    events = []
    for number, event in enumerate(text.removesuffix("\n\n").split("\n\n")):
        name, data = event.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert (f"event: {events[-1]['type']}", number) == (name, events[-1]["sequence_number"])
        _EVENT.validate_python(events[-1])
    assert _GRAMMAR.fullmatch(" ".join(event["type"].removeprefix("response.") for event in events))
    return events, events[-1]["response"]


_OUTPUT = [
    {
        "id": f"{UNSIGNED}X0",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Let me look."}],
    },
    {
        "id": "msg_X1",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Grüße, 你好 👋\n", "annotations": [], "logprobs": []}],
    },
    {
        "id": "fc_X2",
        "type": "function_call",
        "status": "completed",
        "call_id": "c0",
        "name": "look",
        "arguments": '{"n": 1}',
    },
    {
        "id": "ctc_X3",
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": "c1",
        "name": "patch",
        "input": "a\nb",
    },
    {"id": "fc_X4", "type": "function_call", "status": "completed", "call_id": "c2", "name": "look", "arguments": "{}"},
]


@pytest.mark.parametrize("stream", [True, False])
def test_answer_becomes_items(stream: bool) -> None:
    """Thinking, text, calls of functions and of custom tools, whose pieces came mixed; usage with its classes."""
    events, response = _written(_DELTAS, "tool_calls", stream=stream)
    Response.model_validate(response)
    assert response["output"] == _OUTPUT
    assert (response["status"], response["incomplete_details"], response["model"]) == ("completed", None, "m")
    assert (response["tools"], response["store"]) == (_TOOLS, False)
    assert response["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == (_OUTPUT if stream else [])


def test_thinking_is_a_summary_for_a_caller_that_asked_for_one() -> None:
    """OpenAI's clients look there."""
    events, response = _written(_DELTAS[:3], stream=True, reasoning={"summary": "auto"})
    assert response["output"][0]["summary"] == [{"type": "summary_text", "text": "Let me look."}]
    deltas = [each for each in events if each["type"] == "response.reasoning_summary_text.delta"]
    assert [(each["summary_index"], each["delta"]) for each in deltas] == [(0, "Let me "), (0, "look.")]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("deltas", "finish", "status", "why"),
    [
        ([{"content": "a"}], "length", ["incomplete"], "max_output_tokens"),
        ([{"content": "a"}, _called(0, '{"n', "look")], "length", ["completed", "incomplete"], "max_output_tokens"),
        ([{"content": "a"}], "content_filter", ["incomplete"], "content_filter"),
        ([], "content_filter", [], "content_filter"),
        ([{"content": "a"}, {"refusal": "No."}], "stop", ["completed", "completed"], None),
    ],
)
def test_answer_says_why_it_ends(
    deltas: list[dict[str, Any]], finish: str, status: list[str], why: str | None, *, stream: bool
) -> None:
    """What the limit or the filter cut is incomplete, down to its item."""
    _, response = _written(deltas, finish, stream=stream)
    assert response["status"] == ("completed" if why is None else "incomplete")
    assert response["incomplete_details"] == (None if why is None else {"reason": why})
    assert [item["status"] for item in response["output"]] == status


_PIECES = st.lists(st.sampled_from([*_DELTAS, {"content": "a"}, {"refusal": "No."}, {"content": ""}, {}]), max_size=8)


@settings(max_examples=60)
@given(deltas=_PIECES, cuts=st.lists(st.integers(0, 1 << 16), max_size=12), finish=st.sampled_from(["stop", "length"]))
def test_any_cut_of_any_stream_gives_the_same_events(
    deltas: list[dict[str, Any]], cuts: list[int], finish: str
) -> None:
    """In their grammar, or the same error."""

    def told(*at: int) -> Any:
        try:
            return _joined(_written(deltas, finish, at, stream=True)[0])
        except Exception as error:  # noqa: BLE001 - what it is, is compared
            return repr(error)

    assert told(*cuts) == told()


def _joined(events: list[dict[str, Any]]) -> list[Any]:
    """Return events without their numbers, neighbouring deltas in one: several may come in one read."""
    joined: list[Any] = []
    for event in events:
        named = {name: value for name, value in event.items() if name not in {"sequence_number", "delta"}}
        if "delta" in event and joined and joined[-1][0] == named:
            joined[-1][1] += event["delta"]
        else:
            joined.append([named, event.get("delta", "")])
    for named, _ in joined:
        if "response" in named:
            named["response"].pop("created_at")
    return joined


@pytest.mark.parametrize("members", [{"stream": True}, {}])
@pytest.mark.parametrize(
    ("declared", "name", "expected"),
    [
        ([_SPACE], "crm__look", {"type": "function_call", "name": "look", "namespace": "crm"}),
        ([_SPACE], "crm__patch", {"type": "custom_tool_call", "name": "patch", "namespace": "crm", "input": "a"}),
        ([], "patch", {"type": "custom_tool_call", "name": "patch", "input": "a"}),
        ([], "look", {"type": "function_call", "name": "look"}),
    ],
)
def test_call_comes_back_under_the_callers_own_name(
    members: dict[str, Any], declared: list[Any], name: str, expected: dict[str, Any]
) -> None:
    """Also that of a tool which an item of the input brought."""
    asked = [{"role": "user", "content": "Hi"}, {"type": "additional_tools", "role": "developer", "tools": _TOOLS}]
    deltas = [_called(0, '{"input": "a"}', name)]
    _, response = _written(deltas, "tool_calls", tools=declared, input=asked, **members)
    [item] = response["output"]
    Response.model_validate(response)
    assert {member: item[member] for member in expected} == expected
    assert ("namespace" in item) == ("namespace" in expected)


_COUNTS = {"input_tokens": 1, "output_tokens": 1}
_MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
_MESSAGE |= {"content": [{"type": "text", "text": "a"}]}
_COMPLETION = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}], "usage": _USAGE}
_CREATED = {"status": "completed", "usage": _COUNTS, "output": []}


@pytest.mark.parametrize(
    ("endpoint", "adapter", "answer", "told"),
    [
        (RESPONSES, "vllm", _COMPLETION, None),
        (RESPONSES, "vllm", _COMPLETION | {"service_tier": "flex"}, "flex"),
        (RESPONSES, "vllm", _COMPLETION | {"service_tier": "on_demand"}, None),
        (RESPONSES, "anthropic", _MESSAGE | {"usage": _COUNTS | {"service_tier": "standard"}}, "default"),
        (RESPONSES, "anthropic", _MESSAGE | {"usage": _COUNTS | {"service_tier": "priority"}}, "priority"),
        (RESPONSES, "anthropic", _MESSAGE | {"usage": _COUNTS}, None),
        (CHAT, "anthropic", _MESSAGE | {"usage": _COUNTS | {"service_tier": "standard"}}, "default"),
        (CHAT, "responses", _CREATED | {"service_tier": "flex"}, "flex"),
        (CHAT, "responses", _CREATED, None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_service_tier_is_what_the_upstream_says(
    endpoint: Endpoint, adapter: str, answer: dict[str, Any], told: str | None, *, stream: bool
) -> None:
    """In OpenAI's words; what it does not say is not known."""
    asked = {"model": "auto", "input": "Hi", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    call = build_call(endpoint.decode(json.dumps(asked).encode()))
    decoder = ADAPTERS[adapter].decoder(call, build_target(adapter=adapter))
    written = (decoder.feed(json.dumps(answer).encode()) + decoder.finish()).decode()
    found = set(re.findall(r'"service_tier":(null|"\w+")', written)) - {"null"}
    assert found == ({json.dumps(told)} if told else set())
