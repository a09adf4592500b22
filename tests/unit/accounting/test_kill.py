"""The ledger under ``kill -9``: nothing lost, nothing twice."""

import asyncio
import errno
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gateway.accounting import applier_process
from gateway.errors import GatewayError
from tests.ground.processes import lives
from tests.ground.waiting import until
from tests.unit.accounting import victim
from tests.unit.accounting.ledgers import applier_pid, make_call, running_ledger, segments, stop_applier, stored_totals
from tests.unit.accounting.test_retention import StoodClock

ROUNDS = 30


@pytest.mark.slow
async def test_applier_killed_at_random_points_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The gateway goes on and starts another, which says how far it is; what is asked meanwhile is answered."""
    moments, alarms, calls = random.Random(5), list[str](), 0
    async with running_ledger(tmp_path, segment_bytes=30_000, fsync_interval_s=0.005, alarm=alarms.append) as ledger:
        for _ in range(8):
            for _ in range(moments.randint(10, 400)):
                make_call(ledger, calls)
                calls += 1
                if calls % 20 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(moments.uniform(0, 0.03))
            killed = applier_pid(ledger)
            os.kill(killed, signal.SIGKILL)
            assert await ledger.find(f"req_{calls - 1}") is not None
            assert applier_pid(ledger) != killed
            assert ledger.healthy() is None
    assert not segments(tmp_path)
    (totals,) = stored_totals(tmp_path)
    assert (totals.attempts, totals.cost_nano_usd) == (calls, calls * 20_000)
    assert set(alarms) == {
        "rows wait in the journal: the process that writes the ledger's database has ended (exit code -9)"
    }


async def test_applier_that_hangs_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, it answers nothing: calls go on, readiness speaks after a minute, the end comes, and no row is lost."""
    monkeypatch.setattr(applier_process, "_END_TIMEOUT_S", 0.05)
    clock = StoodClock()
    async with running_ledger(tmp_path, clock, flush_timeout_s=0.05, fsync_interval_s=0.01) as ledger:
        await stop_applier(ledger)
        make_call(ledger, 1)
        with pytest.raises(GatewayError, match="cannot be read"):
            await ledger.find("req_1")
        with pytest.raises(GatewayError, match="cannot be written"):
            await ledger.flush()
        assert ledger.healthy() is None
        clock.now_ns += 61 * 10**9
        assert "has not taken rows for a minute" in str(ledger.healthy())
        os.kill(applier_pid(ledger), signal.SIGCONT)
        await until(lambda: ledger.healthy() is None)
        await stop_applier(ledger)
        make_call(ledger, 2)
    async with running_ledger(tmp_path) as ledger:
        assert await ledger.find("req_2") is not None
    (totals,) = stored_totals(tmp_path)
    assert totals.attempts == 2


async def test_applier_that_cannot_be_started_again_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms: list[str] = []
    async with running_ledger(tmp_path, alarm=alarms.append) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(applier_process, "launch", no_process)
            os.kill(applier_pid(ledger), signal.SIGKILL)
            make_call(ledger, 1)
            await until(lambda: any("cannot be started: Resource temporarily" in alarm for alarm in alarms))
        assert await ledger.find("req_1") is not None
    assert len(alarms) == 2


def no_process(theirs: socket.socket) -> object:
    theirs.close()
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.mark.slow
@pytest.mark.timeout(600)  # each start writes what its predecessor left, and waits for the disk as often
async def test_settled_attempts_are_there_exactly_once_after_thirty_kills(tmp_path: Path) -> None:
    """What was settled is one row as billed; every other dispatch is interrupted, never below what was relayed."""
    done = subprocess.run(
        [sys.executable, "-m", victim.__name__, str(tmp_path), str(ROUNDS), "7"],
        capture_output=True,
        check=False,
        timeout=240,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr.decode()
    reports = [line.split() for line in done.stdout.decode().splitlines()]
    dispatched = {words[1] for words in reports if words[0] == "dispatched"}
    relayed: Counter[str] = Counter()
    for words in reports:
        if words[0] == "relayed":
            relayed[words[1]] = max(relayed[words[1]], int(words[2]))
    settled = {words[1]: int(words[2]) for words in reports if words[0] == "settled"}
    recorded = {words[1] for words in reports if words[0] == "recorded"}
    assert len(settled) > 10 * ROUNDS, "the children hardly lived: this run proves nothing"

    appliers = [int(words[1]) for words in reports if words[0] == "applier"]
    await until(lambda: not any(map(lives, appliers)))  # they end with their gateways
    async with running_ledger(tmp_path) as ledger:
        assert ledger.healthy() is None
    assert not segments(tmp_path)
    assert not (tmp_path / "rejected.jsonl").exists()

    database = sqlite3.connect(tmp_path / "ledger.sqlite3")
    rows = database.execute(
        "SELECT attempt_id, call_id, outcome, output_tokens, usage_origin, cost_nano_usd FROM attempts"
    ).fetchall()
    calls = database.execute("SELECT call_id, outcome FROM calls").fetchall()
    database.close()
    by_id = {row[0]: row for row in rows}
    assert len(by_id) == len(rows)
    assert dispatched <= by_id.keys()
    for attempt_id, output_tokens in settled.items():
        assert by_id[attempt_id][2:] == ("ok", output_tokens, "provider", 20_000)
    interrupted = {attempt_id for attempt_id, row in by_id.items() if row[2] == "interrupted"}
    assert not interrupted & settled.keys()
    assert len(interrupted) >= ROUNDS // 3
    for attempt_id in interrupted:
        _, _, _, output_tokens, origin, cost_nano_usd = by_id[attempt_id]
        assert output_tokens >= relayed[attempt_id]
        assert (origin, cost_nano_usd) == ("estimated", 10_000 + 2_000 * output_tokens)
    # Of what was never reported there can be one verb per kill: the one that the kill cut off.
    assert len(by_id.keys() - dispatched) <= ROUNDS
    assert len({row[0] for row in rows if row[2] == "ok"} - settled.keys()) <= ROUNDS

    outcomes = dict(calls)
    assert len(outcomes) == len(calls)
    assert {row[1] for row in rows} == outcomes.keys()
    assert all(outcomes[call_id] == "ok" for call_id in recorded)
