"""OpenAI's Responses go to a target that speaks them in the caller's own bytes, and the answer's bytes come down."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import Decoder
from gateway.formats.openai.chat_request import Translated
from gateway.formats.responses.decode import INPUT_TOKENS, RESPONSES
from gateway.formats.responses.passed import Passed
from gateway.formats.responses.written import UNSIGNED, numbered
from gateway.providers.registry import ADAPTERS
from gateway.tariff import Usage
from gateway.types import Call
from tests.ground.builders import build_call, build_target

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_OURS = {"type": "reasoning", "id": f"{UNSIGNED}0", "summary": []}
_THEIRS = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
_ASKS = {"role": "user", "content": f"What is {UNSIGNED}?"}
_TEXT = {"type": "output_text", "text": "Grüße 👋", "annotations": [], "logprobs": []}
_SEARCHED = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "a"}}
_SAID = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [_TEXT]}
_CALLED = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "c1",
    "name": "look",
    "arguments": '{"n": 1}',
}
_RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "status": "completed",
    "service_tier": "flex",
    "output": [_SEARCHED, _SAID, _CALLED],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    },
}
_USAGE = Usage(
    input_tokens=7, cached_input_tokens=3, output_tokens=3, reasoning_tokens=2, web_searches=1, origin="provider"
)


def _events(*ends: tuple[str, dict[str, Any]]) -> bytes:
    begun = {"response": _RESPONSE | {"status": "in_progress", "output": [], "usage": None}}
    at: dict[str, Any] = {"item_id": "msg_1", "output_index": 1}
    part = at | {"content_index": 0}
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", begun),
        ("response.output_item.added", {"output_index": 0, "item": _SEARCHED | {"status": "in_progress"}}),
        ("response.web_search_call.searching", {"output_index": 0, "item_id": "ws_1"}),
        ("response.output_item.done", {"output_index": 0, "item": _SEARCHED}),
        ("response.output_item.added", {"output_index": 1, "item": _SAID | {"content": []}}),
        ("response.content_part.added", part | {"part": _TEXT | {"text": ""}}),
        ("response.output_text.delta", part | {"delta": "Grüße ", "obfuscation": "x"}),
        ("response.output_text.delta", part | {"delta": "👋"}),
        ("response.not_invented_yet", {"a": 1}),
        ("response.output_item.done", {"output_index": 1, "item": _SAID}),
        ("response.output_item.added", {"output_index": 2, "item": _CALLED | {"arguments": ""}}),
        ("response.function_call_arguments.delta", {"item_id": "fc_1", "output_index": 2, "delta": '{"n": 1}'}),
        ("response.output_item.done", {"output_index": 2, "item": _CALLED}),
        *ends,
    ]
    return b"".join(numbered(name, number, members) for number, (name, members) in enumerate(events))


STREAM = _events(("response.completed", {"response": _RESPONSE}))


def _call(**members: Any) -> Call:
    return build_call(RESPONSES.decode(json.dumps({"model": "auto", "input": "Hi"} | members).encode()))


def _decoder(*, stream: bool) -> Decoder:
    return ADAPTERS["openai"].decoder(_call(stream=stream), build_target())


def _fed(decoder: Decoder, body: bytes, cuts: list[int] | None = None) -> bytes:
    places = [0, *sorted(cut % len(body) for cut in cuts or ()), len(body)]
    return b"".join([decoder.feed(body[start:end]) for start, end in pairwise(places)]) + decoder.finish()


@pytest.mark.parametrize("adapter", ["openai", "openrouter", "xai", "deepseek", "responses"])
def test_callers_own_bytes_go_up(adapter: str) -> None:
    """Members that are not known here too; of all only the model is another."""
    body = b'{"input" : [{"role":"user","content":"Hi"}], "model": "auto","new":{"a":1.50},"stream":true}'
    call = build_call(RESPONSES.decode(body))
    assert ADAPTERS[adapter].refuses(call) is None
    request = ADAPTERS[adapter].prepare(call)(build_target(base_url="http://u.test/v1"), "att_1")
    assert request.body == body.replace(b'"auto"', b'"small-upstream"')
    assert request.url == "http://u.test/v1/responses"


@pytest.mark.parametrize(
    ("members", "target", "expected", "left_out"),
    [
        ({"max_output_tokens": 500}, {"max_output_tokens": 100}, {"max_output_tokens": 100}, ["max_output_tokens"]),
        ({"max_output_tokens": 50}, {"max_output_tokens": 100}, {"max_output_tokens": 50}, []),
        ({"input": [_ASKS, _OURS, _THEIRS]}, {}, {"input": [_ASKS, _THEIRS]}, ["reasoning"]),
        ({"input": [_ASKS, _THEIRS]}, {}, {"input": [_ASKS, _THEIRS]}, []),
        ({}, {"always_stream": True}, {"stream": True}, []),
    ],
)
def test_only_what_must_be_is_changed(
    members: dict[str, Any], target: dict[str, Any], expected: dict[str, Any], left_out: list[str]
) -> None:
    """A limit above the target's, and reasoning that no provider knows."""
    prepared = ADAPTERS["openai"].prepare(_call(**members))
    body = json.loads(prepared(build_target(**target), "att_1").body)
    assert body == {"model": "small-upstream", "input": "Hi"} | expected
    assert getattr(prepared, "left_out", None) == left_out


def test_target_that_is_asked_by_chat_gets_a_translation() -> None:
    """Also where its provider has both."""
    call = _call()
    for adapter in ("vllm", "compatible", "openai-chat", "xai-chat"):
        assert isinstance(ADAPTERS[adapter].prepare(call), Translated)
    assert isinstance(ADAPTERS["openai"].prepare(call), Passed)


def test_question_for_tokens_is_not_streamed() -> None:
    """It goes to the provider's own address for that."""
    call = build_call(INPUT_TOKENS.decode(b'{"model":"auto","input":"Hi"}'))
    prepared = ADAPTERS["openai"].prepare(call)
    request = prepared(build_target(always_stream=True), "att_1")
    assert request.url.endswith("/v1/responses/input_tokens")
    assert json.loads(request.body) == {"model": "small-upstream", "input": "Hi"}


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 1 << 16), max_size=12), stream=st.booleans())
def test_answer_passes_in_any_cut(cuts: list[int], *, stream: bool) -> None:
    """Byte for byte, or the response with which the stream ends; counted and billed as it says."""
    decoder = _decoder(stream=stream)
    written = _fed(decoder, STREAM, cuts)
    assert written == STREAM if stream else json.loads(written) == _RESPONSE
    assert (decoder.complete, decoder.service_tier, decoder.usage) == (True, "flex", _USAGE)
    assert decoder.content_bytes == len("Grüße 👋".encode()) + len('look{"n": 1}')


def test_whole_answer_passes_byte_for_byte() -> None:
    """To a caller who wants no stream."""
    body = json.dumps(_RESPONSE, indent=1).encode()
    decoder = _decoder(stream=False)
    assert _fed(decoder, body) == body
    assert decoder.usage == _USAGE


def test_whole_answer_becomes_events_for_a_caller_who_streams() -> None:
    """Some servers pass over ``stream``."""
    text = _fed(_decoder(stream=True), json.dumps(_RESPONSE, indent=1).encode()).decode()
    events = [json.loads(data) for data in re.findall(r"^data: (.*)$", text, re.MULTILINE)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        _EVENT.validate_python(event)
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    assert deltas == ["Grüße 👋", '{"n": 1}']
    assert events[-1] == {
        "type": "response.completed",
        "sequence_number": len(events) - 1,
        "response": _RESPONSE,
    }


@pytest.mark.parametrize("at_a_time", [1, 3, 50])
def test_run_of_pieces_is_counted_in_one_go(at_a_time: int) -> None:
    """As many events and bytes as one by one; what only looks like a run is read event by event."""
    pieces = [STREAM.split(b"\n\n")[number] + b"\n\n" for number in (6, 7)] * 25
    decoder = _decoder(stream=True)
    decoder.feed(STREAM[: STREAM.index(pieces[0])] + pieces[0])
    before = decoder.content_events, decoder.content_bytes
    for start in range(0, len(pieces), at_a_time):
        chunk = b"".join(pieces[start : start + at_a_time])
        assert decoder.feed(chunk) is chunk
    assert decoder.content_events - before[0] == 50
    assert decoder.content_bytes - before[1] == 25 * len("Grüße 👋".encode())
    with pytest.raises(UpstreamError):
        decoder.feed(pieces[0] + b"event: error\ndata: " + b'{"type":"error","message":"It broke."}\n\n')
        decoder.feed(b"")


@pytest.mark.parametrize("beside", [{"output": [_SAID | {"content": None}]}, {"status": None}, {"output": []}])
def test_whole_answer_with_little_in_it_becomes_events(beside: dict[str, Any]) -> None:
    """What a server leaves empty is no fault of the caller's."""
    written = _fed(_decoder(stream=True), json.dumps(_RESPONSE | beside).encode())
    assert b"event: response.completed\n" in written


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (_events(("error", {"code": "server_error", "message": "It broke.", "param": None})), ErrorKind.UPSTREAM_ERROR),
        (
            _events(
                ("response.failed", {"response": _RESPONSE | {"status": "failed", "error": {"code": "server_error"}}})
            ),
            ErrorKind.UPSTREAM_ERROR,
        ),
        (_events(), ErrorKind.UPSTREAM_CUT),
        (STREAM[:-40], ErrorKind.UPSTREAM_CUT),
    ],
)
def test_broken_answer_never_looks_complete(end: bytes, kind: ErrorKind, *, stream: bool) -> None:
    """What came before it has passed; how many events that were is known."""
    decoder = _decoder(stream=stream)
    with pytest.raises(UpstreamError) as failed:
        _fed(decoder, end)
    assert failed.value.kind is kind
    assert not decoder.complete


def test_work_of_a_providers_own_tool_counts_as_content() -> None:
    """The time to the first token is over when it begins; what only says that a response began is none."""
    decoder = _decoder(stream=True)
    begun, searching, *_ = [each for each in STREAM.split(b"\n\n") if b"created" in each or b"searching" in each]
    decoder.feed(begun + b"\n\n")
    assert not decoder.content_events
    decoder.feed(searching + b"\n\n")
    assert decoder.content_events == 1
