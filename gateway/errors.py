"""One taxonomy of errors, and one table that says what each means to the caller, the breaker and the log.

A stage raises ``GatewayError`` with a kind and a sentence; nothing else in the gateway chooses a status. Messages
never hold a key, a prompt or an upstream's address.
"""

import logging
from enum import StrEnum
from typing import Literal, NamedTuple, Self

Cause = Literal[
    "dns", "refused", "unreachable", "connect_timeout", "certificate", "tls", "reset", "closed", "not_http",
    "open_files", "system_open_files", "local_ports", "memory", "threads", "look_ups",
]  # fmt: skip
"""What lies beneath a kind where that is known: for the log and the ledger, never an address or an upstream's words.

``closed``: the upstream ended the connection in good order. The last six are what this machine lacks (``shortage``).
"""


class ErrorKind(StrEnum):
    """Every way in which a request can fail. The value is the metric label and the ledger's ``error_kind``."""

    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED = "unsupported"
    CONTEXT_LENGTH = "context_length"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    FOREIGN_REQUEST = "foreign_request"
    UNSUPPORTED_CODING = "unsupported_coding"
    EXPECTATION_FAILED = "expectation_failed"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TIMEOUT = "body_timeout"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_CONCURRENT = "too_many_concurrent"
    TOO_MANY_BODY_BYTES = "too_many_body_bytes"
    BODY_MEMORY_FULL = "body_memory_full"
    NO_TARGET = "no_target"
    OWN_SHORTAGE = "own_shortage"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"
    DEADLINE = "deadline"
    UPSTREAM_CONNECT = "upstream_connect"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_STALLED = "upstream_stalled"
    UPSTREAM_CUT = "upstream_cut"
    STALE_CONNECTION = "stale_connection"
    UPSTREAM_PROTOCOL = "upstream_protocol"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_OVERLOADED = "upstream_overloaded"
    UPSTREAM_RATE_LIMITED = "upstream_rate_limited"
    UPSTREAM_CREDENTIALS = "upstream_credentials"
    UPSTREAM_REJECTED = "upstream_rejected"
    UPSTREAM_FLAGGED = "upstream_flagged"
    UPSTREAM_UNSUPPORTED = "upstream_unsupported"
    BREAKER_OPEN = "breaker_open"


class Meaning(NamedTuple):
    """A row of the table."""

    status: int
    type: str
    code: str | None
    retryable: bool
    """Another target may be tried."""
    trips_breaker: bool
    log_level: int
    provocable: bool = False
    """A request may bring it about, so that one caller alone must not close a target to the others by it."""


_CALLER = "invalid_request_error"
_OURS = "server_error"
_UPSTREAM = "upstream_error"

MEANINGS: dict[ErrorKind, Meaning] = {
    ErrorKind.INVALID_REQUEST: Meaning(400, _CALLER, None, False, False, logging.INFO),
    ErrorKind.UNSUPPORTED: Meaning(400, _CALLER, "unsupported", False, False, logging.INFO),
    ErrorKind.CONTEXT_LENGTH: Meaning(400, _CALLER, "context_length_exceeded", True, False, logging.INFO),
    ErrorKind.AUTHENTICATION: Meaning(401, "authentication_error", "invalid_api_key", False, False, logging.INFO),
    ErrorKind.PERMISSION: Meaning(403, "permission_error", "model_not_allowed", False, False, logging.INFO),
    ErrorKind.MODEL_NOT_FOUND: Meaning(404, _CALLER, "model_not_found", False, False, logging.INFO),
    ErrorKind.NOT_FOUND: Meaning(404, _CALLER, "not_found", False, False, logging.INFO),
    ErrorKind.METHOD_NOT_ALLOWED: Meaning(405, _CALLER, "method_not_allowed", False, False, logging.INFO),
    ErrorKind.FOREIGN_REQUEST: Meaning(403, "permission_error", "foreign_request", False, False, logging.INFO),
    ErrorKind.UNSUPPORTED_CODING: Meaning(415, _CALLER, "unsupported_coding", False, False, logging.INFO),
    ErrorKind.EXPECTATION_FAILED: Meaning(417, _CALLER, "expectation_failed", False, False, logging.INFO),
    ErrorKind.BODY_TOO_LARGE: Meaning(413, _CALLER, "body_too_large", False, False, logging.INFO),
    ErrorKind.BODY_TIMEOUT: Meaning(408, _CALLER, "body_timeout", False, False, logging.INFO),
    ErrorKind.RATE_LIMITED: Meaning(429, "rate_limit_error", "rate_limit_exceeded", False, False, logging.INFO),
    ErrorKind.TOO_MANY_CONCURRENT: Meaning(
        429, "rate_limit_error", "concurrency_limit_exceeded", False, False, logging.INFO
    ),
    ErrorKind.TOO_MANY_BODY_BYTES: Meaning(
        429, "rate_limit_error", "body_memory_limit_exceeded", False, False, logging.INFO
    ),
    ErrorKind.BODY_MEMORY_FULL: Meaning(503, _OURS, "body_memory_full", False, False, logging.WARNING),
    ErrorKind.NO_TARGET: Meaning(503, _OURS, "no_target_available", False, False, logging.WARNING),
    ErrorKind.OWN_SHORTAGE: Meaning(503, _OURS, "gateway_shortage", True, False, logging.ERROR),
    ErrorKind.STORAGE_UNAVAILABLE: Meaning(503, _OURS, "storage_unavailable", False, False, logging.ERROR),
    ErrorKind.SHUTTING_DOWN: Meaning(503, _OURS, "shutting_down", False, False, logging.INFO),
    ErrorKind.INTERNAL: Meaning(500, _OURS, "internal_error", False, False, logging.ERROR),
    ErrorKind.DEADLINE: Meaning(504, _OURS, "deadline_exceeded", False, False, logging.WARNING),
    ErrorKind.UPSTREAM_CONNECT: Meaning(503, _UPSTREAM, "upstream_unreachable", True, True, logging.WARNING),
    ErrorKind.UPSTREAM_TIMEOUT: Meaning(504, _UPSTREAM, "upstream_timeout", True, True, logging.WARNING),
    ErrorKind.UPSTREAM_STALLED: Meaning(504, _UPSTREAM, "upstream_stalled", True, True, logging.WARNING),
    ErrorKind.UPSTREAM_CUT: Meaning(502, _UPSTREAM, "upstream_cut", True, True, logging.WARNING, True),
    ErrorKind.STALE_CONNECTION: Meaning(502, _UPSTREAM, "upstream_cut", True, False, logging.INFO),
    ErrorKind.UPSTREAM_PROTOCOL: Meaning(502, _UPSTREAM, "upstream_protocol", True, True, logging.WARNING, True),
    ErrorKind.UPSTREAM_ERROR: Meaning(502, _UPSTREAM, "upstream_error", True, True, logging.WARNING, True),
    ErrorKind.UPSTREAM_OVERLOADED: Meaning(503, _UPSTREAM, "upstream_overloaded", True, True, logging.WARNING),
    ErrorKind.UPSTREAM_RATE_LIMITED: Meaning(503, _UPSTREAM, "upstream_rate_limited", True, True, logging.WARNING),
    ErrorKind.UPSTREAM_CREDENTIALS: Meaning(503, _UPSTREAM, "upstream_credentials", True, True, logging.ERROR),
    ErrorKind.UPSTREAM_REJECTED: Meaning(400, _CALLER, None, False, False, logging.INFO),
    ErrorKind.UPSTREAM_FLAGGED: Meaning(400, _CALLER, "content_filter", False, False, logging.INFO),
    ErrorKind.UPSTREAM_UNSUPPORTED: Meaning(400, _CALLER, "unsupported", True, False, logging.INFO),
    ErrorKind.BREAKER_OPEN: Meaning(503, _UPSTREAM, "upstream_unreachable", True, False, logging.INFO),
}


class StateUnusableError(Exception):
    """The state directory or its database cannot be used. The message is one sentence for the operator."""


class Allowance(NamedTuple):
    """What is left to a key of its requests a minute."""

    limit: int
    left: int
    full_in_s: int
    """Until all of them are there again, if no further request comes."""


class GatewayError(Exception):
    """A request cannot go on. ``message`` is one or two sentences for the caller that say what to do."""

    allowance: Allowance | None = None
    """What a refusal of admission leaves to the key; None: it has no limit, or admission did not refuse."""
    tokens: tuple[int, int] | None = None
    """CONTEXT_LENGTH: how many the prompt has, by our estimate, and how many are taken; None: not known."""
    sent_events = 0
    """How many events of an answer the caller has got, in a dialect that numbers them."""

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        cause: Cause | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        """The offending member of the body, as in OpenAI's ``error.param``."""
        self.retry_after_s = retry_after_s
        self.cause = cause

    @property
    def why(self) -> str | None:
        """What lies beneath the error, for the log and the record: a word of ours, or else the upstream's sentence."""
        return self.cause

    def detached(self) -> Self:
        """Drop its traceback and what led to it; keep an error without them, or its frames keep the request."""
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self

    @property
    def meaning(self) -> Meaning:
        """The table's row for this kind."""
        return MEANINGS[self.kind]

    @property
    def provocable(self) -> bool:
        """Whether a request may bring it about."""
        return self.meaning.provocable

    @property
    def trips_breaker(self) -> bool:
        """Whether it counts against its target."""
        return self.meaning.trips_breaker

    @property
    def status(self) -> int:
        """The HTTP status for the caller."""
        return self.meaning.status

    @property
    def code(self) -> str | None:
        """OpenAI's ``error.code``."""
        return self.meaning.code


LONGEST_RETRY_AFTER_S = 300.0
"""What an upstream asks for beyond this counts as this, for the breaker and towards callers."""
_PROVOKED_BY_NO_REQUEST = frozenset({401, 402, 429, 498, 503, 529})
"""Statuses about our account, our rate or the upstream's load, whatever was asked for."""
_ABOUT_THE_REQUEST = frozenset({400, 413, 422})


def speaks(kind: ErrorKind, upstream_status: int | None) -> bool:
    """Return whether an error reaches the caller in the upstream's words, with its status and code."""
    if kind is ErrorKind.UPSTREAM_UNSUPPORTED:
        return upstream_status in _ABOUT_THE_REQUEST
    return kind in {ErrorKind.UPSTREAM_REJECTED, ErrorKind.UPSTREAM_FLAGGED}


class UpstreamError(GatewayError):
    """One target failed. ``upstream_status`` is its HTTP status, when it sent one."""

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        upstream_status: int | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        cause: Cause | None = None,
        said: str | None = None,
        in_words: bool = False,
    ) -> None:
        if retry_after_s is not None:
            retry_after_s = min(retry_after_s, LONGEST_RETRY_AFTER_S)
        super().__init__(kind, message, param=param, retry_after_s=retry_after_s, cause=cause)
        self.upstream_status = upstream_status
        self.upstream_code = code
        self.said = said
        """The upstream's own words where the fault is not the caller's: for the log and the record, not for the answer.

        See ``formats.redaction``.
        """
        self.in_words = in_words
        """Only a sentence of the upstream's says what kind it is."""

    @property
    def trips_breaker(self) -> bool:
        """Whether it counts against its target: words never do, for they may be the caller's."""
        return self.meaning.trips_breaker and not self.in_words

    @property
    def why(self) -> str | None:
        """The cause; without one, the upstream's own sentence."""
        return self.cause or self.said

    @property
    def provocable(self) -> bool:
        """Whether a request may bring it about: by the status, or where there is none, by the table."""
        if self.upstream_status is None:
            return self.meaning.provocable
        return self.upstream_status not in _PROVOKED_BY_NO_REQUEST

    @property
    def status(self) -> int:
        """The upstream's own status where the request was at fault, otherwise the table's."""
        return (self.upstream_status if speaks(self.kind, self.upstream_status) else None) or self.meaning.status

    @property
    def code(self) -> str | None:
        """The upstream's own code where the request was at fault, otherwise the table's."""
        return (self.upstream_code if speaks(self.kind, self.upstream_status) else None) or self.meaning.code
