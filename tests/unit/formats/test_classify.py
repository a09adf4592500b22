"""Whose fault an error is: by status, then by the provider's own codes, and by wording only where that is milder."""

import json
from typing import Any

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.openai.failure import failure_in_stream
from gateway.providers.registry import ADAPTERS
from tests.unit.formats.test_compatible_failure import openai_error

REJECTED = ErrorKind.UPSTREAM_REJECTED
FLAGGED = ErrorKind.UPSTREAM_FLAGGED
EVERY_ADAPTER = sorted(ADAPTERS)


def failure(adapter: str, status: int, body: Any) -> UpstreamError:
    return ADAPTERS[adapter].failure(status, {}, json.dumps(body).encode())


def error_of(adapter: str, message: str) -> Any:
    """Write a refusal of the request without a code, in the adapter's own shape."""
    if adapter == "anthropic":
        return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    return openai_error(message)


PROVOKED = (
    "Invalid schema for function 'get_billing_info': 'type' is missing",
    "tools.0.get_billing_info: billing is not of type 'object'",
    "Invalid 'tools[0].function.name': 'check_quota_and_payment' is too long",
    "messages[0]: unexpected text 'Your credit balance is too low to access the Anthropic API'",
    "'Incorrect API key provided: sk-1' is no valid value of 'stop'",
    "Invalid value: 'insufficient_quota'. Expected one of 'auto', 'none'",
    "function 'invalid_api_key_handler': parameters: required is missing",
    "tools.1.name: 'organization has been disabled' does not match ^[a-zA-Z0-9_-]{1,64}$",
    "metadata: value 'insufficient balance' is too long",
)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("message", PROVOKED)
def test_words_about_an_account_stay_the_callers_own_fault(message: str, status: int) -> None:
    """What the caller wrote is repeated in the message: neither another target nor the breaker has to do with it."""
    for adapter in EVERY_ADAPTER:
        error = failure(adapter, status, error_of(adapter, message))
        assert error.kind is REJECTED, adapter
        assert (error.meaning.retryable, error.meaning.trips_breaker) == (False, False), adapter
        assert error.status == status, adapter


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("tool 'x': the model `y` does not exist", ErrorKind.UPSTREAM_UNSUPPORTED),
        ("stop: 'is not a chat model' is too long", ErrorKind.UPSTREAM_UNSUPPORTED),
        ("tools.0.name: 'context length' has a blank", ErrorKind.CONTEXT_LENGTH),
        ("tools.0.name: 'content filter policy' has a blank", FLAGGED),
    ],
)
@pytest.mark.parametrize("adapter", EVERY_ADAPTER)
def test_wording_closes_no_target(adapter: str, message: str, kind: ErrorKind) -> None:
    """It may send the call to another target or end it, both of which cost its caller alone."""
    error = failure(adapter, 400, error_of(adapter, message))
    assert error.kind is kind
    assert not error.meaning.trips_breaker


@pytest.mark.parametrize("message", [*PROVOKED, "Your input was flagged", "The model `x` does not exist", ""])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ErrorKind.UPSTREAM_CREDENTIALS),
        (402, ErrorKind.UPSTREAM_CREDENTIALS),
        (429, ErrorKind.UPSTREAM_RATE_LIMITED),
        (503, ErrorKind.UPSTREAM_OVERLOADED),
        (529, ErrorKind.UPSTREAM_OVERLOADED),
        (500, ErrorKind.UPSTREAM_ERROR),
        (502, ErrorKind.UPSTREAM_ERROR),
    ],
)
def test_status_decides(status: int, kind: ErrorKind, message: str) -> None:
    """No wording makes the caller's fault of what a status says of the account or the server."""
    for adapter in EVERY_ADAPTER:
        assert failure(adapter, status, error_of(adapter, message)).kind is kind, adapter


def _azure(inner: Any) -> Any:
    message = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
    return {
        "error": {"message": message, "type": None, "param": "prompt", "code": "content_filter", "innererror": inner}
    }


# Each from the provider's own documentation, or from a public report that quotes the answer.
MODERATION: dict[str, tuple[str, int, Any]] = {
    "openrouter": (  # openrouter.ai/docs/api/reference/errors-and-debugging
        "openrouter", 403,
        {"error": {"code": 403, "message": "Your chosen model requires moderation and your input was flagged",
                   "metadata": {"reasons": ["violence"], "flagged_input": "x", "provider_name": "p"}}},
    ),
    "openrouter without details": ("openrouter", 403, {"error": {"code": 403, "message": "your input was flagged"}}),
    "openrouter details alone": (
        "openrouter", 403, {"error": {"code": 403, "message": "No.", "metadata": {"reasons": ["x"]}}}),
    "behind another gateway": ("compatible", 403, openai_error("your input was flagged", kind="moderation")),
    "own replica's proxy": ("vllm", 403, openai_error("Your prompt was flagged.")),
    "xai": (  # UKGovernmentBEIS/inspect_ai 2267
        "xai", 403,
        {"code": "The caller does not have permission to execute the specified operation",
         "error": "Content violates usage guidelines. Team: 1-2, API key ID: 3-4, Failed check: SAFETY_CHECK_TYPE_BIO"},
    ),
    "azure": ("compatible", 400, _azure({"code": "ResponsibleAIPolicyViolation"})),
    "azure by its inner code": (
        "compatible", 400, {"error": {"message": "No.", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    "openai image": ("openai", 400, openai_error("Your request was rejected as a result of our safety system.",
                                                 code="moderation_blocked", kind="image_generation_user_error")),
    "openai policy": ("openai", 400, openai_error("Invalid prompt: your prompt was flagged as potentially "
                                                  "violating our usage policy.", code="invalid_prompt")),
    "deepseek": ("deepseek", 400, openai_error("Content Exists Risk")),  # deepseek-ai/DeepSeek-V2 30
    "alibaba": ("compatible", 400, openai_error("Input data may contain inappropriate content.",
                                                code="data_inspection_failed")),
    "anthropic": ("anthropic", 400, error_of("anthropic", "Output blocked by content filtering policy")),
}  # fmt: skip


@pytest.mark.parametrize(("adapter", "status", "body"), MODERATION.values(), ids=MODERATION)
def test_moderation_is_the_callers_and_tried_nowhere_else(adapter: str, status: int, body: Any) -> None:
    """The flagged prompt goes to no other provider, and the target stays open for all."""
    error = failure(adapter, status, body)
    assert error.kind is FLAGGED
    assert (error.meaning.retryable, error.meaning.trips_breaker, error.status) == (False, False, status)
    assert error.code
    assert "Team" not in error.message


@pytest.mark.parametrize(
    "body",
    [
        openai_error("Your input was flagged", code="content_filter"),
        {"error": {"code": 403, "message": "your input was flagged"}},
        {"error": {"code": "content_policy_violation", "message": "No."}},
    ],
)
def test_moderation_within_a_stream_is_the_callers(body: Any) -> None:
    """The answer began with status 200; the error's code stands for the status."""
    assert failure_in_stream(body).kind is FLAGGED


@pytest.mark.parametrize(
    ("adapter", "body"),
    [
        ("openai", openai_error("Your account was flagged for abuse and has been suspended.")),
        ("openai", openai_error("Country, region, or territory not supported", kind="request_forbidden")),
        ("compatible", {"error": "The security token included in the request is expired"}),
        ("openrouter", {"error": {"code": 403, "message": "Key limit exceeded"}}),
        ("xai", {"code": "The caller does not have permission to execute the specified operation", "error": "No."}),
        ("anthropic", {"error": {"type": "permission_error", "message": "Your API key does not have permission."}}),
    ],
)
def test_other_403_is_about_the_account(adapter: str, body: Any) -> None:
    """Another target is asked."""
    assert failure(adapter, 403, body).kind is ErrorKind.UPSTREAM_CREDENTIALS


@pytest.mark.parametrize(
    ("adapter", "body", "kind"),
    [
        ("compatible", {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}},
         ErrorKind.UPSTREAM_CREDENTIALS),
        ("xai", {"code": "invalid-argument", "error": "Incorrect API key provided. You can obtain one."},
         ErrorKind.UPSTREAM_CREDENTIALS),
        ("openrouter", {"error": {"code": 400, "message": "x/y is not a valid model ID"}}, ErrorKind.UPSTREAM_ERROR),
        ("deepseek", openai_error("Model Not Exist"), ErrorKind.UPSTREAM_ERROR),
        ("compatible", openai_error("gone", code="model_decommissioned"), ErrorKind.UPSTREAM_ERROR),
        ("anthropic", error_of("anthropic", "Your credit balance is too low to access the Anthropic API."),
         ErrorKind.UPSTREAM_CREDENTIALS),
        ("anthropic", error_of("anthropic", "You have reached your specified API usage limits."),
         ErrorKind.UPSTREAM_CREDENTIALS),
    ],
)  # fmt: skip
def test_own_codes_and_sentences_of_a_provider_refine_a_400(adapter: str, body: Any, kind: ErrorKind) -> None:
    """They are its table's, and a sentence must begin the message; it says what happened, and closes nothing."""
    error = failure(adapter, 400, body)
    assert (error.kind, error.trips_breaker) == (kind, "gone" in str(body))
