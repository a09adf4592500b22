"""What proves that an answer is whole, as tables: streamed, assembled and as one object, for all decoders."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.base import Decoder, Format
from gateway.formats.openai.decode import CHAT
from gateway.formats.openai.stream import finish_of
from gateway.providers.registry import ADAPTERS
from gateway.tariff import Usage
from tests.ground.builders import build_call, build_target

DONE = b"data: [DONE]\n\n"
BROKEN = b'data: {"id":"c","choices":[{"index":0,"delta":{"cont\n\n'
UNSUPPORTED = ErrorKind.UPSTREAM_UNSUPPORTED
CUT, PROTOCOL, FAILED = ErrorKind.UPSTREAM_CUT, ErrorKind.UPSTREAM_PROTOCOL, ErrorKind.UPSTREAM_ERROR


def made(adapter: str, *, stream: bool, **members: Any) -> Decoder:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **members}
    call = build_call(CHAT.decode(json.dumps(body).encode()))
    speaking: Format = ADAPTERS[adapter]
    return speaking.decoder(call, build_target(always_stream=True))


def played(decoder: Decoder, *chunks: bytes) -> bytes:
    return b"".join(map(decoder.feed, chunks)) + decoder.finish()


def event(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps(value).encode() + b"\n\n"


def text(content: str = "a", index: int = 0, **members: Any) -> bytes:
    choice = {"index": index, "delta": {"content": content}, "finish_reason": None}
    return event({"id": "c", "created": 1, "model": "m", "choices": [choice | members]})


def end(reason: Any = "stop", index: int = 0, **members: Any) -> bytes:
    return event({"id": "c", "choices": [{"index": index, "delta": {}, "finish_reason": reason} | members]})


def tool(index: int | None = 0, arguments: str = "{}", **call: Any) -> bytes:
    function = {"arguments": arguments} | ({"name": call.pop("name")} if "name" in call else {})
    piece = {"function": function, **({} if index is None else {"index": index}), **call}
    return event({"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]})


def whole(content: str | None = "a", reason: str | None = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content} | message, "finish_reason": reason}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    ).encode()


START = event({"type": "message_start", "message": {"id": "c", "model": "m", "usage": {"input_tokens": 5}}})
BLOCK = event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
DELTA = event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}})
USE = event({"type": "content_block_start", "index": 0,
             "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}})  # fmt: skip
WHY = event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}})
STOP = event({"type": "message_stop"})


def message(content: Any = "a", reason: str | None = "end_turn") -> bytes:
    blocks = [{"type": "text", "text": content}] if content else []
    usage = {"input_tokens": 5, "output_tokens": 2}
    return json.dumps(
        {"type": "message", "id": "c", "model": "m", "content": blocks, "stop_reason": reason, "usage": usage}
    ).encode()


ENDS: list[tuple[str, list[bytes], ErrorKind | None, dict[str, Any]]] = [
    # A reason for every choice and a clean end.
    ("compatible", [text(), end()], None, {}),
    ("compatible", [text(), end("length")], None, {}),
    ("compatible", [text(), end("stop") + b": cost\n\n"], None, {}),
    ("compatible", [text(), end(), b"data: [DONE] \n\n"], None, {}),
    ("compatible", [text(), end(), DONE, b" \n"], None, {}),
    ("compatible", [text(), end(), b"\n"], None, {}),
    ("compatible", [end()], None, {}),
    ("compatible", [text(), text("b", 1), end(), end("stop", 1)], None, {"n": 2}),
    ("compatible", [text(), text("b", 1), end()], CUT, {"n": 2}),
    ("compatible", [text(), end()], CUT, {"n": 2}),
    ("compatible", [text(), end(), end()], CUT, {"n": 2}),
    ("compatible", [text()], CUT, {}),
    ("compatible", [text(), end("")], CUT, {}),
    ("compatible", [text(), end(None)], CUT, {}),
    ("compatible", [text(), end(), text()[:20]], CUT, {}),
    ("anthropic", [START, BLOCK, DELTA, WHY, STOP], None, {}),
    ("anthropic", [START, BLOCK, DELTA, WHY], None, {}),
    ("anthropic", [START, BLOCK, DELTA, WHY, STOP[:-1]], None, {}),
    ("anthropic", [START, BLOCK, DELTA, WHY, STOP[:-2]], None, {}),
    ("anthropic", [START, WHY, STOP], None, {}),
    ("anthropic", [START, BLOCK, DELTA], CUT, {}),
    ("anthropic", [START, BLOCK, DELTA, WHY, STOP[:20]], CUT, {}),
    # Nothing was answered.
    ("compatible", [DONE], PROTOCOL, {}),
    ("compatible", [text(""), DONE], PROTOCOL, {}),
    ("compatible", [whole("", None)], PROTOCOL, {}),
    ("compatible", [whole(None, None)], PROTOCOL, {}),
    ("compatible", [b'{"choices":[{"index":0}]}'], PROTOCOL, {}),
    ("compatible", [b'{"choices":[{"index":0,"finish_reason":"stop"}]}'], PROTOCOL, {}),
    ("anthropic", [START, STOP], PROTOCOL, {}),
    ("anthropic", [START, BLOCK, STOP], PROTOCOL, {}),
    ("anthropic", [message("", None)], PROTOCOL, {}),
    # A choice that failed, with status 200.
    ("compatible", [text(), end("error"), DONE], FAILED, {}),
    ("compatible", [text(), end("abort"), DONE], FAILED, {}),
    ("compatible", [text(), end("error", error={"code": 502, "message": "x"}), DONE], FAILED, {}),
    ("compatible", [text(), text("", error={"code": 502, "message": "x"}), end(), DONE], FAILED, {}),
    ("compatible", [text(error={"code": 429, "message": "x"}), DONE], ErrorKind.UPSTREAM_RATE_LIMITED, {}),
    ("compatible", [whole("a", "error")], FAILED, {}),
    ("compatible", [text(), end("network_error"), DONE], FAILED, {}),
    ("compatible", [text(), end("insufficient_system_resource"), DONE], ErrorKind.UPSTREAM_OVERLOADED, {}),
    ("compatible", [end("function_call_filter: MALFORMED_FUNCTION_CALL"), DONE], UNSUPPORTED, {}),
    ("compatible", [event([{"error": {"code": 429, "message": "x"}}])], ErrorKind.UPSTREAM_RATE_LIMITED, {}),
    (
        "compatible",
        [text(), event([{"error": {"code": 503, "message": "x"}}]), DONE],
        ErrorKind.UPSTREAM_OVERLOADED,
        {},
    ),
    (
        "anthropic",
        [b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}'],
        ErrorKind.UPSTREAM_OVERLOADED,
        {},
    ),
    # An error that says nothing, beside an answer.
    ("compatible", [text(error=None), end(error={}), DONE], None, {}),
    ("compatible", [text(), end(error={"code": None, "message": ""}), DONE], None, {}),
    ("compatible", [whole().replace(b'"usage"', b'"error":{},"usage"')], None, {}),
    ("compatible", [whole().replace(b'"usage"', b'"error":"","usage"')], None, {}),
    # The right answer in the other framing, or with a mark before it.
    ("compatible", [whole()], None, {}),
    ("compatible", [whole()[:40], whole()[40:] + b"\n\n"], None, {}),
    ("compatible", [b"\xef\xbb\xbf" + whole()], None, {}),
    ("compatible", [whole()[:-9]], PROTOCOL, {}),
    ("compatible", [b"<html>"], PROTOCOL, {}),
    ("anthropic", [message()], None, {}),
    ("anthropic", [message()[:40], message()[40:]], None, {}),
    ("anthropic", [message()[:-9]], CUT, {}),
    ("anthropic", [b"<html>"], PROTOCOL, {}),
    # An event that cannot be read.
    ("compatible", [BROKEN, text(), end(), DONE], PROTOCOL, {}),
    ("compatible", [text(), BROKEN, end(), DONE], None, {}),
    ("compatible", [text(), BROKEN, text("b") * 30, end()], None, {}),
    ("compatible", [text(), b"data: 5\n\n", end(), DONE], None, {}),
    ("compatible", [text(), BROKEN, DONE], PROTOCOL, {}),
    ("compatible", [text(), BROKEN], CUT, {}),
    ("compatible", [text(), tool(name="f", id="t"), BROKEN, end("tool_calls"), DONE], PROTOCOL, {}),
    ("compatible", [text(), BROKEN, tool(), end("tool_calls"), DONE], PROTOCOL, {}),
    ("compatible", [text(), BROKEN, tool(1, name="f", id="t"), end("tool_calls"), DONE], PROTOCOL, {}),
    ("compatible", [text(), BROKEN, end("tool_calls"), DONE], PROTOCOL, {}),
    ("compatible", [text(), BROKEN, tool(name="f", id="t"), end("tool_calls"), DONE], None, {}),
    ("compatible", [text(), BROKEN, end(), DONE], PROTOCOL, {"response_format": {"type": "json_object"}}),
    ("anthropic", [START, BROKEN, BLOCK, DELTA, WHY, STOP], PROTOCOL, {}),
    ("anthropic", [START, BLOCK, DELTA, BROKEN, WHY, STOP], None, {}),
    ("anthropic", [START, BLOCK, DELTA, BROKEN, STOP], PROTOCOL, {}),
    ("anthropic", [START, USE, BROKEN, WHY, STOP], PROTOCOL, {}),
]
ROWS = [pytest.param(*row, id=f"{row[0]} {number}") for number, row in enumerate(ENDS)]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("adapter", "chunks", "kind", "members"), ROWS)
def test_end_is_decided_alike_for_every_decoder(
    adapter: str, chunks: list[bytes], kind: ErrorKind | None, members: dict[str, Any], stream: bool
) -> None:
    decoder = made(adapter, stream=stream, **members)
    if kind is not None:
        with pytest.raises(UpstreamError) as caught:
            played(decoder, *chunks)
        assert caught.value.kind is kind
        return
    answer = played(decoder, *chunks)
    assert decoder.complete
    assert decoder.dropped_events == sum(chunk in (BROKEN, b"data: 5\n\n") for chunk in chunks)
    if stream:
        assert answer.count(b"data: [DONE]") == 1
        assert answer.endswith((DONE, b"data: [DONE] \n\n"))
        assert not any(b"cont\n" in line for line in answer.splitlines())
    else:
        ChatCompletion.model_validate_json(answer)


def _chunks(answer: bytes) -> Iterator[ChatCompletionChunk]:
    for line in answer.splitlines():
        if line.startswith(b"data: {"):
            yield ChatCompletionChunk.model_validate_json(line[6:])


CALL = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize(
    ("adapter", "answer"),
    [("compatible", whole("hello", tool_calls=[CALL])), ("anthropic", message("hello"))],
)
def test_object_for_a_stream_is_handed_on_as_a_stream(adapter: str, answer: bytes, usage: bool) -> None:
    """In OpenAI's shape, with the usage if it was asked for, and billed as it says."""
    decoder = made(adapter, stream=True, stream_options={"include_usage": usage})
    chunks = list(_chunks(played(decoder, answer)))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == "hello"
    assert choices[-1].finish_reason == "stop"
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == ([7] if usage else [])
    calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.id) for call in calls] == ([(0, "t")] if adapter == "compatible" else [])
    assert decoder.usage == Usage(input_tokens=5, output_tokens=2)
    assert decoder.content_type.startswith("text/event-stream")


@pytest.mark.parametrize(
    ("adapter", "events"),
    [("compatible", [text("hel"), text("lo"), end(), DONE]), ("anthropic", [START, BLOCK, DELTA, WHY, STOP])],
)
def test_events_for_a_plain_call_are_handed_on_as_an_object(adapter: str, events: list[bytes]) -> None:
    decoder = ADAPTERS[adapter].decoder(build_call(), build_target(always_stream=False))
    answer = ChatCompletion.model_validate_json(played(decoder, *events))
    assert answer.choices[0].message.content == ("hello" if adapter == "compatible" else "a")
    assert decoder.content_type == "application/json"


def assembled(*chunks: bytes) -> Any:
    return ChatCompletion.model_validate_json(played(made("compatible", stream=False), *chunks, DONE)).choices[0]


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        ([tool(0, "{", id="a", name="f"), tool(0, "}")], [("a", "f", "{}")]),
        ([tool(0, "{1}", id="a", name="f"), tool(0, "{2}", id="b", name="f")], [("a", "f", "{1}"), ("b", "f", "{2}")]),
        ([tool(0, "{1", id="a", name="f"), tool(0, "{2", id="b", name="g"), tool(0, "}")],
         [("a", "f", "{1"), ("b", "g", "{2}")]),
        ([tool(None, "{1}", id="a", name="f"), tool(None, "{2}", id="b", name="g")],
         [("a", "f", "{1}"), ("b", "g", "{2}")]),
        ([tool(0, "{1}", id="a", name="f"), tool(1, "{2}", id="b", name="g"), tool(0, "!", id="a")],
         [("a", "f", "{1}!"), ("b", "g", "{2}")]),
        # A new id on every piece, as some engines write.
        ([tool(0, "", id="a", name="f"), tool(0, "{", id="b"), tool(0, "}", id="c")], [("a", "f", "{}")]),
    ],
)  # fmt: skip
def test_tool_calls_are_joined_by_index_and_id(pieces: list[bytes], calls: list[tuple[str, str, str]]) -> None:
    """Gemini's endpoint gives every call of a turn the index 0."""
    found = assembled(*pieces, end("tool_calls")).message.tool_calls
    assert [(call.id, call.function.name, call.function.arguments) for call in found] == calls


def test_parts_of_a_content_become_text_and_reasoning() -> None:
    """Mistral's reasoning models stream lists of parts (docs.mistral.ai, "Reasoning")."""
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
    message = assembled(text(thinking), text(thinking), text([{"type": "text", "text": "he"}]), text("llo"), end())  # type: ignore[arg-type]
    assert (message.message.content, message.message.reasoning_content) == ("hello", "hmhm")


@pytest.mark.parametrize("reason", ["content_filter", "content_filter: PROHIBITED_CONTENT"])
@pytest.mark.parametrize("stream", [True, False])
def test_answer_withheld_by_a_content_filter_is_complete(*, stream: bool, reason: str) -> None:
    """Azure and Gemini then send a choice without a message, and bill it; no other target gets such a prompt."""
    choice = {"index": 0, "finish_reason": reason, "logprobs": None}
    usage = {"prompt_tokens": 15, "completion_tokens": 19, "total_tokens": 34}
    decoder = made("compatible", stream=stream)
    got = played(decoder, json.dumps({"id": "c", "choices": [choice], "usage": usage}).encode())
    assert b"content_filter" in got
    assert not stream or b'"delta"' in got
    assert decoder.complete
    assert decoder.usage == Usage(input_tokens=15, output_tokens=19)


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        (["x"], "stop"),
        ("model_length", "length"),
        ("sensitive", "content_filter"),
        ("content_filter: SAFETY", "content_filter"),
    ],
)
def test_finish_reason_of_a_provider_has_a_meaning_in_other_dialects(reason: Any, meaning: str) -> None:
    assert finish_of(reason) == meaning
