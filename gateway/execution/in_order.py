"""The strategy that tries targets in the order of the plan, until one sends its first token.

A target that refuses, cannot be reached, breaks off or stays silent past its deadline costs the caller time, never the
answer, as long as nothing has been sent on: the first bytes are held back until there is content in them. For a
caller who wants no stream nothing is sent before the end, so the whole answer is held back, and any break is rescued.
When no target is left, one may be asked once more (``retry``).
"""

import asyncio
from collections import deque

from gateway.config.parts import Part
from gateway.errors import ErrorKind, GatewayError, UpstreamError, speaks
from gateway.execution.attempt import Attempt, Means
from gateway.execution.attempts import Attempts
from gateway.execution.base import Reply
from gateway.execution.retry import Failure, Retry
from gateway.execution.unstreamed import StreamRefusedError, without_stream
from gateway.shortage import ShortageError
from gateway.types import Call, Candidate, Plan, Target

MAX_REPLICAS = 3
"""Of one target that a request may reach in vain: one that ends an engine must not go on to end them all."""
RETRY_AFTER_S = 1.0
"""When no target has named a time."""

ToTry = deque[Candidate]


class InOrder(Part):
    """One target after another, until one answers."""

    def answer(self, plan: Plan, call: Call, attempts: Attempts) -> "FirstAnswer":
        """Return the context of the first answer; see ``Strategy.answer``."""
        return FirstAnswer(plan, call, attempts, deque(plan.candidates), [])


class FirstAnswer:
    """The attempts up to the one that answers. An async generator's context would cost more than this decides.

    Two that work at once on one call share ``to_try`` and ``failures``: each target is asked by one of them, and one
    may find that the other has taken the last.
    """

    _answering: Attempt
    may_retry = True
    is_exhausted = False
    """No target was left."""

    def __init__(self, plan: Plan, call: Call, attempts: Attempts, to_try: ToTry, failures: list[Failure]) -> None:
        self._plan, self._call, self._attempts, self._to_try, self._failures = plan, call, attempts, to_try, failures

    async def __aenter__(self) -> Reply:
        plan, call, attempts, means = self._plan, self._call, self._attempts, self._attempts.means
        to_try, failures = self._to_try, self._failures
        retry: Retry | None = None
        probe = to_try[0] if len(to_try) > 1 and to_try[0].probe_due else None
        while to_try:
            candidate = to_try.popleft()
            if candidate.target.always_stream and not call.envelope.stream and means.unstreamed.holds(candidate.target):
                candidate = without_stream(candidate)
            target = candidate.target
            began_ns = means.clock.monotonic_ns()
            if began_ns >= call.deadline_ns:
                raise GatewayError(ErrorKind.DEADLINE, _summary("The request's total time ran out.", failures))
            attempt = None
            try:
                if failures:
                    _require_room(target, failures)
                attempt = await attempts.begin(candidate, others=to_try, is_probe=candidate is probe)
                means.retries.asked[target.provider] += 1
                stale = bool(failures) and failures[-1].error.kind is ErrorKind.STALE_CONNECTION
                reply = await attempt.send(fresh=stale)  # which leaves an attempt that fails
            except UpstreamError as error:
                if not error.meaning.retryable:
                    attempts.failed(error, target, None)
                    raise
                took_s = (means.clock.monotonic_ns() - began_ns) / 1e9
                failures.append(Failure(candidate, error.detached(), _is_repeatable(attempt, took_s, target)))
                again = _again(failures, to_try, attempt, call if self.may_retry and not retry else None, means)
                attempts.failed(error, target, to_try[0].target if to_try else None)
            else:
                self._answering = attempt
                reply.reason = _reason(plan, failures, retry, means) if failures else plan.reason
                return reply
            if again is not None:
                retry = again
                await asyncio.sleep(again.wait_s)
        self.is_exhausted = True
        raise _exhausted(failures)

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        await self._answering.__aexit__(kind, error, traceback)
        if isinstance(error, UpstreamError):
            self._attempts.failed(error, self._answering.target, None)


def _again(
    failures: list[Failure],
    to_try: deque[Candidate],
    attempt: Attempt | None,
    retried_for: Call | None,
    means: Means,
) -> Retry | None:
    """Note a candidate that has failed and is to be asked again, and return how if that needs a pause.

    ``retried_for`` is None when the call has had its retry, or shall have none.
    """
    candidate, error, _ = failures[-1]
    if isinstance(error, StreamRefusedError):
        to_try.appendleft(without_stream(candidate))
    elif error.kind is ErrorKind.STALE_CONNECTION and _broken(candidate.target, failures) < MAX_REPLICAS:
        to_try.appendleft(candidate)  # on a fresh connection, and so no second time; perhaps to another replica
    elif attempt is not None and may_go_on(candidate.target, failures, attempt.replicas_to_ask):
        to_try.appendleft(candidate)  # this replica is out until its next report
    elif not to_try and retried_for is not None:
        may_be_asked = [each for each in failures if _broken(each.candidate.target, failures) < MAX_REPLICAS]
        retry = means.retries.after(may_be_asked, retried_for.deadline_ns)
        if retry is not None:
            to_try.append(retry.candidate)
        return retry
    return None


def _reason(plan: Plan, failures: list[Failure], retry: Retry | None, means: Means) -> str:
    """Say why it is this answer that the caller gets, and learn from it."""
    candidate, error, _ = failures[-1]
    if isinstance(error, StreamRefusedError):
        means.unstreamed.learn(candidate.target)
    shown = _shown(failures, " ")
    return f"{'fallback' if retry is None else 'retry'}: {', '.join(shown)}" if shown else plan.reason


def _is_repeatable(attempt: Attempt | None, took_s: float, target: Target) -> bool:
    """Whether an attempt ended soon and no answer had begun: what has a head is worked on, and may be billed."""
    return attempt is not None and not attempt.measure.has_succeeded and took_s < target.timeouts.first_token_s


def may_go_on(target: Target, failures: list[Failure], replicas: int) -> bool:
    """Whether another one of so many replicas is asked: no more of them than there are, in vain or reached."""
    tried = sum(each.candidate.target.id == target.id for each in failures)
    return _broken(target, failures) < MAX_REPLICAS and tried < max(MAX_REPLICAS, replicas) and replicas > 0


def _require_room(target: Target, failures: list[Failure]) -> None:
    """Raise UpstreamError when the call was too long for a context that is known to be as large as this target's."""
    if target.context_length is None:
        return
    for candidate, error, _ in failures:
        refusing = candidate.target
        known = refusing.context_length
        if error.kind is ErrorKind.CONTEXT_LENGTH and known is not None and known >= target.context_length:
            message = f"Its context is no larger than that of {refusing.id}, for which the request is too long."
            raise UpstreamError(ErrorKind.CONTEXT_LENGTH, message)


def _broken(target: Target, failures: list[Failure]) -> int:
    """Count the attempts at a target that reached a replica; where none was there, nothing was sent."""
    return sum(
        each.candidate.target.id == target.id and each.error.kind is not ErrorKind.UPSTREAM_CONNECT for each in failures
    )


def _summary(sentence: str, failures: list[Failure]) -> str:
    shown = _shown(failures, ": ")
    return f"{sentence} Tried: {'; '.join(shown)}." if shown else sentence


def _shown(failures: list[Failure], between: str) -> list[str]:
    return [f"{each.candidate.target.id}{between}{each.error.kind.value}" for each in _final(failures)]


def _final(failures: list[Failure]) -> list[Failure]:
    """Leave out those behind which the same target was asked again at once, in another way."""
    return [
        each
        for each in failures
        if not (isinstance(each.error, StreamRefusedError) or each.error.kind is ErrorKind.STALE_CONNECTION)
    ]


def _exhausted(failures: list[Failure]) -> GatewayError:
    """Make the caller's error of a chain in which every target failed."""
    errors = [each.error for each in _final(failures)]
    waits = [error.retry_after_s or RETRY_AFTER_S for error in errors if not _is_configured(error)]
    refusals = [
        error
        for error in errors
        if speaks(error.kind, error.upstream_status)
        or (error.kind is ErrorKind.CONTEXT_LENGTH and error.upstream_status)
    ]
    if refusals and not waits:
        refusal = refusals[-1]
        if len(errors) > 1:
            refusal.message = _summary(refusal.message, failures)
        return refusal
    if all(error.kind is ErrorKind.UPSTREAM_UNSUPPORTED for error in errors):
        ours = next((error for error in errors if error.upstream_status is None), None)  # a format's refusal
        sentence, param = ("No target can do this.", "model") if ours is None else (ours.message, ours.param)
        return GatewayError(ErrorKind.UNSUPPORTED, _summary(sentence, failures), param=param)
    for error in errors:
        if isinstance(error, ShortageError):  # without it, the call might have been answered
            return ShortageError(error.lack, then=_summary("", failures))
    sentence = "retry later" if waits else "their configuration has to change"
    return GatewayError(
        ErrorKind.NO_TARGET,
        _summary(f"No target could answer; {sentence}.", failures),
        retry_after_s=min(waits, default=None),
    )


def _is_configured(error: UpstreamError) -> bool:
    """Whether no later moment changes it: our key, address or model's name is refused, or what this model lacks."""
    misnamed = error.kind is ErrorKind.UPSTREAM_ERROR and error.upstream_status == 404
    return misnamed or error.kind in {
        ErrorKind.UPSTREAM_CREDENTIALS,
        ErrorKind.UPSTREAM_UNSUPPORTED,
        ErrorKind.CONTEXT_LENGTH,
    }
