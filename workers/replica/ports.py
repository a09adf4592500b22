"""Finds free ports on the loopback address, and checks whether one is free."""

import socket

from workers.errors import WorkerError

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Say whether a server could listen on 127.0.0.1:``port`` now."""
    with socket.socket() as probe:
        # As servers do it: a connection that lingers in TIME_WAIT does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def require_free(port: int) -> None:
    """Raise ``WorkerError`` when 127.0.0.1:``port`` is taken."""
    if not is_free(port):
        raise WorkerError(f"Port {port} on {LOOPBACK} is in use; choose another port or stop what listens there.")


def free_port(preferred: int, but: int = 0) -> int:
    """Return ``preferred`` or the next free one after it, or else any, not ``but``. Nothing reserves it for the caller.

    ``but`` is below the range from which the system chooses.
    """
    # The system hands out ports from a range of its own, so one from there might be gone a moment later.
    near = range(preferred, min(preferred + 100, 1 << 16))
    if (port := next((port for port in near if port != but and is_free(port)), None)) is not None:
        return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
