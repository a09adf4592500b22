"""The locked requirements: every file by its hash, no address anywhere, and the same versions in every set."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
LOCKS = sorted(REQUIREMENTS.glob("*.txt"))
SETS = ["dev", "gateway", "synthetic", "tools", "worker", "worker-cpu"]


def versions(name: str) -> dict[str, str]:
    found = re.findall(
        r"^([a-z0-9][\w.-]*)(?:\[.*\])?==([^ ;\\]+)", (REQUIREMENTS / f"{name}.txt").read_text("utf-8"), re.MULTILINE
    )
    assert found
    return dict(found)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_no_lock_holds_an_address(path: Path) -> None:
    assert not re.search(r"https?://|file:|--(?:extra-)?index-url|--find-links", path.read_text("utf-8"))


@pytest.mark.parametrize("name", SETS)
def test_every_pin_has_a_hash(name: str) -> None:
    pins = re.split(r"\n(?=[a-z0-9])", (REQUIREMENTS / f"{name}.txt").read_text("utf-8"))
    assert all("--hash=sha256:" in pin for pin in pins if "==" in pin)


@pytest.mark.parametrize("name", ["gateway", "synthetic", "worker-cpu"])
def test_installed_packages_are_the_tested_ones(name: str) -> None:
    assert versions(name).items() <= versions("dev").items()


def test_the_cpu_set_leaves_out_what_breaks_a_cpu_torch() -> None:
    installed = versions("worker-cpu")
    assert installed["torch"].endswith("+cpu")
    assert not installed.keys() & {"torchvision", "torchaudio", "torchcodec", "triton"}


def test_the_only_address_in_the_makefile_is_torchs_cpu_index() -> None:
    found = re.findall(r"https?://[^\s\"']+", (ROOT / "Makefile").read_text("utf-8"))
    assert [address for address in found if "127.0.0.1" not in address] == ["https://download.pytorch.org/whl/cpu"]
