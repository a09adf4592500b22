"""The interview's chain on real vLLM on a CPU: ``interview.yaml`` and its script, Whisper's weights being random ones.

What such a Whisper hears is nonsense, of which the other two steps make what they can; that they run, keep to the
schema and add up is what is tested.
"""

import json
import subprocess
import sys
from pathlib import Path

import httpx2
import yaml

from tests.engine.conftest import ROOT, up
from tests.families.question import sound

EXAMPLES = ROOT / "deploy" / "examples"
WRITE = """
import sys
from pathlib import Path
from tests.families.catalogue import FAMILIES
from tests.families.checkpoint import write
write(next(family for family in FAMILIES if family.name == "Whisper"), Path(sys.argv[1]))
"""


def test_the_chain_runs_on_own_replicas_with_one_trace_and_one_total(tmp_path: Path) -> None:
    """Three calls at two models; each costs its share of a replica's time, and the trace their sum."""
    checkpoint, recording = tmp_path / "whisper", tmp_path / "interview.wav"
    subprocess.run([sys.executable, "-c", WRITE, str(checkpoint)], check=True, cwd=ROOT)
    recording.write_bytes(sound())
    example = yaml.safe_load((EXAMPLES / "interview.yaml").read_text(encoding="utf-8"))
    example["workers"]["whisper"]["source"] = str(checkpoint)
    config = tmp_path / "tollway.yaml"
    config.write_text(yaml.safe_dump(example), encoding="utf-8")
    command = [sys.executable, str(EXAMPLES / "interview.py"), "--audio", str(recording)]
    with up(config, tmp_path, "smollm2") as running:
        done = subprocess.run(
            [*command, "--base-url", f"{running.gateway}/v1"], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        trace_id = done.stdout.partition("\nTrace ")[2].split()[0]
        told = httpx2.get(f"{running.gateway}/v1/traces/{trace_id}").json()
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
