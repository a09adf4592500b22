"""Every misbehaviour of an upstream gets its declared answer, its right bill, and an end; and nothing leaks.

Whole gateways in virtual time, so a silence of minutes takes none, on each of ``ways``. A sample runs always, all of
it as a soak test.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from gateway.simulation.virtual_time import VirtualClock, run_virtual
from gateway.types import CallRecord, Inbound, LedgerEntry
from tests.ground.upstream import ScriptedUpstream
from tests.ground.upstream_shapes import (
    CUT,
    DEADLINE,
    ESTIMATED,
    LATE,
    NO_TARGET,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    TEXT,
    WHOLE,
    Mode,
    Shape,
    with_echo,
)
from tests.ground.virtual_gateway import VirtualGateway, virtual_gateway
from tests.hostile.ways import WAYS, Dialect, Way, error_of

SECRET, ADDRESS, PROMPT = "sk-canary-secret-0123456789", "inner-canary.test", "canary-prompt"
GROUP = 100
EVERY, FURTHER_EVERY = 12, 180
"""Of the samples, of chat and of every other way."""
INPUT_NANO_USD, OUTPUT_NANO_USD = 1_000, 2_000
"""For one token."""
RESCUED = frozenset((NO_TARGET, DEADLINE, LATE))
"""Declared answers in whose place a second target's is given."""
MOST_TOKENS = 200_000
"""More than any shape has bytes: what is billed stays below."""


@dataclass
class Caller:
    """The sink of one call: what a caller got."""

    started: bool = False
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    further: bytes = b""
    body: bytes = b""

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started, self.status, self.headers = True, status, headers

    def write(self, data: bytes, *, last: bool = False) -> bool:  # noqa: ARG002 - the sink's signature
        self.body += data
        return True

    async def drained(self) -> None:
        pass


@dataclass
class Ended:
    """One call and what the ledger says of it."""

    caller: Caller
    record: CallRecord
    entries: list[LedgerEntry]
    asked: int
    """Requests that the misbehaving upstream got."""


def target_name(index: int, mode: Mode) -> str:
    return f"s{index}-{mode}"


async def play(
    way: Way, group: Sequence[Shape], path: Path, environ: dict[str, str]
) -> Iterable[tuple[Shape, Mode, bool, Ended]]:
    """Ask each shape in each mode, alone and with a healthy target behind it; return how each call ended."""
    config: dict[str, Any] = {"providers": {}, "models": {}, "routes": {}, "timeouts": {"total_s": 600}}
    config["server"] = {"keep_alive_s": 0}  # the tables name statuses, which a sign of life sends ahead of the answer
    price = {"input": 1.0, "output": 2.0}
    upstreams: dict[str, ScriptedUpstream] = {"http://good.test": ScriptedUpstream()}
    config["providers"]["good"] = {"type": "openai-compatible", "base_url": "http://good.test/v1"}
    config["models"]["good"] = {"provider": "good", "price": {"input": 100.0, "output": 200.0}}
    cases = [
        (index, shape, mode)
        for index, shape in enumerate(group)
        for mode in way.modes
        if shape.answer(mode) is not None
    ]
    for index, shape, mode in cases:
        name = target_name(index, mode)
        host = f"{name}.{ADDRESS}"
        answer = shape.answer(mode)
        assert answer is not None
        answer = with_echo(answer, secret=SECRET, address=host)
        upstreams[f"http://{host}"] = ScriptedUpstream().on_path(way.path, answer)
        config["providers"][name] = {
            "type": way.provider,
            "base_url": f"http://{host}{way.base_path}",
            "api_key": "env:KEY",
            "always_stream": mode == "assembled",
        }
        config["models"][name] = {"provider": name, "price": price, **dict(way.model)}
        config["routes"][f"{name}-or-good"] = {"models": [name, "good"]}
    ends = []
    async with virtual_gateway(config, path, upstreams, environ) as running:
        for index, shape, mode in cases:
            name = target_name(index, mode)
            upstream = upstreams[f"http://{name}.{ADDRESS}"]
            for model in (name, f"{name}-or-good"):
                before = len(upstream.seen)
                caller, record = await ask(running, way.dialect, model, stream=mode == "stream")
                entries = [entry for entry in running.ledger.entries if entry.call_id == record.call_id]
                ended = Ended(caller, record, entries, len(upstream.seen) - before)
                ends.append((shape, mode, model == name, ended))
                await asyncio.sleep(400)  # a breaker that has opened is closed for the next
        assert_nothing_of_ours_in(running.gateway.metrics.reading()(), "metrics")
    return ends


async def ask(running: VirtualGateway, dialect: Dialect, model: str, *, stream: bool) -> tuple[Caller, CallRecord]:
    body = json.dumps({"model": model, "stream": stream, **dialect.asked(PROMPT)}).encode()

    async def read_body(_take_body: Callable[[int], None]) -> bytes:
        return body

    caller = Caller()
    inbound = Inbound(
        id=running._ids("req"),
        endpoint=dialect.endpoint,
        headers={},
        received_at_ns=VirtualClock.monotonic_ns(),
        read_body=read_body,
        caller_left=lambda: False,
    )
    async with asyncio.timeout(700):
        await running.gateway.pipeline.handle(inbound, caller)
    return caller, running.ledger.records[-1]


def assert_nothing_of_ours_in(said: object, where: str) -> None:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    for canary in (SECRET, ADDRESS, PROMPT):
        assert canary not in text, f"{canary} in {where}: {text[:300]}"


def events_of(body: bytes) -> list[Any]:
    """Read what a caller's own reader of server-sent events would: JSON values, and the end marker as a string."""
    values: list[Any] = []
    for event in body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removeprefix(b"\xef\xbb\xbf").split(b"\n\n"):
        data = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
        if data:
            text = b"\n".join(data)
            values.append("[DONE]" if text == b"[DONE]" else json.loads(text))
    return values


def answer_of(caller: Caller, dialect: Dialect, *, stream: bool) -> str:
    """Name what a caller got, in the words of the tables."""
    if caller.status != 200:
        return error_of(dialect, caller.status, caller.body)
    if not stream:
        text = dialect.whole_text(json.loads(caller.body))
        return WHOLE if text == TEXT else f"other text: {text!r}"
    values = events_of(caller.body)
    if isinstance(values[-1], dict) and (values[-1].get("error") or values[-1].get("type") == "error"):
        assert not [value for value in values[:-1] if value == "[DONE]" or (dialect.end(value))]
        return CUT
    text = "".join(dialect.delta(value) for value in values if isinstance(value, dict))
    return WHOLE if dialect.end(values[-1]) and text == TEXT else f"other text: {text!r}, end {values[-1]!r}"


def check(shape: Shape, mode: Mode, ended: Ended, *, alone: bool, dialect: Dialect = WAYS["chat"].dialect) -> None:
    """Hold a call against what its shape declares."""
    declared = shape.declared(mode)
    if alone or not (declared in RESCUED or declared.startswith("model ")):
        got = answer_of(ended.caller, dialect, stream=mode == "stream")
        expected = WHOLE if declared in {ESTIMATED, LATE} else declared.replace("model ", "caller ")
        assert got == expected, f"{got} instead of {declared}"
    else:
        assert ended.caller.status == 200, ended.caller.body
        assert dict(ended.caller.headers)[b"x-tollway-target"] == b"good"
    assert ended.asked == len([entry for entry in ended.entries if entry.target_id != "good"])
    ours = [entry for entry in ended.entries if entry.target_id != "good"]
    for entry in ours:
        usage = entry.usage
        assert entry.cost_nano_usd == usage.input_tokens * INPUT_NANO_USD + usage.output_tokens * OUTPUT_NANO_USD
        assert 0 <= entry.cost_nano_usd <= MOST_TOKENS * OUTPUT_NANO_USD
        assert entry.status in (None, 200) or entry.cost_nano_usd == 0
    last = ours[-1]
    if declared == WHOLE or (alone and declared == LATE):
        assert (last.usage.input_tokens, last.usage.output_tokens) == (PROMPT_TOKENS, OUTPUT_TOKENS)
        assert last.usage.origin == "provider", last
    elif declared in {ESTIMATED, CUT}:
        assert last.usage.origin == "estimated", last
        assert last.usage.input_tokens > 0
        assert last.usage.output_tokens >= (OUTPUT_TOKENS if declared == ESTIMATED else 1)
    for said in (ended.caller.body, ended.caller.headers, ended.record, ended.entries):
        if PROMPT.encode() not in ended.caller.body:
            assert_nothing_of_ours_in(said, "answer or ledger")


def violations(way: Way, group: Sequence[Shape], path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Play shapes and yield a line for each call that is not as declared."""
    path.mkdir()
    for shape, mode, alone, ended in run_virtual(play(way, group, path, {"KEY": SECRET})):
        try:
            check(shape, mode, ended, alone=alone, dialect=way.dialect)
        except (AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
            why = str(error).split("\n")[0][:200]
            yield f"{shape.name} | {mode} | {'alone' if alone else 'before good'} | {why}"
    assert_nothing_of_ours_in(caplog.text, "the log")
    assert "Traceback" not in caplog.text


def in_groups(every: int, wanted: Callable[[str], bool]) -> list[ParameterSet]:
    """Take shapes of each way that is wanted, so many for a gateway."""
    return [
        pytest.param(way, chosen[at : at + GROUP], id=f"{name} {at}")
        for name, way in WAYS.items()
        if wanted(name)
        for chosen in [way.shapes()[::every]]
        for at in range(0, len(chosen), GROUP)
    ]


@pytest.mark.parametrize("name", WAYS)
def test_names_of_shapes_are_unique(name: str) -> None:
    names = [shape.name for shape in WAYS[name].shapes()]
    assert len(set(names)) == len(names) >= 500


@pytest.mark.parametrize(("way", "group"), in_groups(EVERY, lambda name: name == "chat"))
@pytest.mark.slow
def test_sample_of_misbehaviours_gets_its_declared_answers(
    way: Way, group: list[Shape], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every twelfth shape, in each mode, alone and before a healthy target."""
    caplog.set_level(logging.DEBUG)
    assert list(violations(way, group, tmp_path / "gateway", caplog)) == []


@pytest.mark.parametrize(("way", "group"), in_groups(FURTHER_EVERY, lambda name: name != "chat"))
def test_small_sample_of_each_further_way_gets_its_declared_answers(
    way: Way, group: list[Shape], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A few shapes of callers of Messages and Responses, passed and translated."""
    caplog.set_level(logging.DEBUG)
    assert list(violations(way, group, tmp_path / "gateway", caplog)) == []


@pytest.mark.soak
@pytest.mark.parametrize(("way", "group"), in_groups(1, lambda _: True))
def test_misbehaviours_get_their_declared_answers(
    way: Way, group: list[Shape], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All shapes, in each mode, alone and before a healthy target."""
    caplog.set_level(logging.DEBUG)
    assert list(violations(way, group, tmp_path / "gateway", caplog)) == []
