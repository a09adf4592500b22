"""Recognises errors that mean that this process or machine lacks something: descriptors, ports, memory, threads."""

import errno
import socket
from typing import NamedTuple

from gateway.errors import Cause, ErrorKind, GatewayError, UpstreamError

RETRY_AFTER_S = 1.0
"""A descriptor, port or thread is free again as soon as some request has ended."""


class _Lack(NamedTuple):
    what: str
    remedy: str


_LACKS: dict[Cause, _Lack] = {
    "open_files": _Lack("has no file descriptor left", "raise its limit of open files (ulimit -n, LimitNOFILE=)"),
    "system_open_files": _Lack(
        "runs on a machine without a free file descriptor", "raise the machine's limit (fs.file-max)"
    ),
    "local_ports": _Lack(
        "has no local port left towards this upstream", "widen the range (net.ipv4.ip_local_port_range)"
    ),
    "memory": _Lack("has no memory left", "give it more, or let it take fewer requests at a time"),
    "threads": _Lack("cannot start another thread", "raise the limit of threads (ulimit -u, the container's pids)"),
    "look_ups": _Lack(
        "waits for as many host names as it may", "see why the resolver does not answer (/etc/resolv.conf)"
    ),
}
_BY_ERROR_NUMBER: dict[int, Cause] = {
    errno.EMFILE: "open_files",
    errno.ENFILE: "system_open_files",
    errno.EADDRNOTAVAIL: "local_ports",
    **dict.fromkeys((errno.ENOBUFS, errno.ENOMEM, socket.EAI_MEMORY), "memory"),
}


class ShortageError(UpstreamError):
    """An attempt needs what we lack. No target is at fault; another may need less, as one with a kept connection."""

    def __init__(self, lack: Cause, *, then: str = "") -> None:
        what, remedy = _LACKS[lack]
        message = f"The gateway {what}; its operator should {remedy}.{then}"
        super().__init__(ErrorKind.OWN_SHORTAGE, message, retry_after_s=RETRY_AFTER_S, cause=lack)
        self.lack = lack

    @property
    def why(self) -> str:
        """The cause, and what the operator can do about it."""
        return f"{self.lack}: {_LACKS[self.lack].remedy}"


def lack_of(error: BaseException) -> Cause | None:
    """Name what of ours was lacking where an exception says so; None: it says something else."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):  # CPython has no type of its own for it
        return "threads"
    return _BY_ERROR_NUMBER.get(error.errno or 0) if isinstance(error, OSError) else None


def own_failure(error: BaseException) -> GatewayError:
    """Say what became of a request that ended in an exception of our own: a shortage, or else a fault (INTERNAL).

    A fault keeps the exception as its cause, for the log; detach it then, or it would keep the request's frames.
    """
    lack = lack_of(error)
    if lack is not None:
        return ShortageError(lack)
    fault = GatewayError(ErrorKind.INTERNAL, "The gateway failed; this is its fault, not the request's.")
    fault.__cause__ = error
    return fault
