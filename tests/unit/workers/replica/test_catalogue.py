"""What vLLM knows is asked once and kept; what is kept is never in the way."""

import json
import sys
from pathlib import Path

import pytest

from workers.replica import catalogue

ANSWER = {"arguments": {}, "architectures": ["A"], "tool_parsers": [], "reasoning_parsers": []}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put a program in vLLM's place that answers, and counts its calls in the returned file."""
    calls, program = tmp_path / "calls", tmp_path / "vllm"
    said = json.dumps(ANSWER)
    program.write_text(f"#!{sys.executable}\nopen({str(calls)!r}, 'a').write('x')\nprint({said!r})\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def test_vllm_is_asked_once(asked: Path) -> None:
    assert catalogue.read_catalogue() == catalogue.read_catalogue()
    assert asked.read_text() == "x"


def test_a_broken_answer_is_asked_for_again(asked: Path, tmp_path: Path) -> None:
    catalogue.read_catalogue()
    [kept] = (tmp_path / "cache" / "tollway").iterdir()
    kept.write_text("{")
    known = catalogue.read_catalogue()
    assert known is not None
    assert known.architectures == {"A"}
    assert json.loads(kept.read_text()) == ANSWER
    assert asked.read_text() == "xx"


def test_vllm_is_asked_each_time_where_no_answer_can_be_kept(asked: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert catalogue.read_catalogue() is not None
    assert catalogue.read_catalogue() is not None
    assert asked.read_text() == "xx"
