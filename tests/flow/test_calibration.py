"""Predictions beside what was measured, from the caller's end and from Prometheus'."""

from pathlib import Path

import aiohttp

from tests.ground.builders import chat_body
from tests.ground.gateway import running_gateway
from tests.ground.model import ScriptedModel
from tests.ground.upstream import ScriptedUpstream

CALLS = 3


async def test_a_call_and_prometheus_show_predictions_beside_measurements(tmp_path: Path) -> None:
    """The first call finds no latency to predict; from the second on all four quantities are compared."""
    async with ScriptedUpstream(ScriptedModel(tokens=5, tpot_s=0.003)) as upstream:
        config = {
            "providers": {
                "upstream": {"type": "openai-compatible", "base_url": f"{upstream.url}/v1", "api_key": "env:KEY"}
            },
            "models": {"small": {"provider": "upstream", "price": {"input": 1.0, "output": 4.0}}},
            "routes": {"auto": {"models": ["small"]}},
            "keys": [{"name": "app", "secret": "env:KEY"}],
        }
        async with (
            running_gateway(config, tmp_path, environ={"KEY": "k"}) as running,
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):
            seen = []
            for _ in range(CALLS):
                async with client.post(running.base_url + "/chat/completions", data=chat_body(stream=True)) as answer:
                    await answer.read()
                    call_id = answer.headers["x-tollway-request-id"]
                async with client.get(f"{running.base_url}/requests/{call_id}") as answer:
                    seen.append(await answer.json())
            async with client.get(f"{running.url}/metrics") as answer:
                exposition = await answer.text()
    latencies = {"ttft_ms", "tpot_ms"}
    told = seen[-1]["calibration"]
    assert set(seen[0]["calibration"]) == set(told) - latencies == {"cost_nano_usd", "output_tokens"}
    assert latencies < set(told)
    assert told["output_tokens"] == {"predicted": {"p50": 5, "p90": 5, "p95": 5, "p99": 5}, "measured": 5}
    assert told["cost_nano_usd"]["measured"] == seen[-1]["cost_nano_usd"]
    assert told["tpot_ms"]["measured"] == seen[-1]["tpot_ms"]
    assert f'tollway_predicted_calls_total{{quantity="cost_nano_usd",target="small"}} {CALLS}.0' in exposition
    assert f'tollway_predicted_calls_total{{quantity="ttft_ms",target="small"}} {CALLS - 1}.0' in exposition
