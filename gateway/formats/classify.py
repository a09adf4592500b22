"""Decide what an upstream's error means, from the facts of its provider: whose fault it is, and who may answer instead.

The status decides. A provider's own codes and types refine it, where its table names them. A message is written for
people and may repeat what the caller sent (the name of a tool, a chat template's own words), so its wording may only
make an error milder: the caller's own, or true of this model alone. A sentence that a provider writes where it has no
code may stand in its table; it must begin the message, and what a request can provoke closes a target to others only
when others meet it too (``targets.breaker``).
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway.errors import ErrorKind


class Hints(NamedTuple):
    """What else an error answer shows."""

    param: str | None = None
    """The member of the request that it names."""
    is_page: bool = False
    """It is no API's answer, but a web page."""
    only_chat: bool = True
    """The operation is a chat, which every target is there for."""
    flagged: bool = False
    """It carries the details of a moderation, such as the words that were flagged."""


class Facts(NamedTuple):
    """One provider's table."""

    statuses: Mapping[int, ErrorKind] = MappingProxyType({})
    """Where a status means something else than in general."""
    labels: Mapping[str, ErrorKind] = MappingProxyType({})
    """Codes and types."""
    sentences: tuple[tuple[re.Pattern[str], ErrorKind], ...] = ()
    """Matched at the beginning of a message; for what has no code."""


_BY_STATUS = {
    400: ErrorKind.UPSTREAM_REJECTED,
    401: ErrorKind.UPSTREAM_CREDENTIALS,
    402: ErrorKind.UPSTREAM_CREDENTIALS,
    403: ErrorKind.UPSTREAM_CREDENTIALS,
    413: ErrorKind.UPSTREAM_REJECTED,
    422: ErrorKind.UPSTREAM_REJECTED,
    429: ErrorKind.UPSTREAM_RATE_LIMITED,
    503: ErrorKind.UPSTREAM_OVERLOADED,
    529: ErrorKind.UPSTREAM_OVERLOADED,
}
"""Any other one, 404 without the name of a member too, is UPSTREAM_ERROR: model and address are our configuration."""
_SETTLED = frozenset({401, 402, 498, 503, 529})
"""Statuses that no code or wording changes."""
_NOT_OFFERED = frozenset({403, 404, 405, 501})
_MAY_BE_MODERATION = frozenset({400, 403, 422})

# Each published by at least one provider that speaks OpenAI's dialect, none with two meanings.
_COMMON_LABELS = {
    "context_length_exceeded": ErrorKind.CONTEXT_LENGTH,  # platform.openai.com/docs/guides/error-codes
    "invalid_api_key": ErrorKind.UPSTREAM_CREDENTIALS,
    "insufficient_quota": ErrorKind.UPSTREAM_CREDENTIALS,
    "billing_hard_limit_reached": ErrorKind.UPSTREAM_CREDENTIALS,
    "billing_not_active": ErrorKind.UPSTREAM_CREDENTIALS,
    "account_deactivated": ErrorKind.UPSTREAM_CREDENTIALS,
    "model_not_found": ErrorKind.UPSTREAM_ERROR,
    "model_decommissioned": ErrorKind.UPSTREAM_ERROR,  # console.groq.com/docs/deprecations
    "invalid_model": ErrorKind.UPSTREAM_ERROR,  # Mistral, Perplexity
    "DeploymentNotFound": ErrorKind.UPSTREAM_ERROR,  # Azure
    "content_filter": ErrorKind.UPSTREAM_FLAGGED,  # Azure, Moonshot
    "content_policy_violation": ErrorKind.UPSTREAM_FLAGGED,  # OpenAI, OpenRouter
    "moderation_blocked": ErrorKind.UPSTREAM_FLAGGED,  # OpenAI
    "ResponsibleAIPolicyViolation": ErrorKind.UPSTREAM_FLAGGED,  # Azure, as ``innererror.code``
    "data_inspection_failed": ErrorKind.UPSTREAM_FLAGGED,  # Alibaba
    "DataInspectionFailed": ErrorKind.UPSTREAM_FLAGGED,
}
COMPATIBLE = Facts(
    statuses={498: ErrorKind.UPSTREAM_OVERLOADED},  # Groq's flex tier is at capacity (console.groq.com/docs/errors)
    labels=_COMMON_LABELS,
    sentences=(
        # OpenAI's sentence, which many of those who speak its dialect have taken over, with status 400 too.
        (re.compile(r"Incorrect API key provided\b"), ErrorKind.UPSTREAM_CREDENTIALS),
        (re.compile(r"Model Not Exist$"), ErrorKind.UPSTREAM_ERROR),  # DeepSeek, which is often reached through others
    ),
)
OPENROUTER = COMPATIBLE._replace(
    sentences=(*COMPATIBLE.sentences, (re.compile(r"\S+ is not a valid model ID$"), ErrorKind.UPSTREAM_ERROR)),
)
DEEPSEEK = COMPATIBLE._replace(
    sentences=(
        *COMPATIBLE.sentences,
        (re.compile(r"Content Exists Risk$"), ErrorKind.UPSTREAM_FLAGGED),
    ),
)
XAI = COMPATIBLE._replace(
    # With status 403 and the words of a missing permission as its code.
    sentences=(*COMPATIBLE.sentences, (re.compile(r"Content violates usage guidelines\b"), ErrorKind.UPSTREAM_FLAGGED)),
)
# Types: platform.claude.com/docs/en/api/errors. Codes: ``details.error_code``, anthropic SDK 2.12, ``types/shared``.
ANTHROPIC = Facts(
    statuses={504: ErrorKind.UPSTREAM_TIMEOUT},
    labels={
        "contract_spend_limit_reached": ErrorKind.UPSTREAM_CREDENTIALS,
        "enforced_spend_limit_reached": ErrorKind.UPSTREAM_CREDENTIALS,
        "linked_organization_billing_unavailable": ErrorKind.UPSTREAM_CREDENTIALS,
        "linked_organization_spend_limit_reached": ErrorKind.UPSTREAM_CREDENTIALS,
        "organization_on_hold": ErrorKind.UPSTREAM_CREDENTIALS,
        "organization_type_not_supported": ErrorKind.UPSTREAM_CREDENTIALS,
        "parent_organization_required": ErrorKind.UPSTREAM_CREDENTIALS,
        "cmek_context_unavailable": ErrorKind.UPSTREAM_CREDENTIALS,
        "cmek_key_disabled": ErrorKind.UPSTREAM_CREDENTIALS,
        "cmek_key_network_blocked": ErrorKind.UPSTREAM_CREDENTIALS,
        "cmek_key_unreachable": ErrorKind.UPSTREAM_CREDENTIALS,
        "billing_error": ErrorKind.UPSTREAM_CREDENTIALS,
        "authentication_error": ErrorKind.UPSTREAM_CREDENTIALS,
    },
    # An invalid_request_error without a code: what else it says begins with the member of the request.
    sentences=(
        (re.compile(r"Your credit balance is too low to access the "), ErrorKind.UPSTREAM_CREDENTIALS),
        (re.compile(r"You have reached your specified API usage limits\b"), ErrorKind.UPSTREAM_CREDENTIALS),
        (re.compile(r"This organization has been disabled\b"), ErrorKind.UPSTREAM_CREDENTIALS),
    ),
)

_CONTEXT = re.compile(
    r"context[ _-]?(?:length|window|size|limit)|maximum (?:model|prompt|sequence) length|max_model_len"
    r"|prompt is too long|too many (?:input |prompt )?tokens|input (?:is|was) too long"
    r"|exceeds? the (?:maximum|max) (?:number of )?tokens|exceeds? (?:the )?(?:model's )?(?:maximum )?context",
    re.IGNORECASE,
)
_FLAGGED = re.compile(
    r"\b(?:input|prompt|content|messages?|request|image|text|output|response)s? (?:was|were|has been|have been|is) "
    r"(?:flagged|filtered)\b"
    r"|\bcontent[ -](?:filter(?:ing)?|management|moderation|safety) (?:policy|policies|system)\b"
    r"|\b(?:safety system|responsible ai practices)\b"
    r"|\bviolat\w+ (?:our |the )?(?:usage|content) (?:policies|policy)\b",
    re.IGNORECASE,
)
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


def classify(status: int, label: str, message: str, hints: Hints, facts: Facts = COMPATIBLE) -> ErrorKind:
    """Return the kind of an error. ``label``: the provider's codes and types, separated by blanks."""
    kind = facts.statuses.get(status) or _BY_STATUS.get(status, ErrorKind.UPSTREAM_ERROR)
    named = ErrorKind.UPSTREAM_ERROR if hints.param == "model" else _named(label, message, facts)
    if status in _SETTLED or (status == 429 and named is not ErrorKind.UPSTREAM_CREDENTIALS):
        return kind
    flagged = hints.flagged or named is ErrorKind.UPSTREAM_FLAGGED or _FLAGGED.search(message)
    if flagged and status in _MAY_BE_MODERATION:
        return ErrorKind.UPSTREAM_FLAGGED
    if _OTHER_OPERATION.search(message) or _is_not_offered(status, named, message, hints):
        return ErrorKind.UPSTREAM_UNSUPPORTED
    if status == 403 or not 400 <= status < 500:
        return kind
    if named is not None and named is not ErrorKind.UPSTREAM_FLAGGED:
        return named
    return _of_the_request(kind, status, message, hints)


def is_of_another_operation(message: str) -> bool:
    """Whether a message says that the model is there for other operations, and not that it is unknown."""
    return _OTHER_OPERATION.search(message) is not None and _MODEL.search(message) is None


def _is_not_offered(status: int, named: ErrorKind | None, message: str, hints: Hints) -> bool:
    """Whether a target has nothing at the address of an operation that is no chat."""
    if status not in _NOT_OFFERED or hints.only_chat or hints.param:
        return False
    return named is not ErrorKind.UPSTREAM_ERROR and not _MODEL.search(message)


def _of_the_request(kind: ErrorKind, status: int, message: str, hints: Hints) -> ErrorKind:
    """Let the wording say more of what is, by status, the caller's own."""
    if hints.is_page and status != 413:
        return ErrorKind.UPSTREAM_ERROR
    if status == 404 and hints.param:
        kind = ErrorKind.UPSTREAM_REJECTED  # a file, or an earlier answer, that the request names
    if kind is ErrorKind.UPSTREAM_REJECTED and _CONTEXT.search(message):
        return ErrorKind.CONTEXT_LENGTH
    if kind is ErrorKind.UPSTREAM_REJECTED and _MODEL.search(message):
        return ErrorKind.UPSTREAM_UNSUPPORTED
    return kind


def _named(label: str, message: str, facts: Facts) -> ErrorKind | None:
    for word in label.split():
        if word in facts.labels:
            return facts.labels[word]
    return next((kind for sentence, kind in facts.sentences if sentence.match(message)), None)
