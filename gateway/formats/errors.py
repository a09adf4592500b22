"""Writes errors in the caller's dialect, as a body and as the last event of a stream.

Decides the shape alone; status, type and code come from the table in ``gateway.errors``.
"""

import msgspec

from gateway.errors import GatewayError

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


def openai_error(error: GatewayError, _request_id: str, *, in_stream: bool = False) -> bytes:
    """Write ``{"error": {message, type, param, code}}``; the request id travels in a header alone."""
    described = {"message": error.message, "type": error.meaning.type, "param": error.param, "code": error.code}
    body = msgspec.json.encode({"error": described})
    return b"data: " + body + b"\n\n" if in_stream else body


def anthropic_error(error: GatewayError, request_id: str, *, in_stream: bool = False) -> bytes:
    """Write ``{"type": "error", "error": {type, message}, "request_id"}``."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    described = {"type": kind, "message": error.message}
    body = msgspec.json.encode({"type": "error", "error": described, "request_id": request_id})
    return b"event: error\ndata: " + body + b"\n\n" if in_stream else body
