"""The example in docs/extend/endpoint.md works as printed: a second caller's dialect in one file and one line."""

import re
from pathlib import Path
from typing import Any

import anthropic
import pytest

from gateway.formats.registry import ENDPOINTS
from gateway.types import Endpoint
from tests.contract.exchange import ROOT, load
from tests.ground.gateway import running_gateway
from tests.ground.script import play
from tests.ground.upstream import ScriptedUpstream

GUIDE = Path(__file__).parents[2] / "docs" / "extend" / "endpoint.md"


@pytest.fixture(name="messages")
def load_endpoint() -> Endpoint:
    """Run the guide's code."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(code, str(GUIDE), "exec"), names)  # noqa: S102 - our own documentation
    endpoint: Endpoint = names["Messages"]()
    return endpoint


async def test_caller_dialect_is_one_file_and_one_line(
    messages: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anthropic's client asks, a translating format answers, and an error comes as the dialect has it."""
    monkeypatch.setattr("gateway.app.ENDPOINTS", [*ENDPOINTS, messages])  # the registry's line
    recorded = load(ROOT / "anthropic" / "text-stream" / "exchange.json").upstream_response
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/v1/messages", play(recorded.encode()))
        far = {"type": "anthropic", "base_url": upstream.url, "api_key": "env:KEY"}
        model = {"provider": "far", "price": {"input": 1, "output": 5}}
        config = {"providers": {"far": far}, "models": {"claude": model}}
        async with running_gateway(config, tmp_path, environ={"KEY": "k"}) as running:
            base_url = running.base_url.removesuffix("/v1")
            async with anthropic.AsyncAnthropic(base_url=base_url, api_key="unused", max_retries=0) as client:
                asked: Any = {"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
                async with client.messages.stream(model="claude", **asked) as stream:
                    assert (await stream.get_final_text()).strip()
                with pytest.raises(anthropic.NotFoundError):
                    await client.messages.create(model="none", **asked)
