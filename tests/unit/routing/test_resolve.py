"""Resolving a model's name: routes, allow-lists, wildcards, and what is said of a name that does not exist."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from gateway.config.snapshot import ProviderType, Server, Snapshot, Wildcard
from gateway.errors import ErrorKind, GatewayError
from gateway.formats.openai.decode import CHAT
from gateway.prompt_cache import cache_lookup
from gateway.routing.resolve import resolve
from gateway.routing.sessions import Sessions
from gateway.tariff import Rates
from gateway.types import Call, Envelope, Inbound, Principal, Timeouts
from tests.ground.builders import build_envelope, build_principal, build_route, build_target

BOOK = {("openai", "gpt-5.4-mini"): Rates(output_nano_usd_per_mtok=2_000_000_000, version="book")}


async def no_body(_hold: Callable[[int], None]) -> bytes:
    return b""


def wildcard(prefix: str, price_provider: str | None, **fields: object) -> Wildcard:
    template = build_target(f"{prefix}*", upstream_model="", **fields)
    policy = build_route(template).policy
    kind = ProviderType(adapter="openai")
    return Wildcard(
        prefix=prefix,
        template=template,
        policy=policy,
        price_provider=price_provider,
        kind=kind,
        cache_of=partial(cache_lookup(), "openai"),
    )


SNAPSHOT = Snapshot(
    version="s1",
    server=Server(host="127.0.0.1", port=0, max_body_bytes=1, body_timeout_s=1, drain_s=1),
    targets={},
    routes={name: build_route(name=name, timeouts=Timeouts(total_s=30)) for name in ("auto", "secret-model", "small")},
    wildcards=(
        wildcard("openai/", "openai"),
        wildcard("openai/ft/", None, base_url="http://ft.test/models/{upstream}"),
    ),
    keys={},
    timeouts=Timeouts(total_s=30),
    state_dir="",
)


def resolved(model: str, principal: Principal | None = None, **envelope: Any) -> Call:
    inbound = Inbound(
        id="req_1",
        endpoint=CHAT,
        headers={},
        received_at_ns=5_000_000_000,
        read_body=no_body,
        caller_left=lambda: False,
    )
    return resolve(
        inbound,
        build_envelope(model=model, **envelope),
        principal or build_principal(),
        SNAPSHOT,
        estimate_input_tokens=count_bytes,
        price_of=lambda provider, name: BOOK.get((provider, name)),
        sessions=Sessions(),
    )


def count_bytes(envelope: Envelope) -> int:
    return envelope.content_bytes


def refusal(model: str, principal: Principal | None = None) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        resolved(model, principal)
    assert caught.value.param == "model"
    return caught.value


def test_a_call_carries_its_route_needs_estimates_and_deadline() -> None:
    """The deadline counts from when the request arrived."""
    call = resolved("auto", max_output_tokens=7, content_bytes=40, needs=frozenset({"chat", "tools"}))
    assert call.route.name == "auto"
    assert call.envelope.needs == {"chat", "tools"}
    assert (call.input_tokens_estimate, call.envelope.max_output_tokens) == (40, 7)
    assert call.deadline_ns == 35_000_000_000
    assert call.route.timeouts.total_s == 30


def test_an_unknown_model_is_answered_with_the_nearest_name() -> None:
    """A slip of the finger gets a suggestion."""
    error = refusal("auot")
    assert error.kind is ErrorKind.MODEL_NOT_FOUND
    assert "'auto'" in error.message


def test_a_suggestion_reveals_no_name_beyond_the_keys_list() -> None:
    """A key that may use only ``auto`` learns nothing of other names."""
    error = refusal("secret-modle", build_principal(allowed_models=frozenset({"auto"})))
    assert error.kind is ErrorKind.MODEL_NOT_FOUND
    assert "secret-model" not in error.message


def test_a_model_that_the_key_may_not_use_is_refused() -> None:
    """403, with the names that it may use, and before any price is looked up."""
    error = refusal("small", build_principal(allowed_models=frozenset({"auto"})))
    assert error.kind is ErrorKind.PERMISSION
    assert "auto" in error.message
    assert refusal("openai/x", build_principal(allowed_models=frozenset({"auto"}))).kind is ErrorKind.PERMISSION


def test_a_wildcard_makes_a_target_of_a_name_that_has_a_price() -> None:
    """The upstream's own name stands behind the prefix; the price book knows it."""
    call = resolved("openai/gpt-5.4-mini", build_principal(allowed_models=frozenset({"openai/*"})))
    (target,) = call.route.targets
    assert (target.id, target.upstream_model, target.rates.version) == ("openai/gpt-5.4-mini", "gpt-5.4-mini", "book")
    assert call.route.name == "openai/gpt-5.4-mini"


def test_a_wildcards_name_without_a_price_is_refused() -> None:
    """Never free by accident."""
    assert refusal("openai/gpt-99").kind is ErrorKind.MODEL_NOT_FOUND


def test_the_longest_prefix_wins_and_a_configured_price_holds_for_all_names() -> None:
    """``openai/ft/*`` has prices of its own and an address that takes the name."""
    (target,) = resolved("openai/ft/mine:1").route.targets
    assert target.upstream_model == "mine:1"
    assert target.base_url == "http://ft.test/models/mine%3A1"


@pytest.mark.parametrize("name", ["", "../admin", "a/../b", "a//b", "a b", "a\r\nb: c", "a?b", "%2e", "é", "x" * 500])
def test_a_wildcards_name_cannot_leave_its_place(name: str) -> None:
    """It becomes part of an address, a header and a label."""
    assert refusal(f"openai/ft/{name}").kind is ErrorKind.MODEL_NOT_FOUND


def test_an_enormous_name_is_neither_compared_nor_repeated() -> None:
    """The answer stays small and quick."""
    assert len(refusal("auto" * 100_000).message) < 300
