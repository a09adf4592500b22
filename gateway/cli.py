"""The ``tollway`` command. Other packages add their own through the entry points of the group ``tollway.commands``.

Such an entry point is a function that takes argparse's sub-parsers, adds one, and sets ``run`` to a function from the
parsed arguments to an exit code. What other packages find wrong in a configuration file, ``tollway check`` asks of the
entry points of the group ``tollway.checks``: functions from the file's path to a list of lines, one for each problem.
"""

import argparse
import hashlib
import os
import secrets
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

from gateway import serve
from gateway.app import read_snapshot
from gateway.config.problems import ConfigError

_GROUP = "tollway.commands"
_CHECKS = "tollway.checks"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 it failed, 2 it was called wrongly."""
    parser = argparse.ArgumentParser(
        prog="tollway", description="A self-hosted gateway in front of many language models."
    )
    parser.add_argument("--version", action="version", version=f"tollway {version('tollway')}")
    commands = parser.add_subparsers(metavar="command", required=True)
    serve.add_to(commands)
    _add_check(commands)
    _add_key(commands)
    for entry_point in entry_points(group=_GROUP):
        entry_point.load()(commands)
    arguments = parser.parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "check", help="check a configuration file", description="Check a configuration file; print what is wrong in it."
    )
    _add_config(parser)
    parser.set_defaults(run=_check)


def _add_key(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "key", help="make a key", description="Make a key: the secret for the app, its hash for the configuration."
    )
    parser.set_defaults(run=_key)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("tollway.yaml"), help="default: %(default)s")


def _check(arguments: argparse.Namespace) -> int:
    try:
        snapshot = read_snapshot(arguments.config, os.environ)
    except ConfigError as error:
        return _fail(str(error))
    problems = [line for entry_point in entry_points(group=_CHECKS) for line in entry_point.load()(arguments.config)]
    if problems:
        return _fail("\n".join(problems))
    print(
        f"{arguments.config}: good. {len(snapshot.targets)} models, {len(snapshot.routes) - len(snapshot.targets)} "
        f"routes, {len(snapshot.keys)} keys; version {snapshot.version}."
    )
    return 0


def _key(_arguments: argparse.Namespace) -> int:
    secret = f"tw-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    print(f"for the app:            {secret}")
    print(f"for the configuration:  secret: sha256:{digest}")
    return 0


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1
