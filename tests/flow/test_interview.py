"""The interview's chain, run as its script is: three steps through one base URL, one trace, one total."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ground.configs import compatible
from tests.ground.gateway import RunningGateway, running_gateway
from tests.ground.script import error_answer, json_answer
from tests.ground.speech import fields_of, transcribe, wav
from tests.ground.upstream import ScriptedUpstream

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
FACTS = {"speaker": "Ada", "topic": "tolls", "statements": ["The gate is open."]}


def config_at(url: str) -> dict[str, Any]:
    """Read the example's configuration, with scripted models in place of its replicas, and a second chat model."""
    config = yaml.safe_load((EXAMPLES / "interview.yaml").read_text())
    for name, worker in config.pop("workers").items():
        config["models"][name]["hardware"] = {"name": "cpu", "usd_per_hour": worker["usd_per_hour"]}
    config["providers"]["cluster"] = compatible(url)
    config["models"]["editor"] = {"provider": "cluster", "price": {"input": 1.0, "output": 2.0}}
    return config


async def run(running: RunningGateway, path: Path) -> tuple[int, str, str]:
    """Run the script; return its exit code and what it wrote."""
    recording = path / "interview.wav"
    recording.write_bytes(wav())
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / "interview.py", "--base-url", running.base_url, "--audio", recording,
        "--writer", "editor", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_an_interview_becomes_an_article_and_one_bill(tmp_path: Path) -> None:
    """Each step gets what the one before it found, and the total is the ledger's own."""
    message = {"role": "assistant", "content": json.dumps(FACTS)}
    found = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "smollm2",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29},
    }
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/v1/audio/transcriptions", transcribe).on_model("smollm2", json_answer(found))
        async with running_gateway(config_at(upstream.url), tmp_path) as running:
            code, out, err = await run(running, tmp_path)
            totals = await running.totals()
    assert (code, err) == (0, "")
    heard, extracted, written = upstream.seen
    assert fields_of(heard)["file"] == wav()
    assert extracted.json["messages"][-1]["content"] == f"{len(wav())} bytes"
    assert extracted.json["response_format"]["json_schema"]["schema"]["required"] == list(FACTS)
    assert json.loads(written.json["messages"][-1]["content"]) == FACTS
    assert "Article:  w0 w1 w2 w3 w4\n" in out
    assert json.dumps(FACTS["speaker"]) in out
    bill = out[out.index("Trace ") :].splitlines()
    assert [line.split(":")[0].split() for line in bill[1:-1]] == [
        ["transcriptions", "whisper", "->", "whisper"],
        ["chat", "smollm2", "->", "smollm2"],
        ["chat", "editor", "->", "editor"],
    ]
    cost = sum(row.cost_nano_usd for row in totals)
    costs = [round(float(line.rpartition("$")[2]) * 1e9) for line in bill[1:]]
    assert costs[-1] == sum(costs[:-1]) == cost > 0
    tokens = 29 + sum(row.input_tokens + row.output_tokens for row in totals if row.target_id == "editor")
    assert f"3 calls, {tokens} tokens" in bill[-1]


async def test_failing_step_ends_the_interview_and_prints_its_bill(tmp_path: Path) -> None:
    """The error, a non-zero exit, and the bill of the steps before it."""
    async with ScriptedUpstream() as upstream:
        upstream.on_path("/v1/audio/transcriptions", transcribe).on_model("smollm2", error_answer(400, "too long"))
        async with running_gateway(config_at(upstream.url), tmp_path) as running:
            code, out, err = await run(running, tmp_path)
    assert code != 0
    assert "BadRequestError" in err
    bill = out[out.index("Trace ") :].splitlines()
    assert ["ok" in bill[1], "refused" in bill[2]] == [True, True]
    assert "2 calls" in bill[-1]
