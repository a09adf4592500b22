"""Logs each failure in one line; those of one kind that follow within a while are counted, not repeated.

A line names ids, kinds and counts: no key, no prompt, no address. Its level is the one in the table of errors.
"""

import asyncio
import logging
from typing import NamedTuple

from gateway.errors import ErrorKind, GatewayError, UpstreamError

PAUSE_S = 10.0
"""After a line, failures like it are counted for so long and then told in one."""
MAX_KINDS = 1_000
"""Failures that are told apart at a time, a wildcard having many targets; beyond, those of all targets are alike."""

_log = logging.getLogger("tollway.failures")


class _Like(NamedTuple):
    """What failures have in common that are counted as one."""

    target_id: str | None
    kind: str
    cause: str | None
    then: str


class FailureLog:
    """Implements ``accounting.base.Failures``. For one thread, within an event loop."""

    def __init__(self) -> None:
        self._since: dict[_Like, int] = {}
        """How many came since the line about their like."""

    def note(self, error: GatewayError, *, call_id: str, target_id: str | None, then: str) -> None:
        """Log a failure, or count it when its like was logged a moment ago."""
        upstream = error if isinstance(error, UpstreamError) else None
        ours = error.kind is ErrorKind.OWN_SHORTAGE  # and alike at all targets
        like = _Like(None if ours else target_id, error.kind.value, error.cause, then)
        if like not in self._since and len(self._since) >= MAX_KINDS:
            like = like._replace(target_id=None)
        if like in self._since:
            self._since[like] += 1
            return
        self._since[like] = 0
        asyncio.get_running_loop().call_later(PAUSE_S, self._tell, like, error.meaning.log_level)
        fields = {"request": call_id, "target": target_id, "kind": error.kind.value, "cause": error.why, "then": then}
        if upstream is not None and upstream.upstream_status is not None:
            fields["upstream_status"] = str(upstream.upstream_status)
        told = ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)
        _log.log(error.meaning.log_level, "failed: %s", told)

    def _tell(self, like: _Like, level: int) -> None:
        count = self._since.pop(like)
        if count:
            of = "" if like.target_id is None else f" at {like.target_id}"
            _log.log(level, "failed: %s%s %d times more within %g s", like.kind, of, count, PAUSE_S)
