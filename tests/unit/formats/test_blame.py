"""Whose fault an error is, as one table: statuses x bodies x adapters. Extend it by a line."""

import json
from typing import Any

import pytest

from gateway.errors import ErrorKind, UpstreamError
from gateway.formats.openai.failure import failure_in_stream
from gateway.providers.registry import ADAPTERS

OURS = ErrorKind.UPSTREAM_ERROR
ACCOUNT = ErrorKind.UPSTREAM_CREDENTIALS
RATE = ErrorKind.UPSTREAM_RATE_LIMITED
CALLER = ErrorKind.UPSTREAM_REJECTED
MODEL = ErrorKind.UPSTREAM_UNSUPPORTED
LENGTH = ErrorKind.CONTEXT_LENGTH
EVERY = sorted(ADAPTERS)
OPENAI_LIKE = [name for name in EVERY if name != "anthropic"]


def openai(message: str, code: Any = None, param: str | None = None, kind: str = "invalid_request_error") -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic(message: str, kind: str = "invalid_request_error") -> Any:
    return {"type": "error", "error": {"type": kind, "message": message}}


def fastapi(msg: str, *loc: str, kind: str = "value_error") -> Any:
    return {"detail": [{"loc": ["body", *loc], "msg": msg, "type": kind}]}


BLAME: list[tuple[list[str], int, Any, ErrorKind]] = [
    # A generic type refines nothing: the status decides.
    (EVERY, 404, anthropic("model: claude-9"), OURS),
    (EVERY, 404, openai("Unknown request URL: POST /chat/completions."), OURS),
    (EVERY, 500, anthropic("No."), OURS),
    (EVERY, 429, anthropic("No."), RATE),
    (EVERY, 401, anthropic("No."), ACCOUNT),
    (EVERY, 403, anthropic("No."), ACCOUNT),
    (EVERY, 400, anthropic("No.", kind="not_found_error"), CALLER),
    (EVERY, 400, anthropic("No.", kind="api_error"), CALLER),
    # The caller's own.
    (EVERY, 400, anthropic("messages.0: Input does not match the expected shape."), CALLER),
    (EVERY, 400, anthropic("messages: all messages must have non-empty content"), CALLER),
    (EVERY, 400, openai("Missing required parameter: 'messages[1].content[0].type'.", "missing_required_parameter",
                        "messages[1].content[0].type"), CALLER),
    (EVERY, 400, openai("Invalid schema for function 'f': 'additionalProperties' is required to be supplied and to be "
                        "false.", "invalid_function_parameters", "tools[0].function.parameters"), CALLER),
    (EVERY, 400, openai("Error while downloading https://example.com/a.jpg.", "invalid_image_url"), CALLER),
    (EVERY, 422, fastapi("Input should be a valid string", "messages", "0", "role"), CALLER),
    (EVERY, 404, openai("No such file.", None, "messages[0].content[0].file.file_id"), CALLER),
    # Too long for this model.
    (EVERY, 400, anthropic("prompt is too long: 3333404 tokens > 200000 maximum"), LENGTH),
    (EVERY, 400, anthropic("input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000"), LENGTH),
    (EVERY, 400, openai("Your input exceeds the context window of this model.", "context_length_exceeded"), LENGTH),
    (EVERY, 400, openai("prompt too long; exceeded max context length by 1119046 tokens"), LENGTH),
    (EVERY, 400, openai("the request exceeds the available context size", 400, kind="exceed_context_size_error"),
     LENGTH),
    (EVERY, 413, openai("Please reduce the length of the messages or completion."), LENGTH),
    (EVERY, 422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000",
                  "error_type": "validation"}, LENGTH),
    (EVERY, 400, [{"error": {"code": 400, "message": "The input token count (1200000) exceeds the maximum number of "
                             "tokens allowed (1048576).", "status": "INVALID_ARGUMENT"}}], LENGTH),
    (EVERY, 400, {"error": {"code": 400, "message": "Provider returned error", "metadata": {
        "provider_name": "P", "raw": '{"error":{"message":"maximum context length is 8192 tokens"}}'}}}, LENGTH),
    (EVERY, 400, {"error": {"code": 400, "message": "Provider returned error", "metadata": {
        "provider_name": "P", "raw": {"error": {"message": "maximum context length is 8192 tokens"}}}}}, LENGTH),
    # A limit of its own.
    (EVERY, 413, {}, MODEL),
    (EVERY, 413, anthropic("Request exceeds the maximum size", kind="request_too_large"), MODEL),
    (EVERY, 413, openai("Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 9000",
                        "rate_limit_exceeded", kind="tokens"), MODEL),
    (EVERY, 429, openai("Request too large for gpt-4o in organization org-abc1234 on tokens per min (TPM): Limit 30000",
                        "rate_limit_exceeded", kind="tokens"), MODEL),
    (EVERY, 400, openai("max_tokens is too large: 5000. This model supports at most 4096 completion tokens.",
                        "invalid_value", "max_tokens"), MODEL),
    (EVERY, 400, anthropic("max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens for x"),
     MODEL),
    (EVERY, 400, anthropic("messages.0.content.1.image.source.base64: image exceeds 5 MB maximum"), MODEL),
    (OPENAI_LIKE, 400, openai("Invalid 'tools': array too long. Expected an array with maximum length 128.",
                        "array_above_max_length", "tools"), MODEL),
    # A parameter, role or modality that it lacks.
    (EVERY, 400, openai("Unsupported parameter: 'max_tokens' is not supported with this model.",
                        "unsupported_parameter", "max_tokens"), MODEL),
    (OPENAI_LIKE, 400, openai("No.", "unsupported_value", "temperature"), MODEL),
    (EVERY, 400, openai("Unrecognized request argument supplied: top_k"), MODEL),
    (EVERY, 400, openai("Web search options not supported with this model.", None, "web_search_options"), MODEL),
    (EVERY, 400, openai("Argument not supported on this model: stop"), MODEL),
    (EVERY, 400, openai("invalid temperature: only 1 is allowed for this model"), MODEL),
    (EVERY, 400, openai("Invalid content type. image_url is only supported by certain models."), MODEL),
    (EVERY, 400, openai("registry.ollama.ai/library/gemma:2b does not support tools", kind="api_error"), MODEL),
    (EVERY, 400, openai("'messages.1' : property 'reasoning_content' is unsupported"), MODEL),
    (EVERY, 400, openai("System role not supported", 400, kind="BadRequestError"), MODEL),
    (EVERY, 400, openai("Conversation roles must alternate user/assistant/user/assistant/...", 400), MODEL),
    (EVERY, 400, anthropic("This model does not support effort level 'xhigh'."), MODEL),
    (EVERY, 400, anthropic("`temperature` is deprecated for this model."), MODEL),
    (EVERY, 400, anthropic("This model does not support assistant message prefill."), MODEL),
    (EVERY, 404, openai("No endpoints found that support image input", 404), MODEL),
    (EVERY, 422, fastapi("Extra inputs are not permitted", "top_k", kind="extra_forbidden"), MODEL),
    (OPENAI_LIKE, 422, {"object": "error", "message": fastapi("No.", "stream_options", kind="extra_forbidden"),
                  "type": "invalid_request_error"}, MODEL),
    (OPENAI_LIKE, 400, openai("Failed to call a function.", "tool_use_failed"), MODEL),
    # An option that its engine was started without.
    (EVERY, 400, openai('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', 400),
     MODEL),
    (EVERY, 400, openai("At most 0 image(s) may be provided in one prompt.", 400), MODEL),
    (EVERY, 500, openai("tools param requires --jinja flag", 500, kind="server_error"), MODEL),
    (EVERY, 400, {"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find '
                            "field."}}, MODEL),
    (EVERY, 400, openai("Unable to submit request because thinking_budget is out of range."), MODEL),
    (EVERY, 400, anthropic("temperature: range: 0..1"), MODEL),
    (EVERY, 400, anthropic("messages.0.content.1.pdf: A maximum of 100 PDF pages may be provided."), MODEL),
    (EVERY, 400, anthropic("The long context beta is not yet available for this subscription."), MODEL),
    (OPENAI_LIKE, 400, openai("Invalid 'max_output_tokens': integer below minimum value.", "integer_below_min_value",
                              "max_output_tokens"), MODEL),
    (OPENAI_LIKE, 400, openai("Invalid 'temperature': decimal above maximum value.", "decimal_above_max_value",
                              "temperature"), MODEL),
    (EVERY, 400, openai("Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
                        "3230", kind="invalid_request_message_order"), MODEL),
    (EVERY, 400, openai("Last message must have role `user`."), MODEL),
    (EVERY, 400, openai("No models loaded. Please load a model in the developer page."), MODEL),
    # One request of more than the account has left (OpenRouter).
    (EVERY, 402, openai("This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, "
                        "but can only afford 8246.", 402), MODEL),
    (EVERY, 402, openai("Insufficient credits. Add more using https://openrouter.ai/settings/credits", 402), ACCOUNT),
    # A status that means something else in general.
    (EVERY, 403, openai("Input token count + `max_tokens` parameter must be less than the context length of the model "
                        "being queried."), LENGTH),
    (EVERY, 404, anthropic("File not found: file_011CNha8iCJcU1wXNR6q4V8w", "not_found_error"), CALLER),
    # Another operation.
    (OPENAI_LIKE, 400, openai("The chatCompletion operation does not work with the specified model, x.",
                              "OperationNotSupported"), MODEL),
    (EVERY, 404, openai("This model is only supported in v1/responses and not in v1/chat/completions.", None, "model"),
     MODEL),
    # The provider's table.
    (OPENAI_LIKE, 429, openai("You exceeded your current quota", "insufficient_quota", kind="insufficient_quota"),
     ACCOUNT),
    (OPENAI_LIKE, 429, openai("You exceeded your current quota", kind="exceeded_current_quota_error"), ACCOUNT),
    (OPENAI_LIKE, 404, openai("The model `x` does not exist or you do not have access to it.", "model_not_found"),
     OURS),
    (OPENAI_LIKE, 400, openai("The requested model 'x' does not exist.", "model_not_found", "model"), OURS),
    (["anthropic"], 400, anthropic("No.", kind="billing_error"), ACCOUNT),
    (OPENAI_LIKE, 400, openai("Access denied, please make sure your account is in good standing.", "Arrearage"),
     ACCOUNT),
    (OPENAI_LIKE, 500, {"choices": 1, "error": {"message": "boom"}}, OURS),
    # What repeats the caller closes no target, whatever it says.
    (EVERY, 400, openai("tool 'Incorrect API key provided' has a blank"), CALLER),
    (EVERY, 400, openai("tools[0].name: 'the model x is not available' has a blank"), MODEL),
]  # fmt: skip
ROWS = [pytest.param(*row, id=f"{row[1]} {json.dumps(row[2])[:70]}") for row in BLAME]


def failure(adapter: str, status: int, body: Any) -> UpstreamError:
    return ADAPTERS[adapter].failure(status, {}, json.dumps(body).encode())


@pytest.mark.parametrize(("adapters", "status", "body", "kind"), ROWS)
def test_fault_is_decided_by_status_then_code_then_wording(
    adapters: list[str], status: int, body: Any, kind: ErrorKind
) -> None:
    """What is true of this model, or of this request, counts against no target."""
    for adapter in adapters:
        error = failure(adapter, status, body)
        assert error.kind is kind, adapter
        assert error.trips_breaker is (kind in {OURS, ACCOUNT, RATE}), adapter
        assert error.meaning.retryable is (kind is not CALLER), adapter


@pytest.mark.parametrize("adapter", EVERY)
def test_sentence_about_the_account_says_so_and_closes_no_target(adapter: str) -> None:
    """A chat template of the caller's may raise it word for word: vLLM answers 400 with what it says."""
    sentence = "Incorrect API key provided: x"
    if adapter == "anthropic":
        sentence = "Your credit balance is too low to access the Anthropic API."
    error = failure(adapter, 400, openai(sentence))
    assert (error.kind, error.trips_breaker, error.status) == (ACCOUNT, False, 503)


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (fastapi("Field required", "messages", "0", "role"), "messages.0.role: Field required", "messages.0.role"),
        ({"detail": [{"loc": ["body", "n"], "msg": "too small"}, {"loc": ["body", "x"], "msg": "bad"}]},
         "n: too small; x: bad", "n"),
        ({"message": fastapi("bad", "stop"), "type": "invalid_request_error"}, "stop: bad", "stop"),
        ({"detail": "bad stop"}, "bad stop", None),
        ({"detail": {"msg": "bad stop"}}, "bad stop", None),
        ({"errors": [{"message": "bad stop"}]}, "bad stop", None),
        ([{"error": {"message": "bad stop"}}], "bad stop", None),
    ],
)  # fmt: skip
def test_words_of_a_refusal_are_read_in_every_shape(body: Any, message: str, param: str | None) -> None:
    for adapter in EVERY:
        error = failure(adapter, 422, body)
        assert (error.message, error.param, error.status) == (message, param, 422), adapter


@pytest.mark.parametrize("body", ["[" * 200 + "]" * 200, '{"error":' * 300 + "1" + "}" * 300, "[1", "[]", "[{}]"])
def test_shape_of_a_body_breaks_nothing(body: str) -> None:
    assert ADAPTERS["compatible"].failure(400, {}, body.encode()).message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"type": "overloaded_error", "message": "x"}, ErrorKind.UPSTREAM_OVERLOADED),
        ({"type": "billing_error", "message": "x"}, ACCOUNT),
        ({"type": "request_too_large", "message": "x"}, MODEL),
        ({"type": "api_error", "message": "x"}, OURS),
        ({"code": "insufficient_quota", "message": "x"}, ACCOUNT),
        ({"code": 502, "message": "x"}, OURS),
        ({"code": "context_length_exceeded", "message": "x"}, LENGTH),
    ],
)
def test_error_within_a_stream_has_the_status_of_its_type(error: dict[str, Any], kind: ErrorKind) -> None:
    assert failure_in_stream({"error": error}).kind is kind
