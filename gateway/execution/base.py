"""The interfaces of a strategy, which begins attempts by a plan, and of its reply, one answer that is not yet sent."""

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gateway.execution.attempt import Drained, Write
from gateway.execution.attempts import Attempts
from gateway.types import Call, Plan


class Reply(Protocol):
    """An answer that has begun; how many attempts are behind it is the strategy's business."""

    content_type: str
    target_id: str
    reason: str

    def pour(self, write: Write, drained: Drained, /) -> Awaitable[bytes]:
        """Write the answer as it comes, to its end, and return the last bytes of it, not yet written.

        Those hold the end marker; of an answer that the caller wants whole they are all of it, and nothing is written.
        ``write`` returns False when the caller's connection is full; ``drained`` then waits until it is not. Raises
        UpstreamError when the answer breaks off, which is then never shown as complete.
        """


class Strategy(Protocol):
    """One way to carry out a plan; a file of its own, and a line in ``registry``."""

    def answer(self, plan: Plan, call: Call, attempts: Attempts) -> AbstractAsyncContextManager[Reply]:
        """Try targets until one answers; leaving the context ends every attempt and frees its connection.

        Raises GatewayError when no target answered.
        """
