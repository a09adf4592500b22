"""The interview's chain on real vLLM on a CPU: its script and its models, Whisper's weights being random ones.

What such a Whisper hears is nonsense, of which the other two steps make what they can; that they run, keep to the
schema and add up is what is tested.
"""

import json
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.engine.conftest import EXAMPLES, Running
from tests.families.question import sound


@pytest.mark.soak
def test_the_chain_runs_on_own_replicas_with_one_trace_and_one_total(interview: Running, tmp_path: Path) -> None:
    """Three calls at two models; each costs its share of a replica's time, and the trace their sum."""
    recording = tmp_path / "interview.wav"
    recording.write_bytes(sound())
    command = [sys.executable, str(EXAMPLES / "interview.py"), "--audio", str(recording)]
    done = subprocess.run(
        [*command, "--base-url", f"{interview.gateway}/v1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trace_id = done.stdout.partition("\nTrace ")[2].split()[0]
    told = httpx2.get(f"{interview.gateway}/v1/traces/{trace_id}").json()
    assert [(call["operation"], call["target"], call["outcome"]) for call in told["calls"]] == [
        ("transcriptions", "whisper", "ok"),
        ("chat", "smollm2", "ok"),
        ("chat", "smollm2", "ok"),
    ]
    costs = [call["cost_nano_usd"] for call in told["calls"]]
    assert min(costs) > 0
    assert told["cost_nano_usd"] == sum(costs)
    assert f"3 calls, {told['total_tokens']} tokens, ${told['cost_usd']}" in done.stdout
    facts = json.loads(done.stdout.partition("Facts: ")[2].partition("\n\nArticle: ")[0])
    assert set(facts) == {"speaker", "topic", "statements"}
