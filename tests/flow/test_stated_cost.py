"""What an upstream says that its answer cost is in the ledger, and is the bill where the provider's row says so."""

from pathlib import Path
from typing import Any

import pytest

from gateway.simulation.virtual_time import run_virtual
from gateway.types import LedgerEntry
from tests.ground.configs import one_model
from tests.ground.script import Answer, json_answer, sse_event
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import virtual_gateway

USAGE: dict[str, Any] = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
BY_PRICE = 100 * 1_000 + 20 * 2_000
OWN_KEY = {"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.0002}}

CASES: list[tuple[str, dict[str, Any], int, int, str]] = [
    # Provider's type, what stands beside the counts, nano-dollars stated and billed, whose price that is.
    ("openrouter", {"cost": 0.0123}, 12_300_000, 12_300_000, "upstream"),
    ("openrouter", OWN_KEY, 200_000, 200_000, "upstream"),
    ("openrouter", {}, 0, BY_PRICE, "config"),
    ("openrouter", {"cost": "0.0123"}, 0, BY_PRICE, "config"),
    ("perplexity", {"cost": {"total_cost": 0.00528, "request_cost": 0.005}}, 5_280_000, 5_280_000, "upstream"),
    ("xai", {"cost_in_usd_ticks": 3_530_500}, 353_050, 353_050, "upstream"),
    ("openai-compatible", {"cost": 0.0123}, 12_300_000, BY_PRICE, "config"),
]


def answers(usage: dict[str, Any]) -> dict[bool, Answer]:
    """Write an answer that is streamed, with the usage in its last chunk, and one that is whole."""
    message = {"role": "assistant", "content": "four"}
    events = [
        {"choices": [{"index": 0, "delta": message}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    ]
    chunks = [*map(sse_event, events), b"data: [DONE]\n\n"]
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    return {True: Answer(headers=(("content-type", "text/event-stream"),), chunks=chunks), False: json_answer(whole)}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("kind", "stated", "upstream_cost", "cost", "version"), CASES)
def test_stated_cost_is_recorded_and_billed_where_the_row_says_so(
    tmp_path: Path, *, kind: str, stated: dict[str, Any], upstream_cost: int, cost: int, version: str, stream: bool
) -> None:
    config = one_model("http://a.test")
    config["providers"]["upstream"] |= {"type": kind, "api_key": "env:KEY"}

    async def scenario() -> LedgerEntry:
        upstream = ScriptedUpstream().on_path("/v1/chat/completions", answers(USAGE | stated)[stream])
        hosts = {"http://a.test": upstream}
        async with virtual_gateway(config, tmp_path, hosts, environ={"KEY": "k"}) as running:
            answer = await running.chat(stream=stream)
            assert answer.status == 200
            (entry,) = running.ledger.entries
            return entry

    entry = run_virtual(scenario())
    assert (entry.usage.upstream_cost_nano_usd, entry.cost_nano_usd) == (upstream_cost, cost)
    assert (entry.price_version, entry.cost_origin) == (version, "provider")
    assert (entry.usage.input_tokens, entry.usage.output_tokens) == (100, 20)
