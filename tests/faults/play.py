"""Play faults: a gateway as users run it, two scripted providers for each row, the official ``openai`` client.

All rows at once, each with providers of its own, so that no row's fault is another's; everything in real time.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import openai

from tests.faults.judge import Judged, Saw, judge, judge_ledger, worst
from tests.faults.table import MODES, TOKENS, Fault, Mode
from tests.ground.configs import compatible
from tests.ground.gateway import write_config
from tests.ground.processes import gateway_process
from tests.ground.upstream import ScriptedUpstream

PROMPT = "count to sixty"
PROMPT_TOKENS = 3
TIMEOUTS = {"connect_s": 2, "first_token_s": 5, "idle_s": 5, "total_s": 30}
PRICES = {"first": 1_000, "second": 10_000}
"""Nano-dollars for a token of the prompt; twice that for one of the completion."""
GRACE_S = 6.0
"""On top of what the time-outs promise: the machine may be busy."""
PLAIN_S = 0.1 * TOKENS
"""What the gateway gives a model to write a plain answer, on top of ``first_token_s``."""
HANGS_S = 60.0
BETWEEN_STARTS_S = 0.1

BEFORE_OUTAGE_S, OUTAGE_S, BACK_WITHIN_S, GIVEN_UP_S = 4.0, 60.0, 10.0, 30.0
BETWEEN_CALLS_S = 2.0


@dataclass
class Row:
    """One fault in one mode, and what came of it."""

    number: int
    fault: Fault
    mode: Mode
    first: ScriptedUpstream = field(default_factory=ScriptedUpstream)
    second: ScriptedUpstream = field(default_factory=ScriptedUpstream)
    calls: list[Saw] = field(default_factory=list)
    judged: Judged = field(default_factory=lambda: Judged("fail", "not played"))
    back_s: float | None = None
    """After an outage: when the target answered again."""

    @property
    def name(self) -> str:
        """Of its route."""
        return f"r{self.number}"

    @property
    def late_s(self) -> float:
        """The longest time to the first content that the time-outs allow."""
        return TIMEOUTS["first_token_s"] + GRACE_S + (PLAIN_S if self.mode == "plain" else 0.0)

    def script(self) -> None:
        """Tell the providers what to do."""
        if self.fault.once is not None:
            self.first.then(self.fault.once)
        self.first.on_path("/v1/chat/completions", self.fault.always)
        self.second.on_path("/v1/chat/completions", self.fault.second)

    def add_to(self, config: dict[str, Any]) -> None:
        """Add its providers, models and route."""
        targets = {"first": self.first} if self.fault.alone else {"first": self.first, "second": self.second}
        for name, upstream in targets.items():
            id_ = f"{self.name}-{name}"
            price = {"input": PRICES[name] / 1_000, "output": PRICES[name] / 500}
            config["providers"][id_] = {**compatible(upstream.url), "always_stream": self.mode == "assembled"}
            config["models"][id_] = {"provider": id_, "upstream": f"{name}-model", "price": price}
        config["routes"][self.name] = {"models": [f"{self.name}-{name}" for name in targets]}


def rows_of(faults: Sequence[Fault]) -> list[Row]:
    """Make a row of each fault in each mode."""
    pairs = [(fault, mode) for fault in faults for mode in MODES]
    return [Row(number, fault, mode) for number, (fault, mode) in enumerate(pairs)]


async def play(rows: Sequence[Row], path: Path) -> None:
    """Play and judge all rows; ``path`` is an empty folder for the gateway's configuration, state and log."""
    async with _ground(rows, path) as (client, url):
        async with asyncio.TaskGroup() as playing:
            for row in rows:
                playing.create_task(_play(row, client, url))
                await asyncio.sleep(BETWEEN_STARTS_S)


@asynccontextmanager
async def _ground(rows: Sequence[Row], path: Path) -> AsyncIterator[tuple[openai.AsyncOpenAI, str]]:
    config: dict[str, Any] = {"providers": {}, "models": {}, "routes": {}, "timeouts": TIMEOUTS}
    async with AsyncExitStack() as stack:
        for row in rows:
            row.script()
            await stack.enter_async_context(row.first)
            await stack.enter_async_context(row.second)
            row.add_to(config)
        gateway = await stack.enter_async_context(gateway_process(write_config(path, config)))
        client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=HANGS_S)
        yield await stack.enter_async_context(client), gateway.url


async def _play(row: Row, client: openai.AsyncOpenAI, url: str) -> None:
    if row.fault.outage:
        await _play_outage(row, client)
    else:
        for _ in range(row.fault.calls):
            row.calls.append(await _call(row, client))
    async with aiohttp.ClientSession() as session:
        records = [await _record(saw, session, url) for saw in row.calls]
    row.judged = _judge(row, records)
    if row.fault.outage and row.judged.verdict == "pass" and (row.back_s is None or row.back_s > BACK_WITHIN_S):
        row.judged = Judged("partial", f"not back within {BACK_WITHIN_S:g} s of its recovery")


async def _play_outage(row: Row, client: openai.AsyncOpenAI) -> None:
    now = asyncio.get_running_loop().time
    began_s = now()
    revived_s: float | None = None
    while True:
        saw = await _call(row, client)
        row.calls.append(saw)
        elapsed_s = now() - began_s
        if revived_s is not None and (saw.target == "first" or now() - revived_s > GIVEN_UP_S):
            row.back_s = now() - revived_s if saw.target == "first" else None
            return
        if revived_s is None and elapsed_s > BEFORE_OUTAGE_S + OUTAGE_S:
            await row.first.revive()
            revived_s = now()
        elif row.first.alive and revived_s is None and elapsed_s > BEFORE_OUTAGE_S:
            await row.first.die()
        await asyncio.sleep(BETWEEN_CALLS_S)


async def _call(row: Row, client: openai.AsyncOpenAI) -> Saw:
    """Ask once, as an app does."""
    now = asyncio.get_running_loop().time
    began_s = now()
    saw = Saw()
    asked: dict[str, Any] = {
        "model": row.name,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": TOKENS,
    }
    try:
        async with asyncio.timeout(HANGS_S):
            if row.mode == "stream":
                await _read_stream(client, asked, saw, began_s)
            else:
                await _read_whole(client, asked, saw)
                saw.first_s = now() - began_s
    except TimeoutError:
        return saw
    except openai.APIStatusError as error:
        _head(saw, error.status_code, error.response.headers)
        saw.error = f"{error.code}: {_message(error)}"
    except openai.APIError as error:
        saw.error = f"{error.code or type(error).__name__}: {_message(error)}"
    saw.ended_s = now() - began_s
    return saw


async def _read_stream(client: openai.AsyncOpenAI, asked: dict[str, Any], saw: Saw, began_s: float) -> None:
    now = asyncio.get_running_loop().time
    raw = await client.chat.completions.with_raw_response.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    _head(saw, raw.status_code, raw.headers)
    async for chunk in raw.parse():
        saw.model = chunk.model
        if chunk.usage is not None:
            saw.usage = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        for choice in chunk.choices:
            saw.text += choice.delta.content or ""
            saw.finish_reason = choice.finish_reason or saw.finish_reason
        if saw.text and saw.first_s is None:
            saw.first_s = now() - began_s


async def _read_whole(client: openai.AsyncOpenAI, asked: dict[str, Any], saw: Saw) -> None:
    raw = await client.chat.completions.with_raw_response.create(**asked)
    _head(saw, raw.status_code, raw.headers)
    answer = raw.parse()
    saw.model = answer.model
    saw.text = answer.choices[0].message.content or ""
    saw.finish_reason = answer.choices[0].finish_reason
    if answer.usage is not None:
        saw.usage = answer.usage.prompt_tokens, answer.usage.completion_tokens


def _head(saw: Saw, status: int, headers: Any) -> None:
    saw.status = status
    saw.request_id = headers.get("x-tollway-request-id")
    target = headers.get("x-tollway-target")
    saw.target = None if target is None else target.rpartition("-")[2]


def _message(error: openai.APIError) -> str:
    body = error.body
    return str(body["message"]) if isinstance(body, dict) and body.get("message") else error.message


async def _record(saw: Saw, session: aiohttp.ClientSession, url: str) -> dict[str, Any] | None:
    """Read what the ledger says of a call; it is written when all of it is over, which may be a moment later."""
    for _ in range(50):
        async with session.get(f"{url}/v1/requests/{saw.request_id}") as answer:
            if answer.status == 200:
                record: dict[str, Any] = await answer.json()
                return record
        await asyncio.sleep(0.1)
    return None


def _judge(row: Row, records: Sequence[dict[str, Any] | None]) -> Judged:
    seen = {each.attempt_id or "": each for each in (*row.first.seen, *row.second.seen)}
    verdicts = []
    for saw, record in zip(row.calls, records, strict=True):
        verdicts.append(judge(saw, row.fault.truth, prompt_tokens=PROMPT_TOKENS, late_s=row.late_s))
        if problem := judge_ledger(saw, record, seen, PRICES):
            verdicts.append(Judged("fail", problem))
    if unknown := seen.keys() - {each["attempt_id"] for record in records if record for each in record["attempts"]}:
        verdicts.append(Judged("fail", f"the ledger knows nothing of {len(unknown)} requests that a provider got"))
    return worst(verdicts)
