"""Watches the free space on the state directory's disk, and decides what is given up as it fills.

In this order, so that a disk that fills is seen before it hurts: records of refused calls, which are then only
counted; readiness and the log; and calls themselves, while there is still room to settle those that run.
"""

import os
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from gateway.errors import StateUnusableError

_MB = 1_000_000
_RECOVERED = 1.1
"""Free space has to be so many times a bound before it counts as above it again: it goes up and down by a little."""


class Room(IntEnum):
    """What the disk still has room for; each is less than the one before."""

    ALL = 0
    NO_REFUSALS = 1
    UNREADY = 2
    NO_CALLS = 3


_SHARE = {Room.NO_REFUSALS: 4, Room.UNREADY: 2, Room.NO_CALLS: 1}
"""Below so many times ``min_free_bytes``."""


class Disk:
    """Watches one file system; ``check`` asks it, the rest remembers the answer."""

    def __init__(self, path: Path, min_free_bytes: Callable[[], int], alarm: Callable[[str], None]) -> None:
        self._path = path
        self._min_free_bytes = min_free_bytes
        self._alarm = alarm
        self._free_bytes = 0
        self.room = Room.ALL
        self.full = False
        """No call may be sent."""

    def check(self) -> None:
        """Ask how much is free, and say so when less has room than before. Not for the event loop's thread."""
        try:
            found = os.statvfs(self._path)
        except OSError:
            # The journal meets it too, and knows what is wrong.
            return
        self._free_bytes = found.f_bavail * found.f_frsize
        before, minimum = self.room, self._min_free_bytes()
        self.room = max(
            (
                room
                for room, share in _SHARE.items()
                if self._free_bytes < share * minimum * (_RECOVERED if room <= before else 1)
            ),
            default=Room.ALL,
        )
        self.full = self.room is Room.NO_CALLS
        if self.room > before:
            self._alarm(self._sentence())

    def require_room(self) -> None:
        """Raise StateUnusableError when no call could be sent."""
        if self.full:
            raise StateUnusableError(self._sentence())

    def failure(self) -> str | None:
        """Return one sentence when there is so little room that people should know."""
        return self._sentence() if self.room >= Room.UNREADY else None

    def _sentence(self) -> str:
        free = f"only {self._free_bytes / _MB:.0f} MB are free on the disk of the state directory"
        bound = f"{self._min_free_bytes() / _MB:g} MB (storage.min_free_mb)"
        match self.room:
            case Room.NO_CALLS:
                return f"{free}: calls are refused until there are more than {bound}"
            case Room.UNREADY:
                return f"{free}: calls are refused when there are less than {bound}"
            case _:
                return f"{free}: refused calls are counted and have no record any more"
