"""What the gateway itself lacks is answered with a 503 that names the remedy, and counts against no target."""

import asyncio
import contextlib
import errno
import json
import logging
import resource
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway import shortage
from gateway.beside import Beside
from gateway.execution import attempt
from gateway.simulation.virtual_time import run_virtual
from tests.ground.callers import RawCaller, request
from tests.ground.configs import compatible, one_model, two_models
from tests.ground.gateway import write_config
from tests.ground.in_memory import InMemoryTransport
from tests.ground.processes import Program, gateway_process
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import Answered, VirtualGateway, virtual_gateway
from tests.ground.waiting import until

ORIGINS = ("http://cheap.test", "http://dear.test")
LACKS = {
    "open_files": OSError(errno.EMFILE, "x"),
    "system_open_files": OSError(errno.ENFILE, "x"),
    "local_ports": OSError(errno.EADDRNOTAVAIL, "x"),
    "memory": MemoryError(),
    "threads": RuntimeError("can't start new thread"),
}


class Lacking:
    """Has the transport lack something for requests to these origins, while it is on."""

    def __init__(self, error: BaseException, origins: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = True
        handle = InMemoryTransport.handle

        def fail(transport: InMemoryTransport, origin: str, exchange: Any) -> None:
            if self.is_on and origin in origins:
                lack = shortage.lack_of(error)
                raise error if lack is None else shortage.ShortageError(lack)
            handle(transport, origin, exchange)

        monkeypatch.setattr(InMemoryTransport, "handle", fail)


def outcome(running: VirtualGateway, answered: Answered) -> tuple[int, str, str | None, str | None]:
    record = running.ledger.records[-1]
    return answered.status, answered.headers.get("retry-after", ""), record.error_kind, record.cause


@pytest.mark.parametrize("lack", LACKS)
def test_shortage_at_one_target_is_logged_and_the_next_is_tried(
    lack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A flood of them leaves the breaker closed, the statistics empty, no bill, and one line at ERROR."""
    upstreams = {origin: ScriptedUpstream() for origin in ORIGINS}

    async def scenario() -> None:
        async with virtual_gateway(two_models(*ORIGINS), tmp_path, upstreams) as running:
            lacking = Lacking(LACKS[lack], ORIGINS[:1], monkeypatch)
            for _request in range(30):
                assert (await running.chat()).status == 200
            lines = [each for each in caplog.records if each.name == "tollway.failures"]
            assert [each.levelno for each in lines] == [logging.ERROR]
            assert f"target cheap, kind own_shortage, cause {lack}: " in lines[0].getMessage()
            cheap = [each for each in running.ledger.entries if each.target_id == "cheap"]
            assert {(each.outcome, each.error_kind, each.cost_nano_usd) for each in cheap} == {
                ("failed", "own_shortage", 0)
            }
            assert running.gateway.pool.breaker_states()["cheap"] == "closed"
            lacking.is_on = False
            await running.chat()
            assert running.ledger.entries[-1].target_id == "cheap"

    run_virtual(scenario())


@pytest.mark.parametrize("stream", [True, False])
def test_call_that_only_a_shortage_kept_from_an_answer_gets_its_own_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    """Whatever became of the other target: without the shortage this one might have answered."""
    upstreams = {origin: ScriptedUpstream() for origin in ORIGINS}
    upstreams[ORIGINS[1]].alive = False

    async def scenario() -> None:
        async with virtual_gateway(two_models(*ORIGINS), tmp_path, upstreams) as running:
            Lacking(LACKS["open_files"], ORIGINS[:1], monkeypatch)
            answered = await running.chat(stream=stream)
            remedy = "open_files: raise its limit of open files (ulimit -n, LimitNOFILE=)"
            assert outcome(running, answered) == (503, "1", "own_shortage", remedy)
            error = json.loads(answered.body)["error"]
            assert (error["type"], error["code"]) == ("server_error", "gateway_shortage")
            assert "its operator should raise its limit of open files" in error["message"]
            assert "). Tried: cheap: own_shortage; dear: upstream_connect" in error["message"]

    run_virtual(scenario())


@pytest.mark.parametrize("lack", LACKS)
def test_shortage_in_any_stage_is_no_crash(
    lack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading a body, or within an attempt: 503 with the remedy, no traceback, nothing counted."""
    upstreams = {origin: ScriptedUpstream() for origin in ORIGINS}

    async def fail(*_arguments: object, **_named: object) -> None:
        raise LACKS[lack]

    async def scenario() -> None:
        for owner, stage in ((Beside, "run"), (attempt, "begin")):
            async with virtual_gateway(two_models(*ORIGINS), tmp_path, upstreams) as running:
                with monkeypatch.context() as patch:
                    patch.setattr(owner, stage, fail)
                    answered = [await running.chat() for _request in range(4)]
                    assert {outcome(running, each)[:3] for each in answered} == {(503, "1", "own_shortage")}
                assert set(running.gateway.pool.breaker_states().values()) <= {"closed"}
                assert (await running.chat()).status == 200
        assert "Traceback" not in caplog.text

    run_virtual(scenario())


def test_crash_of_ours_teaches_nothing_about_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the request had waited by then, it is not the target's time to the first token."""
    upstreams = {origin: ScriptedUpstream() for origin in ORIGINS}

    async def fail(*_arguments: object, **_named: object) -> None:
        await asyncio.sleep(3)
        raise ZeroDivisionError

    async def scenario() -> None:
        async with virtual_gateway(two_models(*ORIGINS), tmp_path, upstreams) as running:
            with monkeypatch.context() as patch:
                patch.setattr(attempt, "begin", fail)
                assert outcome(running, await running.chat())[::2] == (500, "internal")
            assert running.gateway.pool._states["cheap"].learnt_at_ns is None

    run_virtual(scenario())


@contextlib.contextmanager
def no_descriptor_left(gateway: Program) -> Iterator[None]:
    """Let a process open nothing more; what it has open stays so."""
    with ExitStack() as cleanup:
        usual = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        cleanup.callback(resource.prlimit, gateway.pid, resource.RLIMIT_NOFILE, usual)
        least = min(_first_free(gateway.pid) for _look in range(20))  # now and then one is open for a moment
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (least, usual[1]))
        yield


def _first_free(pid: int) -> int:
    taken = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def chat(model: str) -> bytes:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()
    return request("POST", "/v1/chat/completions", body)


@pytest.mark.slow
async def test_process_without_a_free_descriptor_says_so_and_recovers(tmp_path: Path) -> None:
    """A kept connection still serves; a fresh one is our 503; who connects waits, and all is well when one is free."""
    async with ScriptedUpstream() as kept, ScriptedUpstream() as fresh:
        config = {
            "providers": {
                "kept": compatible(kept.url),
                "fresh": compatible(fresh.url),
                "named": compatible(fresh.url.replace("127.0.0.1", "localhost")),
            },
            "models": {
                    name: {"provider": name, "price": {"input": usd, "output": usd}}
                    for name, usd in (("kept", 3.0), ("fresh", 2.0), ("named", 1.0))
                },
            "routes": {"both": {"models": ["named", "kept"]}},
        }  # fmt: skip
        async with gateway_process(write_config(tmp_path, config)) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            async with AsyncExitStack() as callers:
                caller = await callers.enter_async_context(RawCaller.connected(port))
                assert (await caller.ask(chat("kept"))).status == 200
                with no_descriptor_left(gateway):
                    assert (await caller.ask(chat("both"))).status == 200
                    refused = []
                    for name in ("fresh", "named") * 5:
                        answer = await caller.ask(chat(name))
                        assert (answer.status, answer.error["code"]) == (503, "gateway_shortage"), answer
                        assert answer.headers["retry-after"] == "1"
                        assert "ulimit -n" in answer.error["message"]
                        refused.append(answer.headers["x-tollway-request-id"])
                    assert (await caller.ask(chat("kept"))).status == 200
                    waiting = await callers.enter_async_context(RawCaller.connected(port))
                    waiting.writer.write(chat("kept"))
                    said = "no connection can be accepted, callers have to wait: The gateway has no file descriptor"
                    await until(lambda: said in gateway.log.read_text())
                assert (await waiting.answer()).status == 200
            async with aiohttp.ClientSession() as client:
                await _has_recovered(client, gateway, refused)
            log = gateway.log.read_text()
    assert "Traceback" not in log
    assert log.count(said) == 1  # for ten seconds
    assert log.count("kind own_shortage, cause open_files: raise its limit of open files") == 2  # told, and gone on


@pytest.mark.slow
async def test_idle_connections_make_room_for_waiting_ones(tmp_path: Path) -> None:
    """Kept connections of callers, which may have all descriptors, are closed within seconds."""
    async with (
        ScriptedUpstream() as upstream,
        gateway_process(write_config(tmp_path, one_model(upstream.url))) as gateway,
    ):
        port = int(gateway.url.rpartition(":")[2])
        async with AsyncExitStack() as callers:
            idle = [await callers.enter_async_context(RawCaller.connected(port)) for _caller in range(5)]
            for caller in idle:
                assert (await caller.ask(chat("scripted"))).status == 200
            with no_descriptor_left(gateway):
                waiting = await callers.enter_async_context(RawCaller.connected(port))
                waiting.writer.write(chat("scripted"))
                assert (await waiting.answer()).status == 200
            assert [await caller.rest() for caller in idle] == [b""] * 5


async def _has_recovered(client: aiohttp.ClientSession, gateway: Program, refused: list[str]) -> None:
    """Answers by all targets at once, closed breakers, readiness, and a record of each call that was refused."""
    for name in ("fresh", "named"):
        body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
        async with client.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200

    async def ready() -> bool:
        async with client.get(f"{gateway.url}/readyz") as answer:
            return answer.status == 200

    await until(ready)
    for call_id in refused:
        async with client.get(f"{gateway.url}/v1/requests/{call_id}") as answer:
            assert (await answer.json())["cause"].startswith("open_files: raise its limit")
