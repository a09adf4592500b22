"""Limits how long an attempt waits: for the first token, between bytes, and in all. One timer serves all three.

A time-out around every read would cost more than the read. Here a limit is an attribute; the one timer looks at it when
it goes off, and goes back to sleep if the limit has moved on meanwhile.

A caller who streams gets an error, or another target, after ``first_token_s``. For one who does not, that is when
the answer's limit is set: the call's own end where no other target is left, else what is predicted.
"""

import asyncio
from collections.abc import Collection
from typing import Self

from gateway.clock import Clock
from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.formats.base import streams_upstream
from gateway.types import Call, Candidate

SLOW_TPOT_MS = 100.0
"""What a model may take for a token: ten a second, slower than a reader."""
_SHARE_OF_THE_REST = 0.5
"""The most of the call's remaining time that one attempt takes from those behind it, unless it has begun to answer."""
_ERROR_BODY_S = 5.0


class Patience:
    """Bounds what is awaited within its context, which may be entered again, by another task too.

    It begins with the wait for the first token; outside the context nothing is bounded, and the limits run on.
    ``others`` are the candidates behind this one, looked at when the wait has become long. A limit that passes cancels
    the waiting, and the context raises instead UpstreamError (UPSTREAM_STALLED after content, otherwise and at the end
    of what an attempt may take in all UPSTREAM_TIMEOUT) or, at the call's own deadline, GatewayError (DEADLINE).
    """

    __slots__ = (
        "_began", "_began_ns", "_call", "_cancelling", "_candidate", "_deadline_ns", "_expired", "_extended",
        "_limit_ns", "_now_ns", "_task", "_timer", "_timer_ns", "idle_ns", "others", "until_ns",
    )  # fmt: skip

    def __init__(
        self, call: Call, candidate: Candidate, clock: Clock, *, others: Collection[Candidate] = (), probe: bool = False
    ) -> None:
        timeouts = candidate.target.timeouts
        now_ns = self._now_ns = clock.monotonic_ns
        self._call = call
        self._candidate = candidate
        self.others = others
        self._began = self._expired = self._extended = False
        self._timer_ns: float = 0  # no timer
        self.idle_ns = timeouts.idle_s * 1e9
        began_ns = self._began_ns = now_ns()
        self.until_ns = began_ns + timeouts.first_token_s * 1e9
        if probe:
            self._bound_probe()
        limit_ns = began_ns + timeouts.total_s * 1e9
        self._deadline_ns = deadline_ns = call.deadline_ns
        self._limit_ns = limit_ns if limit_ns < deadline_ns else deadline_ns

    def for_upstream(self) -> None:
        """Wait for the next bytes of an answer that has begun: as long as a connection may be idle."""
        until_ns = self.until_ns = self._now_ns() + self.idle_ns
        self._began = True
        if until_ns < self._timer_ns:
            self._timer.cancel()
            self._sleep()

    def for_caller(self) -> None:
        """Wait for the caller to read: one who stops holds a replica no longer than a slow answer may."""
        self.until_ns = self._deadline_ns

    def for_error_s(self) -> float:
        """Wait for an error's body, and return for how long; the caller of this sets the limit.

        The status says what happened, whatever becomes of the body.
        """
        self._timer.cancel()
        rest_ns = min(self.idle_ns, self._limit_ns - self._now_ns())
        return min(rest_ns / 1e9, _ERROR_BODY_S)

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine is run by a task
        self._task = task
        self._cancelling = task.cancelling()
        self._sleep()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._timer.cancel()
        self._timer_ns = 0
        task = self._task
        del self._task  # an error that it ends with may hold this
        if self._expired and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._expiry() from None

    def _expiry(self) -> GatewayError:
        """Return the error of the limit that has passed."""
        if self.until_ns >= self._deadline_ns:
            sentence = "The request's total time ran out before the answer was complete."
            return GatewayError(ErrorKind.DEADLINE, sentence)
        if self._began and self.until_ns < self._limit_ns:
            return UpstreamError(ErrorKind.UPSTREAM_STALLED, "The model stopped sending.")
        return UpstreamError(ErrorKind.UPSTREAM_TIMEOUT, "The model did not answer in time.")

    def _sleep(self) -> None:
        until_ns, limit_ns = self.until_ns, self._limit_ns
        self._timer_ns = timer_ns = until_ns if until_ns < limit_ns else limit_ns
        delay_s = (timer_ns - self._now_ns()) / 1e9
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay_s), self._wake)

    def _wake(self) -> None:
        now_ns = self._now_ns()
        if now_ns < min(self.until_ns, self._limit_ns) or (now_ns < self._limit_ns and self._extend(now_ns)):
            self._sleep()
        else:
            self._expired = True
            self._task.cancel()

    def _bound_probe(self) -> None:
        """Let a probe, behind which others follow, show by the ceiling whether the target is fast again."""
        probe_ms = self._call.route.policy.probe_ms
        if probe_ms is not None and streams_upstream(self._call, self._candidate.target):
            self.until_ns = min(self.until_ns, self._began_ns + probe_ms * 1e6)
            self._extended = True

    def _extend(self, now_ns: int) -> bool:
        """Grant an answer that is not streamed to the caller the time it may need, once; False: it has had it."""
        if self._began or self._extended or self._call.envelope.stream:
            return False
        self._extended = True
        rest_ns = self._limit_ns - self._began_ns
        target = self._candidate.target
        if self.others or target.cluster_url is not None:  # its other replicas, too, can answer instead
            rest_ns = min(rest_ns * _SHARE_OF_THE_REST, _expected_s(self._call, self._candidate) * 1e9)
        self.until_ns = self._began_ns + rest_ns
        return now_ns < self.until_ns


def _expected_s(call: Call, candidate: Candidate) -> float:
    """Return how long a target in good health may take to give the first sign of an answer that is not streamed on.

    That is its first token where it streams to us and hides no reasoning, as far as is known, and never less than twice
    what first tokens took. Else it is the end of the answer: what a slow model takes for each token that the target is
    predicted to write in one of a hundred, and for speech its own length.
    """
    target, prediction = candidate.target, candidate.prediction
    first_s = target.timeouts.first_token_s
    if prediction.ttft_ms is not None:
        first_s = max(first_s, 2 * prediction.ttft_ms.p99 / 1e3)
    reasons = (
        prediction.billed_output_tokens is not None
        or "reasoning" in call.envelope.needs
        or "reasoning" in (target.capabilities or ())
        or (target.hides_reasoning and prediction.ttft_ms is None)
    )
    if streams_upstream(call, target) and not reasons:
        return first_s
    tokens = (prediction.billed_output_tokens or prediction.output_tokens).p99 / call.envelope.choices
    tpot_ms = SLOW_TPOT_MS if prediction.tpot_ms is None else max(SLOW_TPOT_MS, prediction.tpot_ms.p99)
    return first_s + (tokens * tpot_ms + call.envelope.audio_ms) / 1e3
