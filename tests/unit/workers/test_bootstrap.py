"""The set-up before anything is installed: which torch, whose settings, and when there is nothing to do."""

import subprocess
from pathlib import Path

import pytest

from workers import bootstrap
from workers.bootstrap import SetupError, _PipSettings, _torch_links


class Answers:
    """Stands in for pip and uv: answers ``pip config list`` and says whether links hold the wheel."""

    def __init__(self) -> None:
        self.pip_config = ""
        self.links_have_it = False

    def run(self, command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        """Do what ``subprocess.run`` would have done."""
        if "config" in command:
            return subprocess.CompletedProcess(command, 0, self.pip_config, "")
        return subprocess.CompletedProcess(command, 0 if self.links_have_it else 1, "", "")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    made = Answers()
    monkeypatch.setattr(subprocess, "run", made.run)
    return made


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "worker-cpu.txt"
    path.write_text(
        "ray==2.60.0 \\\n    --hash=sha256:1\ntorch==2.13.0+cpu \\\n    --hash=sha256:2\n", encoding="utf-8"
    )
    return path


def test_torch_comes_from_the_configured_links_when_they_have_it(
    answers: Answers, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers.pip_config = "global.find-links='/some/wheels https://example.test/links'"
    answers.links_have_it = True
    assert _torch_links(lock, _PipSettings()) == [
        "--find-links",
        "/some/wheels",
        "--find-links",
        "https://example.test/links",
    ]
    assert "torch==2.13.0+cpu comes from pip's configured links" in capsys.readouterr().out


def test_torch_comes_from_the_named_index_otherwise(
    answers: Answers, lock: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers.pip_config = "global.find-links='/some/wheels'"
    monkeypatch.setenv("TORCH_CPU_INDEX", "https://example.test/cpu/")
    assert _torch_links(lock, _PipSettings()) == ["--find-links", "https://example.test/cpu/torch/"]
    assert "torch==2.13.0+cpu comes from https://example.test/cpu" in capsys.readouterr().out


def test_missing_source_of_torch_is_reported(answers: Answers, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_CPU_INDEX", raising=False)
    assert answers.pip_config == ""
    with pytest.raises(SetupError, match="TORCH_CPU_INDEX is not set"):
        _torch_links(lock, _PipSettings())


def test_a_set_without_a_cpu_torch_needs_no_links(answers: Answers, tmp_path: Path) -> None:
    lock = tmp_path / "worker.txt"
    lock.write_text("torch==2.13.0 \\\n    --hash=sha256:2\n", encoding="utf-8")
    assert answers.pip_config == ""
    assert _torch_links(lock, _PipSettings()) == []


def test_pips_settings_reach_uv_and_the_environment_wins_over_the_files(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.pip_config = (
        "global.index-url='https://mirror.test/simple'\nglobal.find-links='/a'\n:env:.find-links='/b'\n"
    )
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    settings = _PipSettings()
    assert settings.links == ["/b"]
    assert settings.for_uv()["UV_DEFAULT_INDEX"] == "https://mirror.test/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.test/simple")
    assert settings.for_uv()["UV_DEFAULT_INDEX"] == "https://own.test/simple"


def test_a_second_installation_does_nothing_until_a_lock_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bootstrap, "_run", lambda step, *_: ran.append(step))
    monkeypatch.setattr(bootstrap, "_make_venv", lambda: (tmp_path / ".venv").mkdir(exist_ok=True))
    monkeypatch.setattr(_PipSettings, "_get", staticmethod(lambda _: ""))
    (tmp_path / "requirements").mkdir()
    for name in ("requirements/gateway.txt", "requirements/tools.txt", "pyproject.toml"):
        (tmp_path / name).write_text("a==1\n", encoding="utf-8")
    bootstrap.install("gateway")
    assert ran == ["installing uv", "installing gateway", "installing tollway itself"]
    bootstrap.install("gateway")
    assert len(ran) == 3
    (tmp_path / "requirements" / "gateway.txt").write_text("a==2\n", encoding="utf-8")
    bootstrap.install("gateway")
    assert len(ran) == 6
