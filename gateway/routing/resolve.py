"""Decide what a request's ``model`` means: a route of the snapshot, or a wildcard's model as a route with one target.

Everything is decided on ``envelope.model``, the value that will be replaced upstream; there is no second reading of the
body that an allow-list and the upstream could disagree on. Whether the caller may ask so often, or spend so much, is
left to admission; where the request goes, to the router.
"""

import re
from collections.abc import Callable
from difflib import get_close_matches

from gateway.config.snapshot import Snapshot, Wildcard
from gateway.errors import ErrorKind, GatewayError
from gateway.formats.session import SAYS
from gateway.routing.sessions import Sessions
from gateway.routing.wishes import HEADER, MEMBER, granted
from gateway.tariff import Rates
from gateway.trace import trace_id_of
from gateway.types import Call, Envelope, Inbound, Principal, Route

PriceOf = Callable[[str, str], Rates | None]
"""A price provider's id and an upstream model's name -> its rates, None when the book does not know it.

Asked for every call of a wildcard's model, so hand in a bounded memory: ``functools.lru_cache(1024)(price_of)``."""

_UPSTREAM_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_:@+-]|[./](?![./])){0,199}")
"""What a wildcard lets callers put into an upstream's address, our headers and our labels: no spaces, no ``..``."""
_SHOWN_CHARACTERS = 100
_SAYS_MORE = SAYS | {MEMBER, HEADER}
"""Headers and members that few calls have: they are looked for at once."""


def _no_prices(_price_provider: str, _upstream_model: str) -> Rates | None:
    return None


def resolve(
    inbound: Inbound,
    envelope: Envelope,
    principal: Principal,
    snapshot: Snapshot,
    *,
    estimate_input_tokens: Callable[[Envelope], int],
    price_of: PriceOf = _no_prices,
    sessions: Sessions,
) -> Call:
    """Build the call: its route, its estimated size and its deadline.

    Raises GatewayError: PERMISSION, MODEL_NOT_FOUND when there is none or a wildcard's model has no known price, or
    INVALID_REQUEST for a wish that cannot be granted (``wishes``).
    """
    route = _route(envelope.model, principal, snapshot, price_of)
    traceparent = inbound.headers.get("traceparent")
    limit = envelope.max_output_tokens
    session = None
    if not (_SAYS_MORE.isdisjoint(inbound.headers) and _SAYS_MORE.isdisjoint(envelope.members)):
        session = sessions.key_of(principal.key_id, inbound.headers, envelope.members)
        if MEMBER in envelope.members or HEADER in inbound.headers:
            envelope, route = granted(envelope, route, principal, snapshot, inbound.headers)
    return Call(
        id=inbound.id,
        envelope=envelope,
        route=route,
        principal=principal,
        input_tokens_estimate=estimate_input_tokens(envelope),
        output_cap=None if limit is None else limit * envelope.choices,
        received_at_ns=inbound.received_at_ns,
        deadline_ns=inbound.received_at_ns + round(route.timeouts.total_s * 1e9),
        headers=inbound.headers,
        trace_id=None if traceparent is None else trace_id_of(traceparent),
        session=session,
    )


def may_use(principal: Principal, name: str) -> bool:
    """Return whether a key's list names this route or model; ``openai/*`` in a list names all behind the prefix."""
    allowed = principal.allowed_models
    if allowed is None or name in allowed:
        return True
    return any(entry.endswith("/*") and name.startswith(entry[:-1]) for entry in allowed)


def _route(name: str, principal: Principal, snapshot: Snapshot, price_of: PriceOf) -> Route:
    route = snapshot.routes.get(name)
    if route is not None:
        _check_permission(name, principal)
        return route
    wildcard = snapshot.wildcard_of(name)
    if wildcard is None:
        raise _not_found(name, principal, snapshot)
    _check_permission(name, principal)
    return _wildcard_route(name, wildcard, snapshot, price_of)


def _check_permission(name: str, principal: Principal) -> None:
    if not may_use(principal, name):
        message = f"The key '{principal.key_id}' may not use the model '{_shown(name)}'."
        raise GatewayError(ErrorKind.PERMISSION, message + _choice(principal), param="model")


def _wildcard_route(name: str, wildcard: Wildcard, snapshot: Snapshot, price_of: PriceOf) -> Route:
    upstream = name[len(wildcard.prefix) :]
    rates: Rates | None = None
    if _UPSTREAM_NAME.fullmatch(upstream):
        provider = wildcard.price_provider
        rates = wildcard.template.rates if provider is None else price_of(provider, upstream)
    if rates is None:
        message = f"No price is known for '{_shown(name)}', so it cannot be called; the configuration may name one."
        raise GatewayError(ErrorKind.MODEL_NOT_FOUND, message, param="model")
    return Route(
        name=name,
        targets=(wildcard.target(name, rates),),
        policy=wildcard.policy,
        version=snapshot.version,
        timeouts=snapshot.timeouts,
    )


def _not_found(name: str, principal: Principal, snapshot: Snapshot) -> GatewayError:
    message = f"The model '{_shown(name)}' does not exist."
    if len(name) <= _SHOWN_CHARACTERS:  # comparing takes time in proportion to the length
        known = [each for each in snapshot.routes if may_use(principal, each)]
        near = get_close_matches(name, known, n=1)
        if near:
            message += f" Did you mean '{near[0]}'?"
    return GatewayError(ErrorKind.MODEL_NOT_FOUND, message + " GET /v1/models lists what there is.", param="model")


def _choice(principal: Principal) -> str:
    names = sorted(principal.allowed_models or ())
    return f" It may use: {', '.join(names[:10])}{' ...' if len(names) > 10 else ''}." if names else ""


def _shown(name: str) -> str:
    """Cut a caller's text down to something for a message: short, and without control characters."""
    kept = "".join(each if each.isprintable() else "?" for each in name[:_SHOWN_CHARACTERS])
    return kept if len(name) <= _SHOWN_CHARACTERS else kept + "..."
