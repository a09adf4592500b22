"""Writes errors in the caller's dialect, as a body and as the last event of a stream.

Decides the shape alone; status, type and code come from the table in ``gateway.errors``.
"""

import re
from typing import Any

import msgspec

from gateway.errors import ErrorKind, GatewayError

# Anthropic, "Errors": the types by HTTP status.
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_NO_THREADS = "thread_unsupported_request"
"""Behind it, as behind others of threads, Anthropic's SDKs send the whole conversation (2.12, ``lib/threads``)."""
_TOO_LONG = re.compile(
    r"prompt is too long: \d+ tokens > \d+ maximum|input length and `max_tokens` exceed context limit: .{,200}"
)
"""Anthropic's own sentences, by which its clients shorten a conversation or ``max_tokens``."""


def openai_error(error: GatewayError, _request_id: str, *, in_stream: bool = False) -> bytes:
    """Write ``{"error": {message, type, param, code}}``; the request id travels in a header alone."""
    described = {"message": error.message, "type": error.meaning.type, "param": error.param, "code": error.code}
    body = msgspec.json.encode({"error": described})
    return b"data: " + body + b"\n\n" if in_stream else body


def responses_error(error: GatewayError, request_id: str, *, in_stream: bool = False) -> bytes:
    """Write OpenAI's error, or in a stream of Responses its event of that name.

    Source: platform.openai.com/docs/api-reference/responses-streaming/error.
    """
    if not in_stream:
        return openai_error(error, request_id)
    described = {"code": error.code or error.meaning.type, "message": error.message, "param": error.param}
    body = msgspec.json.encode({"type": "error", "sequence_number": error.sent_events, **described})
    return b"event: error\ndata: " + body + b"\n\n"


def anthropic_error(error: GatewayError, request_id: str, *, in_stream: bool = False) -> bytes:
    """Write ``{"type": "error", "error": {type, message}, "request_id"}``."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    message = _too_long(error) if error.kind is ErrorKind.CONTEXT_LENGTH else error.message
    described: dict[str, Any] = {"type": kind, "message": message}
    code = _NO_THREADS if (error.kind, error.param) == (ErrorKind.UNSUPPORTED, "thread") else error.code
    if code is not None and code.startswith("thread_"):
        described["details"] = {"error_code": code}
    body = msgspec.json.encode({"type": "error", "error": described, "request_id": request_id})
    return b"event: error\ndata: " + body + b"\n\n" if in_stream else body


def _too_long(error: GatewayError) -> str:
    """Return what Anthropic says of a prompt that is too long, with the numbers where they are known to say so."""
    if said := _TOO_LONG.search(error.message):
        return said[0]
    if error.tokens is None or error.tokens[0] <= error.tokens[1]:
        return "prompt is too long"
    return f"prompt is too long: {error.tokens[0]} tokens > {error.tokens[1]} maximum"
