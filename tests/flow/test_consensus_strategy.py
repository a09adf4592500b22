"""A consensus strategy is one file and one line: every target is asked, and what most of them say is the answer."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from msgspec import Struct

from gateway.errors import ErrorKind, GatewayError, UpstreamError
from gateway.execution.attempt import Drained, Write
from gateway.execution.attempts import Attempts
from gateway.execution.base import Reply
from gateway.execution.registry import STRATEGIES
from gateway.types import Call, Candidate, Plan
from tests.ground.builders import chat_body
from tests.ground.configs import compatible
from tests.ground.gateway import running_gateway
from tests.ground.model import ScriptedModel
from tests.ground.script import error_answer
from tests.ground.sse import ChatStream
from tests.ground.upstream import ScriptedUpstream


class Vote(Struct):
    """What one target answered, to its end."""

    body: bytes
    content_type: str
    target_id: str
    reason: str = ""

    async def pour(self, _write: Write, _drained: Drained) -> bytes:
        return self.body

    @property
    def text(self) -> str:
        if self.body.startswith(b"{"):
            return str(json.loads(self.body)["choices"][0]["message"]["content"])
        read = ChatStream()
        read.feed(self.body)
        return "".join(read.text)


class Consensus:
    """Asks every target and yields what most of them say."""

    def __init__(self, *_: object) -> None: ...

    @asynccontextmanager
    async def answer(self, plan: Plan, call: Call, attempts: Attempts) -> AsyncIterator[Reply]:  # noqa: ARG002
        votes = await asyncio.gather(*[self._ask(each, attempts) for each in plan.candidates])
        cast = [each for each in votes if each is not None]
        if not cast:
            raise GatewayError(ErrorKind.NO_TARGET, "No target could answer; retry later.")
        ((text, count),) = Counter([each.text for each in cast]).most_common(1)
        chosen = next(each for each in cast if each.text == text)
        chosen.reason = f"{count} of {len(plan.candidates)} agree"
        yield chosen

    async def _ask(self, candidate: Candidate, attempts: Attempts) -> Vote | None:
        try:
            parts: list[bytes] = []
            async with await attempts.begin(candidate) as attempt:
                answer = await attempt.send()
                last = await answer.pour(lambda part: not parts.append(part), partial(asyncio.sleep, 0))
                return Vote(b"".join([*parts, last]), answer.content_type, answer.target_id)
        except UpstreamError as error:
            attempts.failed(error, candidate.target, None)
            return None


@pytest.mark.parametrize("stream", [True, False])
async def test_consensus_bills_every_vote(stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four agree, one says something else, one fails: the caller reads the cost of all."""
    monkeypatch.setitem(STRATEGIES, "consensus", Consensus)  # the registry's line
    short, long = ScriptedModel(tokens=3), ScriptedModel(tokens=5)
    async with ScriptedUpstream(short) as a, ScriptedUpstream(long) as b, ScriptedUpstream(long) as c:
        a.on_model("d", error_answer(503))
        config = {
            "providers": {name: compatible(each.url) for name, each in zip("abcd", (a, b, c, a), strict=True)},
            "models": {name: {"provider": name, "price": {"input": 1.0, "output": 10.0}} for name in "abcd"},
            "routes": {"auto": {"models": list("abcd"), "strategy": "consensus"}},
        }
        async with running_gateway(config, tmp_path) as running, aiohttp.ClientSession() as client:
            answered = await client.post(f"{running.base_url}/chat/completions", data=chat_body(stream=stream))
            told, headers = await answered.read(), answered.headers
            found = await running.gateway.ledger.find(headers["x-tollway-request-id"])
    assert found is not None
    record, entries = found
    assert (headers["x-tollway-target"], headers["x-tollway-reason"]) == ("b", "2 of 4 agree")
    assert {each.target_id: each.usage.output_tokens for each in entries} == {"a": 3, "b": 5, "c": 5, "d": 0}
    assert sorted(each.outcome for each in entries) == ["ok", "ok", "ok", "refused"]
    cost = headers.get("x-tollway-cost-usd") or told.rpartition(b"x-tollway-cost-usd ")[2].strip().decode()
    assert round(float(cost) * 1e9) == record.cost_nano_usd == sum(each.cost_nano_usd for each in entries) > 13 * 10_000
