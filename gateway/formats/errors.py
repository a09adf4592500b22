"""Errors as the caller's dialect writes them, in a body and at the end of a stream.

Decides the shape alone; status, type and code come from the table in ``gateway.errors``.
"""

import msgspec

from gateway.errors import GatewayError
from gateway.types import Dialect

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


def render(dialect: Dialect, error: GatewayError, request_id: str) -> bytes:
    """Write the JSON body of an error answer; the status is ``error.status``.

    OpenAI's ``{"error": {message, type, param, code}}``, whose request id travels in a header alone, or Anthropic's
    ``{"type": "error", "error": {type, message}, "request_id"}``.
    """
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
        described = {"type": kind, "message": error.message}
        return msgspec.json.encode({"type": "error", "error": described, "request_id": request_id})
    described_openai = {
        "message": error.message,
        "type": error.meaning.type,
        "param": error.param,
        "code": error.code,
    }
    return msgspec.json.encode({"error": described_openai})


def render_event(dialect: Dialect, error: GatewayError, request_id: str) -> bytes:
    """Write the last event of a stream that failed. No end marker may follow: both SDKs raise on this event."""
    name = b"event: error\n" if dialect == "anthropic" else b""
    return name + b"data: " + render(dialect, error, request_id) + b"\n\n"
