"""What the caller gets of an upstream's answer with status 200, and what is known of it afterwards."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats import base
from gateway.formats.base import Decoder
from gateway.formats.openai.compatible import CompatibleAdapter
from gateway.tariff import Usage
from gateway.types import Operation
from tests.ground.builders import ENDPOINT, build_call, build_target

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def decoder_for(*, always_stream: bool = False, operation: Operation = "chat", **members: Any) -> Decoder:
    """Make the decoder for a request with these members."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"} | members
    call = build_call(ENDPOINT[operation].decode(json.dumps(body).encode()))
    return CompatibleAdapter().decoder(call, build_target(always_stream=always_stream))


def streaming(**options: Any) -> Decoder:
    """Make the decoder for a caller who streams."""
    return decoder_for(stream=True, **({"stream_options": options} if options else {}))


def assembling() -> Decoder:
    """Make the decoder for a caller who does not, in front of own hardware."""
    return decoder_for(always_stream=True)


def event(value: dict[str, Any]) -> bytes:
    """Write one event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def text(content: str, **members: Any) -> bytes:
    """Write one event with this text."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return event({"id": "c", "created": 1, "model": "m", "choices": [choice]} | members)


def final(**members: Any) -> bytes:
    """Write the event that ends the choice."""
    return event({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]} | members)


def usage_event(**usage: int) -> bytes:
    """Write the usage-only event."""
    return event({"id": "c", "choices": [], "usage": USAGE | usage})


ROLE = event({"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})


def kind_of(decoder: Decoder, *chunks: bytes) -> ErrorKind:
    """Play the chunks to the end, and return the error's kind."""
    with pytest.raises(UpstreamError) as caught:
        for chunk in chunks:
            decoder.feed(chunk)
        decoder.finish()
    return caught.value.kind


def played(decoder: Decoder, *chunks: bytes) -> bytes:
    """Play the chunks to the end, and return what the caller got."""
    return b"".join(map(decoder.feed, chunks)) + decoder.finish()


def test_a_stream_passes_through_as_the_same_objects() -> None:
    """Chunks that hold whole events, one or several, are never copied."""
    decoder = streaming(include_usage=True)
    chunks = [b": comment\n\n", text("He"), text("l") + text("lo"), final() + usage_event(), DONE]
    for chunk in chunks:
        assert decoder.feed(chunk) is chunk
    assert decoder.finish() == b""
    assert (decoder.complete, decoder.content_events, decoder.content_bytes) == (True, 3, 5)
    assert decoder.usage == Usage(input_tokens=5, output_tokens=2)
    assert decoder.content_type == "text/event-stream; charset=utf-8"


def test_unrequested_usage_event_is_removed_whole() -> None:
    """The caller sees the stream that was asked for, and the gateway still counts."""
    decoder = streaming()
    assert played(decoder, text("a"), final(), usage_event(), DONE) == text("a") + final() + DONE
    assert decoder.usage == Usage(input_tokens=5, output_tokens=2)


def test_a_usage_beside_choices_is_cut_out() -> None:
    """The choices stay (a final chunk with both loses neither)."""
    decoder = streaming()
    assert played(decoder, text("a", usage=USAGE, z=1), DONE) == text("a", z=1) + DONE
    assert decoder.usage == Usage(input_tokens=5, output_tokens=2)


def test_a_usage_cut_out_of_many_data_lines_leaves_a_sound_event() -> None:
    """JSON over several data lines stays JSON over several data lines."""
    whole = (
        b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],\ndata: "usage":{"prompt_tokens":1},\ndata: "z":1}\n\n'
    )
    passed = streaming().feed(whole)
    assert json.loads(passed.replace(b"data: ", b"")) == {"choices": [{"index": 0, "delta": {"content": "a"}}], "z": 1}
    assert passed.count(b"\ndata: ") == passed.count(b"\n") - 2


def test_the_last_usage_wins() -> None:
    """Some upstreams count in every chunk."""
    decoder = streaming()
    played(decoder, text("a", usage=USAGE | {"completion_tokens": 1}), text("b", usage=USAGE), final(usage=None), DONE)
    assert decoder.usage == Usage(input_tokens=5, output_tokens=2)


def test_a_null_usage_is_left_alone() -> None:
    """OpenAI writes null into every chunk when usage is asked for; that is not worth a copy."""
    chunk = text("a", usage=None)
    assert streaming().feed(chunk) is chunk


def test_a_partial_event_is_held_until_it_is_complete() -> None:
    """No byte of an event leaves before its end; events that arrived together leave together."""
    decoder = streaming()
    first, second = text("a"), text("b")
    assert decoder.feed(first[:10]) == b""
    assert decoder.content_events == 0
    assert decoder.feed(first[10:] + second + second[:5]) == first + second
    assert decoder.content_events == 2


@given(st.lists(st.integers(0, 600), max_size=8), st.sampled_from([b"\n", b"\r\n"]))
def test_chunking_changes_nothing(cuts: list[int], line_end: bytes) -> None:
    """However the network cuts the stream, the caller gets the same bytes and the gateway counts the same."""
    events = [b": x\n\n", text("hé"), text("b", usage=USAGE), final(), usage_event(completion_tokens=9), DONE]
    stream = b"".join(events).replace(b"\n", line_end)
    edges = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    decoder = streaming()
    whole, pieces = played(streaming(), stream), [stream[a:b] for a, b in pairwise(edges)]
    assert played(decoder, *pieces) == whole
    assert (decoder.usage, decoder.content_events) == (Usage(input_tokens=5, output_tokens=9), 2)


def test_bytes_behind_the_end_marker_are_dropped() -> None:
    """In the same chunk or later."""
    decoder = streaming()
    assert decoder.feed(text("a") + DONE + text("b")) == text("a") + DONE
    assert decoder.feed(text("c")) == b""
    assert decoder.finish() == b""
    assert decoder.content_events == 1


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n\r", b"data:[DONE]\n"])
def test_an_end_marker_without_its_blank_line_ends_the_stream(end: bytes) -> None:
    """Some servers save the last line ends."""
    decoder = streaming()
    assert played(decoder, text("a") + end).startswith(text("a") + b"data:")
    assert decoder.complete


@pytest.mark.parametrize("make", [streaming, assembling])
@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        ([], ErrorKind.UPSTREAM_CUT),
        ([b": ping\n\n"], ErrorKind.UPSTREAM_CUT),
        ([text("a")], ErrorKind.UPSTREAM_CUT),
        ([text("a"), text("b")[:20]], ErrorKind.UPSTREAM_CUT),
        ([text("a"), event({"error": {"message": "x", "type": "server_error"}}), DONE], ErrorKind.UPSTREAM_ERROR),
        ([event({"error": {"message": "too long", "code": 400}}), DONE], ErrorKind.UPSTREAM_REJECTED),
        ([event({"object": "error", "message": "x", "code": 400}), DONE], ErrorKind.UPSTREAM_REJECTED),
        ([event({"choices": [], "error": {"code": 429, "message": "x"}})], ErrorKind.UPSTREAM_RATE_LIMITED),
        ([b"event: error\n" + event({"error": "boom"})], ErrorKind.UPSTREAM_ERROR),
        ([b"<!doctype html>\n\n<p>x</p>\n\n"], ErrorKind.UPSTREAM_PROTOCOL),
        ([b"  ", b"\n<html>"], ErrorKind.UPSTREAM_PROTOCOL),
        ([b"no healthy upstream"], ErrorKind.UPSTREAM_PROTOCOL),
        ([b"no healthy\n\nupstream\n\n"], ErrorKind.UPSTREAM_PROTOCOL),
        ([b'{"error":{"message":"x","ty', b'pe":"overloaded_error"}}'], ErrorKind.UPSTREAM_OVERLOADED),
        ([b'{"id":"x","choices":[]}'], ErrorKind.UPSTREAM_PROTOCOL),
        ([b'{"cut'], ErrorKind.UPSTREAM_PROTOCOL),
        ([b"data: {nonsense}\n\n"], ErrorKind.UPSTREAM_PROTOCOL),
        ([b"data: 5\n\n"], ErrorKind.UPSTREAM_PROTOCOL),
        ([text("a").replace(b'"a"', b'"\xc3"')], ErrorKind.UPSTREAM_PROTOCOL),
        ([event({"choices": []}), DONE], ErrorKind.UPSTREAM_PROTOCOL),
        ([event({"status": "ok"}), DONE], ErrorKind.UPSTREAM_PROTOCOL),
        ([DONE], ErrorKind.UPSTREAM_PROTOCOL),
        ([ROLE, DONE], ErrorKind.UPSTREAM_PROTOCOL),
        ([ROLE, text(""), usage_event(), DONE], ErrorKind.UPSTREAM_PROTOCOL),
        ([ROLE + usage_event() + DONE.rstrip()], ErrorKind.UPSTREAM_PROTOCOL),
    ],
)
def test_a_stream_that_is_none_or_breaks_off_is_never_a_success(
    make: Any, chunks: list[bytes], kind: ErrorKind
) -> None:
    """Errors with status 200, pages, plain text, nonsense, and every kind of early end."""
    assert kind_of(make(), *chunks) is kind


FAILURES = [
    {"detail": "no"},
    {"detail": [{"msg": "no"}]},
    {"message": "no"},
    {"code": 500, "msg": "no"},
    {"errors": [{"message": "no"}]},
    {"object": "error", "message": "no"},
    {"error": {"message": "no", "code": "9" * 5_000}},
    {"error": {"message": "no"}, "choices": [{"delta": {"content": "b"}}]},
    {"type": "overloaded", "title": "no", "detail": "no", "choices": []},
]


@pytest.mark.parametrize("make", [streaming, assembling])
@pytest.mark.parametrize("failure", FAILURES)
def test_failure_in_a_stream_is_an_error_in_every_shape(make: Any, failure: dict[str, Any]) -> None:
    """Behind content too, where the upstream's words must not pass as they are."""
    assert kind_of(make(), event(failure)) in {ErrorKind.UPSTREAM_ERROR, ErrorKind.UPSTREAM_OVERLOADED}
    assert kind_of(make(), text("a"), event(failure)) in {ErrorKind.UPSTREAM_ERROR, ErrorKind.UPSTREAM_OVERLOADED}


@pytest.mark.parametrize("make", [streaming, assembling])
@pytest.mark.parametrize(
    "failure",
    [
        b'event: error\ndata: {"title": "no"}\n\n',
        b'id: 7\nevent:error\ndata: {"title": "no"}\n\n',
        b'data: {"title": "no"}\nevent: error\n\n',
    ],
)
def test_event_named_error_is_an_error(make: Any, failure: bytes) -> None:
    assert kind_of(make(), text("a"), failure) is ErrorKind.UPSTREAM_ERROR


@pytest.mark.parametrize("make", [streaming, assembling])
def test_success_in_an_errors_members_is_none(make: Any) -> None:
    chunks = [text("a", code=0, message="Success"), final(code=0, message="Success")]
    chunks += [event({"code": 0, "message": "Success", "choices": [], "usage": USAGE}), DONE]
    decoder = make()
    played(decoder, *chunks)
    assert decoder.usage == Usage(input_tokens=5, output_tokens=2)


def test_text_of_a_page_or_a_json_error_reaches_no_caller() -> None:
    """So that the next target can still be tried."""
    decoder = streaming()
    assert decoder.feed(b"no healthy\n\nupstream\n\n") == b""
    assert streaming().feed(b'{"error": "x"}\n\n') == b""


def test_a_stream_is_assembled_for_a_caller_who_wants_none() -> None:
    """Nothing leaves before the end; then the whole object does, with the usage, in the SDK's own shape."""
    decoder = assembling()
    chunks = [text("", object="chat.completion.chunk"), text("He") + text("llo"), final(), usage_event(), DONE]
    assert [decoder.feed(chunk) for chunk in chunks] == [b""] * 5
    answer = ChatCompletion.model_validate_json(decoder.finish())
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7
    assert (decoder.content_events, decoder.complete, decoder.content_type) == (2, True, "application/json")
    assert decoder.usage == Usage(input_tokens=5, output_tokens=2)


CALL = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("chunks", "content", "finish_reason", "calls"),
    [
        ([ROLE, final(), DONE], "", "stop", 0),
        ([ROLE + final() + usage_event() + DONE], "", "stop", 0),
        ([event({"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [CALL]}}]}), DONE], None, None, 1),
        ([text("a"), DONE], "a", None, 0),
    ],
)
def test_answer_with_a_reason_or_a_call_needs_no_text(
    chunks: list[bytes], content: str | None, finish_reason: str | None, calls: int
) -> None:
    """A model may say nothing, or call a tool; and some upstreams give no reason for an end."""
    assert played(streaming(include_usage=True), *chunks) == b"".join(chunks)
    choice = json.loads(played(assembling(), *chunks))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, finish_reason)
    assert len(choice["message"].get("tool_calls") or ()) == calls


def test_completions_are_assembled_too() -> None:
    """The older endpoint has its own object."""
    decoder = decoder_for(operation="completions", always_stream=True)
    body = played(decoder, event({"id": "c", "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}), DONE)
    assert json.loads(body)["object"] == "text_completion"
    assert decoder.content_bytes == 1


ANSWER = json.dumps(
    {"id": "c", "choices": [{"index": 0, "message": {"content": "hé"}}], "usage": USAGE}, indent=1
).encode()


def test_an_object_passes_through_untouched() -> None:
    """In any chunking, byte for byte, and only once it is known to be one."""
    decoder = decoder_for()
    assert decoder.feed(ANSWER[:30]) == b""
    assert decoder.feed(ANSWER[30:]) == b""
    assert decoder.finish() == ANSWER
    assert (decoder.usage, decoder.content_bytes) == (Usage(input_tokens=5, output_tokens=2), 3)
    assert (decoder.complete, decoder.content_type) == (True, "application/json")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", ErrorKind.UPSTREAM_CUT),
        (ANSWER[:-5], ErrorKind.UPSTREAM_PROTOCOL),
        (b"<html></html>", ErrorKind.UPSTREAM_PROTOCOL),
        (b"[]", ErrorKind.UPSTREAM_PROTOCOL),
        (b"{}", ErrorKind.UPSTREAM_PROTOCOL),
        (b'{"choices":[]}', ErrorKind.UPSTREAM_PROTOCOL),
        (b"[" * 100_000, ErrorKind.UPSTREAM_PROTOCOL),
        (json.dumps({"choices": [{"index": 0}]}).encode("utf-16"), ErrorKind.UPSTREAM_PROTOCOL),
        (b'{"error":{"message":"x","code":"rate_limit_exceeded"}}', ErrorKind.UPSTREAM_RATE_LIMITED),
    ],
)
def test_an_object_that_is_no_answer_is_never_a_success(body: bytes, kind: ErrorKind) -> None:
    """Errors with status 200, pages, cut and empty bodies."""
    assert kind_of(decoder_for(), *([body] if body else [])) is kind


VECTORS = json.dumps(
    {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1e-9]}],
        "model": "m",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    },
    indent=1,
).encode()


def test_embeddings_pass_through_untouched() -> None:
    """Byte for byte, in any chunking; vectors are no tokens, so there never is a first one."""
    decoder = decoder_for(operation="embeddings", always_stream=True)
    assert decoder.feed(VECTORS[:30]) == decoder.feed(VECTORS[30:]) == b""
    assert decoder.finish() == VECTORS
    assert decoder.usage == Usage(input_tokens=5)
    assert (decoder.content_events, decoder.content_bytes, decoder.complete) == (0, 0, True)


@pytest.mark.parametrize(
    ("usage", "input_tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}, 7),
        ({"total_tokens": 9}, 9),
        ({"prompt_tokens": "many"}, None),
        ({"prompt_tokens": 7, "completion_tokens": None}, 7),
        ({}, None),
        (None, None),
        ("5", None),
    ],
)
def test_embeddings_are_billed_by_the_upstreams_count(usage: Any, input_tokens: int | None) -> None:
    """Some upstreams count only in total, some not at all."""
    decoder = decoder_for(operation="embeddings")
    decoder.feed(json.dumps({"data": [{"embedding": "AAAA"}], "usage": usage}).encode())
    decoder.finish()
    assert (decoder.usage and decoder.usage.input_tokens) == input_tokens


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", ErrorKind.UPSTREAM_CUT),
        (VECTORS[:-5], ErrorKind.UPSTREAM_PROTOCOL),
        (b"<html></html>", ErrorKind.UPSTREAM_PROTOCOL),
        (b'{"data":[]}', ErrorKind.UPSTREAM_PROTOCOL),
        (b'{"data":{"embedding":[1]}}', ErrorKind.UPSTREAM_PROTOCOL),
        (b'{"data":[{"embedding":[1,]}]}', ErrorKind.UPSTREAM_PROTOCOL),
        (ANSWER, ErrorKind.UPSTREAM_PROTOCOL),
        (b'{"error":{"message":"x","code":"rate_limit_exceeded"}}', ErrorKind.UPSTREAM_RATE_LIMITED),
        (b'{"object":"error","message":"too long","code":400}', ErrorKind.UPSTREAM_REJECTED),
    ],
)
def test_embeddings_answer_without_vectors_is_never_a_success(body: bytes, kind: ErrorKind) -> None:
    """A cut answer, a page, a chat, an error with status 200."""
    assert kind_of(decoder_for(operation="embeddings"), *([body] if body else [])) is kind


@pytest.mark.parametrize("make", [decoder_for, assembling])
def test_an_answer_without_end_is_refused(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held has a limit."""
    monkeypatch.setattr(base, "MAX_ANSWER_BYTES", 1000)
    assert kind_of(make(), *[text("a" * 100)] * 20) is ErrorKind.UPSTREAM_PROTOCOL


@pytest.mark.parametrize(
    "oddity", [b'"delta":{"content":"\\ud83d"}', b'"delta":{"content":"a"},"x":1,"x":2'], ids=["half a pair", "twice"]
)
def test_usage_is_taken_out_of_a_chunk_whatever_else_it_holds(oddity: bytes) -> None:
    """What can be read for accounting can be passed on, too."""
    decoder = streaming()
    chunk = (
        b'data: {"choices":[{"index":0,%b}],"usage":{"prompt_tokens":5,"completion_tokens":1},"y":1,"y":2}\n\n' % oddity
    )
    passed = decoder.feed(chunk)
    assert decoder.usage == Usage(input_tokens=5, output_tokens=1)
    assert b"usage" not in passed
    assert b'"index":' in passed
    assert passed.endswith(b"\n\n")
