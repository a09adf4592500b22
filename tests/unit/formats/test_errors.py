"""Errors reach the caller in the shape its SDK raises on."""

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.formats.errors import anthropic_error, openai_error

_ERROR = GatewayError(ErrorKind.INVALID_REQUEST, "'n' must be \"positive\".", param="n")


def test_openai_error_has_message_type_param_and_code() -> None:
    """The four members are always there, null where nothing is known."""
    assert json.loads(openai_error(_ERROR, "req_1")) == {
        "error": {"message": "'n' must be \"positive\".", "type": "invalid_request_error", "param": "n", "code": None}
    }


def test_an_upstreams_own_code_is_kept_when_the_request_was_at_fault() -> None:
    """A rejection carries the provider's code; other upstream failures carry ours."""
    rejected = UpstreamError(ErrorKind.UPSTREAM_REJECTED, "No.", upstream_status=422, code="bad_tool")
    assert json.loads(openai_error(rejected, "req_1"))["error"]["code"] == "bad_tool"
    failed = UpstreamError(ErrorKind.UPSTREAM_ERROR, "No.", upstream_status=500, code="boom")
    assert json.loads(openai_error(failed, "req_1"))["error"]["code"] == "upstream_error"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ErrorKind.INVALID_REQUEST, "invalid_request_error"),
        (ErrorKind.AUTHENTICATION, "authentication_error"),
        (ErrorKind.PERMISSION, "permission_error"),
        (ErrorKind.MODEL_NOT_FOUND, "not_found_error"),
        (ErrorKind.BODY_TOO_LARGE, "request_too_large"),
        (ErrorKind.RATE_LIMITED, "rate_limit_error"),
        (ErrorKind.UPSTREAM_OVERLOADED, "overloaded_error"),
        (ErrorKind.UPSTREAM_TIMEOUT, "timeout_error"),
        (ErrorKind.INTERNAL, "api_error"),
        (ErrorKind.METHOD_NOT_ALLOWED, "invalid_request_error"),
    ],
)
def test_anthropic_error_type_follows_the_status(kind: ErrorKind, expected: str) -> None:
    """Each status has the type of Anthropic's error page."""
    assert json.loads(anthropic_error(GatewayError(kind, "No."), "req_1")) == {
        "type": "error",
        "error": {"type": expected, "message": "No."},
        "request_id": "req_1",
    }


@pytest.mark.parametrize(
    ("said", "tokens", "expected"),
    [
        ("The request is too long for every target.", (300, 200), "prompt is too long: 300 tokens > 200 maximum"),
        ("The request is too long for every target.", (200, 200), "prompt is too long"),
        ("The request is too long for every target.", None, "prompt is too long"),
        ("This model's maximum context length is 9 tokens.", (10, 9), "prompt is too long: 10 tokens > 9 maximum"),
        (
            "prompt is too long: 208656 tokens > 200000 maximum Tried: a: context_length.",
            (220_000, 200_000),
            "prompt is too long: 208656 tokens > 200000 maximum",
        ),
        (
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease one",
            (180_000, 200_000),
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease one",
        ),
    ],
)
def test_prompt_that_is_too_long_is_in_each_dialects_words(
    said: str, tokens: tuple[int, int] | None, expected: str
) -> None:
    """Claude Code shortens its conversation by Anthropic's sentence alone, clients of OpenAI by the code."""
    error = UpstreamError(ErrorKind.CONTEXT_LENGTH, said, upstream_status=413)
    error.tokens = tokens
    assert error.status == 400
    assert json.loads(anthropic_error(error, "r"))["error"] == {"type": "invalid_request_error", "message": expected}
    described = json.loads(openai_error(error, "r"))["error"]
    assert (described["message"], described["code"]) == (said, "context_length_exceeded")


@pytest.mark.parametrize(
    ("error", "details"),
    [
        (GatewayError(ErrorKind.UNSUPPORTED, "No.", param="thread"), {"error_code": "thread_unsupported_request"}),
        (GatewayError(ErrorKind.UNSUPPORTED, "No.", param="top_k"), None),
        (
            UpstreamError(ErrorKind.UPSTREAM_REJECTED, "No.", upstream_status=400, code="thread_not_found"),
            {"error_code": "thread_not_found"},
        ),
        (UpstreamError(ErrorKind.UPSTREAM_REJECTED, "No.", upstream_status=400, code="other"), None),
    ],
)
def test_error_of_a_thread_has_the_code_that_anthropics_sdk_looks_for(error: GatewayError, details: Any) -> None:
    """Behind it the whole conversation is sent."""
    assert json.loads(anthropic_error(error, "r"))["error"].get("details") == details


def _answers(body: bytes) -> httpx2.MockTransport:
    return httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    )


def test_the_openai_sdk_raises_on_the_final_event() -> None:
    """A stream that failed is never taken for a short answer."""
    answers = _answers(openai_error(_ERROR, "r", in_stream=True))
    client = openai.OpenAI(api_key="x", max_retries=0, http_client=httpx2.Client(transport=answers))
    stream = client.chat.completions.create(model="m", messages=[], stream=True)
    with pytest.raises(openai.APIError, match="positive"):
        next(iter(stream))


def test_the_anthropic_sdk_raises_on_the_final_event() -> None:
    """The same for Anthropic's client."""
    client = anthropic.Anthropic(
        api_key="x",
        max_retries=0,
        http_client=httpx2.Client(transport=_answers(anthropic_error(_ERROR, "r", in_stream=True))),
    )
    stream = client.messages.create(model="m", max_tokens=1, messages=[], stream=True)
    with pytest.raises(anthropic.APIError, match="positive"):
        next(iter(stream))
