"""The workers' commands of ``tollway``: ``up``, ``workers run|deploy|remove|status`` and ``size``.

Only parsers are made here; what a command does is imported when it runs, so that ``tollway --help`` needs no Ray.
"""

import argparse
import json
import os
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
    """Add ``tollway workers``: serve the configured models without a gateway, here or on a cluster, and show them."""
    parser = subparsers.add_parser("workers", help="open models on Ray Serve and vLLM")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="serve the models of a configuration on this machine until Ctrl-C")
    run.add_argument("--config", type=Path, required=True, help="the tollway.yaml whose `workers:` section to serve")
    run.add_argument("--port", type=int, default=8000, help="the port on 127.0.0.1 (default %(default)s)")
    temp_dir = "a directory of the run's own is made there and removed; a short path (default: /tmp)"
    run.add_argument("--temp-dir", type=Path, help=temp_dir)
    run.add_argument("--until-stdin-closes", action="store_true", help="also stop when standard input ends")
    run.set_defaults(run=_guarded(_workers_run))
    deploy = commands.add_parser("deploy", help="bring the models of a configuration to a Ray cluster that is there")
    deploy.add_argument(
        "--config", type=Path, required=True, help="the tollway.yaml whose `workers:` section to deploy"
    )
    _add_address(deploy)
    deploy.add_argument("--host", default="127.0.0.1", help="where Serve's proxies listen if it is not running yet")
    deploy.add_argument("--port", type=int, default=8000, help="their port, likewise (default %(default)s)")
    deploy.add_argument("--print", action="store_true", help="print Serve's configuration (KubeRay) and do nothing")
    deploy.set_defaults(run=_guarded(_workers_deploy))
    remove = commands.add_parser("remove", help="take the models off a Ray cluster again")
    _add_address(remove)
    remove.set_defaults(run=_guarded(_workers_remove))
    status = commands.add_parser("status", help="show models, replicas, load, speed and cost")
    status.add_argument("--url", default="http://127.0.0.1:8000", help="of the workers (default %(default)s)")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_guarded(_workers_status))


def _add_address(parser: argparse.ArgumentParser) -> None:
    address = os.environ.get("RAY_DASHBOARD_ADDRESS", "http://127.0.0.1:8265")
    parser.add_argument("--address", default=address, help="of the cluster's dashboard (default %(default)s)")


def add_size(subparsers: "Subparsers") -> None:
    """Add ``tollway size``: the GPUs that a model needs, from its config alone."""
    parser = subparsers.add_parser("size", help="the GPUs and dollars that a model needs, from its config.json alone")
    parser.add_argument("model", help="a directory with a config.json, a config.json, or a name such as llama-3.1-8b")
    parser.add_argument("--gpu", default="H100-80GB", help="such as H100-80GB, A100-80GB, L4 (default %(default)s)")
    parser.add_argument("--dtype", help="float32, float16, bfloat16, int8, fp8 or fp4 (default: the config's)")
    parser.add_argument("--kv-dtype", choices=["auto", "fp8"], default="auto", help="of the KV cache (%(default)s)")
    parser.add_argument("--context", help="tokens of one request, such as 32k (default: the model's longest)")
    parser.add_argument("--concurrency", type=int, default=1, help="requests at once (default %(default)s)")
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92, help="as vLLM's (default %(default)s)")
    parser.add_argument("--usd-per-hour", type=float, help="the price of one GPU (default: a list price)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_guarded(_size))


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
    from workers.command.check import require_startable
    from workers.command.leftovers import end_leftovers
    from workers.command.up import up
    from workers.replica.ports import require_free

    # First: they may have the port, or the memory.
    end_leftovers(print)
    require_free(args.port)
    require_startable(args.config, engine=args.engine)
    return up(
        args.config,
        engine=args.engine,
        port=args.port,
        workers_port=args.workers_port,
        until_stdin_closes=args.until_stdin_closes,
    )


def _workers_run(args: argparse.Namespace) -> int:
    from workers.command.check import require_startable
    from workers.command.leftovers import end_leftovers
    from workers.command.run import PROGRESS, run_workers
    from workers.replica.ports import require_free

    end_leftovers(lambda line: print(PROGRESS + line, flush=True), args.temp_dir)
    require_free(args.port)
    require_startable(args.config)
    return run_workers(args.config, args.port, args.temp_dir, until_stdin_closes=args.until_stdin_closes)


def _workers_deploy(args: argparse.Namespace) -> int:
    from workers.cluster.deploy import applications, deploy, rendered
    from workers.command.check import require_startable

    require_startable(args.config, on_cluster=True)
    if args.print:
        print(rendered(args.config), end="")
    else:
        deploy(applications(args.config), args.address, {"host": args.host, "port": args.port}, print)
    return 0


def _workers_remove(args: argparse.Namespace) -> int:
    from workers.cluster.deploy import deploy

    deploy([], args.address, {}, print)
    return 0


def _workers_status(args: argparse.Namespace) -> int:
    from workers.command.status import status

    print(status(args.url, as_json=args.json))
    return 0


def _size(args: argparse.Namespace) -> int:
    from workers.sizing.command import SizingQuestion, as_dict, as_table, size

    question = SizingQuestion(
        model=args.model,
        gpu=args.gpu,
        dtype=args.dtype,
        kv_dtype=args.kv_dtype,
        context=args.context,
        concurrency=args.concurrency,
        utilization=args.gpu_memory_utilization,
        usd_per_hour=args.usd_per_hour,
    )
    sizing = size(question)
    print(json.dumps(as_dict(sizing), indent=2) if args.json else as_table(sizing))
    return 0
