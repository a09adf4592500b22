"""The workers' commands of ``tollway``: ``up`` and ``workers run``.

Only parsers are made here; what a command does is imported when it runs, so that ``tollway --help`` needs no Ray.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from workers.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable

    # argparse has no public name for what add_subparsers returns.
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001


def add_up(subparsers: "Subparsers") -> None:
    """Add ``tollway up``: everything on this machine, from model to gateway, until Ctrl-C."""
    parser = subparsers.add_parser("up", help="start the models of a configuration and the gateway on this machine")
    parser.add_argument("--config", type=Path, required=True, help="the tollway.yaml to start")
    parser.add_argument("--engine", choices=["vllm", "synthetic"], help="use this engine for every worker")
    parser.add_argument("--port", type=int, default=8080, help="the gateway's port on 127.0.0.1 (default %(default)s)")
    parser.add_argument("--workers-port", type=int, default=8000, help="another is taken if it is busy (%(default)s)")
    parser.add_argument("--until-stdin-closes", action="store_true", help="also stop when standard input ends")
    parser.set_defaults(run=_guarded(_up))


def add_workers(subparsers: "Subparsers") -> None:
    """Add ``tollway workers``, whose ``run`` serves the configured models without a gateway."""
    parser = subparsers.add_parser("workers", help="open models on Ray Serve and vLLM")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="serve the models of a configuration on this machine until Ctrl-C")
    run.add_argument("--config", type=Path, required=True, help="the tollway.yaml whose `workers:` section to serve")
    run.add_argument("--port", type=int, default=8000, help="the port on 127.0.0.1 (default %(default)s)")
    run.add_argument("--temp-dir", type=Path, help="a short path for Ray's session files (default: a new one)")
    run.add_argument("--until-stdin-closes", action="store_true", help="also stop when standard input ends")
    run.set_defaults(run=_guarded(_workers_run))


def _guarded(command: "Callable[[argparse.Namespace], int]") -> "Callable[[argparse.Namespace], int]":
    """Turn a failure that its reader can act on into one sentence and exit code 1."""

    def run(args: argparse.Namespace) -> int:
        try:
            return command(args)
        except WorkerError as error:
            print(f"tollway: {error}", file=sys.stderr)
            return 1

    return run


def _up(args: argparse.Namespace) -> int:
    from workers.up import up

    return up(
        args.config,
        engine=args.engine,
        port=args.port,
        workers_port=args.workers_port,
        until_stdin_closes=args.until_stdin_closes,
    )


def _workers_run(args: argparse.Namespace) -> int:
    from workers.run import run_workers

    return run_workers(args.config, args.port, args.temp_dir, until_stdin_closes=args.until_stdin_closes)
