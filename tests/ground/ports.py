"""Gives out ports of loopback, each to one test process of this machine, for programs that cannot be told port 0."""

import socket

from workers.replica.ports import LOOPBACK, is_free

# Below the range from which systems choose, so that no connection takes one in between.
_NUMBERS = range(18000, 22000)
_held: list[socket.socket] = []


def own_port() -> int:
    """Return a port that is free and that no other test process is given for as long as this one runs.

    What holds it is a UDP socket of the same number: TCP, which the programs speak, has ports of its own.
    """
    for number in _NUMBERS:
        holder = socket.socket(type=socket.SOCK_DGRAM)
        try:
            holder.bind((LOOPBACK, number))
        except OSError:
            holder.close()
            continue
        _held.append(holder)
        if is_free(number):
            return number
    raise AssertionError("every port is held by a test or taken")
