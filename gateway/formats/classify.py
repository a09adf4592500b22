"""Decide what an upstream's error means, from the facts of its provider: whose fault, and which target is asked next.

The status decides. Codes and types refine it where a provider's table names them; a generic one (``invalid_request``)
says nothing. A message is written for people and may repeat what the caller sent (the name of a tool, a chat template's
own words), so its wording may only make an error milder: the caller's own, or true of this model alone, so that another
target is asked. A sentence that a provider writes where it has no code may stand in its table, and must begin the
message; it says what happened, and closes no target either.
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


class Verdict(NamedTuple):
    """What an error means."""

    kind: ErrorKind
    in_words: bool = False
    """Only a sentence says so: it closes no target."""


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
    413: ErrorKind.UPSTREAM_UNSUPPORTED,
    422: ErrorKind.UPSTREAM_REJECTED,
    429: ErrorKind.UPSTREAM_RATE_LIMITED,
    503: ErrorKind.UPSTREAM_OVERLOADED,
    529: ErrorKind.UPSTREAM_OVERLOADED,
}
"""Any other one, 404 without the name of a member too, is UPSTREAM_ERROR: model and address are our configuration."""
_SETTLED = frozenset({401, 402, 429, 498, 503, 529})
"""Statuses that no other code or wording changes."""
_ABOUT_THE_REQUEST = frozenset({400, 413, 422})
"""Statuses that codes refine."""
_NOT_OFFERED = frozenset({403, 404, 405, 501})
_MAY_BE_MODERATION = frozenset({400, 403, 422})
_MAY_BE_AN_OPTION = frozenset({500, 501})

# Each published by at least one provider that speaks OpenAI's dialect, none with two meanings.
_COMMON_LABELS = {
    "context_length_exceeded": ErrorKind.CONTEXT_LENGTH,  # platform.openai.com/docs/guides/error-codes
    "exceed_context_size_error": ErrorKind.CONTEXT_LENGTH,  # llama.cpp, tools/server
    # What this model or its server lacks: OpenAI, docs/guides/error-codes and recorded answers.
    "unsupported_parameter": ErrorKind.UPSTREAM_UNSUPPORTED,
    "unsupported_value": ErrorKind.UPSTREAM_UNSUPPORTED,
    "unknown_parameter": ErrorKind.UPSTREAM_UNSUPPORTED,
    "unsupported_file": ErrorKind.UPSTREAM_UNSUPPORTED,
    "model_not_supported": ErrorKind.UPSTREAM_UNSUPPORTED,
    "array_above_max_length": ErrorKind.UPSTREAM_UNSUPPORTED,
    "string_above_max_length": ErrorKind.UPSTREAM_UNSUPPORTED,
    "integer_above_max_value": ErrorKind.UPSTREAM_UNSUPPORTED,
    "integer_below_min_value": ErrorKind.UPSTREAM_UNSUPPORTED,
    "decimal_above_max_value": ErrorKind.UPSTREAM_UNSUPPORTED,
    "OperationNotSupported": ErrorKind.UPSTREAM_UNSUPPORTED,  # Azure, of a deployment that does other things
    "extra_forbidden": ErrorKind.UPSTREAM_UNSUPPORTED,  # pydantic: Mistral, and servers written with FastAPI
    # The model wrote a call or an object that does not fit (console.groq.com/docs/errors).
    "tool_use_failed": ErrorKind.UPSTREAM_UNSUPPORTED,
    "json_validate_failed": ErrorKind.UPSTREAM_UNSUPPORTED,
    "MALFORMED_FUNCTION_CALL": ErrorKind.UPSTREAM_UNSUPPORTED,  # Gemini, as a finish reason
    "invalid_api_key": ErrorKind.UPSTREAM_CREDENTIALS,
    "insufficient_quota": ErrorKind.UPSTREAM_CREDENTIALS,
    "exceeded_current_quota_error": ErrorKind.UPSTREAM_CREDENTIALS,  # Moonshot, an account without a balance
    "Arrearage": ErrorKind.UPSTREAM_CREDENTIALS,  # Alibaba, an account that is not paid for
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
    "image_content_policy_violation": ErrorKind.UPSTREAM_FLAGGED,  # OpenAI, api-reference/responses
    "ResponsibleAIPolicyViolation": ErrorKind.UPSTREAM_FLAGGED,  # Azure, as ``innererror.code``
    "data_inspection_failed": ErrorKind.UPSTREAM_FLAGGED,  # Alibaba
    "DataInspectionFailed": ErrorKind.UPSTREAM_FLAGGED,
}
COMPATIBLE = Facts(
    statuses={
        # Fireworks: the account is suspended, or an adapter of it failed to load (docs.fireworks.ai,
        # guides/inference-error-codes). We send no precondition that a request could fail.
        412: ErrorKind.UPSTREAM_CREDENTIALS,
        498: ErrorKind.UPSTREAM_OVERLOADED,  # Groq's flex tier is at capacity (console.groq.com/docs/errors)
    },
    labels=_COMMON_LABELS,
    sentences=(
        # OpenAI's sentence, which many of those who speak its dialect have taken over, with status 400 too.
        (re.compile(r"Incorrect API key provided\b"), ErrorKind.UPSTREAM_CREDENTIALS),
        (re.compile(r"API key (?:not valid|expired)\b"), ErrorKind.UPSTREAM_CREDENTIALS),  # Gemini, with status 400
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
    r"|prompt (?:is )?too long|too many (?:input |prompt )?tokens|input (?:is|was) too long"
    r"|exceeds? the (?:maximum|max) (?:number of )?tokens|exceeds? (?:the )?(?:model's )?(?:maximum )?context"
    # TGI: "`inputs` tokens + `max_new_tokens` must be <= 4096", "`inputs` must have less than 1024 tokens".
    r"|tokens?`? must be <= \d|must have less than \d+ tokens"
    r"|reduce the length of (?:the|your) (?:messages|prompt|input)",
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
    r"|not a valid model|invalid[ _]model\b|model_not_found|unknown model|no endpoints found"
    r"|\bno models? (?:is |are )?loaded\b|\bmodel unloaded\b|\bfailed to load model\b",  # LM Studio
    re.IGNORECASE | re.DOTALL,
)
# Of a model that does other things: OpenAI (403 and 404), vLLM 0.32, OpenRouter, Ollama. It may be in good health.
_OTHER_OPERATION = re.compile(
    r"not allowed to generate embeddings|is (?:not )?an? (?:chat|embeddings?) model"
    r"|do(?:es)? not support (?:chat|completions?|embeddings?|generate)\b|only supported in v1/",
    re.IGNORECASE,
)
# A parameter, role or kind of content that this model lacks, or a limit of its own: OpenAI, Anthropic, Groq, xAI,
# Mistral, Ollama, OpenRouter; the roles are the words of chat templates (Gemma, Mistral, Llama 2).
_LACKS = re.compile(
    r"\b(?:with|for|by|on) (?:this|the (?:requested|selected|current)|certain) models?\b"
    r"|\b(?:do|does|did)(?: not|n't) support\b|\bno endpoints found that support\b"
    r"|\bnot (?:yet |currently )?supported\b"
    r"|\b(?:is|are) unsupported\b|\bunsupported (?:parameter|value|role|content)\b|\bsupports? (?:at most|only)\b"
    r"|\bun(?:known|recognized|expected) (?:request |keyword )?(?:parameter|field|argument|key|name|property)\b"
    r"|\bextra (?:inputs|fields) (?:are )?not permitted\b|\bnot (?:yet |currently )?available (?:for|on|in)\b"
    r"|\broles must alternate\b|\balternate (?:with|user)\b|\blast (?:message|role|turn)\b"
    r"|\bat most \d+ (?:image|audio|video)|\bmultimodal model\b|\ba maximum of \d|\brange: ?\d|\bout of range\b"
    r"|\bmax(?:imum)? allowed\b|\bexceeds? \d+(?:\.\d+)? ?[MK]i?B\b|\btoo (?:many|large)\b",
    re.IGNORECASE,
)
# Of a file or an earlier answer that the request speaks of, without naming the member (Anthropic, OpenAI).
_NO_SUCH_THING = re.compile(r"(?:File|Container|Skill) not found\b|No such (?:File|Container) object\b", re.IGNORECASE)
# An option that its engine was started without: vLLM 0.32, llama.cpp (some of them with status 500).
_OPTION_IS_OFF = re.compile(
    r"\brequires? --[a-z]|\bset --[a-z]|\bis not enabled\b|\bprovide the mmproj\b", re.IGNORECASE
)
# One request of more than our account has there, which a smaller one may not be.
_ABOVE_THE_ACCOUNT = {
    429: re.compile(r"Request too large\b"),  # OpenAI and Groq: more tokens than it has in a minute
    402: re.compile(r"This request requires more credits, or fewer|Prompt tokens limit exceeded"),  # OpenRouter
}


def classify(status: int, label: str, message: str, hints: Hints, facts: Facts = COMPATIBLE) -> Verdict:
    """Return what an error means. ``label``: the provider's codes and types, separated by blanks."""
    kind = facts.statuses.get(status) or _BY_STATUS.get(status, ErrorKind.UPSTREAM_ERROR)
    named = next((facts.labels[word] for word in label.split() if word in facts.labels), None)
    named = ErrorKind.UPSTREAM_ERROR if hints.param == "model" else named
    if status in _SETTLED:
        return Verdict(_of_the_account(status, named, message) or kind)
    sentence = next((kind for words, kind in facts.sentences if words.match(message)), None)
    flagged = hints.flagged or ErrorKind.UPSTREAM_FLAGGED in {named, sentence} or _FLAGGED.search(message)
    if flagged and status in _MAY_BE_MODERATION:
        return Verdict(ErrorKind.UPSTREAM_FLAGGED)
    if _OTHER_OPERATION.search(message) or _is_not_offered(status, named, message, hints):
        return Verdict(ErrorKind.UPSTREAM_UNSUPPORTED)
    if status == 403 and _CONTEXT.search(message):  # Together's table of errors
        return Verdict(ErrorKind.CONTEXT_LENGTH)
    if status in _ABOUT_THE_REQUEST or status == 404:
        return _of_the_request(status, named, sentence, message, hints) or Verdict(kind)
    is_off = status in _MAY_BE_AN_OPTION and _OPTION_IS_OFF.search(message)
    return Verdict(ErrorKind.UPSTREAM_UNSUPPORTED if is_off else kind)


def _of_the_account(status: int, named: ErrorKind | None, message: str) -> ErrorKind | None:
    """Say what a status of these means: an account that is used up, one request too large for it; None: as always."""
    if status == 429 and named is ErrorKind.UPSTREAM_CREDENTIALS:
        return named
    above = _ABOVE_THE_ACCOUNT.get(status)
    return ErrorKind.UPSTREAM_UNSUPPORTED if above is not None and above.match(message) else None


def _of_the_request(
    status: int, named: ErrorKind | None, sentence: ErrorKind | None, message: str, hints: Hints
) -> Verdict | None:
    """Say what a 400, 404, 413 or 422 means, by the provider's table, else by the wording; None: what the status says.

    A 404 is about a model or an address, which are our configuration, unless another member is named: a file, or an
    earlier answer, that the request speaks of.
    """
    if hints.is_page:
        return None if status == 413 else Verdict(ErrorKind.UPSTREAM_ERROR)
    if named is ErrorKind.UPSTREAM_ERROR or (status != 404 and named not in {None, ErrorKind.UPSTREAM_FLAGGED}):
        return Verdict(named or ErrorKind.UPSTREAM_ERROR)
    if status != 404 and sentence not in {None, ErrorKind.UPSTREAM_FLAGGED}:
        return Verdict(sentence or ErrorKind.UPSTREAM_ERROR, in_words=True)
    if _CONTEXT.search(message):
        return Verdict(ErrorKind.CONTEXT_LENGTH)
    if _LACKS.search(message) or _OPTION_IS_OFF.search(message) or (status != 404 and _MODEL.search(message)):
        return Verdict(ErrorKind.UPSTREAM_UNSUPPORTED)
    is_named = hints.param or _NO_SUCH_THING.match(message)
    return Verdict(ErrorKind.UPSTREAM_REJECTED) if status == 404 and is_named else None


def names_no_model(message: str) -> bool:
    """Whether a message says that the model is unknown."""
    return _MODEL.search(message) is not None


def is_of_another_operation(message: str) -> bool:
    """Whether a message says that the model is there for other operations, and not that it is unknown."""
    return _OTHER_OPERATION.search(message) is not None and not names_no_model(message)


def _is_not_offered(status: int, named: ErrorKind | None, message: str, hints: Hints) -> bool:
    """Whether a target has nothing at the address of an operation that is no chat."""
    if status not in _NOT_OFFERED or hints.only_chat or hints.param:
        return False
    return named is not ErrorKind.UPSTREAM_ERROR and not _MODEL.search(message)
