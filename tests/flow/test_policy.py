"""What a route can say, and what the ledger says it did: a line of the table each, two models, in virtual time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.simulation.virtual_time import run_virtual
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
TABLES = {"ceiling": CEILINGS, "fact": FACTS, "objective": OBJECTIVES}


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
