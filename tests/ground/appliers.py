"""Starts appliers quickly: real processes, forked from one that has already imported what they need.

Most tests start a gateway or two; what they test is not how long Python takes to import a database library. Gateways
that are processes of their own (``tests.ground.processes``) start theirs as users' do.
"""

import multiprocessing
import socket
from multiprocessing.reduction import DupFd
from typing import Any

from gateway import applier

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["gateway.cli", "gateway.applier", "gateway.accounting.recovery", "alembic.command"])


class WarmApplier:
    """One such process, with what the ledger uses of ``subprocess.Popen``."""

    def __init__(self, theirs: socket.socket) -> None:
        with theirs:
            self._process = _CONTEXT.Process(target=_run, args=(DupFd(theirs.fileno()),), daemon=True)
            self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


def _run(fd: Any) -> None:
    applier.main(fd.detach())
