"""The ledger under ``kill -9``: nothing lost, nothing twice."""

import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.accounting import victim
from tests.unit.accounting.ledgers import running_ledger, segments

ROUNDS = 30


@pytest.mark.slow
@pytest.mark.timeout(300)  # each start writes what its predecessor left, and waits for the disk as often
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
