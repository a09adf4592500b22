"""What a route can say, and what the ledger says it did: a line of the table each, two models, in virtual time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.formats.anthropic.decode import MESSAGES
from gateway.formats.responses.decode import RESPONSES
from gateway.simulation.virtual_time import run_virtual
from gateway.types import Endpoint
from tests.ground.configs import two_models
from tests.ground.model import ScriptedModel
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import virtual_gateway

CALLS = 8
"""One after the other: the first teach, the last three are looked at."""


@dataclass(kw_only=True)
class Case:
    """A route over ``cheap`` (1 and 2 USD per 1M tokens) and ``dear`` (10 and 20), and where its calls end up."""

    target: str | None
    """Of the last calls, in the ledger; None: they are refused, and no attempt is begun."""
    says: str
    """Within ``x-tollway-reason``, or the refusal's message."""
    route: dict[str, Any] = field(default_factory=dict)
    models: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """What is added to the models' sections."""
    cheap: Mapping[str, float] = field(default_factory=dict)
    """What is added to ten tokens, the first after 100 ms, each other after 10."""
    dear: Mapping[str, float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the requests, as are ``members`` of their bodies."""
    members: Mapping[str, Any] = field(default_factory=dict)


def wish(**members: object) -> dict[str, Any]:
    """Return the member that says it."""
    return {"provider": members}


CEILINGS = {
    "ttft": Case(
        route={"limits": {"ttft_ms": {"p50": 500}}}, cheap={"ttft_s": 2}, target="dear", says="cheap predicted ttft p50"
    ),
    "tpot": Case(
        route={"limits": {"tpot_ms": {"p50": 50}}},
        cheap={"tpot_s": 0.2},
        target="dear",
        says="cheap predicted tpot p50",
    ),
    "total time": Case(
        route={"limits": {"total_ms": {"p50": 1000}}},
        cheap={"ttft_s": 0.8, "tpot_s": 0.05},
        target="dear",
        says="cheap predicted total time p50 1250 ms over 1000 ms",
    ),
    "total time, kept": Case(
        route={"limits": {"total_ms": {"p50": 1300}}},
        cheap={"ttft_s": 0.8, "tpot_s": 0.05},
        target="cheap",
        says="cheapest within ceilings",
    ),
    "total time, of no target, insisted on": Case(
        route={"limits": {"total_ms": {"p50": 150}}, "when_none_fits": "reject"},
        target=None,
        says="cheap: total time p50 190 ms over 150 ms",
    ),
    "total time, of no target": Case(
        route={"limits": {"total_ms": {"p50": 150}}},
        dear={"tpot_s": 0.008},
        target="dear",
        says="none within ceilings: dear is predicted total time p50 172 ms over 150 ms",
    ),
    "cost of a request": Case(
        route={"limits": {"usd_per_request": 0.0001}, "objective": "latency"},
        dear={"ttft_s": 0.01},
        target="cheap",
        says="fastest within ceilings",
    ),
    "cost per token": Case(
        route={"limits": {"usd_per_million_tokens": 2}, "objective": "latency"},
        dear={"ttft_s": 0.01},
        target="cheap",
        says="fastest within ceilings",
    ),
    "cost per token, of no target, insisted on": Case(
        route={"limits": {"usd_per_million_tokens": 0.5}, "when_none_fits": "reject"},
        target=None,
        says="ask for less, or raise them (cheap: cost per 1M tokens $1",
    ),
}


FACTS = {
    "licence": Case(
        route={"require": {"licence": ["permissive", "copyleft"]}},
        models={"cheap": {"licence": "llama3"}, "dear": {"licence": "mit"}},
        target="dear",
        says="only target left, 1 ruled out",
    ),
    "commercial use": Case(
        route={"require": {"commercial": "allowed"}},
        models={"cheap": {"licence": "cc-by-nc-4.0"}, "dear": {"licence": "mit"}},
        target="dear",
        says="only target left, 1 ruled out",
    ),
    "own hardware": Case(
        route={"require": {"hosting": "own"}},
        models={"dear": {"hardware": {"name": "h100", "usd_per_hour": 3}, "price": None}},
        target="dear",
        says="only target left, 1 ruled out",
    ),
    "a provider": Case(
        route={"require": {"hosting": "provider"}},
        models={"cheap": {"hardware": {"name": "h100", "usd_per_hour": 3}, "price": None}},
        target="dear",
        says="only target left, 1 ruled out",
    ),
    "region": Case(
        route={"require": {"region": ["eu-*"]}},
        models={"cheap": {"region": "us-east-1"}, "dear": {"region": "eu-west-1"}},
        target="dear",
        says="only target left, 1 ruled out",
    ),
    "no training": Case(
        route={"require": {"data_policy": "no-training"}},
        models={"dear": {"data_policy": "zero-retention"}},
        target="dear",
        says="only target left, 1 ruled out",
    ),
    "zero retention": Case(
        route={"require": {"data_policy": "zero-retention"}},
        models={"cheap": {"data_policy": "no-training"}, "dear": {"data_policy": "zero-retention"}},
        target="dear",
        says="only target left, 1 ruled out",
    ),
    "zero retention, by own hardware": Case(
        route={"require": {"data_policy": "zero-retention"}},
        models={"dear": {"hardware": {"name": "h100", "usd_per_hour": 3}, "price": None}},
        target="dear",
        says="only target left, 1 ruled out",
    ),
    "quality": Case(
        route={"require": {"quality": {"mmlu": 0.5}}},
        models={"cheap": {"quality": {"mmlu": 0.4}}, "dear": {"quality": {"mmlu": 0.6}}},
        target="dear",
        says="only target left, 1 ruled out",
    ),
    "quality in the route's task": Case(
        route={"task": "coding", "require": {"task_quality": 0.5}},
        models={"cheap": {"quality": {"coding": 0.4, "chat": 0.9}}, "dear": {"quality": {"coding": 0.6}}},
        target="dear",
        says="only target left, 1 ruled out",
    ),
    "quality in the call's task": Case(
        route={"task": "coding", "require": {"task_quality": 0.5}},
        models={"cheap": {"quality": {"coding": 0.4, "chat": 0.9}}, "dear": {"quality": {"coding": 0.6}}},
        headers={"x-tollway-task": "chat"},
        target="cheap",
        says="only target left, 1 ruled out",
    ),
    "quality in a task that no model has": Case(
        route={"require": {"task_quality": 0.5}},
        headers={"x-tollway-task": "poetry"},
        target=None,
        says="can do what is asked for (cheap: poetry is not known, at least 0.5 is demanded; dear: poetry",
    ),
    "quality without a task": Case(route={"require": {"task_quality": 0.5}}, target="cheap", says="cheapest"),
}
OBJECTIVES = {
    "cost": Case(route={"objective": "cost"}, cheap={"ttft_s": 1}, target="cheap", says="cheapest ($0.0000"),
    "latency": Case(route={"objective": "latency"}, cheap={"ttft_s": 1}, target="dear", says="fastest (190 ms"),
    "balanced, a second is dear": Case(
        route={"objective": {"balanced": {"usd_per_second": 0.01}}},
        cheap={"ttft_s": 1},
        target="dear",
        says="best balanced ($0.000",
    ),
    "balanced, a second is cheap": Case(
        route={"objective": {"balanced": {"usd_per_second": 0.00001}}},
        cheap={"ttft_s": 1},
        target="cheap",
        says="1.09 s predicted)",
    ),
    "balanced, a point is dear": Case(
        route={"objective": {"balanced": {"usd_per_quality_point": 0.0001}}, "task": "coding"},
        models={"cheap": {"quality": {"coding": 0.4}}, "dear": {"quality": {"coding": 0.6}}},
        target="dear",
        says="best balanced",
    ),
    "balanced, a point is dear in another task": Case(
        route={"objective": {"balanced": {"usd_per_quality_point": 0.0001}}, "task": "coding"},
        models={"cheap": {"quality": {"coding": 0.4, "chat": 0.8}}, "dear": {"quality": {"coding": 0.6}}},
        headers={"x-tollway-task": "chat"},
        target="cheap",
        says="best balanced",
    ),
    "balanced, a point of a score": Case(
        route={"objective": {"balanced": {"usd_per_quality_point": 0.0001, "score": "mmlu"}}},
        models={"dear": {"quality": {"mmlu": 0.6}}},
        target="dear",
        says="best balanced",
    ),
    "goodput without a ceiling": Case(
        route={"objective": "goodput"}, cheap={"ttft_s": 1}, target="cheap", says="in time with 100%"
    ),
}
WISHES = {
    "sort: price": Case(
        route={"objective": "latency"}, cheap={"ttft_s": 1}, members=wish(sort="price"), target="cheap", says="cheapest"
    ),
    "sort: latency": Case(cheap={"ttft_s": 1}, members=wish(sort="latency"), target="dear", says="soonest (100 ms"),
    "sort: latency, not that of the whole": Case(
        cheap={"ttft_s": 0.05, "tpot_s": 0.05}, members=wish(sort="latency"), target="cheap", says="soonest (50 ms"
    ),
    "sort: throughput": Case(
        cheap={"tpot_s": 0.05}, members=wish(sort="throughput"), target="dear", says="highest throughput (10 ms"
    ),
    "sort, by header": Case(
        cheap={"ttft_s": 1}, headers={"x-tollway-provider": '{"sort": "latency"}'}, target="dear", says="soonest"
    ),
    "sort, within the route's ceilings": Case(
        route={"limits": {"usd_per_request": 0.0001}},
        cheap={"ttft_s": 1},
        members=wish(sort="latency"),
        target="cheap",
        says="soonest within ceilings",
    ),
    "max_price": Case(
        route={"objective": "latency"},
        dear={"ttft_s": 0.01},
        members=wish(max_price={"completion": 5}),
        target="cheap",
        says="only target left, 1 ruled out",
    ),
    "max_price of no target": Case(
        members=wish(max_price={"prompt": 0.5}),
        target=None,
        says="'provider.max_price' is $0.5 per 1M tokens of the prompt, its price $1; dear",
    ),
    "preferred_max_latency": Case(
        cheap={"ttft_s": 1}, members=wish(preferred_max_latency=0.5), target="dear", says="cheapest ($0.000"
    ),
    "preferred_max_latency at a quantile": Case(
        cheap={"ttft_s": 1}, members=wish(preferred_max_latency={"p90": 0.5}), target="dear", says="cheapest"
    ),
    "preferred_max_latency of no target": Case(
        members=wish(preferred_max_latency=0.01), target="cheap", says="cheapest"
    ),
    "preferred_min_throughput": Case(
        cheap={"tpot_s": 0.05}, members=wish(preferred_min_throughput=50), target="dear", says="cheapest"
    ),
    "preferred_min_throughput, kept": Case(
        cheap={"tpot_s": 0.05}, members=wish(preferred_min_throughput=10), target="cheap", says="cheapest"
    ),
    "only": Case(members=wish(only=["Two"]), target="dear", says="only target left, 1 ruled out"),
    "only a model": Case(members=wish(only=["dear"]), target="dear", says="only target left, 1 ruled out"),
    "only what is not there": Case(
        members=wish(only=["acme"]), target=None, says="(cheap: 'provider.only' does not name it; dear:"
    ),
    "ignore": Case(members=wish(ignore=["one"]), target="dear", says="only target left, 1 ruled out"),
    "order": Case(members=wish(order=["two", "acme"]), target="dear", says="first in the caller's order"),
    "nothing": Case(members=wish(sort=None, only=[], zdr=False), target="cheap", says="cheapest"),
    "a wish that is not known": Case(
        members=wish(zdr=True), target=None, says="'provider.zdr' is not known here; provider may have sort, max_price"
    ),
    "a price that is not known": Case(
        members=wish(max_price={"image": 1}),
        target=None,
        says="'provider.max_price' should have 'prompt', 'completion'",
    ),
    "a wish of the wrong type": Case(
        members=wish(sort="speed"), target=None, says="'provider.sort' should be 'price', 'latency' or 'throughput'"
    ),
    "no object": Case(members={"provider": "acme"}, target=None, says="'provider' should be an object"),
    "both body and header": Case(
        members=wish(sort="price"), headers={"x-tollway-provider": '{"sort": "price"}'}, target=None, says="keep one"
    ),
}
TABLES = {"ceiling": CEILINGS, "fact": FACTS, "objective": OBJECTIVES, "wish": WISHES}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{kind}: {name}") for kind, cases in TABLES.items() for name, case in cases.items()],
)
def test_a_route_sends_its_calls_where_its_policy_says(case: Case, tmp_path: Path) -> None:
    """The last calls' attempts, and why they went there."""

    async def scenario() -> None:
        usual = {"tokens": 10, "ttft_s": 0.1, "tpot_s": 0.01}
        upstreams = {
            "http://cheap.test": ScriptedUpstream(ScriptedModel(**{**usual, **case.cheap})),
            "http://dear.test": ScriptedUpstream(ScriptedModel(**{**usual, **case.dear})),
        }
        config = two_models(*upstreams, **case.route)
        for name, facts in case.models.items():
            config["models"][name] |= facts
        async with virtual_gateway(config, tmp_path, upstreams) as running:
            answers = [await running.chat(headers=case.headers, **case.members) for _ in range(CALLS)][-3:]
            ids = [answer.headers["x-tollway-request-id"] for answer in answers]
            attempts = {entry.call_id: entry.target_id for entry in running.ledger.entries if entry.call_id in ids}
        assert all("provider" not in seen.json for upstream in upstreams.values() for seen in upstream.seen)
        if case.target is None:
            assert attempts == {}
            assert all(case.says in answer.body.decode() for answer in answers), answers[-1].body
        else:
            assert attempts == dict.fromkeys(ids, case.target), answers[-1].headers
            assert all(case.says in answer.headers["x-tollway-reason"] for answer in answers), answers[-1].headers

    run_virtual(scenario())


@pytest.mark.parametrize(("objective", "target"), [("cost", "cheap"), ("goodput", "dear")])
def test_goodput_pays_for_calls_in_time(objective: str, target: str, tmp_path: Path) -> None:
    """The cheaper target is late at every third call: at a fifth less it is the dearer one for each call in time."""

    async def scenario() -> None:
        model = ScriptedModel(tokens=10, ttft_s=0.1, tpot_s=0.01)
        steady = ScriptedModel(tokens=10, ttft_s=0.1, tpot_s=0.01)
        upstreams = {"http://cheap.test": ScriptedUpstream(model), "http://dear.test": ScriptedUpstream(steady)}
        limits = {"ttft_ms": {"p50": 500}}
        config = two_models(*upstreams, objective=objective, limits=limits)
        config["models"]["dear"]["price"] = {"input": 1.2, "output": 2.4}
        async with virtual_gateway(config, tmp_path, upstreams) as running:
            for number in range(30):
                model.ttft_s = 2.0 if number % 3 == 0 else 0.1
                answer = await running.chat()
            last = [entry.target_id for entry in running.ledger.entries][-10:]
        assert last.count(target) >= 8, answer.headers  # the rest are probes

    run_virtual(scenario())


@pytest.mark.parametrize(
    ("may_override", "asked", "says"),
    [
        (None, {"members": wish(sort="latency")}, ""),
        (["sort"], {"members": wish(sort="latency")}, ""),
        (["sort"], {"members": wish(only=["one"])}, "'provider.only' is not for the key 'app' to say"),
        ([], {"members": wish(sort="latency")}, "'provider.sort' is not for the key 'app' to say"),
        ([], {"members": wish(sort=None)}, ""),
        (["task"], {"headers": {"x-tollway-task": "chat"}}, ""),
        (["sort"], {"headers": {"x-tollway-task": "chat"}}, "'x-tollway-task' is not for the key 'app' to say"),
    ],
)
def test_a_key_grants_wishes(may_override: list[str] | None, asked: dict[str, Any], says: str, tmp_path: Path) -> None:
    """What it does not grant is refused by name, and no attempt is begun."""

    async def scenario() -> None:
        upstreams = {f"http://{name}.test": ScriptedUpstream(ScriptedModel()) for name in ("cheap", "dear")}
        config = two_models(*upstreams, objective="balanced")
        config["keys"] = [{"name": "app", "secret": "env:KEY", "may_override": may_override}]
        async with virtual_gateway(config, tmp_path, upstreams, {"KEY": "app-key"}) as running:
            answer = await running.chat(key="app-key", headers=asked.get("headers"), **asked.get("members", {}))
            assert (answer.status, len(running.ledger.entries)) == ((400, 0) if says else (200, 1))
            assert says in answer.body.decode()

    run_virtual(scenario())


@pytest.mark.parametrize(("endpoint", "shape"), [(MESSAGES, '"type":"error"'), (RESPONSES, '"param":"provider.zdr"')])
def test_a_wish_that_is_not_known_is_refused_in_the_dialect(endpoint: Endpoint, shape: str, tmp_path: Path) -> None:
    """Messages and Responses may wish, too."""

    async def scenario() -> None:
        upstreams = {f"http://{name}.test": ScriptedUpstream(ScriptedModel()) for name in ("cheap", "dear")}
        async with virtual_gateway(two_models(*upstreams), tmp_path, upstreams) as running:
            body = {"max_tokens": 9} if endpoint is MESSAGES else {"messages": None, "input": "hi", "store": False}
            answer = await running.chat(endpoint=endpoint, **body, **wish(zdr=True))
            assert shape in answer.body.decode().replace(" ", "")
            assert "'provider.zdr' is not known here" in answer.body.decode()
            granted = await running.chat(endpoint=endpoint, **body, **wish(only=["two"]))
            assert (granted.status, running.ledger.entries[-1].target_id) == (200, "dear"), granted.body

    run_virtual(scenario())


def test_long_list_of_names_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = two_models("http://cheap.test", "http://dear.test")
        async with virtual_gateway(config, tmp_path, {}) as running:
            answer = await running.chat(**wish(only=["one"] * 101))
            assert answer.status == 400
            assert "'provider.only' should be a list of at most 100 names" in answer.body.decode()

    run_virtual(scenario())


@pytest.mark.parametrize(
    ("model", "kept"), [("router", True), ("vendor/large", True), ("auto", False), ("local", False)]
)
def test_openrouter_is_given_the_wishes_of_its_own_models(model: str, kept: bool, tmp_path: Path) -> None:
    """By a model's own name, as they came, also those that are not known here; through a route they are ours."""

    async def scenario() -> None:
        upstreams = {f"http://{name}.test": ScriptedUpstream(ScriptedModel()) for name in ("cheap", "dear")}
        config = two_models(*upstreams)
        router = {"type": "openrouter", "base_url": "http://cheap.test/api/v1", "api_key": "env:KEY"}
        config["providers"] = {"or": router, "two": config["providers"]["two"]}
        price = {"input": 1, "output": 2}
        config["models"] = {
            "router": {"provider": "or", "price": price},
            "vendor/*": {"provider": "or", "price": price},
            "local": {"provider": "two", "price": price},
        }
        config["routes"] = {"auto": {"models": ["router", "local"]}}
        said = {"sort": "price", **({"zdr": True, "order": ["acme"]} if kept else {})}
        async with virtual_gateway(config, tmp_path, upstreams, {"KEY": "k"}) as running:
            answer = await running.chat(model=model, provider=said)
            assert answer.status == 200, answer.body
        (seen,) = [seen for upstream in upstreams.values() for seen in upstream.seen]
        assert seen.json.get("provider") == (said if kept else None)

    run_virtual(scenario())
