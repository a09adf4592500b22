"""Asks the next target as well when the first is slower than its prediction; the first to begin its answer wins.

Both go through the plan's targets in order, each of which is asked by one of them, so that failover, retries and limits
of time are those of ``in_order``. The one that loses is cancelled, and costs what it had used by then. Hedging the
slowest few per cent takes the tail off at little cost (Dean and Barroso, "The Tail at Scale", 2013); a budget keeps it
at a few per cent when all are slow, for then a second request is no faster.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gateway.config.fields import Milliseconds
from gateway.config.parts import Part
from gateway.config.section import Section
from gateway.execution.attempts import Attempts
from gateway.execution.base import Reply
from gateway.execution.in_order import FirstAnswer
from gateway.types import Call, Plan, Prediction

if TYPE_CHECKING:
    from gateway.execution.retry import Failure

HEDGES_PER_S = 1 / 60
"""The floor of each route's budget."""


class Hedged(Part):
    """In order, and the next one as well when the first is slow: the first to begin its answer wins."""

    class Options(Section):
        """When a second target is asked, and how often."""

        silence_ms: Milliseconds | None = Field(
            default=None,
            description="How long a stream's first target may send nothing before the next is asked as well, in ms; "
            "default: the p95 of the TTFT that is predicted for it. Of an answer that is not streamed the p95 of its "
            "decoding comes on top.",
        )
        share: Annotated[float, Field(gt=0, le=1)] = Field(
            default=0.05,
            description="At most this share of the route's calls asks a second target, and one a minute; ten at once.",
        )

    options: Options

    def answer(self, plan: Plan, call: Call, attempts: Attempts) -> "_Race":
        """Return the context of the first answer; see ``Strategy.answer``."""
        return _Race(plan, call, attempts, self.options)


Asked = dict[asyncio.Task[Reply], FirstAnswer]


class _Race:
    """One asks from the beginning, and one more after the silence."""

    _winner: FirstAnswer

    def __init__(self, plan: Plan, call: Call, attempts: Attempts, options: Hedged.Options) -> None:
        self._plan, self._call, self._attempts, self._options = plan, call, attempts, options
        self._to_try = deque(plan.candidates)
        self._failures: list[Failure] = []
        self._asked: Asked = {}

    async def __aenter__(self) -> Reply:
        asked = self._asked
        try:
            silent = await self._silent()
            first = next(iter(asked))
            if silent is not None:
                self._ask()
            won = await _answered(asked)
            await _end({task: each for task, each in asked.items() if task is not won})
        except BaseException:
            await _end(asked)
            raise
        self._winner, reply = asked[won], won.result()
        if won is not first:
            reply.reason = f"hedged: {silent}"
        return reply

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        await self._winner.__aexit__(kind, error, traceback)

    def _ask(self) -> asyncio.Task[Reply]:
        asks = FirstAnswer(self._plan, self._call, self._attempts, self._to_try, self._failures)
        asks.may_retry = not self._asked  # what has failed is not asked again while another may still answer
        task = asyncio.create_task(asks.__aenter__())
        self._asked[task] = asks
        return task

    async def _silent(self) -> str | None:
        """Ask the first, and say what it was if it is silent for so long that another one may be asked."""
        call, hedges, options, candidates = (
            self._call,
            self._attempts.means.hedges,
            self._options,
            self._plan.candidates,
        )
        first = self._ask()
        hedges.asked[call.route.name] += 1
        silence_ms = _silence_ms(candidates[0].prediction, options.silence_ms, stream=call.envelope.stream)
        if len(candidates) == 1 or silence_ms is None:
            return None
        await asyncio.wait([first], timeout=silence_ms / 1e3)
        if first.done() or not self._to_try or not hedges.spend(call.route.name, options.share):
            return None
        return f"{candidates[-len(self._to_try) - 1].target.id} was silent for {silence_ms:.0f} ms"


async def _answered(asked: Asked) -> asyncio.Task[Reply]:
    """Wait for the first answer. Raises what ends the call, or when none is left what the last one has.

    Of two that end at once an answer counts before an error, and then the one that was asked first: a set has no order.
    """
    running = set(asked)
    while True:
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in asked if task in done]
        errors = {task: error for task in ended if (error := task.exception()) is not None}
        for task in ended:
            if task not in errors:
                return task
        for task, error in errors.items():
            if not asked[task].is_exhausted:
                raise error
        if not running:
            raise errors[ended[-1]]


async def _end(asked: Asked) -> None:
    """Cancel what is still asked, and end what has answered."""
    for task in asked:
        task.cancel()
    for outcome, each in zip(await asyncio.gather(*asked, return_exceptions=True), asked.values(), strict=True):
        if not isinstance(outcome, BaseException):
            await each.__aexit__(None, None, None)


def _silence_ms(prediction: Prediction, configured_ms: float | None, *, stream: bool) -> float | None:
    """Return how long the first target may send nothing; None: nothing is known that it could be held against."""
    ttft_ms, tpot_ms = prediction.ttft_ms, prediction.tpot_ms
    silence_ms = configured_ms if configured_ms is not None or ttft_ms is None else ttft_ms.p95
    if stream or silence_ms is None:
        return silence_ms
    return None if tpot_ms is None else silence_ms + tpot_ms.p95 * prediction.output_tokens.p95
