"""The page docs/guide/simulate.md, run as it stands."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from gateway.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "simulate.md"
BLOCK = re.compile(r"```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


@pytest.mark.slow
def test_simulate_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block in its turn; what is shown has the lines and columns that the page shows, whatever the figures."""
    monkeypatch.chdir(tmp_path)
    blocks = [(each["kind"], each["text"]) for each in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
    configuration: dict[str, object] = {}
    for kind, text in blocks:
        if kind == "yaml":
            configuration |= yaml.safe_load(text)
            (tmp_path / "tollway.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))
            assert _shown("tollway simulate --trace poisson:2,6000,200 --requests 50", capsys)[0].startswith("50 ")
        elif kind == "json":
            (tmp_path / "trace.jsonl").write_text(text)
        else:
            command, *shown = text.strip().splitlines()
            lines = _shown(command.removeprefix("$ "), capsys)
            if shown:
                assert lines[:2] == shown[:2]
                assert [line.split()[0] for line in lines] == [line.split()[0] for line in shown]
    assert {kind for kind, _ in blocks} == {"yaml", "json", "console"}


def _shown(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    program, *arguments = shlex.split(command)
    assert program == "tollway"
    assert main(arguments) == 0
    return capsys.readouterr().out.splitlines()
