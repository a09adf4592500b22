"""The ``tollway`` command. Other packages add their own through the entry points of the group ``tollway.commands``.

Such an entry point is a function that takes argparse's sub-parsers, adds one, and sets ``run`` to a function from the
parsed arguments to an exit code.
"""

import argparse
import asyncio
import hashlib
import os
import secrets
import signal
import socket
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import uvloop

from gateway.accounting.base import StateDirectoryInUse
from gateway.app import Gateway, read_snapshot
from gateway.config.problems import ConfigError
from gateway.config.snapshot import Snapshot
from gateway.store.engine import SchemaMismatch
from gateway.telemetry import logs

_GROUP = "tollway.commands"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 it failed, 2 it was called wrongly."""
    parser = argparse.ArgumentParser(
        prog="tollway", description="A self-hosted gateway in front of many language models."
    )
    parser.add_argument("--version", action="version", version=f"tollway {version('tollway')}")
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_serve(commands)
    _add_check(commands)
    _add_key(commands)
    for entry_point in entry_points(group=_GROUP):
        entry_point.load()(commands)
    arguments = parser.parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("serve", help="run the gateway", description="Run it until it is told to stop.")
    _add_config(parser)
    parser.add_argument("--host", help="listen here instead of server.host")
    parser.add_argument("--port", type=int, help="listen here instead of server.port; 0: any free port")
    parser.set_defaults(run=_serve)


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


def _serve(arguments: argparse.Namespace) -> int:
    logs.configure()
    # The ledger's writer is a thread: at the default of 5 ms it could keep the event loop waiting for as long.
    sys.setswitchinterval(0.0005)

    def read() -> Snapshot:
        return read_snapshot(arguments.config, os.environ, host=arguments.host, port=arguments.port)

    try:
        snapshot = read()
        listener = _listen(snapshot.server.host, snapshot.server.port)
    except (ConfigError, OSError) as error:
        return _fail(str(error))
    gateway = Gateway(snapshot, reread=read)
    try:
        with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(gateway, listener))
    except (StateDirectoryInUse, SchemaMismatch) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot use the state directory {snapshot.state_dir}: {error.strerror}")
    return 0


async def _run(gateway: Gateway, listener: socket.socket) -> None:
    told = asyncio.Event()

    def stop() -> None:
        if told.is_set():
            gateway.http.cut()  # told twice: wait for nobody
        told.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, gateway.reload)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    await gateway.start([listener])
    try:
        # Whoever waits for this line may connect at once.
        host, port = listener.getsockname()[:2]
        print(f"tollway serves on http://{host}:{port} (metrics /metrics, docs /docs)", flush=True)
        await told.wait()
    finally:
        await gateway.stop()


def _listen(host: str, port: int) -> socket.socket:
    """Bind the address, so that a busy port is one plain sentence. Raises OSError with that sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {host}:{port} ({error.strerror}); stop what uses it, or give another --port"
        ) from error
    return listener


def _check(arguments: argparse.Namespace) -> int:
    try:
        snapshot = read_snapshot(arguments.config, os.environ)
    except ConfigError as error:
        return _fail(str(error))
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
