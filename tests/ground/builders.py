"""Values for tests: each builder takes the fields a test cares about as keywords and fills in the rest sensibly."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.app import configuration
from gateway.clock import Clock, SystemClock
from gateway.config.parts import Tools
from gateway.config.schema import RouteSection
from gateway.formats.registry import ENDPOINTS
from gateway.routing.registry import policy as policy_of
from gateway.tariff import Rates
from gateway.types import Call, Envelope, Policy, Principal, Quantiles, Route, Target, TargetView, UpstreamRequest

ENDPOINT = {each.operation: each for each in reversed(ENDPOINTS)}
POLICY_KEYS = RouteSection.model_fields.keys() - {"models", "timeouts"}
RATES = Rates(
    input_nano_usd_per_mtok=100_000_000,
    cached_input_nano_usd_per_mtok=10_000_000,
    output_nano_usd_per_mtok=400_000_000,
    reasoning_nano_usd_per_mtok=400_000_000,
    version="test",
)
"""0.10 USD per million input tokens, 0.01 cached, 0.40 output."""


def chat_body(**members: Any) -> bytes:
    """Write a chat completion request; ``chat_body(stream=True)`` adds or replaces members."""
    body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Say hello"}]}
    return json.dumps(body | members).encode()


def build_upstream_request(url: str, **overrides: Any) -> UpstreamRequest:
    """Build a streamed chat request to ``url``, or to its chat path when it is an origin."""
    whole_url = url if url.count("/") > 2 else f"{url}/v1/chat/completions"
    fields: dict[str, Any] = {"method": "POST", "url": whole_url, "headers": (("content-type", "application/json"),)}
    return UpstreamRequest(**({"body": chat_body(stream=True), "pool": "test"} | fields | overrides))


def build_target(id: str = "small", **overrides: Any) -> Target:  # noqa: A002 - the struct's own name for it
    """Build an OpenAI-compatible target at an address that does not exist."""
    fields: dict[str, Any] = {
        "provider": "test",
        "adapter": "openai",
        "upstream_model": f"{id}-upstream",
        "base_url": f"http://{id}.test/v1",
        "rates": RATES,
    }
    return Target(id=id, **(fields | overrides))


def build_adapters(**reasons: str) -> Mapping[str, Any]:
    """Build what the router asks: under every name a format that refuses nothing, but under these for these reasons."""
    refusing = {
        name: SimpleNamespace(may_refuse=True, refuses=lambda _call, it=reason: it) for name, reason in reasons.items()
    }
    return defaultdict(lambda: SimpleNamespace(may_refuse=False, refuses=lambda _call: None), refusing)


def build_view(target: Target | None = None, **overrides: Any) -> TargetView:
    """Build a view of an idle, healthy target with measured TTFT, TPOT and output tokens."""
    fields: dict[str, Any] = {
        "ttft_ms": Quantiles(100.0, 150.0, 200.0, 300.0),
        "tpot_ms": Quantiles(10.0, 15.0, 20.0, 30.0),
        "output_tokens": Quantiles(100.0, 200.0, 250.0, 400.0),
    }
    return TargetView(target=target or build_target(), **(fields | overrides))


def build_policy(
    section: RouteSection, targets: Sequence[Target], *, adapters: Any = None, clock: Clock | None = None
) -> Policy:
    """Build the policy of a route's section, with formats that refuse nothing unless others are given."""
    return policy_of(
        section, targets, Tools(clock or SystemClock(), build_adapters() if adapters is None else adapters)
    )


def build_route(*targets: Target, adapters: Any = None, clock: Clock | None = None, **overrides: Any) -> Route:
    """Build a route of these targets, or of one default target; what is no field is a key of its section."""
    keys = {key: overrides.pop(key) for key in POLICY_KEYS & overrides.keys()}
    section = type(configuration().plain_route())(models=("model",), **keys)
    policy = build_policy(section, targets or (build_target(),), adapters=adapters, clock=clock)
    fields: dict[str, Any] = {"name": "auto", "targets": policy.targets, "policy": policy, "version": "v1"}
    return Route(**(fields | overrides))


def build_principal(key_id: str = "demo", **overrides: Any) -> Principal:
    """Build a principal who may do everything."""
    return Principal(key_id=key_id, **overrides)


def build_envelope(body: bytes | None = None, **overrides: Any) -> Envelope:
    """Build the envelope of a body; what only the validating scan can know is filled in plainly, not derived."""
    body = chat_body() if body is None else body
    members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    value = json.loads(body)
    fields: dict[str, Any] = {
        "endpoint": ENDPOINT[overrides.pop("operation", "chat")],
        "body": body,
        "members": {name: bytes(raw) for name, raw in members.items()},
        "model": value.get("model", "auto"),
        "stream": bool(value.get("stream")),
        "include_usage": bool((value.get("stream_options") or {}).get("include_usage")),
        "max_output_tokens": value.get("max_completion_tokens") or value.get("max_tokens"),
        "choices": value.get("n") or 1,
        "streamable": True,
        "needs": frozenset({"chat"}),
        "content_bytes": len(body),
    }
    return Envelope(**(fields | overrides))


def build_call(envelope: Envelope | None = None, route: Route | None = None, **overrides: Any) -> Call:
    """Build a call received at 0 ns with ten minutes to go; ``overrides`` of its envelope's fields go there."""
    envelope = envelope or build_envelope()
    if "operation" in overrides:
        envelope = replace(envelope, endpoint=ENDPOINT[overrides.pop("operation")])
    of_envelope = {name: overrides.pop(name) for name in ("needs", "max_output_tokens") if name in overrides}
    envelope = replace(envelope, **of_envelope)
    limit = envelope.max_output_tokens
    fields: dict[str, Any] = {
        "id": "req_0001",
        "principal": build_principal(),
        "input_tokens_estimate": 10,
        "output_cap": None if limit is None else limit * envelope.choices,
        "received_at_ns": 0,
        "deadline_ns": 600_000_000_000,
    }
    return Call(envelope=envelope, route=route or build_route(), **fields | overrides)
