"""The commands ``up`` and ``workers run``: a wrong call ends in one sentence and starts nothing."""

import argparse
import socket
from pathlib import Path

import pytest

from workers import cli

QUICKSTART = Path(__file__).parents[3] / "deploy" / "quickstart" / "tollway.yaml"


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
