"""The commands ``up`` and ``workers run``: a wrong call ends in one sentence and starts nothing."""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from workers.command import cli, leftovers

QUICKSTART = Path(__file__).parents[4] / "deploy" / "quickstart" / "tollway.yaml"


@pytest.fixture(autouse=True)
def _no_run_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find nothing that a killed run has left on this machine: it would be ended, and said."""
    monkeypatch.setattr(leftovers, "_PARENT", tmp_path)


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    cli.add_up(commands)
    cli.add_workers(commands)
    args = parser.parse_args(arguments)
    code = args.run(args)
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize("command", [("up",), ("workers", "run")], ids=["up", "run"])
def test_a_busy_port_is_one_plain_sentence(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(*command, "--config", str(QUICKSTART), "--port", str(port)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"tollway: Port {port} on 127.0.0.1 is in use; choose another port or stop what listens there.\n"
    )


@pytest.mark.parametrize("command", [("up",), ("workers", "run")], ids=["up", "run"])
@pytest.mark.parametrize("text", ["providers: {}", "workers: {m: {}}", "workers: ["], ids=["none", "wrong", "yaml"])
def test_a_wrong_configuration_is_one_plain_sentence(
    command: tuple[str, ...], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tollway.yaml"
    config.write_text(text, encoding="utf-8")
    assert run(*command, "--config", str(config)) == 1
    said = capsys.readouterr().err
    assert said.startswith("tollway: ")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_ray_that_does_not_start_is_one_plain_sentence(tmp_path: Path) -> None:
    """Its sockets need a short path; and a cluster that the environment names is never asked for."""
    config = tmp_path / "tollway.yaml"
    config.write_text("workers: {m: {source: none, engine: synthetic}}", encoding="utf-8")
    long = tmp_path / ("x" * 100)
    long.mkdir()
    command = [sys.executable, "-m", "gateway", "workers", "run", "--config", str(config), "--temp-dir", str(long)]
    stale = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run([*command, "--port", "0"], env=stale, capture_output=True, text=True, check=False, timeout=55)
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("tollway: Ray did not start: ")
    assert "107 bytes" in last
    assert "Traceback" not in done.stderr
