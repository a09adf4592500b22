"""Runs a gateway until it is stopped: in this process, or as several behind one port (``siblings.supervisor``)."""

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from gateway.accounting.journal import lock_directory
from gateway.admission.shared import free_held_by
from gateway.app import Gateway, journal_ledger, log, read_snapshot
from gateway.clock import SystemClock
from gateway.config.problems import ConfigError
from gateway.config.snapshot import Snapshot
from gateway.errors import StateUnusableError
from gateway.memory import GrowthWatch, resident_bytes, return_freed_blocks
from gateway.siblings.process_slot import ProcessSlot, begin
from gateway.siblings.supervisor import Supervisor
from gateway.telemetry import logs


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``tollway serve``. The last five options are how a process of several is started by the first."""
    parser = commands.add_parser("serve", help="run the gateway", description="Run it until it is told to stop.")
    parser.add_argument("--config", type=Path, default=Path("tollway.yaml"), help="default: %(default)s")
    parser.add_argument("--host", help="listen here instead of server.host")
    parser.add_argument("--port", type=int, help="listen here instead of server.port; 0: any free port")
    parser.add_argument("--workers", type=int, help="so many processes instead of server.workers")
    parser.add_argument("--state-dir", help=argparse.SUPPRESS)
    parser.add_argument("--slot", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--listener-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--life-fd", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(run=serve)


def serve(arguments: argparse.Namespace) -> int:
    """Run the gateway and return the exit code."""
    logs.configure()
    _raise_file_limit()
    # What works beside the event loop is threads: at the default of 5 ms each could keep it waiting for as long, and a
    # call waits several times.
    sys.setswitchinterval(0.0001)
    read = partial(
        read_snapshot,
        arguments.config,
        os.environ,
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
    )
    try:
        snapshot = read()
        return _serve(arguments, snapshot, read)
    except (ConfigError, StateUnusableError, _CannotListenError) as error:
        return _fail(str(error))
    except OSError as error:
        # Named where it is one file in there.
        path = error.filename or snapshot.state_dir
        return _fail(
            f"cannot use {path} in the state directory {snapshot.state_dir}: {error.strerror}; "
            "give the gateway's user the right to it, move away what is in its place, or name another state_dir"
        )


def _raise_file_limit() -> None:
    """Open as many files as the system lets us: each stream is two, and the usual soft limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a system may not take what it named
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _serve(arguments: argparse.Namespace, snapshot: Snapshot, read: Callable[[], Snapshot]) -> int:
    state_dir = Path(snapshot.state_dir)
    if arguments.slot is not None:
        if snapshot.state_dir != arguments.state_dir:
            return _fail(f"state_dir cannot change from {arguments.state_dir} while the gateway runs; restart it")
        gateway = Gateway(snapshot, reread=read, place=ProcessSlot(state_dir, arguments.slot))
        with socket.socket(fileno=arguments.listener_fd) as listener:
            _in_uvloop(_run(gateway, listener, ready_fd=arguments.ready_fd, life_fd=arguments.life_fd))
        return 0
    with _listen(snapshot.server.host, snapshot.server.port) as listener:
        if snapshot.server.workers > 1:
            return asyncio.run(_supervise(arguments, snapshot, listener))
        _in_uvloop(_run(Gateway(snapshot, reread=read), listener))
    return 0


def _in_uvloop(work: Coroutine[Any, Any, None]) -> None:
    # What is there by now stays: the collector need not look at it again and again. What requests make is freed by
    # counting references; cycles are rare, so they are looked for rarely.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    return_freed_blocks()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


async def _run(gateway: Gateway, listener: socket.socket, *, ready_fd: int = -1, life_fd: int = -1) -> None:
    """Serve until a signal or, in a process of several, the end of the first one."""
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            gateway.http.cut()  # a second signal: wait for no request
        stopping.set()

    def orphaned() -> None:
        loop.remove_reader(life_fd)
        stopping.set()

    reloads: set[asyncio.Task[bool]] = set()

    def reload() -> None:
        task = loop.create_task(gateway.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    # Unhandled it would kill, streams and all.
    loop.add_signal_handler(signal.SIGUSR2, log.error, "SIGUSR2 is for the first process of several; nothing is done")
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    await gateway.start([listener])
    GrowthWatch(resident_bytes).start()
    try:
        if ready_fd >= 0:
            loop.add_reader(life_fd, orphaned)
            os.write(ready_fd, b"\n")
            os.close(ready_fd)
        else:
            _announce(listener)
        await stopping.wait()
    finally:
        for task in reloads:
            task.cancel()
        await gateway.stop()


async def _supervise(arguments: argparse.Namespace, snapshot: Snapshot, listener: socket.socket) -> int:
    """Run processes behind the listener: they serve, this one only looks after them."""
    state_dir = Path(snapshot.state_dir)
    # What an earlier gateway has left, however many its processes were.
    left = journal_ledger(state_dir, SystemClock(), lambda: snapshot.storage)
    await left.start()
    await left.stop()
    lock = lock_directory(state_dir)
    try:
        begin(state_dir, snapshot.server.workers)
        listener.listen()

        def command(slot: int, ready_fd: int, life_fd: int) -> list[str]:
            options = {"config": arguments.config, "host": arguments.host, "port": arguments.port, "slot": slot}
            options |= {
                "state-dir": snapshot.state_dir,
                "listener-fd": listener.fileno(),
                "ready-fd": ready_fd,
                "life-fd": life_fd,
            }
            given = [f"--{name}={value}" for name, value in options.items() if value is not None]
            return [sys.executable, "-m", "gateway", "serve", *given]

        def release_slot(slot: int) -> None:
            # Or what its calls held would count until another process comes into its slot.
            with contextlib.suppress(OSError):
                free_held_by(ProcessSlot(state_dir, slot).limits_dir, slot)

        supervisor = Supervisor(
            command,
            count=snapshot.server.workers,
            listener=listener,
            drain_s=snapshot.server.drain_s,
            release_slot=release_slot,
        )
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
        loop.add_signal_handler(signal.SIGUSR2, supervisor.replace_all)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, supervisor.stop)
        good = await supervisor.run(partial(_announce, listener))
    finally:
        os.close(lock)
    return 0 if good else _fail("not all processes of the gateway started; what each said stands above")


def _announce(listener: socket.socket) -> None:
    """Print where the gateway serves; from this line on it accepts connections."""
    host, port = listener.getsockname()[:2]
    print(f"tollway serves on http://{host}:{port} (metrics /metrics, docs /docs)", flush=True)


class _CannotListenError(Exception):
    """The address is taken, or not ours. The message is one sentence for the operator."""


def _listen(host: str, port: int) -> socket.socket:
    """Bind the address. Raises _CannotListenError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        message = f"cannot listen on {host}:{port} ({error.strerror}); stop what uses it, or give another --port"
        raise _CannotListenError(message) from error
    return listener


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1
