"""Logs each failure in one line; failures of one kind that follow within a while are counted, not repeated.

A line names ids, kinds and counts: no key, no prompt, no address. Its level is the one in the table of errors.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import NamedTuple

from gateway.errors import ErrorKind, GatewayError, UpstreamError

PAUSE_S = 10.0
"""After a line, failures like it are counted for so long and then logged as one."""
MAX_KINDS = 1_000
"""Failures that are kept apart at a time, a wildcard having many targets; beyond, those of all targets are alike."""

_log = logging.getLogger("tollway.failures")


class _Like(NamedTuple):
    """What failures have in common that are counted as one."""

    target_id: str | None
    kind: str
    cause: str | None
    then: str


@dataclass
class _Flood:
    """What came since the line about the like of it."""

    level: int
    timer: asyncio.TimerHandle
    count: int = 0


class FailureLog:
    """Implements ``accounting.base.Failures``. For one thread, within an event loop."""

    def __init__(self) -> None:
        self._since: dict[_Like, _Flood] = {}

    def note(self, error: GatewayError, *, call_id: str | None, target_id: str | None, then: str) -> None:
        """Log a failure, or count it when its like was logged a moment ago.

        An error of ours (INTERNAL) that was raised from another one is logged with that one's traceback.
        """
        fault = error.__cause__
        cause = error.cause or (type(fault).__name__ if fault is not None else None)
        ours = error.kind is ErrorKind.OWN_SHORTAGE  # and alike at all targets
        like = _Like(None if ours else target_id, error.kind.value, cause, then)
        if like not in self._since and len(self._since) >= MAX_KINDS:
            like = like._replace(target_id=None, then="")
        if like in self._since:
            self._since[like].count += 1
            return
        level = error.meaning.log_level
        timer = asyncio.get_running_loop().call_later(PAUSE_S, self._count, like)
        self._since[like] = _Flood(level, timer)
        fields = {"request": call_id, "target": target_id, "kind": like.kind, "cause": error.why or cause, "then": then}
        if isinstance(error, UpstreamError) and error.upstream_status is not None:
            fields["upstream_status"] = str(error.upstream_status)
        shown = ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)
        _log.log(level, "failed: %s", shown, exc_info=fault)

    def stop(self) -> None:
        """Log what was counted since the last lines."""
        for like in list(self._since):
            self._count(like)

    def _count(self, like: _Like) -> None:
        flood = self._since.pop(like)
        flood.timer.cancel()
        if flood.count:
            of = "" if like.target_id is None else f" at {like.target_id}"
            _log.log(flood.level, "failed: %s%s %d times more within %g s", like.kind, of, flood.count, PAUSE_S)
