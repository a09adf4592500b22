"""A request is billed at the prices of its own length, moment and wishes; its caller, record and entry agree on it."""

from pathlib import Path
from typing import Any

import pytest

from gateway.simulation.virtual_time import run_virtual
from tests.ground.script import json_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import virtual_gateway

HOSTED = "http://hosted.test"
FLAT = 6 * 1000 + 5 * 10_000
"""Six tokens of the prompt and five of the answer, at 1 and 10 USD per million."""
FLEX = {"request": {"service_tier": "flex"}, "input": 0.5, "output": 5}


@pytest.mark.parametrize(
    ("price", "members", "nano_usd"),
    [
        ({}, {}, FLAT),
        ({"tiers": [{"above_tokens": 6, "input": 2, "output": 20}]}, {}, FLAT),
        ({"tiers": [{"above_tokens": 5, "input": 2, "output": 20}]}, {}, 2 * FLAT),
        ({"variants": [FLEX]}, {}, FLAT),
        ({"variants": [FLEX]}, {"service_tier": "flex"}, FLAT // 2),
        ({"variants": [{"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "input": 3}]}, {}, FLAT + 12_000),
        ({"variants": [{"hours": "00:00-12:00", "input": 3}, {"hours": "12:00-00:00", "input": 3}]}, {}, FLAT + 12_000),
        ({"per_request": 0.001, "web_search": 0.01}, {}, FLAT + 1_000_000),
    ],
)
def test_request_is_billed_at_its_price(
    price: dict[str, Any], members: dict[str, Any], nano_usd: int, tmp_path: Path
) -> None:
    setup = {
        "providers": {"two": {"type": "openai-compatible", "base_url": f"{HOSTED}/v1"}},
        "models": {"hosted": {"provider": "two", "price": {"input": 1, "output": 10} | price}},
        "routes": {"auto": {"models": ["hosted"]}},
    }

    async def run() -> tuple[str, list[int]]:
        async with virtual_gateway(setup, tmp_path, {HOSTED: ScriptedUpstream()}) as running:
            messages = [{"role": "user", "content": "a b c d e f"}]
            answered = await running.chat(stream=False, messages=messages, **members)
        ledger = running.ledger
        costs = [each.cost_nano_usd for each in (*ledger.records, *ledger.entries)]
        return answered.headers["x-tollway-cost-usd"], costs

    told, costs = run_virtual(run())
    assert costs == [nano_usd, nano_usd]
    assert told == f"0.{nano_usd:09d}"


@pytest.mark.parametrize(
    ("asked", "served", "nano_usd"),
    [
        ({}, None, 300_000),
        ({"service_tier": "flex"}, None, 150_000),
        ({"service_tier": "flex"}, "flex", 150_000),
        ({"service_tier": "flex"}, "default", 300_000),
        ({"service_tier": "auto"}, "flex", 150_000),
        ({}, "flex", 150_000),
        ({"service_tier": "flex"}, 7, 150_000),
        ({"service_tier": "flex"}, "\ud800", 150_000),  # half a surrogate pair, which JSON may hold and UTF-8 may not
        ({"service_tier": "flex"}, "fléx", 150_000),
        ({"service_tier": "flex"}, "x" * 10_000, 150_000),
    ],
)
def test_tier_that_served_an_answer_decides_its_price(
    asked: dict[str, Any], served: object, nano_usd: int, tmp_path: Path
) -> None:
    """A provider may serve at another tier than was asked for, and bills that (OpenAI, ``service_tier``)."""
    setup = {
        "providers": {"one": {"type": "openai-compatible", "base_url": f"{HOSTED}/v1"}},
        "models": {"hosted": {"provider": "one", "price": {"input": 1, "output": 10, "variants": [FLEX]}}},
    }
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    upstream = ScriptedUpstream()
    upstream.on_path(
        "/v1/chat/completions",
        json_answer({"id": "1", "choices": [choice], "usage": usage, "service_tier": served}),
    )

    async def run() -> list[int]:
        async with virtual_gateway(setup, tmp_path, {HOSTED: upstream}) as running:
            await running.chat(stream=False, model="hosted", **asked)
        return [each.cost_nano_usd for each in (*running.ledger.records, *running.ledger.entries)]

    assert run_virtual(run()) == [nano_usd, nano_usd]
