"""The pages docs/extend/{filter,objective,predictor}.md, executed as they stand."""

import asyncio
import sys
from functools import partial
from pathlib import Path
from subprocess import run
from typing import Any

import aiohttp
import pytest

from tests.ground.builders import chat_body
from tests.ground.extend import followed
from tests.ground.upstream import ScriptedUpstream

KEY = {"authorization": "Bearer research-key"}
PAGES = ("objective.md", "predictor.md")


@pytest.mark.slow
async def test_parts_of_the_guides_decide(tmp_path: Path) -> None:
    """A file and a line each: the configuration names them with their options, and requests go by them."""
    async with (
        ScriptedUpstream() as upstream,
        followed("filter.md", tmp_path, *PAGES, upstream=upstream) as gateway,
        aiohttp.ClientSession(gateway.url, headers=KEY) as client,
    ):

        async def ask(route: str, **members: object) -> tuple[str, str, dict[str, Any]]:
            async with client.post("/v1/chat/completions", data=chat_body(model=route, **members)) as answer:
                assert answer.status == 200, await answer.text()
                headers = answer.headers
            async with client.get(f"/v1/requests/{headers['x-tollway-request-id']}") as page:
                return headers["x-tollway-target"], headers["x-tollway-reason"], await page.json()

        target, reason, record = await ask("resident")
        assert (target, reason) == ("eu", "only target left, 1 ruled out")
        assert record["dropped"] == [{"target_id": "us", "filter": "residency", "reason": "region is us-east-1"}]
        assert (await ask("best"))[:2] == ("large", "best (ifeval 0.82)")
        await ask("classify", max_tokens=50)  # measured: shorter than its cap
        (considered,) = (await ask("classify", max_tokens=50))[2]["considered"]
        assert considered["prediction"]["output_tokens"]["p50"] == 50
        assert considered["prediction"]["cost_nano_usd"]["p50"] == 1_000_000
    await asyncio.to_thread(_check_names_the_keys, tmp_path)


def _check_names_the_keys(path: Path) -> None:
    """Read the reference page, and what is said of misspelt keys: both know them by the line in a registry."""
    good, bad = path / "tollway.yaml", path / "misspelt.yaml"
    bad.write_text(good.read_text().replace("cy:", "ce:").replace("score:", "scor:").replace("up_to:", "upto:"))
    run_here = partial(run, cwd=path, capture_output=True, text=True)
    said = run_here([sys.executable, "-m", "gateway", "check", "--config", bad])
    for place, key in (
        ("resident.require", "residency"),
        ("best.objective.quality", "score"),
        ("classify.predictors.output_tokens.short_caps", "up_to"),
    ):
        assert f"routes.{place}: unknown key" in said.stderr, said
        assert f"did you mean '{key}'?" in said.stderr
    page = run_here([sys.executable, "-m", "gateway.reference"]).stdout
    assert "| `objective` | `cost`, `latency`, `balanced`, `goodput`, `quality` | `cost` |" in page
    assert "| `residency` | mapping |  | Regions for the calls of a team's keys: `{research: [eu-*]}`. |" in page
    assert "| `quality` | section |  | The best, by a score of `models.NAME.quality`. |" in page
    assert "## `routes.NAME.objective.quality`" in page
    assert "| `up_to` | whole number | `8` | The largest cap that is taken for used up, in tokens. |" in page
