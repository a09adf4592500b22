"""Both corpora again through the real command with two processes: the same answers, and every row in one ledger.

A sample runs always, all of it as a soak test. What waits for long is played in virtual time alone
(``test_upstreams``), and what needs short deadlines of the server in one process alone (``test_client_shapes``).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from _pytest.mark import ParameterSet

from gateway.store.database_file import sqlite_url
from gateway.store.queries import Store
from tests.ground.gateway import write_config
from tests.ground.model import ScriptedModel
from tests.ground.processes import Program, gateway_process
from tests.ground.script import Answer, Chunk
from tests.ground.upstream import ScriptedUpstream
from tests.ground.upstream_shapes import CUT, NO_TARGET, Mode, with_echo
from tests.ground.upstream_shapes import Shape as Misbehaviour
from tests.hostile.client_corpus import ENVIRON, FURTHER, SHAPES, assert_rows_are_what_was_seen, configs, play, secrets
from tests.hostile.shape import Shape
from tests.hostile.test_upstreams import PROMPT, SECRET, Caller, Ended, check
from tests.hostile.ways import WAYS, Dialect, Way

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLIENTS_EVERY = 12
SAMPLE, SOAK = (24, 360), (1, 12)
"""Every so-many-th misbehaviour of chat, and of each further way."""
GROUP = 63
"""Misbehaviours for each gateway: each is a target of its own for each call, so that no breaker is in another's way."""
AT_ONCE = 8
LONGEST_WAIT_S = 1.0
PRICE = {"input": 1.0, "output": 2.0}


@asynccontextmanager
async def two_processes(config: dict[str, Any], path: Path, environ: Mapping[str, str]) -> AsyncIterator[Program]:
    """Run the command with two processes until the context is left; nothing may be wrong in its log then."""
    path.mkdir()
    server = {**config.get("server", {}), "host": "127.0.0.1", "port": 0, "workers": 2}
    async with gateway_process(write_config(path, {**config, "server": server}), environ=environ) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        assert len(children) == 2
        yield running
    assert "Traceback" not in running.log.read_text()


def opened(path: Path) -> Store:
    store = Store(sqlite_url(path / "state" / "ledger.sqlite"))
    store.open()
    return store


async def callers_get_the_declared_answers(chosen: Sequence[Shape], path: Path) -> None:
    """Play callers one after the other to two processes each, and compare rows with what the upstream saw."""
    async with ScriptedUpstream(ScriptedModel(tokens=5)) as upstream:
        canaries, wrong = secrets(upstream.url), []
        described = configs(upstream.url)
        for name in ("keyed", "keyless"):
            async with two_processes(described[name], path / name, ENVIRON) as running:
                port = int(running.url.rpartition(":")[2])
                for shape in chosen:
                    if shape.gateway != name:
                        continue
                    try:
                        async with asyncio.timeout(20):
                            await play(shape, port, canaries)
                    except (AssertionError, OSError, TimeoutError) as error:
                        wrong.append(f"{name} | {shape.name} | {type(error).__name__} {error}"[:300])
            log = running.log.read_text()
            assert not [canary for canary in canaries if canary in log]
        assert wrong == []
        assert_rows_are_what_was_seen([path / name / "state" for name in ("keyed", "keyless")], upstream)


def waits(answer: Answer) -> bool:
    """Whether an answer takes longer than a test over sockets should, or ends before its length and is waited for."""
    size = sum(len(each.data if isinstance(each, Chunk) else each) for each in answer.chunks)
    if answer.content_length is not None and answer.content_length > size:
        return True
    delays = [each.delay_s or 0.0 for each in answer.chunks if isinstance(each, Chunk)]
    if not isinstance(answer.per_chunk_delay_s, int | float) or answer.stall_after is not None:
        return True
    delays += [answer.first_byte_delay_s, answer.per_chunk_delay_s, answer.trickle_delay_s * 1_000]
    return sum(delays) > LONGEST_WAIT_S


def cases(way: Way, group: Sequence[Misbehaviour]) -> Iterator[tuple[str, Misbehaviour, Mode, bool, Answer]]:
    """Yield each shape in each mode, alone and before a healthy target, with the name of its own target."""
    for index, shape in enumerate(group):
        for mode in way.modes:
            answer = shape.answer(mode)
            if answer is not None and not waits(answer):
                for alone in (True, False):
                    yield f"s{index}-{mode}-{'alone' if alone else 'first'}", shape, mode, alone, answer


async def misbehaviours_get_their_declared_answers(way: Way, group: Sequence[Misbehaviour], path: Path) -> None:
    """Ask each shape by a target of its own, and hold what callers and the ledger got against what it declares."""
    async with ScriptedUpstream() as upstream, ScriptedUpstream() as good:
        address = upstream.url.removeprefix("http://")
        config: dict[str, Any] = {"providers": {}, "models": {}, "routes": {}}
        config["providers"]["good"] = {"type": "openai-compatible", "base_url": f"{good.url}/v1"}
        config["models"]["good"] = {"provider": "good", "price": {"input": 100.0, "output": 200.0}}
        asked = list(cases(way, group))
        for name, _, mode, _, answer in asked:
            upstream.on_model(name, with_echo(answer, secret=SECRET, address=address))
            config["providers"][name] = {
                "type": way.provider,
                "base_url": f"{upstream.url}{way.base_path}",
                "api_key": "env:SECRET",
                "always_stream": mode == "assembled",
            }
            config["models"][name] = {"provider": name, "price": PRICE, **dict(way.model)}
            config["routes"][f"{name}-or-good"] = {"models": [name, "good"]}
        async with (
            two_processes(config, path, {"SECRET": SECRET}) as running,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0)) as session,
        ):
            places = asyncio.Semaphore(AT_ONCE)

            async def ask(name: str, mode: Mode, *, alone: bool) -> tuple[Caller, str]:
                async with places:
                    return await asked_once(way, session, running.url, name if alone else f"{name}-or-good", mode)

            got = await asyncio.gather(*(ask(name, mode, alone=alone) for name, _, mode, alone, _ in asked))
        log = running.log.read_text()
        assert not [canary for canary in (SECRET, PROMPT, address) if canary in log]
        counts = Counter(seen.model for seen in upstream.seen)
        assert violations(asked, got, counts, path, address, dialect=way.dialect) == []
        assert_rows_are_what_was_seen([path / "state"], upstream, good)


async def asked_once(way: Way, session: aiohttp.ClientSession, url: str, model: str, mode: Mode) -> tuple[Caller, str]:
    """Ask as one caller; return what he got, and the id of his request."""
    body = {"model": model, "stream": mode == "stream", **way.dialect.asked(PROMPT)}
    timeout = aiohttp.ClientTimeout(total=120)
    async with session.post(url + way.dialect.endpoint.path, json=body, timeout=timeout) as answer:
        shown = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        caller = Caller(started=True, status=answer.status, headers=shown, body=await answer.read())
        return caller, answer.headers["x-tollway-request-id"]


def violations(
    asked: Sequence[tuple[str, Misbehaviour, Mode, bool, Answer]],
    got: Sequence[tuple[Caller, str]],
    counts: Mapping[str | None, int],
    path: Path,
    address: str,
    *,
    dialect: Dialect,
) -> list[str]:
    """Return a line for each call that is not as declared, in what its caller got or in the ledger."""
    store, lines = opened(path), []
    try:
        for (name, shape, mode, alone, _), (caller, call_id) in zip(asked, got, strict=True):
            found = store.find_call(call_id)
            assert found is not None, f"{call_id} has no row"
            if shape.declared(mode) == CUT and (
                caller.status != 200 or (b"x-tollway-target", b"good") in caller.headers
            ):
                # Content and what breaks it off came in one read, so nothing had been passed on.
                shape = replace(shape, stream=NO_TARGET)  # noqa: PLW2901 - it is declared so
            try:
                ended = Ended(caller, found[0], list(found[1]), counts.get(name, 0))
                check(shape, mode, ended, alone=alone, dialect=dialect)
                assert address not in f"{caller.body!r} {caller.headers} {found}"
            except (AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
                lines.append(f"{shape.name} | {name} | {error}".split("\n")[0][:300])
    finally:
        store.close()
    return lines


def in_groups(every: int, further_every: int) -> list[ParameterSet]:
    """Take shapes of each way, so many for a gateway."""
    return [
        pytest.param(way, chosen[at : at + GROUP], id=f"{name} {at}")
        for name, way in WAYS.items()
        for chosen in [way.shapes()[:: every if name == "chat" else further_every]]
        for at in range(0, len(chosen), GROUP)
    ]


async def test_sample_of_callers_gets_the_declared_answers_of_two_processes(tmp_path: Path) -> None:
    await callers_get_the_declared_answers([*SHAPES, *FURTHER][::CLIENTS_EVERY], tmp_path)


@pytest.mark.soak
async def test_callers_get_the_declared_answers_of_two_processes(tmp_path: Path) -> None:
    await callers_get_the_declared_answers([*SHAPES, *FURTHER], tmp_path)


@pytest.mark.parametrize(("way", "group"), in_groups(*SAMPLE))
async def test_sample_of_misbehaviours_gets_the_declared_answers_of_two_processes(
    way: Way, group: list[Misbehaviour], tmp_path: Path
) -> None:
    await misbehaviours_get_their_declared_answers(way, group, tmp_path / "gateway")


@pytest.mark.soak
@pytest.mark.parametrize(("way", "group"), in_groups(*SOAK))
async def test_misbehaviours_get_the_declared_answers_of_two_processes(
    way: Way, group: list[Misbehaviour], tmp_path: Path
) -> None:
    await misbehaviours_get_their_declared_answers(way, group, tmp_path / "gateway")
