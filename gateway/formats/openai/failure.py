"""Reads an error in OpenAI's shape: what the caller may know of it, and when to try again.

Whose fault it is, is decided in ``classify``. Only what the caller did wrong is passed on in the upstream's
words, as far as ``redaction`` lets them pass; of all else the caller learns that it happened.
"""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from gateway.errors import ErrorKind, UpstreamError, speaks
from gateway.formats.classify import COMPATIBLE, Facts, Hints, classify
from gateway.formats.openai.answer import parse
from gateway.formats.redaction import by_shape
from gateway.types import Operation

_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s")
_ABOUT_THE_REQUEST = frozenset({400, 404, 413, 422})
_SENTENCES = {
    ErrorKind.UPSTREAM_CREDENTIALS: "The upstream refused the gateway's own credentials or account",
    ErrorKind.UPSTREAM_RATE_LIMITED: "The upstream limits our rate, or our quota there is used up",
    ErrorKind.UPSTREAM_OVERLOADED: "The upstream is overloaded or not available",
    ErrorKind.UPSTREAM_ERROR: "The upstream failed",
    ErrorKind.UPSTREAM_TIMEOUT: "The upstream ran out of time",
    ErrorKind.UPSTREAM_UNSUPPORTED: "The model behind this target does not do this kind of request",
}
"""Every other kind is the caller's, who is told in the upstream's words."""
_BEYOND = {
    402: "The request may cost more than the gateway's account at the upstream has left",
    429: "The request has more tokens than the upstream takes from us in a minute",
}
_MISCONFIGURED = "The upstream does not know the model or the address it is configured with"
_STATUS_IN_STREAM = (
    (r"content_filter|content_policy|moderation", 400),
    (r"billing", 402),
    (r"rate_?limit|too_many_requests|quota", 429),
    (r"overloaded|unavailable|capacity|insufficient_system", 503),
    (r"authentication|api_key", 401),
    (r"permission|forbidden", 403),
    (r"not_?found", 404),
    (r"too_large", 413),
    (r"timeout", 504),
    (r"invalid_request|bad_?request|context_length|validation|invalid_prompt|image|malformed_function_call", 400),
)
"""What stands for the status of an error within a stream that names none: the first that its type or code matches."""
_SHOWN = 3
"""Of a list of complaints."""


def failure_of_answer(
    status: int, headers: Mapping[str, str], body: bytes, operation: Operation = "chat", facts: Facts = COMPATIBLE
) -> UpstreamError:
    """Make the error of an answer with an error status. See ``Format.failure`` for the rules.

    A chat is what every target is there for, so an address that is unknown or closed for one is a fault. For another
    operation there is just none: a caller who asks for embeddings must not close a chat model to all others.
    """
    is_page = body.lstrip()[:1] == b"<"
    return _failure(status, _read(body), headers, facts, is_page=is_page, only_chat=operation == "chat")


def failure_in_stream(answer: Mapping[str, Any], facts: Facts = COMPATIBLE) -> UpstreamError:
    """Make the error of one inside an answer with status 200; its own ``code``, ``status`` or type stands in."""
    error = _error_of(answer)
    kind = f"{error.get('type')} {error.get('code')}"
    status = next((status for pattern, status in _STATUS_IN_STREAM if re.search(pattern, kind, re.IGNORECASE)), 500)
    for name in ("code", "status", "status_code"):
        value = str(error.get(name))
        if re.fullmatch(r"[45][0-9]{2}", value):
            status = int(value)
            break
    return _failure(status, error, {}, facts)


def _failure(
    status: int,
    error: Mapping[str, Any],
    headers: Mapping[str, str],
    facts: Facts,
    *,
    is_page: bool = False,
    only_chat: bool = True,
) -> UpstreamError:
    message, param, code = error["message"], error.get("param"), error.get("code") or _detailed(error)
    wait_s = retry_after_s(headers)
    hints = Hints(param if isinstance(param, str) else None, is_page, only_chat, _is_flagged(error))
    kind, in_words = classify(status, _label(error), message, hints, facts)
    for_the_caller = speaks(kind, status) or kind is ErrorKind.CONTEXT_LENGTH
    return UpstreamError(
        kind,
        _passed_on(kind, status, message) if for_the_caller else _sentence(kind, status, error),
        upstream_status=status,
        param=hints.param if for_the_caller else None,
        code=code if isinstance(code, str) and _is_label(code) and not code.isdecimal() else None,
        retry_after_s=_retry_delay_s(error) if wait_s is None else wait_s,
        said=None if for_the_caller and kind is not ErrorKind.UPSTREAM_UNSUPPORTED else message or None,
        in_words=in_words,
    )


def _passed_on(kind: ErrorKind, status: int, message: str) -> str:
    """Pass on the upstream's own words."""
    if kind is ErrorKind.UPSTREAM_FLAGGED:
        message = _first_sentence(message)  # xAI's next one names our team and key
    return by_shape(message) or f"The model's server refused the request with HTTP {status} and gave no reason."


def _sentence(kind: ErrorKind, status: int, error: Mapping[str, Any]) -> str:
    """Say what happened, and no more."""
    detail = next((value for value in (error.get("code"), error.get("type")) if _is_label(value)), None)
    sentence = _SENTENCES[kind]
    if kind is ErrorKind.UPSTREAM_ERROR and status in _ABOUT_THE_REQUEST:
        sentence = _MISCONFIGURED
    elif kind is ErrorKind.UPSTREAM_UNSUPPORTED and status in _BEYOND:
        sentence = _BEYOND[status]
    return f"{sentence} (HTTP {status}{f', {detail}' if detail else ''})."


def _label(error: Mapping[str, Any]) -> str:
    """Return codes and types: its own, and those of Azure's ``innererror``, Anthropic's ``details``, FastAPI's list."""
    details = error.get("detail")
    first = details[0] if isinstance(details, list) and details else None
    found = [error.get("code"), error.get("type"), _detailed(error)]
    for inner, name in ((error.get("innererror"), "code"), (first, "type")):
        found.append(inner.get(name) if isinstance(inner, dict) else None)
    return " ".join(str(each) for each in found if each is not None)


def _detailed(error: Mapping[str, Any]) -> Any:
    """Return the code in Anthropic's ``details``."""
    details = error.get("details")
    return details.get("error_code") if isinstance(details, dict) else None


def _is_flagged(error: Mapping[str, Any]) -> bool:
    """Whether it carries what OpenRouter adds to moderation errors (openrouter.ai/docs/api/reference/errors)."""
    metadata = error.get("metadata")
    return isinstance(metadata, dict) and ("flagged_input" in metadata or "reasons" in metadata)


def _first_sentence(message: str) -> str:
    """Return a message up to its first full stop."""
    return re.split(r"(?<=[.!?])\s", message.strip(), maxsplit=1)[0]


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read how long the upstream wants to be left alone, in seconds; None when it does not say.

    ``retry-after-ms`` (OpenAI, Azure), or ``Retry-After`` in seconds or as a date (RFC 9110, 10.2.3), which is held
    against the answer's own ``Date``: both come from one clock, and it is not ours.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text):
            return float(text) * scale
    try:
        until, now = (parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
        return max(0.0, (until - now).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None


def _retry_delay_s(error: Mapping[str, Any]) -> float | None:
    """Read the wait that Gemini names in the body alone, in a ``RetryInfo`` with ``"retryDelay": "35s"``.

    Source: github.com/googleapis/googleapis, ``google/rpc/error_details.proto``; its form is protobuf's of a duration.
    """
    details = error.get("details")
    for each in details if isinstance(details, list) else []:
        if isinstance(each, dict) and (match := _DURATION.fullmatch(str(each.get("retryDelay")))):
            return float(match[1])
    return None


def _is_label(value: Any) -> bool:
    """Whether a code or type is a name, which a key may look like too."""
    if not isinstance(value, int | str) or _LABEL.fullmatch(str(value)) is None:
        return False
    return by_shape(str(value)) == str(value)


def _read(body: bytes) -> Mapping[str, Any]:
    text = body[: 64 * 1024].decode(errors="replace").strip()
    if text.startswith("["):
        text, body = text[1:-1].strip(), body.strip()[1:-1]  # Gemini's OpenAI endpoint lists its one error
    if text.startswith("{"):
        try:
            return _error_of(parse(body))
        except UpstreamError:
            text = ""
    return {"message": "" if text.startswith("<") else text}


def _error_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Find the error object: OpenAI's ``error``, or the same without it (older vLLM, Mistral, FastAPI, xAI).

    Its ``message`` is a text: of FastAPI's list, what is wrong with which member; behind "Provider returned error",
    what OpenRouter passes on of its provider's.
    """
    choices = answer.get("choices")
    choices = [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
    failed = (each["error"] for each in choices if each.get("error"))
    reasons = (
        {"code": why, "message": f"The answer ended with '{why}'."}
        for each in choices
        if (why := each.get("finish_reason"))
    )
    error = answer.get("error") or next(failed, None) or next(reasons, answer)
    if not isinstance(error, dict):
        error = {**answer, "message": error}
    inner = error.get("message")
    found = {**error, **(inner if isinstance(inner, dict) else {})}
    message = _words(error)
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and (raw := metadata.get("raw")):
        inner = _read(raw.encode(errors="replace")) if isinstance(raw, str) else {"message": _words(raw)}
        message = f"{message}: {inner['message']}"
    details = found.get("detail")
    if found.get("param") is None and isinstance(details, list) and details and isinstance(details[0], dict):
        found["param"] = _place(details[0]) or None
    return {**found, "message": message}


def _words(value: Any, depth: int = 4) -> str:
    if isinstance(value, str) or not depth:
        return value if isinstance(value, str) else ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_words(each, depth - 1) for each in value[:_SHOWN])))
    if not isinstance(value, dict):
        return ""
    said = (_words(value.get(name), depth - 1) for name in ("message", "detail", "msg", "error", "errors"))
    return ": ".join(filter(None, (_place(value), next(filter(None, said), ""))))


def _place(complaint: Mapping[str, Any]) -> str:
    """Write FastAPI's ``loc`` as the path of a member: ``messages.0.content``."""
    path = complaint.get("loc")
    return ".".join(str(each) for each in path if each != "body") if isinstance(path, list) else ""
