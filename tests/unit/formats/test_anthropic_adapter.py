"""The Anthropic adapter beyond its exchanges: limits, headers, odd failures."""

import json

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats import base
from gateway.formats.anthropic.messages import AnthropicAdapter
from gateway.types import Secret
from tests.ground.builders import build_call, build_envelope, build_target, chat_body

ADAPTER = AnthropicAdapter(wall_ns=lambda: 1_700_000_000_123_456_789)


def event(body: dict[str, object]) -> bytes:
    """Write one event of a stream."""
    return f"event: {body['type']}\ndata: {json.dumps(body)}\n\n".encode()


START = event(
    {
        "type": "message_start",
        "message": {"id": "msg_1", "model": "c", "usage": {"input_tokens": 7, "output_tokens": 1}},
    }
)
TEXT = event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hallo"}})
OVERLOADED = event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


@pytest.mark.parametrize("piece", [TEXT, b" " * 100, b": keep\n\n"], ids=["text", "blanks", "comments"])
@pytest.mark.parametrize("always_stream", [False, True])
def test_answer_without_end_is_refused(always_stream: bool, piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held of one for a caller who does not stream has a limit, and no answer below it is cut."""
    monkeypatch.setattr(base, "MAX_ANSWER_BYTES", len(START) + 1000)
    decoder = ADAPTER.decoder(build_call(), build_target(always_stream=always_stream))
    decoder.feed(START)
    for _ in range(1000 // len(piece)):
        assert decoder.feed(piece) == b""
    with pytest.raises(UpstreamError) as caught:
        decoder.feed(piece)
    assert caught.value.kind is ErrorKind.UPSTREAM_PROTOCOL


def test_stream_that_is_passed_on_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is held."""
    monkeypatch.setattr(base, "MAX_ANSWER_BYTES", 1000)
    decoder = ADAPTER.decoder(build_call(build_envelope(chat_body(stream=True))), build_target())
    assert all(map(decoder.feed, [START, *[TEXT] * 50]))


@pytest.mark.parametrize(
    ("asked", "configured", "sent"), [(50, 8000, 50), (None, 8000, 8000), (None, None, 4096), (9000, 8000, 9000)]
)
def test_output_limit(asked: int | None, configured: int | None, sent: int) -> None:
    """Anthropic requires one: the call's, else the target's, else 4096. One too large is the provider's to refuse."""
    call = build_call(build_envelope(chat_body(max_tokens=asked)))
    request = ADAPTER.prepare(call)(build_target(max_output_tokens=configured), "att_1")
    assert json.loads(request.body)["max_tokens"] == sent


def test_headers() -> None:
    """The version and our attempt id travel, the key is a signer's; configured headers cannot hide the attempt id."""
    target = build_target(
        base_url="https://api.anthropic.test/",
        credential=Secret("sk-ant-x"),
        headers=(("Anthropic-Beta", "b"), ("X-Tollway-Attempt-Id", "no")),
    )
    request = ADAPTER.prepare(build_call())(target, "att_1")
    assert request.url == "https://api.anthropic.test/v1/messages"
    assert dict(request.headers) == {
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "b",
        "x-tollway-attempt-id": "att_1",
    }


def test_refusal_names_the_member_and_the_type_of_target() -> None:
    """Whoever reads it knows what to change or where else to send it."""
    told = ADAPTER.refuses(build_call(build_envelope(chat_body(seed=1))))
    assert told == "'seed' has no equivalent at Anthropic. This is a target of type anthropic."


def test_text_completions_are_refused() -> None:
    """There is no such operation at Anthropic."""
    told = ADAPTER.refuses(build_call(operation="completions"))
    assert told is not None
    assert "'completions'" in told


def test_answers_are_dated_by_the_injected_clock() -> None:
    """``created`` is in whole seconds of the wall clock."""
    decoder = ADAPTER.decoder(build_call(build_envelope(chat_body(stream=True))), build_target())
    assert b'"created":1700000000,' in decoder.feed(START)


@pytest.mark.parametrize("separately", [False, True])
def test_error_in_the_stream_before_content_is_raised_at_once(separately: bool) -> None:
    """Nothing but the role chunk could have gone out, so another target may still be tried."""
    decoder = ADAPTER.decoder(build_call(build_envelope(chat_body(stream=True))), build_target())
    if separately:
        decoder.feed(START)
    with pytest.raises(UpstreamError) as caught:
        decoder.feed(OVERLOADED if separately else START + OVERLOADED)
    assert caught.value.kind is ErrorKind.UPSTREAM_OVERLOADED
    assert decoder.content_events == 0


def test_content_before_an_error_in_the_same_chunk_is_counted_and_passed_on() -> None:
    """The caller gets what came before, then the error; a caller who does not stream gets the error alone."""
    streaming = ADAPTER.decoder(build_call(build_envelope(chat_body(stream=True))), build_target())
    assert b"Hallo" in streaming.feed(START + TEXT + OVERLOADED)
    with pytest.raises(UpstreamError):
        streaming.finish()
    whole = ADAPTER.decoder(build_call(), build_target(always_stream=True))
    with pytest.raises(UpstreamError):
        whole.feed(START + TEXT + OVERLOADED)
    for decoder in (streaming, whole):
        assert (decoder.content_events, decoder.content_bytes, decoder.complete) == (1, 5, False)


def test_usage_of_an_unfinished_stream_is_an_estimate_that_covers_what_passed() -> None:
    """``message_start`` speaks of one output token; a cut stream is billed for what was relayed."""
    decoder = ADAPTER.decoder(build_call(build_envelope(chat_body(stream=True))), build_target())
    decoder.feed(START + TEXT * 30)
    assert decoder.usage is not None
    assert (decoder.usage.input_tokens, decoder.usage.output_tokens, decoder.usage.origin) == (7, 37, "estimated")


@pytest.mark.parametrize(
    "nonsense",
    [
        *(b"data: {not json}\n\n", b"data: []\n\n", TEXT, b'data: {"type":"message_start"}\n\n', START + START),
        START + TEXT.replace(b"Hallo", b"\xc3"),
    ],
)
def test_nonsense_in_a_stream_is_a_protocol_error(nonsense: bytes) -> None:
    """Broken JSON, content before the start, a start without a message or a second one, half a character."""
    decoder = ADAPTER.decoder(build_call(build_envelope(chat_body(stream=True))), build_target())
    with pytest.raises(UpstreamError) as caught:
        decoder.feed(nonsense)
    assert caught.value.kind is ErrorKind.UPSTREAM_PROTOCOL


def test_arguments_that_come_whole_are_not_lost() -> None:
    """Servers that put a tool's input into ``content_block_start``, without fragments, are understood byte for byte."""
    tool = b'{"type":"tool_use","id":"t","name":"f","input":{"a": 1.0}}'
    block = b'data: {"type":"content_block_start","index":0,"content_block":' + tool + b"}\n\n"
    decoder = ADAPTER.decoder(build_call(build_envelope(chat_body(stream=True))), build_target())
    got = decoder.feed(START + block + event({"type": "content_block_stop", "index": 0}))
    assert rb'"arguments":"{\"a\": 1.0}"' in got


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ErrorKind.UPSTREAM_CREDENTIALS),
        (403, ErrorKind.UPSTREAM_CREDENTIALS),
        (404, ErrorKind.UPSTREAM_ERROR),
        (413, ErrorKind.UPSTREAM_UNSUPPORTED),
        (429, ErrorKind.UPSTREAM_RATE_LIMITED),
        (500, ErrorKind.UPSTREAM_ERROR),
        (502, ErrorKind.UPSTREAM_ERROR),
        (503, ErrorKind.UPSTREAM_OVERLOADED),
        (529, ErrorKind.UPSTREAM_OVERLOADED),
    ],
)
@pytest.mark.parametrize(
    "body", [b"<html>proxy</html>", b'{"type":"error","error":{"type":"brand_new_error","message":"x"}}']
)
def test_failures_in_other_words_are_classified_by_status(status: int, kind: ErrorKind, body: bytes) -> None:
    """A proxy's page, and error types that are yet to come."""
    assert ADAPTER.failure(status, {}, body).kind is kind


@pytest.mark.parametrize(
    ("message", "secret"),
    [
        ("invalid key sk-ant-api03-AbCdEf_123456 given", "sk-ant"),
        ("bad header Bearer abc.def.ghi", "abc.def"),
        ("token " + "a1" * 30, "a1a1"),
    ],
)
def test_nothing_like_a_credential_is_passed_on(message: str, secret: str) -> None:
    """The provider's words may quote a key."""
    body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": message}}).encode()
    told = ADAPTER.failure(400, {}, body).message
    assert secret not in told
    assert "(redacted)" in told


def test_an_error_code_about_our_account_is_not_the_callers_fault() -> None:
    """``details.error_code`` names the cause (anthropic SDK 2.12, ``APIStatusError.error_code``)."""
    details = {"error_code": "enforced_spend_limit_reached"}
    error = {"type": "invalid_request_error", "message": "Not now.", "details": details}
    body = json.dumps({"type": "error", "error": error}).encode()
    assert ADAPTER.failure(400, {}, body).kind is ErrorKind.UPSTREAM_CREDENTIALS


def test_half_a_character_is_a_protocol_error_and_in_an_error_body_ignored() -> None:
    """Bad UTF-8 is nonsense like any other."""
    decoder = ADAPTER.decoder(build_call(), build_target())
    decoder.feed(b'{"id":"\xc3","model":"c"}')
    with pytest.raises(UpstreamError) as caught:
        decoder.finish()
    assert caught.value.kind is ErrorKind.UPSTREAM_PROTOCOL
    assert ADAPTER.failure(529, {}, b'{"error":{"type":"\xc3"}}').kind is ErrorKind.UPSTREAM_OVERLOADED


@pytest.mark.parametrize(
    "retry_after", ["soon", "-1", "inf", "1e3", "1_0", "\uff19", " ", "9" * 400, "Wed, 21 Oct 2026 07:28:00 GMT"]
)
def test_retry_after_that_is_no_number_of_seconds_is_passed_over(retry_after: str) -> None:
    """Anthropic documents seconds."""
    assert ADAPTER.failure(429, {"retry-after": retry_after}, b"").retry_after_s is None
