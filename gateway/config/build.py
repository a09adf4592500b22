"""Turns a ``Config`` into the immutable ``Snapshot`` that requests run on: names resolved, prices found.

Decides what a target costs and where it is, and refuses what would fail at the first request: a target without a price,
a provider without its key, an open door without keys. What the provider types are, where prices come from
and what a policy is made of is passed in by the composition root.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from math import ceil
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec.structs import replace

from gateway.config.loopback import is_loopback_address
from gateway.config.prices import rates_of
from gateway.config.problems import Problems, unknown
from gateway.config.schema import (
    Config,
    KeepSection,
    ModelSection,
    ProviderSection,
    RouteSection,
    ServerSection,
)
from gateway.config.snapshot import Keep, KeptResponses, ProviderType, Server, Snapshot, Storage, Wildcard, matches
from gateway.prompt_cache import CacheOf, cache_lookup
from gateway.tariff import Rates
from gateway.types import BodyBudget, Capability, Policy, Principal, Route, Secret, Target, Timeouts

PriceOf = Callable[[str, str], Rates | None]
"""(the price book's id of the provider, the provider's name of the model) -> its rates, or None: not in the book."""

PolicyOf = Callable[[RouteSection, Sequence[Target]], Policy]
"""Makes a route's policy over these targets."""

_NANO = 1_000_000_000
_MB = 1_000_000
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_UPSTREAM = "{upstream}"
_VERSION = re.compile(r"/v[0-9]+$")


def build(
    config: Config, *, provider_types: Mapping[str, ProviderType], price_of: PriceOf, policy_of: PolicyOf
) -> Snapshot:
    """Resolve a configuration. Raises ConfigError with everything that stands against it."""
    problems = Problems(config.source)
    _check_server(config, problems)
    types: dict[str, ProviderType] = {}
    for name, provider in config.providers.items():
        if (kind := provider_types.get(provider.type)) is None:
            problems.add(("providers", name, "type"), unknown("provider type", provider.type, provider_types))
        else:
            types[name] = kind
            _check_provider(name, provider, kind, problems)
    targets: dict[str, Target] = {}
    wildcards: list[Wildcard] = []
    cache_of = cache_lookup()
    for name, model in config.models.items():
        if model.provider not in types:
            continue
        kind = types[model.provider]
        if name.endswith("/*"):
            wildcards.append(_wildcard(name, model, config, kind, problems, policy_of=policy_of, cache_of=cache_of))
        else:
            if model.api == "responses" and kind.responses_adapter is None:
                problems.add(("models", name, "api"), "the provider has no Responses API; leave the key out")
            rates = _configured_rates(name, model, config, kind)
            rates = rates or _booked_rates(name, model, kind, price_of, problems)
            targets[name] = _target(name, model, config, kind, rates, cache_of=cache_of)
            _check_simulated(name, config, kind, problems)
    problems.raise_if_any()
    route = partial(_route, config=config, problems=problems, policy_of=policy_of)
    plain = config.plain_route()
    routes = {
        **{name: route(name, each, [targets[model] for model in each.models]) for name, each in config.routes.items()},
        **{name: route(name, plain, [target]) for name, target in targets.items()},
    }
    problems.raise_if_any()
    server = config.server
    return Snapshot(
        version=_hash([config.model_dump(mode="json"), [_shown(target) for target in targets.values()]]),
        server=Server(
            host=server.host,
            port=server.port,
            max_body_bytes=int(server.max_body_mb * _MB),
            body_timeout_s=server.body_timeout_s,
            keep_alive_s=server.keep_alive_s,
            bodies=_body_budget(server),
            drain_s=server.drain_s,
            workers=server.workers,
            is_loopback=_is_loopback(server.host),
            hosts=frozenset(server.hosts),
            cors_origins=frozenset(server.cors_origins),
            pages={name: access for name, access in server.pages if access is not None},
        ),
        targets=targets,
        routes=routes,
        wildcards=tuple(wildcards),
        keys=_principals(config),
        timeouts=_timeouts(config),
        state_dir=config.state_dir,
        storage=_storage(config),
        responses=_responses(config),
        provider_types=types,
    )


def _storage(config: Config) -> Storage:
    storage = config.storage
    return Storage(
        min_free_bytes=round(storage.min_free_mb * _MB),
        refusals_per_minute=ceil(storage.refusals_per_minute / config.server.workers),
        refusals=_keep(storage.refusals),
        calls=_keep(storage.calls),
        rejected=_keep(storage.rejected),
    )


def _responses(config: Config) -> KeptResponses:
    section = config.responses
    return KeptResponses(
        keep_s=float(section.keep[:-1] or 0) * _SECONDS.get(section.keep[-1], 0),
        max_bytes=round(section.keep_mb * _MB),
        secret=section.key,
        min_free_bytes=round(config.storage.min_free_mb * _MB),
    )


def _keep(section: KeepSection) -> Keep:
    return Keep(
        max_days=section.max_days, max_bytes=None if section.max_mb is None else max(1, round(section.max_mb * _MB))
    )


def frozen_changes(old: Snapshot, new: Snapshot) -> list[str]:
    """Say, a sentence each, what differs that a running gateway cannot change; empty: the new one can take over."""
    pairs = [
        ("server.host", old.server.host, new.server.host),
        ("server.port", old.server.port, new.server.port),
        ("server.workers", old.server.workers, new.server.workers),
        ("state_dir", old.state_dir, new.state_dir),
    ]
    return [
        f"{name} cannot change from {before} to {after} while the gateway runs; restart it."
        for name, before, after in pairs
        if before != after
    ]


def _body_budget(server: ServerSection) -> BodyBudget:
    in_all_mb = server.max_body_memory_mb or max(BodyBudget().in_all_bytes / _MB, 2 * server.max_body_mb)
    per_key_mb = server.max_body_memory_per_key_mb or max(in_all_mb / 2, server.max_body_mb)
    return BodyBudget(per_key_bytes=int(per_key_mb * _MB), in_all_bytes=int(in_all_mb * _MB))


def _check_server(config: Config, problems: Problems) -> None:
    if not config.keys and not _is_loopback(config.server.host):
        problems.add(
            ("server", "host"),
            f"{config.server.host} can be reached from other machines, and there are no keys; "
            "add a key under keys, or listen on 127.0.0.1",
        )


def _check_simulated(name: str, config: Config, kind: ProviderType, problems: Problems) -> None:
    """Refuse the section of a replica for what is a provider's, and the other way round: it would say nothing."""
    section = config.simulation.get(name)
    if section is not None and getattr(section, unfit := "provider" if kind.own_hardware else "replica") is not None:
        runs = "runs on own hardware" if kind.own_hardware else "is a provider's"
        problems.add(("simulation", name, unfit), f"says nothing of a model that {runs}")


def _is_loopback(host: str) -> bool:
    return host == "localhost" or is_loopback_address(host)


def _check_provider(name: str, provider: ProviderSection, kind: ProviderType, problems: Problems) -> None:
    place = ("providers", name)
    if provider.base_url is None and kind.base_url is None:
        problems.add(place, f"key 'base_url' is missing: the type '{provider.type}' has no default")
    if provider.api_key is None and kind.needs_key:
        problems.add(place, f"key 'api_key' is missing: the type '{provider.type}' wants env:NAME or file:PATH")
    if provider.base_url is None:
        return
    own, default = urlsplit(provider.base_url), urlsplit(kind.base_url or "")
    if kind.adds_version and _VERSION.search(own.path):
        problems.add((*place, "base_url"), f"the type '{provider.type}' adds the version itself; leave it out")
    if own.hostname == default.hostname and not own.path and default.path:
        problems.add((*place, "base_url"), f"lacks the path of {kind.base_url}; write that, or leave the key out")


def _target(
    name: str, model: ModelSection, config: Config, kind: ProviderType, rates: Rates, *, cache_of: CacheOf
) -> Target:
    """Put a target together; for a wildcard's name its address keeps ``{upstream}``."""
    provider = config.providers[model.provider]
    is_wildcard = name.endswith("/*")
    upstream = model.upstream or name
    path = kind.model_path if is_wildcard else kind.model_path.replace(_UPSTREAM, quote(upstream))
    always_stream = kind.always_stream if provider.always_stream is None else provider.always_stream
    base_url = (provider.base_url or kind.base_url or "").rstrip("/")
    own_hardware = kind.own_hardware or model.hardware is not None
    return Target(
        id=name,
        provider=model.provider,
        adapter=_adapter(model, upstream, kind),
        upstream_model="" if is_wildcard else upstream,
        base_url=base_url + path,
        credential=provider.api_key,
        signer=kind.signer,
        pool=_pool(model.provider, provider),
        capabilities=_capabilities(model),
        context_length=model.context,
        max_output_tokens=model.max_output_tokens,
        licence=model.licence or kind.licence,
        rates=rates,
        quality=model.quality,
        region=model.region,
        data_policy=model.data_policy or ("zero-retention" if own_hardware else "unknown"),
        own_hardware=own_hardware,
        always_stream=always_stream and not matches(upstream, kind.whole_models),
        hides_reasoning=kind.hides_reasoning,
        bills_stated_cost=kind.bills_stated_cost,
        headers=tuple((key, got.value if isinstance(got, Secret) else got) for key, got in provider.headers.items()),
        timeouts=_timeouts(config, provider=provider),
        cluster_url=base_url if kind.has_directory and provider.direct and not is_wildcard else None,
        replica_choice=model.replica_choice,
        charge="marginal" if model.hardware is None else model.hardware.charge,
        prompt_cache=None if is_wildcard else cache_of(provider.type, upstream),
    )


def _adapter(model: ModelSection, upstream: str, kind: ProviderType) -> str:
    if model.api is None:
        return kind.adapter_of(upstream)
    return (kind.responses_adapter if model.api == "responses" else kind.chat_adapter) or kind.adapter


def _pool(name: str, provider: ProviderSection) -> str:
    secrets = [each for each in (provider.api_key, *provider.headers.values()) if isinstance(each, Secret)]
    return " ".join([name, *(secret.fingerprint() for secret in secrets)])


def _capabilities(model: ModelSection) -> frozenset[Capability] | None:
    """Take the list as it is; a model that follows a schema can also be held to JSON without one."""
    if model.capabilities is None:
        return None
    listed = frozenset(model.capabilities)
    return listed | {"json_object"} if "json_schema" in listed else listed


def _wildcard(
    name: str,
    model: ModelSection,
    config: Config,
    kind: ProviderType,
    problems: Problems,
    *,
    policy_of: PolicyOf,
    cache_of: CacheOf,
) -> Wildcard:
    """Make the template of ``openai/*``. The file's prices hold for all names; without, each is looked up."""
    rates = _configured_rates(name, model, config, kind)
    if rates is None and kind.price_provider is None:
        problems.add(("models", name), _no_price(kind, "is known for this provider"))
    template = _target(name, model, config, kind, rates or Rates(), cache_of=cache_of)
    policy = policy_of(config.plain_route(), [template])
    if not policy.targets:
        problems.add(("models", name), _never_allowed(policy))
    return Wildcard(
        prefix=name.removesuffix("*"),
        template=template,
        policy=policy,
        price_provider=kind.price_provider if rates is None else None,
        kind=kind,
        cache_of=partial(cache_of, config.providers[model.provider].type),
    )


def _booked_rates(name: str, model: ModelSection, kind: ProviderType, price_of: PriceOf, problems: Problems) -> Rates:
    """Find the rates of a target without any in the file: the price book's, for a type that is in it."""
    upstream = model.upstream or name
    rates = None if kind.price_provider is None else price_of(kind.price_provider, upstream)
    if rates is None:
        problems.add(("models", name), _no_price(kind, f"is known for '{upstream}'"))
    return rates or Rates()


def _no_price(kind: ProviderType, known: str) -> str:
    if kind.own_hardware:
        return (
            "no price: write hardware: {name: ..., usd_per_hour: ...} for the machine it runs on, usd_per_hour at its "
            "worker, or price: free"
        )
    return f"no price {known}: write price: {{input: ..., output: ...}} in USD per 1M tokens, or price: free"


def _configured_rates(name: str, model: ModelSection, config: Config, kind: ProviderType) -> Rates | None:
    if model.price is not None:
        return rates_of(model.price)
    usd = None if model.hardware is None else model.hardware.usd_per_hour
    if usd is None and (kind.own_hardware or model.hardware is not None):
        usd = _usd_of_worker(model.upstream or name, config.workers)
    return None if usd is None else Rates(hardware_nano_usd_per_hour=_nano(usd), version="config")


class _Adapters(msgspec.Struct, frozen=True):
    adapters: dict[str, Any] = {}


class _Worker(msgspec.Struct, frozen=True):
    """What the gateway wants of a worker's section, which only the workers check."""

    usd_per_hour: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
    served_names: list[str] = []
    lora: _Adapters = _Adapters()


def _usd_of_worker(served: str, workers: Mapping[str, Any]) -> Decimal | None:
    """Return the hourly price of the worker that serves this name; None: it has none."""
    for name, section in workers.items():
        with suppress(msgspec.ValidationError):
            worker = msgspec.convert(section, _Worker)
            if served in {name, *worker.served_names, *worker.lora.adapters}:
                return Decimal(str(worker.usd_per_hour))
    return None


def _nano(usd: Decimal) -> int:
    """Convert USD to nano-dollars, exactly: the schema lets no more than nine decimals in."""
    return int(usd * _NANO)


def _timeouts(
    config: Config, *, provider: ProviderSection | None = None, route: RouteSection | None = None
) -> Timeouts:
    """Merge: the route's before the provider's before the file's. A provider's ``total_s`` is that of an attempt."""
    merged = config.timeouts.model_dump()
    for section in (provider, route):
        merged |= {} if section is None else section.timeouts.model_dump(exclude_none=True)
    if provider is not None and provider.timeouts.total_s is not None:
        merged["total_s"] = provider.timeouts.total_s
    return Timeouts(**merged)


def _route(
    name: str,
    section: RouteSection,
    targets: Sequence[Target],
    config: Config,
    problems: Problems,
    *,
    policy_of: PolicyOf,
) -> Route:
    chosen = [
        replace(target, timeouts=_timeouts(config, provider=config.providers[target.provider], route=section))
        for target in targets
    ]
    policy, timeouts = policy_of(section, chosen), _timeouts(config, route=section)
    if not policy.targets and name in config.routes:
        reasons = "; ".join(f"{each.target_id}: {each.reason}" for each in policy.ruled_out)
        problems.add(("routes", name, "require"), f"none of the models of this route meets this ({reasons})")
    elif not policy.targets:
        problems.add(("models", name), _never_allowed(policy))
    version = _hash([name, section.model_dump(mode="json"), timeouts, [_shown(target) for target in chosen]])
    return Route(
        name=name,
        targets=policy.targets,
        policy=policy,
        timeouts=timeouts,
        version=version,
        task=section.task,
        drops_unsupported_tools=section.unsupported_tools == "drop",
    )


def _never_allowed(policy: Policy) -> str:
    reasons = "; ".join(each.reason for each in policy.ruled_out)
    return f"does not meet what is demanded where a route says nothing else ({reasons})"


def _principals(config: Config) -> dict[bytes, Principal]:
    return {
        key.secret: Principal(
            key_id=key.name,
            team_id=key.team,
            allowed_models=None if key.routes is None else frozenset(key.routes),
            may_override=None if key.may_override is None else frozenset(key.may_override),
            requests_per_minute=key.requests_per_minute,
            concurrency=key.concurrency,
        )
        for key in config.keys
    }


def _shown(target: Target) -> Target:
    """Return a target without its secrets, some of which are in headers."""
    return replace(target, credential=None, pool="", headers=tuple((name, "***") for name, _ in target.headers))


def _hash(content: object) -> str:
    """Digest a value: 12 hexadecimal digits, the same in every process."""
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:12]
