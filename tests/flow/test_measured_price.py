"""The live price and use of own replicas, for a load that is known: synthetic engine, replica's front, gateway's sums.

In virtual time, with the replica's own server left out: what it says in a line is what the gateway reads.
"""

import asyncio
import json

import msgspec
import pytest

from gateway.fleet import ListedModel, ListedReplica, LoadReport
from gateway.simulation.virtual_time import VirtualClock, run_virtual
from gateway.targets.replicas import Replicas
from workers.config.synthetic import SyntheticSpec
from workers.engine import Message, OpenEngine
from workers.replica.front import ReplicaFront
from workers.replica.load import SAMPLE_S, ReplicaLoad
from workers.synthetic.server import open_synthetic

BATCH, EVERY_S, SPAN_S = 4, 2.0, 90.0
PROMPT_TOKENS, OUTPUT_TOKENS = 100, 50
TTFT_S, TPOT_S = 0.1, 0.01
BUSY_S = TTFT_S + (OUTPUT_TOKENS - 1) * TPOT_S
"""A batch: its requests run side by side."""
USD_PER_HOUR = 3.6


async def _ask(front: ReplicaFront) -> int:
    """Send one request as the server would, and return the tokens of the usage that came back."""
    asked = {"prompt": "word " * PROMPT_TOKENS, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True}
    body = json.dumps({"model": "own", **asked}).encode()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    answer = b""

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()  # the caller stays
        return messages.pop()

    async def send(message: Message) -> None:
        nonlocal answer
        answer += message.get("body", b"")

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
    await front(scope, receive, send)
    return int(json.loads(answer)["usage"]["total_tokens"])


async def _minute_and_a_half() -> tuple[LoadReport, int]:
    """Run the load on one replica; return its last line and all tokens in the usages."""
    now = asyncio.get_running_loop().time
    engine: OpenEngine
    async with open_synthetic("own", SyntheticSpec(ttft_ms=TTFT_S * 1e3, tpot_ms=TPOT_S * 1e3)) as engine:
        load = ReplicaLoad("r1", "own", limit=64, figures=engine.figures, now=now)
        front = ReplicaFront(engine.app, load, None)

        async def sampling() -> None:
            while True:
                load.sample()
                await asyncio.sleep(SAMPLE_S)

        sampler = asyncio.create_task(sampling())
        tokens = 0
        for number in range(round(SPAN_S / EVERY_S)):
            tokens += sum(await asyncio.gather(*(_ask(front) for _ in range(BATCH))))
            await asyncio.sleep((number + 1) * EVERY_S - now())
        sampler.cancel()
        return msgspec.json.decode(load.line(), type=LoadReport), tokens


def test_price_and_utilisation_of_a_known_load_are_right() -> None:
    """Within 2%; and the tokens counted are those of the usages, to the last one."""
    line, tokens = run_virtual(_minute_and_a_half())
    assert (line.total.prompt_tokens or 0) + (line.total.output_tokens or 0) == tokens
    replicas = Replicas(VirtualClock())
    listed = ListedModel((ListedReplica("r1", "http://r1"),), ("own",), USD_PER_HOUR)
    [(fleet, replica)] = replicas.listed("http://cluster", {"own": listed})
    fleet.reported(replica, line)
    report = fleet.report(None)
    tokens_per_s = BATCH * (PROMPT_TOKENS + OUTPUT_TOKENS) / EVERY_S
    average = USD_PER_HOUR / 3600 / tokens_per_s * 1e6 * 1e9
    assert report.utilisation == pytest.approx(BUSY_S / EVERY_S, rel=0.02)
    assert report.average_nano_usd_per_mtok == pytest.approx(average, rel=0.02)
    assert report.marginal_nano_usd_per_mtok == pytest.approx(average * BUSY_S / EVERY_S, rel=0.02)
    assert report.decode_tokens_per_s == pytest.approx(BATCH * OUTPUT_TOKENS / EVERY_S, rel=0.02)
