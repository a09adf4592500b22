"""Readiness and the labels of metrics, as a whole gateway shows them."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.ground.builders import chat_body
from tests.ground.configs import compatible, one_model
from tests.ground.gateway import running_gateway
from tests.ground.script import error_answer
from tests.ground.upstream import ScriptedUpstream

PRICE = {"input": 1.0, "output": 2.0}


def wildcard(url: str) -> dict[str, Any]:
    """Describe a gateway that offers every model of one upstream, and none by name."""
    return {"providers": {"any": compatible(url)}, "models": {"any/*": {"provider": "any", "price": PRICE}}}


async def test_wildcards_alone_are_ready(tmp_path: Path) -> None:
    """No target is known before it is asked for, and each can be."""
    async with ScriptedUpstream() as upstream, running_gateway(wildcard(upstream.url), tmp_path) as running:
        async with aiohttp.ClientSession() as client, client.get(f"{running.url}/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ready"})


@pytest.mark.parametrize("beside_a_wildcard", [True, False])
async def test_open_breaker_of_every_target_is_not_ready(tmp_path: Path, *, beside_a_wildcard: bool) -> None:
    """Unless another model can be asked for behind a wildcard."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        if beside_a_wildcard:
            config["models"] |= {"any/*": {"provider": "upstream", "price": PRICE}}
        upstream.on_model("scripted", error_answer(503, retry_after_s=30))
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            async with client.post(f"{running.base_url}/chat/completions", data=chat_body()) as answer:
                assert answer.status == 503
            async with client.get(f"{running.url}/readyz") as answer:
                assert answer.status == (200 if beside_a_wildcard else 503)


@pytest.mark.slow
async def test_configured_names_keep_their_labels_behind_many_invented_ones(tmp_path: Path) -> None:
    """Callers ask for 520 models behind a wildcard: one label for all, and the model configured by name has its own."""
    async with ScriptedUpstream() as upstream:
        config = one_model(upstream.url)
        config["models"] |= {"any/*": {"provider": "upstream", "price": PRICE}}
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            for model in [*(f"any/{number}" for number in range(520)), "auto", "scripted"]:
                async with client.post(f"{running.base_url}/chat/completions", data=chat_body(model=model)) as answer:
                    assert answer.status == 200
            value = running.gateway.metrics.registry.get_sample_value
            assert value("tollway_attempts_total", {"target": "any/*", "outcome": "ok"}) == 520
            assert value("tollway_attempts_total", {"target": "scripted", "outcome": "ok"}) == 2
            assert value("tollway_requests_total", {"route": "auto", "outcome": "ok", "status": "200"}) == 1
            assert "any/1" not in running.gateway.metrics.reading()().decode()
