"""How a connection comes about: names resolved, addresses raced, TLS; and a sentence for each way that fails."""

import asyncio
import errno
import functools
import os
import socket
import ssl
from asyncio.staggered import staggered_race
from collections.abc import Callable
from itertools import chain, zip_longest

from gateway.errors import Cause, ErrorKind, UpstreamError
from gateway.transport.http1_connection import Connection
from gateway.transport.http1_request import Origin

_NEXT_ADDRESS_AFTER_S = 0.25
"""RFC 8305: how long one address may keep us waiting before the next is tried beside it."""
_X509_NAME_MISMATCH = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH, whose own message holds the upstream's address."""
_CAUSES: dict[int, Cause] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "connect_timeout",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL), "shortage"),
}
"""Of the system's errors; any other one is ``unreachable``. EADDRNOTAVAIL: no local port is free."""


def default_tls() -> ssl.SSLContext:
    """Trust what the system trusts, and speak nothing but HTTP/1.1. Reads files."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def connect(origin: Origin, tls: ssl.SSLContext | None, make: Callable[[], Connection]) -> Connection:
    """Open a connection. Raises OSError of which ``connect_error`` makes an UpstreamError."""
    loop = asyncio.get_running_loop()
    opened = await _open_socket(origin)
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


async def _open_socket(origin: Origin) -> socket.socket:
    """Race the host's addresses, as uvloop's own ``create_connection`` does not."""
    loop = asyncio.get_running_loop()
    try:
        found = socket.getaddrinfo(
            origin.host, origin.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except socket.gaierror:  # a name, not a literal address
        found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    families = [entry[0] for entry in found]
    first = [entry for entry in found if entry[0] == families[0]]
    other = [entry for entry in found if entry[0] != families[0]]
    in_turn = [entry for entry in chain.from_iterable(zip_longest(first, other)) if entry is not None]
    if len(in_turn) == 1:
        return await _try_address(in_turn[0][0], in_turn[0][4])
    attempts = [functools.partial(_try_address, entry[0], entry[4]) for entry in in_turn]
    winner: socket.socket | None
    winner, _index, errors = await staggered_race(attempts, _NEXT_ADDRESS_AFTER_S, loop=loop)
    if winner is None:
        raise next((error for error in errors if error is not None), OSError())
    return winner


async def _try_address(family: int, address: tuple[object, ...]) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(opened, address)
    except BaseException:
        opened.close()
        raise
    return opened


def connect_error(error: Exception) -> UpstreamError:
    """Say why there is no connection, without the address, which the system's and OpenSSL's own messages hold."""
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
    if isinstance(error, (socket.gaierror, UnicodeError)):  # UnicodeError: a label of the name is too long or empty
        return "dns", "The upstream's host name does not resolve."
    number = error.errno if isinstance(error, OSError) else None
    if number is None or number not in errno.errorcode:
        return "unreachable", "The upstream could not be reached."
    return _CAUSES.get(number, "unreachable"), f"The upstream could not be reached: {os.strerror(number).lower()}."
