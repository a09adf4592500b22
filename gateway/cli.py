"""The ``tollway`` command. Other packages add their own through the entry points of the group ``tollway.commands``.

Such an entry point is a function that takes argparse's sub-parsers, adds one, and sets ``run`` to a function from the
parsed arguments to an exit code. What other packages find wrong in a configuration file, ``tollway check`` asks of the
entry points of the group ``tollway.checks``: functions from the file's path to a list of lines, one for each problem.
"""

import argparse
import asyncio
import hashlib
import os
import secrets
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

from gateway import explain, serve
from gateway.app import read_snapshot
from gateway.check import TIMEOUT_S, Asker, metadata_providers, price_of_asking, questions
from gateway.clock import SystemClock
from gateway.config.problems import ConfigError
from gateway.config.snapshot import Snapshot
from gateway.credentials.registry import signers
from gateway.providers.registry import ADAPTERS
from gateway.simulation import command as simulate
from gateway.transport.http1 import HttpTransport

_GROUP = "tollway.commands"
_CHECKS = "tollway.checks"
_PROXIES = frozenset({"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"})


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 it failed, 2 it was called wrongly."""
    parser = argparse.ArgumentParser(
        prog="tollway", description="A self-hosted gateway in front of many language models."
    )
    parser.add_argument("--version", action="version", version=f"tollway {version('tollway')}")
    commands = parser.add_subparsers(metavar="command", required=True)
    serve.add_to(commands)
    _add_check(commands)
    simulate.add_to(commands)
    explain.add_to(commands)
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
    parser.add_argument(
        "--online",
        action="store_true",
        help="also ask each target once whether it is there, takes the credential and knows the model; a provider that "
        "has no free question is asked for one token of a chat, which it bills",
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=TIMEOUT_S, metavar="S", help="seconds for each; default: %(default)g"
    )
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
    if ignored := sorted(name for name in os.environ if name.upper() in _PROXIES):
        print(f"note: {', '.join(ignored)} has no effect here: docs/guide/network.md.")
    for provider in metadata_providers(snapshot):
        print(
            f"warning: providers.{provider}.base_url is a link-local or metadata address, where a cloud hands out this "
            "machine's own credentials; prompts and keys would go there."
        )
    return asyncio.run(_ask(snapshot, arguments.timeout)) if arguments.online else 0


async def _ask(snapshot: Snapshot, timeout_s: float) -> int:
    """Ask each target once, print a line for each, and return 1 if one is not as the configuration says."""
    asked = questions(snapshot)
    print(price_of_asking(asked), flush=True)
    transport = HttpTransport()
    await transport.start()
    try:
        findings = await Asker(transport, ADAPTERS, signers(SystemClock(), transport), timeout_s).ask_all(asked)
    finally:
        await transport.stop()
    width = max((len(each.name) for each in findings), default=0)
    for each in findings:
        print(f"{each.name:{width}}  {each.verdict}: {each.sentence}")
    wrong = sum(each.verdict == "wrong" for each in findings)
    print(f"{wrong} of {len(findings)} are not as the configuration says." if wrong else "All that was asked is good.")
    return 1 if wrong else 0


def _seconds(written: str) -> float:
    try:
        seconds = float(written)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError("should be a number of seconds above 0, at most 3600")
    return seconds


def _key(_arguments: argparse.Namespace) -> int:
    secret = f"tw-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    print(f"for the app:            {secret}")
    print(f"for the configuration:  secret: sha256:{digest}")
    return 0


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1
