"""Decides which refused calls get a record of their own (the first of each key in a minute); counts the others.

Whatever reaches the port can be refused ten thousand times a second, without a key. With a record of each it could fill
the disk, and on a full disk every call is refused. So what a flood of refusals writes is bounded: so many records a
minute for each key and for all callers without one, and a row a minute for each kind of the rest.
"""

from collections import Counter
from collections.abc import Callable

from gateway.clock import Clock, Ids
from gateway.types import CallRecord, RefusedCalls

_MINUTE_NS = 60_000_000_000


class Refusals:
    """Counts the refused calls of the present minute. Not safe for threads: the ledger's lock guards it."""

    def __init__(self, per_minute: Callable[[], int], clock: Clock, ids: Ids) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._ids = ids
        self._since_ns = 0
        self._records: Counter[str | None] = Counter()
        self._others: Counter[tuple[str | None, str | None, int]] = Counter()
        self._left: list[RefusedCalls] = []

    def gets_record(self, record: CallRecord, *, room: bool) -> bool:
        """Whether a refused call gets a record, for which there must be ``room``; if not, it has been counted."""
        self._begin_minute()
        if room and self._records[record.key_id] < self._per_minute():
            self._records[record.key_id] += 1
            return True
        self._others[record.key_id, record.error_kind, record.status] += 1
        return False

    def take(self, *, all_of_it: bool = False) -> list[RefusedCalls]:
        """Return what was counted in minutes that are over, once; ``all_of_it``: in the present one too."""
        self._begin_minute(anew=all_of_it)
        left, self._left = self._left, []
        return left

    def _begin_minute(self, *, anew: bool = False) -> None:
        since_ns = self._clock.wall_ns() // _MINUTE_NS * _MINUTE_NS
        if since_ns == self._since_ns and not anew:
            return
        for (key_id, error_kind, status), calls in self._others.items():
            self._left.append(
                RefusedCalls(
                    refused_id=self._ids("ref"),
                    since_ns=self._since_ns,
                    key_id=key_id,
                    error_kind=error_kind,
                    status=status,
                    calls=calls,
                )
            )
        self._others.clear()
        if not anew:
            self._records.clear()
        self._since_ns = since_ns
