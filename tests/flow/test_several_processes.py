"""Several processes behind one port are one gateway: one limit, one ledger; and none is missed when it goes."""

import asyncio
import hashlib
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.store.database_file import sqlite_url
from gateway.store.queries import Store
from tests.ground.configs import one_model
from tests.ground.gateway import write_config
from tests.ground.model import ScriptedModel
from tests.ground.processes import Program, gateway_process
from tests.ground.script import Answer, Seen, error_answer
from tests.ground.sse import ChatStream
from tests.ground.totals import totals_of
from tests.ground.upstream import ScriptedUpstream
from tests.ground.waiting import until

# Each starts four processes, some of them twice.
pytestmark = pytest.mark.slow

KEY = {"authorization": "Bearer k"}
PROCESSES = 3


class Ground:
    """A gateway of several processes, and a client that opens a connection for each request."""

    def __init__(self, gateway: Program, state_dir: Path, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.session = session
        self._state_dir = state_dir

    def processes(self) -> list[int]:
        """Return those that serve."""
        children = Path(f"/proc/{self.gateway.pid}/task/{self.gateway.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def open_files(self) -> Counter[int]:
        """Return how many each has open; what it serves is among them, for chance decides who accepts a connection."""
        return Counter({pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.processes()})

    async def chat(self, **members: Any) -> tuple[int, str, ChatStream]:
        """Ask once; return status, request id and the stream, if it was one."""
        body = {"model": "auto", "messages": [{"role": "user", "content": "one two three"}], **members}
        stream = ChatStream()
        async with self.session.post(f"{self.gateway.url}/v1/chat/completions", json=body, headers=KEY) as answer:
            async for piece in answer.content.iter_any():
                if members.get("stream"):
                    stream.feed(piece)
            return answer.status, answer.headers["x-tollway-request-id"], stream

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series with these labels, as one of the processes tells it."""
        async with self.session.get(f"{self.gateway.url}/metrics") as answer:
            text = await answer.text()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(each in line for each in wanted))

    async def ended(self, least: int) -> float:
        """Return how many calls ended well, once so many did: a call is counted after the last byte of its answer."""

        async def counted() -> bool:
            return await self.metric("tollway_requests_total", outcome="ok") >= least

        await until(counted)
        return await self.metric("tollway_requests_total", outcome="ok")

    async def has_page(self, request_id: str) -> bool:
        """Tell whether one of the processes knows that request."""
        async with self.session.get(f"{self.gateway.url}/v1/requests/{request_id}", headers=KEY) as page:
            assert page.status in {200, 404}, await page.text()
            return page.status == 200

    async def rows(self) -> dict[str, int]:
        """Count the attempts in the database by outcome."""
        return await asyncio.to_thread(self._rows)

    def _rows(self) -> dict[str, int]:
        store = Store(sqlite_url(self._state_dir / "ledger.sqlite"))
        store.open()
        try:
            return {each.outcome: each.attempts for each in totals_of(store)}
        finally:
            store.close()


@asynccontextmanager
async def several(
    tmp_path: Path,
    upstream: ScriptedUpstream,
    workers: int = PROCESSES,
    *,
    api_key: str | None = None,
    **key: int,
) -> AsyncIterator[Ground]:
    config = one_model(upstream.url)
    config["providers"]["upstream"] |= {} if api_key is None else {"api_key": api_key}
    config["server"] = {"host": "127.0.0.1", "port": 0, "workers": workers, "drain_s": 20}
    config["keys"] = [{"name": "app", "secret": f"sha256:{hashlib.sha256(b'k').hexdigest()}", **key}]
    file = write_config(tmp_path, config)
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with gateway_process(file) as gateway, aiohttp.ClientSession(connector=connector) as session:
        yield Ground(gateway, tmp_path / "state", session)


async def test_a_limit_counts_once_for_all(tmp_path: Path) -> None:
    """Sixty calls at once, twenty-five a minute, three processes: twenty-five are answered."""
    async with ScriptedUpstream() as upstream, several(tmp_path, upstream, requests_per_minute=25) as ground:
        answers = await asyncio.gather(*(ground.chat() for _ in range(60)))
        assert sorted(status for status, _, _ in answers) == [200] * 25 + [429] * 35


async def test_every_process_reports_on_all_of_them(tmp_path: Path) -> None:
    """Metrics, the page of every single request, and the database agree with what was asked."""
    async with ScriptedUpstream() as upstream, several(tmp_path, upstream) as ground:
        answers = await asyncio.gather(*(ground.chat(stream=number % 2 == 0) for number in range(60)))
        assert {status for status, _, _ in answers} == {200}
        assert await ground.ended(60) == 60
        assert await ground.metric("tollway_tokens_total", **{"class": "output"}) == 300
        for _, request_id, _ in answers:
            await until(partial(ground.has_page, request_id))  # which another process may not have told it of yet
        assert await ground.rows() == {"ok": 60}
        assert len(list((tmp_path / "state" / "processes").glob("*.figures"))) == PROCESSES


async def test_processes_are_replaced_without_a_lost_stream(tmp_path: Path) -> None:
    """SIGUSR2 under streams and new calls: others serve in the end, every stream came whole, no call failed."""
    model = ScriptedModel(tokens=60, tpot_s=0.02)
    async with ScriptedUpstream(model) as upstream, several(tmp_path, upstream) as ground:
        before = ground.processes()
        assert len(before) == PROCESSES
        replaced = asyncio.Event()

        async def ask_on() -> list[tuple[int, str, ChatStream]]:
            answers = []
            while not replaced.is_set():
                answers.append(await ground.chat(stream=True))
            return answers

        async def ask_in_vain(session: aiohttp.ClientSession) -> set[int]:
            """Send what is refused at once, so that something is always just being sent; nobody sends a POST again."""
            statuses = set()
            while not replaced.is_set():
                body = {"model": "auto", "messages": []}
                async with session.post(f"{ground.gateway.url}/v1/chat/completions", json=body, headers=KEY) as answer:
                    statuses.add(answer.status)
                    await answer.read()
            return statuses

        clients = [asyncio.create_task(ask_on()) for _ in range(12)]
        async with aiohttp.ClientSession() as kept:
            quick = [asyncio.create_task(ask_in_vain(session)) for session in (ground.session, kept) for _ in range(3)]
            ground.gateway.signal(signal.SIGUSR2)
            await until(lambda: not set(ground.processes()) & set(before) and len(ground.processes()) == PROCESSES)
            replaced.set()
            assert await asyncio.gather(*quick) == [{400}] * len(quick)
        answers = [answer for asked in await asyncio.gather(*clients) for answer in asked]
        assert {status for status, _, _ in answers} == {200}
        assert all(stream.done and stream.error is None for _, _, stream in answers)
        assert await ground.ended(len(answers)) == len(answers)

        async def nothing_runs() -> bool:
            return await ground.metric("tollway_in_flight_requests") == 0

        await until(nothing_runs)


async def test_replace_signal_changes_nothing_in_a_gateway_of_one_process(tmp_path: Path) -> None:
    """Sent to a gateway of one process, or to one that serves among several, it changes nothing."""
    async with ScriptedUpstream() as upstream, several(tmp_path, upstream, workers=1) as ground:
        ground.gateway.signal(signal.SIGUSR2)
        assert (await ground.chat())[0] == 200
        await until(lambda: "SIGUSR2" in ground.gateway.log.read_text())


async def test_a_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    """Its streams break, the others' do not; what it counted stays counted, what it had under way is in the ledger."""
    model = ScriptedModel(tokens=40, tpot_s=0.02)
    async with ScriptedUpstream(model) as upstream, several(tmp_path, upstream) as ground:
        for _ in range(10):
            await ground.chat()
        model.tpot_s = 1.0  # none shall end before the kill
        before, streams = ground.open_files(), Counter[int]()
        running: list[asyncio.Task[tuple[int, str, ChatStream]]] = []
        while sum(opened > 4 for opened in streams.values()) < 2:  # fewer may be files of its own
            running += [asyncio.create_task(ground.chat(stream=True)) for _ in range(30)]
            await upstream.arrived(10 + len(running))
            streams = ground.open_files() - before
        victim = max(streams, key=streams.__getitem__)
        os.kill(victim, signal.SIGKILL)
        model.tpot_s = 0.02
        ends = await asyncio.gather(*running, return_exceptions=True)
        whole = sum(not isinstance(end, BaseException) and end[2].done for end in ends)
        assert 0 < whole < len(running)
        await until(lambda: len(ground.processes()) == PROCESSES and victim not in ground.processes())
        assert set(before) - {victim} < set(ground.processes())
        assert await ground.ended(10 + whole) == 10 + whole

        async def all_are_rows() -> bool:
            return sum((await ground.rows()).values()) == 10 + len(running)

        await until(all_are_rows)
        assert await ground.rows() == {"ok": 10 + whole, "interrupted": len(running) - whole}


async def test_limits_held_by_a_dead_process_are_free_without_a_successor(tmp_path: Path) -> None:
    """The file names another state_dir by now: nobody starts on that, and the places of the dead are the others'."""
    model = ScriptedModel(tokens=400, tpot_s=0.05)
    async with ScriptedUpstream(model) as upstream, several(tmp_path, upstream, concurrency=9) as ground:
        running = [asyncio.create_task(ground.chat(stream=True)) for _ in range(9)]
        await upstream.arrived(9)
        assert (await ground.chat())[0] == 429
        file = tmp_path / "tollway.yaml"
        file.write_text(file.read_text().replace(str(tmp_path / "state"), str(tmp_path / "other")))
        for victim, _ in ground.open_files().most_common(2):
            os.kill(victim, signal.SIGKILL)
        await until(lambda: "state_dir cannot change" in ground.gateway.log.read_text())
        assert not (tmp_path / "other").exists()
        lost = [task for task in running if task.done()]
        assert lost
        model.tokens = 1
        assert [(await ground.chat())[0] for _ in lost] == [200] * len(lost)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_new_credential_is_used_by_all_of_them_at_once(tmp_path: Path) -> None:
    """The old one had closed the target for a minute; within a second of the reload every process asks it again."""
    secret = tmp_path / "key"
    secret.write_text("bad")

    def answer(seen: Seen) -> Answer:
        is_good = seen.headers["authorization"] == "Bearer good"
        return ScriptedModel().answer(seen) if is_good else error_answer(401, "no")

    upstream = ScriptedUpstream().on_path("/v1/chat/completions", answer)
    async with upstream, several(tmp_path, upstream, api_key=f"file:{secret}") as ground:
        assert {(await ground.chat())[0] for _ in range(4 * PROCESSES)} == {503}
        refused = len(upstream.seen)
        assert refused < 4 * PROCESSES
        secret.write_text("good")
        ground.gateway.signal(signal.SIGHUP)

        async def answered() -> bool:
            return {(await ground.chat())[0] for _ in range(4 * PROCESSES)} == {200}

        async with asyncio.timeout(30):  # half of how long a refused credential closes a target
            await until(answered)


async def test_processes_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    """Killed at once, it can tell nobody; they see it, finish and end, and the next gateway can start."""
    async with ScriptedUpstream() as upstream:
        async with several(tmp_path, upstream) as ground:
            left = ground.processes()
            await ground.gateway.kill()
            # A zombie, which the machine's first process may leave for long, has no program any more.
            await until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in left))
        async with several(tmp_path, upstream) as ground:
            assert (await ground.chat())[0] == 200
