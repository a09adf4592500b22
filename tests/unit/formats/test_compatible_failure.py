"""Whose fault an upstream's error is, and what the caller may read of it."""

import json
from typing import Any

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.openai.compatible import CompatibleAdapter
from gateway.types import Operation


def failure(status: int, body: Any = b"", operation: Operation = "chat", **headers: str) -> UpstreamError:
    """Classify an answer; a body that is not bytes is written as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return CompatibleAdapter().failure(status, names, raw, operation)


def openai_error(message: str = "No.", code: Any = None, param: Any = None, kind: str = "invalid_request_error") -> Any:
    """Write an error as OpenAI does."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_CONTEXT = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."

CASES: dict[str, tuple[int, Any, ErrorKind]] = {
    "bad_request": (400, openai_error("Invalid 'temperature'.", param="temperature"), ErrorKind.UPSTREAM_REJECTED),
    "unprocessable": (422, {"detail": [{"loc": ["body", "x"], "msg": "bad"}]}, ErrorKind.UPSTREAM_REJECTED),
    "too_large": (413, b"<html>413 Request Entity Too Large</html>", ErrorKind.UPSTREAM_UNSUPPORTED),
    "plain_text": (400, b"max_tokens must be positive", ErrorKind.UPSTREAM_REJECTED),
    "vllm": (400, openai_error(code=400, kind="BadRequestError"), ErrorKind.UPSTREAM_REJECTED),
    "vllm_flat": (400, {"object": "error", "message": "bad", "code": 400}, ErrorKind.UPSTREAM_REJECTED),
    "file_not_found": (404, openai_error("No such file.", param="file_id"), ErrorKind.UPSTREAM_REJECTED),
    "deepseek_tools": (400, openai_error("(insufficient tool messages)"), ErrorKind.UPSTREAM_REJECTED),
    "context_code": (400, openai_error("Too long.", code="context_length_exceeded"), ErrorKind.CONTEXT_LENGTH),
    "context_vllm": (400, openai_error(_CONTEXT, code=400), ErrorKind.CONTEXT_LENGTH),
    "context_text": (422, {"error": "inputs tokens exceed the maximum number of tokens"}, ErrorKind.CONTEXT_LENGTH),
    "model_404": (404, openai_error("The model `x` does not exist.", code="model_not_found"), ErrorKind.UPSTREAM_ERROR),
    "model_vllm": (404, openai_error("No model `x`.", code=404, param="model"), ErrorKind.UPSTREAM_ERROR),
    "model_400": (400, openai_error("Model Not Exist"), ErrorKind.UPSTREAM_ERROR),
    "model_param": (400, openai_error("invalid", param="model"), ErrorKind.UPSTREAM_ERROR),
    "path": (404, {"detail": "Not Found"}, ErrorKind.UPSTREAM_ERROR),
    "path_ray": (404, b"Path '/m/v1/chat/completions' not found.", ErrorKind.UPSTREAM_ERROR),
    "page_400": (400, b"<html>The plain HTTP request was sent to HTTPS port</html>", ErrorKind.UPSTREAM_ERROR),
    "key": (401, openai_error("Incorrect API key provided: sk-abc"), ErrorKind.UPSTREAM_CREDENTIALS),
    "forbidden": (403, b"", ErrorKind.UPSTREAM_CREDENTIALS),
    "key_400": (400, {"code": "x", "error": "Incorrect API key provided: xai-abc"}, ErrorKind.UPSTREAM_CREDENTIALS),
    "quota_400": (400, openai_error("You exceeded", code="insufficient_quota"), ErrorKind.UPSTREAM_CREDENTIALS),
    "billing_400": (400, openai_error("Your credit balance is too low"), ErrorKind.UPSTREAM_REJECTED),
    "quota_429": (429, openai_error("You exceeded", code="insufficient_quota"), ErrorKind.UPSTREAM_CREDENTIALS),
    "model_words": (400, openai_error("The model `x` is not available."), ErrorKind.UPSTREAM_UNSUPPORTED),
    "payment": (402, openai_error("Insufficient Balance"), ErrorKind.UPSTREAM_CREDENTIALS),
    "suspended": (412, openai_error("Account is suspended"), ErrorKind.UPSTREAM_CREDENTIALS),
    "rate": (429, openai_error("Slow down", kind="requests"), ErrorKind.UPSTREAM_RATE_LIMITED),
    "overload": (503, b"", ErrorKind.UPSTREAM_OVERLOADED),
    "overload_529": (529, b"", ErrorKind.UPSTREAM_OVERLOADED),
    "server": (500, openai_error("The server had an error"), ErrorKind.UPSTREAM_ERROR),
    "gateway": (502, b"<html>Bad Gateway</html>", ErrorKind.UPSTREAM_ERROR),
    "timeout": (504, b"", ErrorKind.UPSTREAM_ERROR),
    "method": (405, {"detail": "Method Not Allowed"}, ErrorKind.UPSTREAM_ERROR),
    "redirect": (307, b"", ErrorKind.UPSTREAM_ERROR),
    "no_chat_model": (404, openai_error("This is not a chat model and thus not supported in the v1/chat/completions "
                                        "endpoint.", param="model"), ErrorKind.UPSTREAM_UNSUPPORTED),
    "no_chat_ollama": (400, {"error": '"bge-m3" does not support chat'}, ErrorKind.UPSTREAM_UNSUPPORTED),
    "no_chat_openrouter": (400, openai_error("x/y is an embedding model and cannot be used with the chat/completions "
                                             "endpoint."), ErrorKind.UPSTREAM_UNSUPPORTED),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), CASES.values(), ids=CASES)
def test_kinds_of_failure_are_distinguished(status: int, body: Any, kind: ErrorKind) -> None:
    """The caller's mistakes end the request; model name, key, quota and server are ours to work around."""
    error = failure(status, body)
    assert (error.kind, error.upstream_status) == (kind, status)
    assert error.meaning.retryable is (kind is not ErrorKind.UPSTREAM_REJECTED)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (403, openai_error("You are not allowed to generate embeddings from this model"), None),
        (403, {"error": {"message": "The API you are accessing is not open", "type": "permission_denied_error"}}, None),
        (404, {"detail": "Not Found"}, None),
        (404, b"404 page not found", None),
        (404, b"<html>404</html>", None),
        (405, {"detail": "Method Not Allowed"}, None),
        (501, openai_error("The model does not support Embeddings API", kind="NotImplementedError"), None),
        (500, {"error": "this model does not support embeddings"}, None),
        (404, openai_error("The model `x` does not exist.", code="model_not_found"), ErrorKind.UPSTREAM_ERROR),
        (401, openai_error("Incorrect API key provided"), ErrorKind.UPSTREAM_CREDENTIALS),
        (429, b"", ErrorKind.UPSTREAM_RATE_LIMITED),
        (500, b"", ErrorKind.UPSTREAM_ERROR),
        (400, openai_error("'$.input' is invalid.", param="input"), ErrorKind.UPSTREAM_REJECTED),
        (404, openai_error("No such file.", param="file_id"), ErrorKind.UPSTREAM_REJECTED),
    ],
)
def test_a_model_that_does_not_embed_is_in_good_health(status: int, body: Any, kind: ErrorKind | None) -> None:
    """Another target may do it, and chats go on here: otherwise anybody could close a chat model's breaker."""
    error = failure(status, body, "embeddings")
    assert error.kind is (kind or ErrorKind.UPSTREAM_UNSUPPORTED)
    if kind is None:
        assert (error.meaning.retryable, error.meaning.trips_breaker) == (True, False)


def test_a_rejection_carries_the_upstreams_words_status_param_and_code() -> None:
    """The caller reads what the provider would have said."""
    error = failure(422, openai_error("Bad tool.", code="bad_tool", param="tools"))
    assert (error.message, error.param, error.code, error.status) == ("Bad tool.", "tools", "bad_tool", 422)


def test_other_failures_do_not_repeat_the_upstream() -> None:
    """Its text may name organisations, keys and hosts."""
    error = failure(500, openai_error("org-123 at 10.0.0.7 failed", kind="server_error"))
    assert error.message == "The upstream failed (HTTP 500, server_error)."


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdef1234567890",
        "Bearer abc.def-ghi",
        "gsk_abcdefghijk",
        "hf_abcdefghijkl",
        "xai-abcdefghij",
        "AIzaSyA1234567890",
        "0123456789abcdef0123456789abcdef01234567",
        "nvapi-0123456789abcdef",
        "ghp_0123456789abcdefABCD",
        "AKIA0123456789ABCDEF",
        "ya29.a0AfH6SMBx",
    ],
)
def test_credentials_are_taken_out_of_messages(secret: str) -> None:
    """Whatever an upstream repeats, no key is passed on."""
    error = failure(400, openai_error(f"Bad header {secret}, sorry"))
    assert error.message == "Bad header (redacted), sorry"


@pytest.mark.parametrize(
    "address",
    [
        *("http://10.0.0.7:8000/v1", "127.0.0.1:8000", "http://vllm-0.pod.svc:8000/x", "http://gpu7:80"),
        *("http://[::1]:8000/x", "[fd00::1]:8000", "fd12:3456:789a::1", "fe80::1%eth0"),
    ],
)
def test_inner_addresses_are_taken_out_of_messages(address: str) -> None:
    """An upstream's address is nobody's business."""
    assert failure(400, openai_error(f"From {address} no")).message == "From (address) no"


def test_password_of_a_connection_is_taken_out_of_messages() -> None:
    assert failure(400, openai_error("At redis://me:pass@cache/0.")).message == "At redis://(redacted)@cache/0."


def test_ordinary_messages_stay_as_they_are() -> None:
    """Names, figures and links of the documentation are no secrets."""
    message = "'task_key' 0.75 of gpt-4.1-mini: see https://platform.openai.com/docs/guides, sk- and key_names"
    assert failure(400, openai_error(message)).message == message


def test_long_and_broken_messages_are_made_sound() -> None:
    """A message is always UTF-8, and has a bound; how much of it a caller gets is decided in ``redaction``."""
    assert (1 << 13) - 2 <= len(failure(400, openai_error("a b " * 20_000)).message) <= 1 << 13
    assert failure(400, b'{"error":{"message":"x\\ud800y"}}').message == "x?y"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", {"error": None}, {"error": {"message": 5}}, b"\xff\xfe"])
def test_strange_bodies_still_have_a_meaning(body: Any) -> None:
    """Whatever the body is, there is an error with a sentence."""
    assert failure(400, body).message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": " 0.5 "}, 0.5),
        ({"retry_after_ms": "250", "retry_after": "1"}, 0.25),
        ({"retry_after": "Sat, 21 Nov 2026 10:00:30 GMT", "date": "Sat, 21 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"retry_after": "Sat, 21 Nov 2026 10:00:00 GMT", "date": "Sat, 21 Nov 2026 10:00:30 GMT"}, 0.0),
        ({"retry_after": "Sat, 21 Nov 2026 10:00:30 GMT"}, None),
        ({"retry_after": "soon", "date": "now"}, None),
        ({"retry_after": "-5"}, None),
        ({"retry_after": "inf"}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_read_in_all_its_forms(status: int, headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds, or a date against the answer's own clock."""
    assert failure(status, b"", **headers).retry_after_s == seconds


@pytest.mark.parametrize("shape", ["sk-live-0123456789", "gsk_0123456789", "10.0.0.7", "db.internal"])
def test_code_or_type_in_the_shape_of_a_key_or_an_address_is_none(shape: str) -> None:
    """Neither in the sentence about our configuration, nor as the code of a refusal."""
    for status in (400, 401, 500):
        body = json.dumps({"error": {"message": "no", "code": shape, "type": shape}}).encode()
        error = CompatibleAdapter().failure(status, {}, body)
        assert shape not in error.message
        assert error.upstream_code is None


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [("35s", 35.0), ("0.5s", 0.5), ("35", None), ("-1s", None), (35, None), (None, None), ("35s\nx: y", None)],
)
def test_the_wait_in_geminis_body_is_read_unless_a_header_names_one(delay: Any, seconds: float | None) -> None:
    violated = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []}
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    body = [{"error": {"code": 429, "message": "No.", "status": "RESOURCE_EXHAUSTED", "details": [violated, info]}}]
    error = failure(429, body)
    assert (error.kind, error.retry_after_s) == (ErrorKind.UPSTREAM_RATE_LIMITED, seconds)
    assert failure(429, body, retry_after="7").retry_after_s == 7.0
