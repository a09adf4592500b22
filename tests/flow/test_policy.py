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
    members: Mapping[str, Any] = field(default_factory=dict)
    """Of the requests."""


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


@pytest.mark.parametrize("case", [pytest.param(case, id=f"ceiling: {name}") for name, case in CEILINGS.items()])
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
            answers = [await running.chat(**case.members) for _ in range(CALLS)][-3:]
            ids = [answer.headers["x-tollway-request-id"] for answer in answers]
            attempts = {entry.call_id: entry.target_id for entry in running.ledger.entries if entry.call_id in ids}
        if case.target is None:
            assert attempts == {}
            assert all(case.says in answer.body.decode() for answer in answers), answers[-1].body
        else:
            assert attempts == dict.fromkeys(ids, case.target), answers[-1].headers
            assert all(case.says in answer.headers["x-tollway-reason"] for answer in answers), answers[-1].headers

    run_virtual(scenario())
