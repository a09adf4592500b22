"""The official ``openai`` client works unchanged against a gateway: only ``base_url`` and key are its own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.ground.gateway import running_gateway
from tests.ground.upstream import ScriptedUpstream
from tests.sdk.endpoint import Case, Endpoint, Play, clients
from tests.sdk.engine import ScriptedEngine
from tests.sdk.suite import CASES, NAMES

PROVIDERS = ["openai-compatible", "vllm"]
"""Passed through as it is; or always streamed upstream, as own replicas are, and put together for callers."""


@pytest_asyncio.fixture(params=PROVIDERS, scope="module", loop_scope="module")
async def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Play]:
    """Run a gateway in front of a played engine, and point clients at it."""
    engine = ScriptedEngine()
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/v1/chat/completions", engine.answer).on_path("/v1/completions", engine.answer)
        config = {
            "providers": {"upstream": {"type": request.param, "base_url": f"{upstream.url}/v1"}},
            "models": {"played": {"provider": "upstream", "price": {"input": 1.0, "output": 2.0}}},
            "routes": {"auto": {"models": ["played"]}},
            "keys": [{"name": "app", "secret": "env:KEY"}],
        }
        path = tmp_path_factory.mktemp("gateway")
        async with running_gateway(config, path, environ={"KEY": "k-app"}) as running:
            async with clients(Endpoint(running.base_url, "auto", "k-app")) as play:
                yield play
        assert any(seen.json.get("stream") is None for seen in upstream.seen) == (request.param == "openai-compatible")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES, ids=NAMES)
async def test_the_client_works_unchanged(case: Case, play: Play) -> None:
    """See each case."""
    await play(case)
