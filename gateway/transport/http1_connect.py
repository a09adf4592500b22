"""Opens a connection to an upstream: races its addresses, does TLS, and names the cause of a failure in a sentence."""

import asyncio
import errno
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest

from gateway.errors import Cause, ErrorKind, UpstreamError
from gateway.shortage import ShortageError, lack_of
from gateway.transport.http1_connection import UpstreamConnection
from gateway.transport.http1_request import Origin
from gateway.transport.resolver import HostAddress

_NEXT_ADDRESS_AFTER_S = 0.25
"""RFC 8305: how long one address may keep us waiting before the next is tried beside it."""
_X509_NAME_MISMATCH = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH, whose own message holds the upstream's address."""
_CAUSES: dict[int, Cause] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "connect_timeout",
}
"""Of the system's errors about an upstream; any other one is ``unreachable``."""


def default_tls() -> ssl.SSLContext:
    """Trust what the system trusts, and speak nothing but HTTP/1.1. Reads files."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def connect(
    origin: Origin, addresses: Sequence[HostAddress], tls: ssl.SSLContext | None, make: Callable[[], UpstreamConnection]
) -> UpstreamConnection:
    """Open a connection to one of the origin's addresses. Raises what ``connect_error`` makes an UpstreamError of."""
    loop = asyncio.get_running_loop()
    opened = await _open_socket(addresses, origin.port)
    connection = make()
    try:
        await loop.create_connection(
            lambda: connection, sock=opened, ssl=tls, server_hostname=origin.host if tls else None
        )
    except BaseException:
        opened.close()
        connection.unmake()
        raise
    return connection


async def _open_socket(addresses: Sequence[HostAddress], port: int) -> socket.socket:
    """Race the host's addresses, as uvloop's own ``create_connection`` does not."""
    if len(addresses) == 1:
        return await _try_address(addresses[0], port)
    first = [each for each in addresses if each.family == addresses[0].family]
    other = [each for each in addresses if each.family != addresses[0].family]
    in_turn = deque(each for each in chain.from_iterable(zip_longest(first, other)) if each is not None)
    opened = await _race(in_turn, port)
    if isinstance(opened, BaseException):
        try:
            raise opened
        finally:
            del opened  # it holds this frame
    return opened


async def _race(addresses: deque[HostAddress], port: int) -> socket.socket | BaseException:
    """Try one address after another, the next when one has failed or keeps us waiting; return the first that answers.

    Where none does, return the error that says most. ``asyncio.staggered`` does the same, but leaves a cycle behind
    each time, and in it the socket where the caller has just left.
    """
    loop = asyncio.get_running_loop()
    tries: list[asyncio.Task[socket.socket]] = []
    winner = None
    try:
        running: set[asyncio.Task[socket.socket]] = set()
        while winner is None and (addresses or running):
            if addresses:
                tries.append(loop.create_task(_try_address(addresses.popleft(), port)))
                running.add(tries[-1])
            wait_s = _NEXT_ADDRESS_AFTER_S if addresses else None
            done, running = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            winner = next((each for each in done if each.exception() is None), None)
        if winner is None:
            return max((error for each in tries if (error := each.exception()) is not None), key=_tells)
        return winner.result()
    finally:
        for each in tries:
            if not each.cancel() and each is not winner and each.exception() is None:
                each.result().close()


def _tells(error: BaseException) -> int:
    """Rank what the addresses of one host failed of. With a lack of ours, none of them has been tried in earnest."""
    if lack_of(error) is not None:
        return 2
    return isinstance(error, OSError) and error.errno in _CAUSES


async def _try_address(address: HostAddress, port: int) -> socket.socket:
    opened = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(opened, address.with_port(port))
    except BaseException as error:
        opened.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL and not _has_route(address, port):
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)) from None
        raise
    return opened


def _has_route(address: HostAddress, port: int) -> bool:
    """Return whether we have an address to reach this one from. EADDRNOTAVAIL is said of that and of ports used up.

    A datagram socket needs the one, and has ports of its own; connecting it sends nothing.
    """
    with socket.socket(address.family, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(address.with_port(port)) == 0


def connect_error(error: Exception) -> UpstreamError:
    """Say why there is no connection, without the address, which the system's and OpenSSL's own messages hold."""
    lack = lack_of(error)
    if lack is not None:
        return ShortageError(lack)
    cause, sentence = _describe(error)
    return UpstreamError(ErrorKind.UPSTREAM_CONNECT, sentence, cause=cause)


def _describe(error: Exception) -> tuple[Cause, str]:
    if isinstance(error, TimeoutError) and error.errno is None:
        return "connect_timeout", "The upstream did not accept a connection in time."
    if isinstance(error, ssl.SSLCertVerificationError):
        other_name = error.verify_code in _X509_NAME_MISMATCH
        why = "it was issued for another name" if other_name else error.verify_message
        return "certificate", f"The upstream's TLS certificate was not accepted: {why}."
    if isinstance(error, ssl.SSLError):
        return "tls", "The TLS handshake with the upstream failed."
    number = error.errno if isinstance(error, OSError) else None
    if number is None or number not in errno.errorcode:
        return "unreachable", "The upstream could not be reached."
    return _CAUSES.get(number, "unreachable"), f"The upstream could not be reached: {os.strerror(number).lower()}."
