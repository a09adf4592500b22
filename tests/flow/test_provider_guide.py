"""The page docs/extend/provider.md, executed as it stands."""

from pathlib import Path

import openai
import pytest

from tests.ground.extend import followed
from tests.ground.upstream import ScriptedUpstream


@pytest.mark.slow
async def test_provider_is_one_row(tmp_path: Path) -> None:
    """Its servers get the name of the limit and the header that the row says."""
    (tmp_path / "credential").write_text("sk-row")
    async with ScriptedUpstream() as upstream, followed("provider.md", tmp_path, upstream=upstream) as gateway:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client:
            answered = await client.chat.completions.create(
                model="small", messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=7
            )
        assert answered.choices[0].message.content
        (seen,) = upstream.seen
        assert (seen.headers["api-key"], seen.headers.get("authorization")) == ("sk-row", None)
        assert seen.json["max_tokens"] == 7
        assert "max_completion_tokens" not in seen.json
