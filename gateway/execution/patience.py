"""How long an attempt waits: for the first token, between bytes, and in all. One timer for all of its waits.

A time-out around every read would cost more than the read. Here a limit is an attribute; the one timer looks at it when
it goes off, and goes back to sleep if the limit has moved on meanwhile.
"""

import asyncio
from types import TracebackType
from typing import Self

from gateway.clock import Clock
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.providers.base import streams_upstream
from gateway.types import Call, Candidate

SLOW_TPOT_MS = 100.0
"""What a model may take for a token: ten a second, slower than a reader."""


def _whole_answer_s(call: Call, candidate: Candidate) -> float:
    """Return how long an answer may take that comes all at once: past that, the next candidate is asked.

    The wait for a first token, and what a slow model takes for each token that the target is predicted to write in one
    of a hundred answers; never less than such an answer was seen to take; and for speech its own length.
    """
    prediction, timeouts = candidate.prediction, call.timeouts
    ttft_s = 0.0 if prediction.ttft_ms is None else prediction.ttft_ms.p99 / 1e3
    tpot_ms = SLOW_TPOT_MS if prediction.tpot_ms is None else max(SLOW_TPOT_MS, prediction.tpot_ms.p99)
    tokens = prediction.output_tokens.p99 / call.envelope.choices
    return max(timeouts.first_token_s, 2 * ttft_s) + (tokens * tpot_ms + call.envelope.audio_ms) / 1e3


class Patience:
    """Bounds what is awaited within its context; begins with the wait for the first token.

    A limit that passes cancels the waiting, and the context raises instead UpstreamError (UPSTREAM_TIMEOUT before any
    content, UPSTREAM_STALLED after) or, at the call's own deadline, GatewayError (DEADLINE).
    """

    __slots__ = (
        "_began", "_cancelling", "_deadline_ns", "_expired", "_idle_ns", "_now_ns", "_task", "_timer", "_timer_ns",
        "_until_ns",
    )  # fmt: skip

    def __init__(self, call: Call, candidate: Candidate, clock: Clock, *, probe: bool, last: bool) -> None:
        self._now_ns = clock.monotonic_ns
        self._deadline_ns = self._until_ns = call.deadline_ns
        self._idle_ns = int(call.timeouts.idle_s * 1e9)
        self._began = self._expired = False
        if streams_upstream(call, candidate.target):
            first_token_s = call.timeouts.first_token_s
            ceiling = call.route.constraints.ttft_ms
            if probe and ceiling is not None:
                # A probe, behind which others follow, shows by the ceiling whether the target is fast again.
                first_token_s = min(first_token_s, ceiling.value / 1e3)
            self._until_ns = min(call.deadline_ns, self._now_ns() + int(first_token_s * 1e9))
        elif not last:
            self._until_ns = min(call.deadline_ns, self._now_ns() + int(_whole_answer_s(call, candidate) * 1e9))

    def for_upstream(self) -> None:
        """Wait for the next bytes of an answer that has begun: as long as a connection may be idle."""
        until_ns = self._until_ns = self._now_ns() + self._idle_ns
        self._began = True
        if until_ns < self._timer_ns:
            self._timer.cancel()
            self._sleep()

    def for_caller(self) -> None:
        """Wait for the caller to read: one who stops holds a replica no longer than a slow answer may."""
        self._until_ns = self._deadline_ns

    def end(self) -> None:
        """Wait for nothing any more: the answer is whole."""
        self._timer.cancel()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine is run by a task
        self._task = task
        self._cancelling = task.cancelling()
        self._sleep()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        task = self._task
        del self._task  # an error that it ends with may hold this
        if self._expired and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            if self._until_ns >= self._deadline_ns:
                raise GatewayError(
                    ErrorKind.DEADLINE, "The request's total time ran out before the answer was complete."
                ) from None
            if self._began:
                raise UpstreamError(ErrorKind.UPSTREAM_STALLED, "The model stopped sending.") from None
            raise UpstreamError(ErrorKind.UPSTREAM_TIMEOUT, "The model sent no token in time.") from None

    def _sleep(self) -> None:
        self._timer_ns = min(self._until_ns, self._deadline_ns)
        delay_s = (self._timer_ns - self._now_ns()) / 1e9
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay_s), self._wake)

    def _wake(self) -> None:
        if self._now_ns() < min(self._until_ns, self._deadline_ns):
            self._sleep()
        else:
            self._expired = True
            self._task.cancel()
