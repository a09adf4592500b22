"""Answers how many tokens a model would read, in each dialect that asks.

Asked is the first target of the call's plan that can count (Anthropic itself, or vLLM), by its format; it is no call,
so it has no record, takes no lease and waits for no replica. Where none can, or none answers soon, it is our estimate,
rounded up by what it may be wrong, and a header says so.

Sources: platform.claude.com/docs/en/api/messages-count-tokens,
platform.openai.com/docs/api-reference/responses/input-tokens.
"""

import asyncio
import contextlib
from functools import partial
from math import ceil
from operator import attrgetter

import msgspec

from gateway.errors import UpstreamError
from gateway.execution.attempt import Means
from gateway.formats.base import Counting, CountingEndpoint
from gateway.routes.question import Headers
from gateway.types import Call, Target

TIMEOUT_S = 5.0
"""For all targets together."""
_MAX_BYTES = 1 << 16
_MAY_BE_TOO_LOW_BY = 4 / 3


class CountTokens:
    """Answers the question of one endpoint: see ``Question``."""

    def __init__(self, endpoint: CountingEndpoint, means: Means) -> None:
        self._endpoint = endpoint
        self._means = means

    async def __call__(self, call: Call) -> tuple[object, Headers]:
        """Return the answer, and the header that says whether it is an estimate."""
        tokens, is_estimate = await self._count(call)
        headers = [(b"x-tollway-estimated", b"input_tokens")] if is_estimate else []
        return {**self._endpoint.count_is, "input_tokens": tokens}, headers

    async def _count(self, call: Call) -> tuple[int, bool]:
        """Return the tokens, and whether they are an estimate."""
        plan = call.route.policy.plan(call, self._means.pool.view(call))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                for candidate in plan.candidates:
                    adapter = self._means.adapters[candidate.target.adapter]
                    if isinstance(adapter, Counting):
                        with contextlib.suppress(UpstreamError):
                            if (tokens := await self._ask(call, candidate.target, adapter)) is not None:
                                return tokens, False
        return ceil(call.input_tokens_estimate * _MAY_BE_TOO_LOW_BY), True

    async def _ask(self, call: Call, target: Target, adapter: Counting) -> int | None:
        """Ask one target; None: it cannot count, or not now. Raises UpstreamError."""
        means = self._means
        prepared = await means.beside.run(call.envelope.body, partial(adapter.count, call))
        if prepared is None or means.pool.refusal(target, call) is not None or (at := self._address(target)) is None:
            return None
        request = prepared(at, means.ids("att"))
        if target.credential is not None:
            request = await means.signers[target.signer].sign(request, target.credential)
        async with means.transport.send(request, connect_timeout_s=target.timeouts.connect_s) as answer:
            body = b""
            while len(body) < _MAX_BYTES and (piece := await answer.read()):
                body += piece
        return adapter.counted(body) if answer.status == 200 else None

    def _address(self, target: Target) -> Target | None:
        """Return the target at the address of its idlest replica; None: it has none that is up.

        There is no lease: nothing is prefilled, so the choice of replicas and the breaker have nothing to learn.
        """
        fleet = self._means.pool.replicas.fleet(target) if target.cluster_url is not None else None
        if fleet is None:
            return target
        idlest = min(fleet.usable(), key=attrgetter("requests"), default=None)
        return None if idlest is None else msgspec.structs.replace(target, base_url=f"{idlest.url}/v1")
