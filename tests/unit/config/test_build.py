"""Building a snapshot: what each key of the file becomes, and what is refused before the first request."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.app import configuration
from gateway.config.build import build, frozen_changes
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.schema import Config, RouteSection
from gateway.config.snapshot import Keep, KeptResponses, ProviderType, Server, Snapshot, Storage
from gateway.routing.registry import OBJECTIVES
from gateway.tariff import Amounts, Rates, Tier, Variant
from gateway.types import BodyBudget, Dropped, Policy, Principal, Quantiles, Secret, Target, Timeouts
from tests.ground.builders import build_call, build_policy, build_view

TYPES = {
    "ray-serve": ProviderType(adapter="openai", model_path="/{upstream}/v1", own_hardware=True, always_stream=True),
    "openai": ProviderType(
        adapter="openai",
        base_url="https://api.openai.com/v1",
        price_provider="openai",
        needs_key=True,
        licence="proprietary",
        responses_models=("*-pro", "*-codex", "*-deep-research*"),
    ),
    "openai-compatible": ProviderType(adapter="openai"),
}
BOOK = {("openai", "gpt-5.4-mini"): Rates(input_nano_usd_per_mtok=250_000_000, version="book-1")}
ENVIRON = {"HOME": "/h", "OPENAI_API_KEY": "sk-upstream", "DEMO_KEY": "tw-demo", "TOKEN": "tok-1", "KEPT": 32 * "k"}

# Every key of the schema, none at its default: a key that is added to the schema is missing here until it is tested.
PRICED = [name.removesuffix("_tokens") for name in Amounts.__struct_fields__ if name.endswith("_tokens")]
CLASSES = [f"{name}: {number}" for number, name in enumerate(PRICED, 1)]
CLASSES += ["per_request: 0.001", "audio_hour: 0.36", "web_search: 0.025"]
DEMANDS = ", hosting: own, region: [eu], quality: {mmlu: 0.3}, data_policy: no-training, task_quality: 0.2"
FULL = """\
server:
  {host: 0.0.0.0, port: 9000, max_body_mb: 1.5, body_timeout_s: 11, drain_s: 12, workers: 3,
  keep_alive_s: 7.5, max_body_memory_mb: 9, max_body_memory_per_key_mb: 4,
  hosts: [GW.example.com., "::1"], cors_origins: ["https://App.example.com:443/", "http://app:3000"],
  pages: {metrics: open, docs: off, openapi: key}}
storage:
  {min_free_mb: 32.5, refusals_per_minute: 10, refusals: {max_days: 2, max_mb: 5}, calls: {max_days: 90, max_mb: 1000},
  rejected: {max_days: null, max_mb: 2}}
providers:
  cluster: {type: ray-serve, base_url: "http://10.0.0.1:8000/", direct: false}
  openai:
    type: openai
    base_url: https://eu.api.openai.com/v1
    api_key: env:OPENAI_API_KEY
    headers: {OpenAI-Project: p1, x-proxy-token: env:TOKEN}
    always_stream: true
    timeouts: {connect_s: 0.5, first_token_s: 1.5, idle_s: 2.5, total_s: 3.5, cold_start_s: 4.5}
models:
  smol:
    provider: cluster
    licence: apache-2.0
    context: 8192
    max_output_tokens: 1024
    capabilities: [chat, tools]
    hardware: {name: cpu-2, usd_per_hour: 0.08, charge: average}
    replica_choice: least_active
    quality: {mmlu: 0.31}
    region: eu
    data_policy: no-training
  mini:
    provider: openai
    upstream: gpt-5.4-mini
    api: responses
    price: {CLASSES, tiers: [{above_tokens: 1000, CLASSES}], variants: [
      {hours: "01:00-02:00", days: [mon], request: {service_tier: flex}, tiers: [{above_tokens: 1000, CLASSES}],
      CLASSES}]}
  openai/*: {provider: openai}
routes:
  auto:
    models: [smol, mini]
    objective: latency
    strategy: in_order
    task: mmlu
    limits: {ttft_ms: {p95: 1500}, tpot_ms: {p50: 250}, total_ms: {p50: 1200000}, usd_per_request: 0.01,
      usd_per_million_tokens: 1000}
    require: {commercial: allowed, licence: [permissive, proprietary]DEMANDS}
    when_none_fits: reject
    unsupported_tools: drop
    timeouts: {connect_s: 0.4, first_token_s: 1.4, idle_s: 2.4, total_s: 3.4, cold_start_s: 4.4}
timeouts: {connect_s: 1, first_token_s: 2, idle_s: 3, total_s: 4, cold_start_s: 5}
state_dir: ~/state
responses: {keep: 1.5h, keep_mb: 0.5, key: env:KEPT}
keys:
  - {name: demo, secret: env:DEMO_KEY, routes: [auto, openai/gpt-5], requests_per_minute: 60, concurrency: 4, team: red,
    may_override: [sort, task]}
workers: {smol: {}}
simulation:
  smol:
    replica: {replicas: 2, start_s: 30, prefill_tokens_per_s: 9000, step_ms: 9, step_ms_per_running: 0.2,
      step_prompt_tokens: 1024, max_running: 64, max_waiting: 65, kv_tokens: 100000}
  mini:
    provider: {ttft_ms: 500, ttft_ms_per_1k_uncached: 20, ttft_ms_per_1k_input: 4, ttft_spread: 0.4, alike: 0.5,
      alike_s: 30, tpot_ms: 10, tpot_spread: 0.3, requests_per_minute: 600, input_tokens_per_minute: 1000000,
      cache_minimum_tokens: 512, cache_lifetime_s: 60, episodes: [{from_s: 1, to_s: 2, slower: 3, status: 503}]}
""".replace("CLASSES", ", ".join(CLASSES)).replace("DEMANDS", DEMANDS)


made = partial(build, provider_types=TYPES, policy_of=build_policy)


def config_of(directory: Path, text: str, environ: Mapping[str, str] = ENVIRON) -> Config:
    path = directory / "tollway.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ, configuration())


def snapshot_of(directory: Path, text: str, environ: Mapping[str, str] = ENVIRON) -> Snapshot:
    config = config_of(directory, text, environ)
    return made(config, price_of=lambda provider, model: BOOK.get((provider, model)))


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        snapshot_of(directory, text)
    return [line.removeprefix(f"{directory}/") for line in caught.value.problems]


def paths(
    section: Mapping[str, Any], definitions: Mapping[str, Any], at: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Every key of a JSON schema, as a path; what a user names is ``*``. Of several parts, a file names one."""
    for name, field in section["properties"].items() if section.get("maxProperties") != 1 else ():
        yield (*at, name)
        for part in field.get("anyOf", [field]):
            held = part
            step: tuple[str, ...] = ()
            if "patternProperties" in part:
                held, step = next(iter(part["patternProperties"].values())), ("*",)
            elif part.get("type") == "array":
                held, step = part["items"], ("*",)
            if "$ref" in held:
                yield from paths(definitions[held["$ref"].rsplit("/", 1)[-1]], definitions, (*at, name, *step))


def is_in(value: Any, path: tuple[str, ...]) -> bool:
    if not path:
        return True
    if path[0] == "*":
        return any(is_in(item, path[1:]) for item in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, dict) and path[0] in value and is_in(value[path[0]], path[1:])


def test_the_full_example_has_every_key_of_the_schema() -> None:
    """So that the next test looks at what each of them becomes. A ceiling names one quantile, a route one objective."""
    schema = configuration().model_json_schema()
    document = yaml.safe_load(FULL)
    all_quantiles = dict.fromkeys(("p50", "p90", "p95", "p99"))
    document["routes"]["auto"]["limits"] |= dict.fromkeys(("ttft_ms", "tpot_ms", "total_ms"), all_quantiles)
    document["routes"]["auto"]["objective"] = {name: part.Options.model_fields for name, part in OBJECTIVES.items()}
    assert [path for path in paths(schema, schema["$defs"]) if not is_in(document, path)] == []


def test_every_key_reaches_the_snapshot(tmp_path: Path) -> None:
    """Each documented key does something."""
    snapshot = snapshot_of(tmp_path, FULL)
    assert snapshot.server == Server(
        host="0.0.0.0",
        port=9000,
        max_body_bytes=1_500_000,
        body_timeout_s=11,
        keep_alive_s=7.5,
        bodies=BodyBudget(per_key_bytes=4_000_000, in_all_bytes=9_000_000),
        drain_s=12,
        workers=3,
        is_loopback=False,
        hosts=frozenset({"gw.example.com", "[::1]"}),
        cors_origins=frozenset({"https://app.example.com", "http://app:3000"}),
        pages={"metrics": "open", "docs": "off", "openapi": "key"},
    )
    assert snapshot.timeouts == Timeouts(connect_s=1, first_token_s=2, idle_s=3, total_s=4, cold_start_s=5)
    assert snapshot.state_dir == "/h/state"
    assert snapshot.storage == Storage(
        min_free_bytes=32_500_000,
        refusals_per_minute=4,  # of each of three processes
        refusals=Keep(max_days=2, max_bytes=5_000_000),
        calls=Keep(max_days=90, max_bytes=1_000_000_000),
        rejected=Keep(max_days=None, max_bytes=2_000_000),
    )
    assert snapshot.keys == {
        hashlib.sha256(b"tw-demo").digest(): Principal(
            key_id="demo",
            team_id="red",
            allowed_models=frozenset({"auto", "openai/gpt-5"}),
            may_override=frozenset({"sort", "task"}),
            requests_per_minute=60,
            concurrency=4,
        )
    }
    smol, mini = snapshot.targets["smol"], snapshot.targets["mini"]
    assert smol.base_url == "http://10.0.0.1:8000/smol/v1"
    assert (smol.adapter, smol.upstream_model, smol.licence, smol.region) == ("openai", "smol", "permissive", "eu")
    assert (smol.data_policy, mini.data_policy) == ("no-training", "unknown")
    assert (smol.context_length, smol.max_output_tokens) == (8192, 1024)
    assert smol.capabilities == frozenset({"chat", "tools"})
    assert smol.quality == {"mmlu": 0.31}
    assert (smol.own_hardware, smol.always_stream, smol.credential) == (True, True, None)
    assert (smol.cluster_url, smol.replica_choice, smol.charge) == (None, "least_active", "average")
    assert smol.rates == Rates(hardware_nano_usd_per_hour=80_000_000, version="config")
    assert mini.base_url == "https://eu.api.openai.com/v1"
    assert mini.credential is not None
    assert mini.credential.value == "sk-upstream"
    assert mini.headers == (("OpenAI-Project", "p1"), ("x-proxy-token", "tok-1"))
    assert (mini.upstream_model, mini.licence, mini.always_stream) == ("gpt-5.4-mini", "proprietary", True)
    assert mini.adapter == "responses"
    kept = KeptResponses(keep_s=5400, max_bytes=500_000, secret=Secret(32 * "k"), min_free_bytes=32_500_000)
    assert snapshot.responses == kept
    assert (mini.own_hardware, mini.capabilities, mini.context_length) == (False, None, None)
    flat = Rates(
        **{f"{name}_nano_usd_per_mtok": number * 1_000_000_000 for number, name in enumerate(PRICED, 1)},
        request_nano_usd=1_000_000,
        audio_nano_usd_per_hour=360_000_000,
        web_search_nano_usd=25_000_000,
    )
    tiered = replace(flat, tiers=(Tier(above_tokens=1000, rates=flat),), version="config")
    when: dict[str, Any] = {"begins_s": 3600, "ends_s": 7200, "days": (0,), "member": "service_tier", "value": "flex"}
    assert mini.rates == replace(tiered, variants=(Variant(rates=tiered), Variant(rates=tiered, **when)))
    route = snapshot.routes["auto"]
    assert route.drops_unsupported_tools
    assert route.task == "mmlu"
    assert [each.id for each in route.targets] == [smol.id]
    assert route.policy.ruled_out == (Dropped(target_id="mini", filter="hosting", reason="not on own hardware"),)
    assert route.policy.probe_ms == 1500


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"ttft_ms": Quantiles(1.0, 1.0, 1501.0, 1501.0)},
        {"tpot_ms": Quantiles(251.0, 251.0, 251.0, 251.0)},
        {"output_tokens": Quantiles(5000.0, 5000.0, 5000.0, 5000.0)},
    ],
    ids=lambda broken: next(iter(broken), "none"),
)
def test_policy_of_a_built_route_is_that_of_the_file(tmp_path: Path, broken: dict[str, Quantiles]) -> None:
    """By latency, though the faster is the dearer; what breaks a ceiling is left out, even alone."""
    text = FULL.replace(DEMANDS, "").replace("[smol, mini]", "[smol, fast]")
    added = "  fast: {provider: cluster, licence: mit, price: {input: 1, output: 4}}\n"
    text = text.replace("  openai/*:", f"{added}  openai/*:")
    route = snapshot_of(tmp_path, text).routes["auto"]
    slow, fast = (build_view(target) for target in route.targets)
    quick = replace(fast, **{"ttft_ms": Quantiles(1.0, 1.0, 1.0, 1.0)} | broken)
    call = build_call(route=route)
    chosen = [each.target.id for each in route.policy.plan(call, [slow, quick]).candidates]
    assert chosen == (["smol"] if broken else ["fast", "smol"])
    alone = snapshot_of(tmp_path, text.replace("[smol, fast]", "[fast]")).routes["auto"]
    assert len(alone.policy.plan(call, [quick]).candidates) == (0 if broken else 1)


@pytest.mark.parametrize(
    ("model", "require", "demand", "reason"),
    [
        ("licence: cc-by-nc-4.0", "commercial: allowed", "licence", "licence is non-commercial"),
        ("licence: unknown", "commercial: allowed", "licence", "licence is unknown"),
        ("licence: mit", "hosting: own", "hosting", "not on own hardware"),
        ("region: us-east-1", "region: [eu-central-1, eu-west-1]", "region", "region is us-east-1"),
        ("licence: mit", "region: [eu-central-1]", "region", "region is not known"),
        ("region: europe", "region: ['eu-*']", "region", "region is europe"),
        ("quality: {mmlu: 0.29}", "quality: {mmlu: 0.3}", "quality", "mmlu is 0.29, at least 0.3 is demanded"),
        ("quality: {ifeval: 0.9}", "quality: {mmlu: 0.3}", "quality", "mmlu is not known, at least 0.3 is demanded"),
        ("licence: mit", "data_policy: no-training", "data_policy", "data policy is unknown"),
        ("licence: llama3", "licence: [permissive]", "licence", "licence is restricted"),
        ("licence: mit", "quality: {mmlu: 0}", "quality", "mmlu is not known, at least 0 is demanded"),
    ],
)
def test_demands_of_a_route_rule_models_out(tmp_path: Path, model: str, require: str, demand: str, reason: str) -> None:
    """Once, when the snapshot is built: no call of the route looks at them again, and each plan names them."""
    good = "hardware: {name: a, usd_per_hour: 1}, licence: mit, region: eu-central-1, quality: {mmlu: 0.3}"
    text = f"""{LOCAL}  bad: {{provider: local, price: free, {model}}}
  good: {{provider: local, {good}}}
routes:
  auto: {{models: [bad, good], require: {{{require}}}}}
"""
    route = snapshot_of(tmp_path, text).routes["auto"]
    assert [target.id for target in route.targets] == ["good"]
    assert route.policy.ruled_out == (Dropped(target_id="bad", filter=demand, reason=reason),)


@pytest.mark.parametrize(
    ("server", "per_key_mb", "in_all_mb"),
    [
        ("{}", 256, 512),
        ("{max_body_mb: 500}", 500, 1_000),
        ("{max_body_memory_mb: 100}", 50, 100),
        ("{max_body_memory_mb: 30}", 20, 30),
        ("{max_body_memory_per_key_mb: 100}", 100, 512),
    ],
)
def test_body_budget_has_room_for_the_largest_body(
    tmp_path: Path, server: str, per_key_mb: int, in_all_mb: int
) -> None:
    """What is not configured follows from what is."""
    bodies = snapshot_of(tmp_path, f"{LOCAL}server: {server}\n").server.bodies
    assert bodies == BodyBudget(per_key_bytes=per_key_mb * 1_000_000, in_all_bytes=in_all_mb * 1_000_000)


def test_a_model_is_a_route_of_one_and_a_wildcard_is_neither(tmp_path: Path) -> None:
    """Every plain model can be called by its own name; a wildcard is left to the router, with a template."""
    snapshot = snapshot_of(tmp_path, FULL)
    assert set(snapshot.routes) == {"auto", "smol", "mini"}
    assert snapshot.routes["mini"].targets == (snapshot.targets["mini"],)
    (wildcard,) = snapshot.wildcards
    assert (wildcard.prefix, wildcard.price_provider) == ("openai/", "openai")
    assert wildcard.template.base_url == "https://eu.api.openai.com/v1"


LOCAL = """\
providers:
  local: {type: openai-compatible, base_url: "http://127.0.0.1:1/v1"}
  cluster: {type: ray-serve, base_url: "http://127.0.0.1:2"}
  openai: {type: openai, api_key: env:OPENAI_API_KEY}
models:
  m: {provider: local, price: free}
"""


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        (
            "  x: {provider: local}",
            (
                "7: models.x: no price is known for 'x': write price: {input: ..., output: ...} in USD "
                "per 1M tokens, or price: free"
            ),
        ),
        (
            "  x: {provider: openai, upstream: gpt-9}",
            (
                "7: models.x: no price is known for 'gpt-9': write price: "
                "{input: ..., output: ...} in USD per 1M tokens, or price: free"
            ),
        ),
        (
            "  x: {provider: cluster}",
            (
                "7: models.x: no price: write hardware: {name: ..., usd_per_hour: ...} for the machine "
                "it runs on, usd_per_hour at its worker, or price: free"
            ),
        ),
        (
            "  local/*: {provider: local}",
            (
                "7: models.local/*: no price is known for this provider: write price: "
                "{input: ..., output: ...} in USD per 1M tokens, or price: free"
            ),
        ),
        (
            "routes:\n  own:\n    models: [m]\n    require: {hosting: own}",
            "10: routes.own.require: none of the models of this route meets this (m: not on own hardware)",
        ),
        (
            "server: {host: 0.0.0.0}",
            (
                "7: server.host: 0.0.0.0 can be reached from other machines, and there are no keys; add "
                "a key under keys, or listen on 127.0.0.1"
            ),
        ),
        (
            "server: {host: gateway.example}",
            (
                "7: server.host: gateway.example can be reached from other machines, and there "
                "are no keys; add a key under keys, or listen on 127.0.0.1"
            ),
        ),
    ],
)
def test_configuration_that_would_fail_at_the_first_request_is_refused(
    tmp_path: Path, added: str, problem: str
) -> None:
    """With its line, like every other mistake."""
    assert problems(tmp_path, LOCAL + added + "\n") == [f"tollway.yaml:{problem}"]


@pytest.mark.parametrize("name", ["m", "local/*"])
def test_model_that_no_plain_route_may_use_is_refused_by_its_own_name(tmp_path: Path, name: str) -> None:
    """A demand may rule out what it is asked about without a word in the file: there is no route to point at."""

    def strict(section: RouteSection, targets: Sequence[Target]) -> Policy:
        return build_policy(type(section).model_validate({"models": ["m"], "require": {"hosting": "own"}}), targets)

    text = LOCAL.replace("  m:", f"  {name}:")
    with pytest.raises(ConfigError) as caught:
        build(config_of(tmp_path, text), provider_types=TYPES, policy_of=strict, price_of=lambda *_: None)
    assert [line.partition(": ")[2] for line in caught.value.problems] == [
        f"models.{name}: does not meet what is demanded where a route says nothing else (not on own hardware)"
    ]


def test_a_provider_without_what_its_type_needs_is_refused(tmp_path: Path) -> None:
    """A type, a key and an address: all three at once."""
    text = """\
providers:
  a: {type: opnai}
  b: {type: openai}
  c: {type: openai-compatible}
models:
  m: {provider: c, price: free}
  n: {provider: a}
"""
    assert problems(tmp_path, text) == [
        "tollway.yaml:2: providers.a.type: unknown provider type 'opnai'; did you mean 'openai'?",
        "tollway.yaml:3: providers.b: key 'api_key' is missing: the type 'openai' wants env:NAME or file:PATH",
        "tollway.yaml:4: providers.c: key 'base_url' is missing: the type 'openai-compatible' has no default",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_a_loopback_address_needs_no_keys(tmp_path: Path, host: str) -> None:
    """No key is needed for what only this machine reaches; with a key, any address will do."""
    assert snapshot_of(tmp_path, LOCAL + f"server: {{host: '{host}'}}").server.host == host
    opened = LOCAL + "server: {host: '::'}\nkeys: [{name: a, secret: env:DEMO_KEY}]"
    assert snapshot_of(tmp_path, opened).server.host == "::"


def test_the_command_lines_host_is_checked_too(tmp_path: Path) -> None:
    """`--host 0.0.0.0` without keys is refused like the file's."""
    config = config_of(tmp_path, LOCAL).with_server(host="0.0.0.0", port=None)
    with pytest.raises(ConfigError, match="there are no keys"):
        made(config, price_of=lambda *_: None)


def test_prices_come_from_the_file_then_from_the_book(tmp_path: Path) -> None:
    """A configured price wins; own hardware is never looked up; free is free."""
    more = """\
  booked: {provider: openai, upstream: gpt-5.4-mini}
  ours: {provider: openai, upstream: gpt-5.4-mini, price: {input: 1, output: 2}}
  gpt-5.4-mini: {provider: cluster, price: free}
  desk: {provider: local, hardware: {name: desk, usd_per_hour: 0}}
"""
    targets = snapshot_of(tmp_path, LOCAL + more).targets
    assert targets["booked"].rates.version == "book-1"
    assert targets["gpt-5.4-mini"].rates == targets["m"].rates == Rates()
    assert targets["ours"].rates.cached_input_nano_usd_per_mtok == targets["ours"].rates.input_nano_usd_per_mtok
    assert targets["ours"].rates.reasoning_nano_usd_per_mtok == targets["ours"].rates.output_nano_usd_per_mtok
    assert targets["desk"].own_hardware
    assert targets["desk"].rates.hardware_nano_usd_per_hour == 0


WORKERS: dict[str, Any] = {
    "own": {"usd_per_hour": 2.5, "served_names": ["alias"], "lora": {"adapters": {"pirate": "/x"}}},
    "free": {"usd_per_hour": 0},
    "unpriced": {"source": "x"},
    "wrong": {"usd_per_hour": "much"},
}


@pytest.mark.parametrize(
    ("model", "usd_per_hour"),
    [
        ({}, Decimal("2.5")),
        ({"upstream": "alias"}, Decimal("2.5")),
        ({"upstream": "pirate"}, Decimal("2.5")),
        ({"upstream": "free"}, Decimal(0)),
        ({"hardware": {"name": "h", "charge": "average"}}, Decimal("2.5")),
        ({"hardware": {"name": "h", "usd_per_hour": 7}}, Decimal(7)),
        ({"provider": "local", "hardware": {"name": "h"}}, Decimal("2.5")),
        ({"price": "free"}, None),
    ],
)
def test_own_hardware_has_its_workers_price(
    tmp_path: Path, model: dict[str, Any], usd_per_hour: Decimal | None
) -> None:
    """Written once, at the worker; what is written at the model wins."""
    models = LOCAL + f"  own: {json.dumps({'provider': 'cluster'} | model)}\nworkers: {json.dumps(WORKERS)}\n"
    rates = snapshot_of(tmp_path, models).targets["own"].rates
    expected = None if usd_per_hour is None else int(usd_per_hour * 10**9)
    assert rates.hardware_nano_usd_per_hour == expected


@pytest.mark.parametrize("upstream", ["unpriced", "wrong", "unknown"])
def test_own_hardware_without_a_price_is_refused(tmp_path: Path, upstream: str) -> None:
    models = LOCAL + f"  own: {{provider: cluster, upstream: {upstream}}}\nworkers: {json.dumps(WORKERS)}\n"
    with pytest.raises(ConfigError, match="usd_per_hour at its worker"):
        snapshot_of(tmp_path, models)


def test_a_wildcards_own_price_holds_for_every_name(tmp_path: Path) -> None:
    """Then nothing is looked up; and the address keeps its place for the name."""
    more = "  local/*: {provider: local, price: {input: 1, output: 1}}\n  c/*: {provider: cluster, price: free}\n"
    local, cluster = snapshot_of(tmp_path, LOCAL + more).wildcards
    assert local.price_provider is None
    assert local.template.rates.input_nano_usd_per_mtok == 1_000_000_000
    assert cluster.template.base_url == "http://127.0.0.1:2/{upstream}/v1"


@pytest.mark.parametrize(
    ("row", "adapter"),
    [
        ("provider: openai, upstream: gpt-9", "openai"),
        ("provider: openai, upstream: gpt-9-pro", "responses"),
        ("provider: openai, upstream: gpt-9, api: responses", "responses"),
        ("provider: openai, upstream: gpt-9-codex, api: chat", "openai"),
        ("provider: local, api: responses", "responses"),
        ("provider: local, upstream: gpt-9-pro", "openai"),
    ],
)
def test_api_of_a_model_is_its_own_or_its_providers(tmp_path: Path, row: str, adapter: str) -> None:
    snapshot = snapshot_of(tmp_path, LOCAL + f"  x: {{{row}, price: free}}\n  openai/*: {{provider: openai}}\n")
    assert snapshot.targets["x"].adapter == adapter
    names = {"openai/gpt-9": "openai", "openai/gpt-9-pro": "responses", "openai/o9-deep-research-2027": "responses"}
    assert {name: snapshot.wildcards[0].target(name, Rates()).adapter for name in names} == names


def test_an_upstream_name_cannot_break_out_of_its_path(tmp_path: Path) -> None:
    """What a URL gives a meaning to is quoted; a slash of a repository's name stays."""
    text = LOCAL + "  x: {provider: cluster, upstream: 'meta/llama 3?a#b', price: free}\n"
    assert snapshot_of(tmp_path, text).targets["x"].base_url == "http://127.0.0.1:2/meta/llama%203%3Fa%23b/v1"


@given(st.decimals(min_value=0, max_value=1_000_000, places=9))
def test_dollars_become_nano_dollars_exactly(tmp_path_factory: pytest.TempPathFactory, usd: Decimal) -> None:
    """Whatever is written with nine decimals is that many nano-dollars: no binary fraction on the way."""
    text = LOCAL + f"  x: {{provider: local, price: {{input: {usd:f}, output: 0}}}}\n"
    rates = snapshot_of(tmp_path_factory.getbasetemp(), text).targets["x"].rates
    assert rates.input_nano_usd_per_mtok == usd.scaleb(9)


def test_versions_change_with_the_policy_and_not_with_secrets(tmp_path: Path) -> None:
    """The same file has the same versions; a rotated secret changes none; a limit changes its own route's."""
    text = LOCAL + "routes:\n  a: {models: [m], limits: {ttft_ms: {p95: 10}}}\n  b: {models: [m]}\n"
    keyed = text + "keys: [{name: a, secret: env:DEMO_KEY}]\n"
    first = snapshot_of(tmp_path, keyed)
    rotated = snapshot_of(tmp_path, keyed, ENVIRON | {"DEMO_KEY": "other", "OPENAI_API_KEY": "other"})
    limited = snapshot_of(tmp_path, keyed.replace("p95: 10", "p95: 20"))
    assert (first.version, first.routes["a"].version) == (rotated.version, rotated.routes["a"].version)
    assert first.version != limited.version
    assert first.routes["a"].version != limited.routes["a"].version
    assert first.routes["b"].version == limited.routes["b"].version
    assert len(first.version) == 12


def test_a_version_changes_when_the_price_book_does(tmp_path: Path) -> None:
    """The policy may decide otherwise with other prices, though the file is the same."""
    config = config_of(tmp_path, LOCAL + "  x: {provider: openai}\n")
    cheap = made(config, price_of=lambda *_: Rates(input_nano_usd_per_mtok=1))
    dear = made(config, price_of=lambda *_: Rates(input_nano_usd_per_mtok=2))
    assert cheap.version != dear.version
    assert cheap.routes["x"].version != dear.routes["x"].version


def test_key_that_a_reload_cannot_change_is_named(tmp_path: Path) -> None:
    """Address and state directory belong to the process; everything else may change."""
    old = snapshot_of(tmp_path, LOCAL)
    assert frozen_changes(old, snapshot_of(tmp_path, LOCAL + "  y: {provider: local, price: free}\n")) == []
    moved = snapshot_of(tmp_path, LOCAL + "server: {host: '::1', port: 1}\nstate_dir: /elsewhere\n")
    assert frozen_changes(old, moved) == [
        "server.host cannot change from 127.0.0.1 to ::1 while the gateway runs; restart it.",
        "server.port cannot change from 8080 to 1 while the gateway runs; restart it.",
        "state_dir cannot change from /h/.local/state/tollway to /elsewhere while the gateway runs; restart it.",
    ]


def test_timeouts_of_provider_and_route_take_the_place_of_the_files(tmp_path: Path) -> None:
    """The route's come first. ``total_s`` of a target is its provider's where it has one: that of an attempt."""
    snapshot = snapshot_of(tmp_path, FULL.replace(DEMANDS, ""))
    of_provider = Timeouts(connect_s=0.5, first_token_s=1.5, idle_s=2.5, total_s=3.5, cold_start_s=4.5)
    of_route = Timeouts(connect_s=0.4, first_token_s=1.4, idle_s=2.4, total_s=3.4, cold_start_s=4.4)
    assert snapshot.routes["auto"].timeouts == of_route
    assert {each.timeouts for each in snapshot.routes["auto"].targets} == {of_route, replace(of_route, total_s=3.5)}
    assert {each.timeouts for each in snapshot.targets.values()} == {snapshot.timeouts, of_provider}
    assert all(snapshot.routes[name].timeouts == snapshot.timeouts for name in snapshot.targets)
