"""What an upstream's error means: whose fault it is, what the caller may read of it, and when to come back.

Decides for OpenAI's error shape and its many variations. Only what the caller did wrong is passed on in the upstream's
words, as far as ``redaction`` lets them pass; of all else the caller learns that it happened.
"""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from gateway.errors import ErrorKind, UpstreamError
from gateway.providers.redaction import by_shape
from gateway.types import Operation
from gateway.wire.openai import parse

_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_CONTEXT = re.compile(
    r"context[ _-]?(?:length|window|size)|maximum (?:model|prompt|sequence) length|max_model_len|prompt is too long"
    r"|too many (?:input |prompt )?tokens|input (?:is|was) too long|exceeds? the (?:maximum|max) (?:number of )?tokens",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"(?:incorrect|invalid|missing|expired).{0,20}api.?key|api.?key.{0,30}(?:not valid|invalid|expired)", re.IGNORECASE
)
_BILLING = re.compile(r"quota|billing|payment|insufficient.?(?:balance|credit|funds)", re.IGNORECASE)
_UNPAID = re.compile(r"insufficient.?(?:balance|quota|credit|funds)|credit balance|billing", re.IGNORECASE)
_MODEL = re.compile(
    r"\bmodel\b.{0,120}?(?:does not exist|not exist|not found|is not available|decommissioned|not a valid model)"
    r"|not a valid model|invalid[ _]model\b|model_not_found|unknown model|no endpoints found",
    re.IGNORECASE | re.DOTALL,
)
# Of a model that does other things: OpenAI (403 and 404), vLLM 0.32, OpenRouter, Ollama. It may be in good health.
_OTHER_OPERATION = re.compile(
    r"not allowed to generate embeddings|is (?:not )?an? (?:chat|embeddings?) model"
    r"|do(?:es)? not support (?:chat|completions?|embeddings?|generate)\b",
    re.IGNORECASE,
)
_NOT_OFFERED = frozenset({403, 404, 405, 501})
_ABOUT_THE_REQUEST = frozenset({400, 404, 413, 422})
_KIND_BY_STATUS = {
    401: ErrorKind.UPSTREAM_CREDENTIALS,
    402: ErrorKind.UPSTREAM_CREDENTIALS,
    403: ErrorKind.UPSTREAM_CREDENTIALS,
    429: ErrorKind.UPSTREAM_RATE_LIMITED,
    498: ErrorKind.UPSTREAM_OVERLOADED,  # Groq's flex tier is at capacity (console.groq.com/docs/errors)
    503: ErrorKind.UPSTREAM_OVERLOADED,
    529: ErrorKind.UPSTREAM_OVERLOADED,
}
_SENTENCES = {
    ErrorKind.UPSTREAM_CREDENTIALS: "The upstream refused the gateway's own credentials or account",
    ErrorKind.UPSTREAM_RATE_LIMITED: "The upstream limits our rate, or our quota there is used up",
    ErrorKind.UPSTREAM_OVERLOADED: "The upstream is overloaded or not available",
    ErrorKind.UPSTREAM_ERROR: "The upstream failed",
    ErrorKind.UPSTREAM_UNSUPPORTED: "The model behind this target does not do this kind of request",
}
_MISCONFIGURED = "The upstream does not know the model or the address it is configured with"


def classify(status: int, headers: Mapping[str, str], body: bytes, operation: Operation = "chat") -> UpstreamError:
    """Say what an answer with an error status means. See ``Adapter.failure`` for the rules.

    A chat is what every target is there for, so an address that is unknown or closed for one is a fault. For another
    operation there is just none: a caller who asks for embeddings must not close a chat model to all others.
    """
    return _classify(status, _read(body), headers, is_page=body.lstrip()[:1] == b"<", only_chat=operation == "chat")


def classify_in_stream(answer: Mapping[str, Any]) -> UpstreamError:
    """Say what an error inside an answer with status 200 means; the error's own ``code`` or ``status`` stands in."""
    error = _error_of(answer)
    for name in ("code", "status", "status_code"):
        value = error.get(name)
        if str(value).isdecimal() and 400 <= int(str(value)) <= 599:
            return _classify(int(str(value)), error, {}, is_page=False)
    kind = f"{error.get('type')} {error.get('code')}"
    guess = next((status for pattern, status in _STATUS_BY_KIND if re.search(pattern, kind, re.IGNORECASE)), 500)
    return _classify(guess, error, {}, is_page=False)


_STATUS_BY_KIND = (
    (r"rate_?limit|too_many_requests", 429),
    (r"overloaded|unavailable|capacity", 503),
    (r"authentication|api_key|permission", 401),
    (r"not_?found", 404),
    (r"invalid_request|bad_?request|context_length|validation", 400),
)


def _classify(
    status: int, error: Mapping[str, Any], headers: Mapping[str, str], *, is_page: bool, only_chat: bool = True
) -> UpstreamError:
    message = error.get("message")
    message = message if isinstance(message, str) else ""
    label = f"{error.get('code')} {error.get('type')}"
    kind = _ours(status, label, message, error.get("param"), is_page=is_page)
    not_offered = not only_chat and status in _NOT_OFFERED and not _about_model(label, message, error.get("param"))
    if (kind is not None and not_offered) or _OTHER_OPERATION.search(message):
        kind = ErrorKind.UPSTREAM_UNSUPPORTED
    if kind is not None:
        detail = next((value for value in (error.get("code"), error.get("type")) if _is_label(value)), None)
        misconfigured = kind is ErrorKind.UPSTREAM_ERROR and status in _ABOUT_THE_REQUEST
        sentence = _MISCONFIGURED if misconfigured else _SENTENCES[kind]
        sentence = f"{sentence} (HTTP {status}{f', {detail}' if detail else ''})."
        return UpstreamError(
            kind, sentence, upstream_status=status, retry_after_s=retry_after_s(headers), said=message or None
        )
    param, code = error.get("param"), error.get("code")
    too_long = "context_length" in label or bool(_CONTEXT.search(message))
    return UpstreamError(
        ErrorKind.CONTEXT_LENGTH if too_long else ErrorKind.UPSTREAM_REJECTED,
        by_shape(message) or f"The model's server refused the request with HTTP {status} and gave no reason.",
        upstream_status=status,
        param=param if isinstance(param, str) else None,
        code=code if isinstance(code, str) and _is_label(code) and not code.isdecimal() else None,
    )


def _ours(status: int, label: str, message: str, param: Any, *, is_page: bool) -> ErrorKind | None:
    """Find the kind of what is not the caller's fault; None when it is."""
    if (kind := _KIND_BY_STATUS.get(status)) is not None:
        return kind
    unpaid = status < 500 and (_BILLING.search(label) or _UNPAID.search(message))
    if unpaid or _KEY.search(message) or "invalid_api_key" in label:
        return ErrorKind.UPSTREAM_CREDENTIALS
    if status not in _ABOUT_THE_REQUEST or (is_page and status != 413):
        return ErrorKind.UPSTREAM_ERROR
    return ErrorKind.UPSTREAM_ERROR if _about_model(label, message, param) or (status == 404 and not param) else None


def _about_model(label: str, message: str, param: Any) -> bool:
    return param == "model" or bool(_MODEL.search(label) or _MODEL.search(message))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read how long the upstream wants to be left alone, in seconds; None when it does not say.

    ``retry-after-ms`` (OpenAI, Azure), or ``Retry-After`` in seconds or as a date (RFC 9110, 10.2.3), which is held
    against the answer's own ``Date``: both come from one clock, and it is not ours.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", text):
            return float(text) * scale
    try:
        until, now = (parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
        return max(0.0, (until - now).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None


def _is_label(value: Any) -> bool:
    return isinstance(value, int | str) and _LABEL.fullmatch(str(value)) is not None


def _read(body: bytes) -> Mapping[str, Any]:
    text = body[: 64 * 1024].decode(errors="replace").strip()
    if text.startswith("{"):
        try:
            return _error_of(parse(body))
        except UpstreamError:
            return {}
    return {} if text.startswith(("<", "[")) else {"message": text}


def _error_of(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Find the error object: OpenAI's ``error``, the same without it (older vLLM, Mistral), or FastAPI's ``detail``."""
    error = answer.get("error", answer)
    if isinstance(error, str):
        return {**answer, "message": error}
    if not isinstance(error, dict):
        return {}
    if "message" not in error and isinstance(error.get("detail"), str):
        return {**error, "message": error["detail"]}
    return error
