"""What the bench prints, and what it asks its client for."""

from pathlib import Path

import pytest

from loadtests.bench.contenders import CONTENDERS, Site, TollwayAt
from loadtests.bench.figures import Measure
from loadtests.bench.install import Installed, InstallError, commit_of
from loadtests.bench.run import entries_of
from loadtests.bench.table import as_json, markdown
from loadtests.bench.workloads import TRACE, WORKLOADS, Workload


def _measure(rate: float, latency_ms: float, errors: dict[str, int] | None = None) -> Measure:
    times = {"p50": latency_ms, "p90": latency_ms, "p99": latency_ms}
    return Measure(rate, rate * 16, times, times, times, times, 0.25, 15.6, errors or {}, 0.0, 2e6)


def _row(text: str, *cells: str) -> list[str]:
    """Find the one row that begins with ``cells``."""
    start = "| " + " | ".join(cells) + " |"
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_tables_hold_medians_spreads_and_reasons(tmp_path: Path) -> None:
    chosen = [one for one in CONTENDERS if one.name in {"nginx", "tollway", "portkey"}]
    entries = entries_of(chosen, tmp_path, direct=True)
    by_name = {entry.name: entry for entry in entries}
    by_name["nginx"].installed = Installed("1.22", 2_000_000)
    by_name["portkey"].problem = "not installed: npm failed: no network"
    rounds = [
        {
            ("chat-16", "direct"): _measure(1000.0, 1.0),
            ("chat-16", "nginx"): _measure(800.0, 1.25),
            ("chat-16", "tollway"): _measure(400.0 * speed, 2.5, {"EOF": 2}),
        }
        for speed in (1, 2, 3)
    ]
    text = markdown(entries, [one for one in WORKLOADS if one.name == "chat-16"], rounds)
    assert _row(text, "nginx")[1:3] == ["1.22", "2"]
    assert _row(text, "portkey")[-1] == "not installed: npm failed: no network"
    assert _row(text, "chat-16", "tollway")[2] == "800 (400 to 1,200)"
    assert _row(text, "chat-16", "tollway")[4] == "1.50"
    assert _row(text, "chat-16", "direct")[4] == "(1.00)"
    assert _row(text, "chat-16", "tollway")[-1] == "6: EOF"
    assert _row(text, "chat-16", "requests/s")[3] == "1.00 (0.500 to 1.50)"
    assert len(as_json(entries, rounds)["rounds"]) == 3  # type: ignore[arg-type]


def test_every_workload_is_spelt_for_the_client() -> None:
    chat = Workload("chat-16", 16).client_arguments(2.0)
    assert chat == ["-connections", "16", "-seconds", "2", "-tokens", "16", "-prompt-bytes", "60", "-requests", "0"]
    (open_loop,) = [one for one in WORKLOADS if one.name == "open-800"]
    assert open_loop.client_arguments(2.0)[-2:] == ["-rate", "800"]
    assert open_loop.is_paced
    (replay,) = [one for one in WORKLOADS if one.name == "trace-x50"]
    assert replay.pace_ms == pytest.approx(0.4)
    (messages,) = [one for one in WORKLOADS if one.name == "messages-to-chat-64"]
    assert messages.client_arguments(2.0)[4:6] == ["-path", "/v1/messages"]
    assert replay.client_arguments(2.0)[4:] == ["-stream", "-trace", str(TRACE), "-speed", "50"]


def test_the_trace_is_whole() -> None:
    lines = TRACE.read_text().splitlines()
    assert lines[0] == "TIMESTAMP,ContextTokens,GeneratedTokens"
    assert len(lines) == 1 + 19_366


def test_commit_as_contender_is_compared_with_the_tree(tmp_path: Path) -> None:
    """It starts its own program, stands under its hash, and the tree's CPU over its own is a column."""
    before = TollwayAt("0123456789abcdef0123456789abcdef01234567")
    launch = before.launch(Site(home=tmp_path / "home", work=tmp_path, port=20_001, upstream_port=20_005))
    assert launch.argv[0] == str(tmp_path / "home" / "bin" / "tollway")
    tree = next(one for one in CONTENDERS if one.name == "tollway")
    entries = entries_of([tree, before], tmp_path, direct=False)
    rounds = [{("chat-16", "tollway"): _measure(400.0, 1.0), ("chat-16", "tollway@0123456789ab"): _measure(500.0, 1.0)}]
    text = markdown(entries, [one for one in WORKLOADS if one.name == "chat-16"], rounds)
    assert "over tollway@0123456789ab's" in text
    assert _row(text, "chat-16", "requests/s")[2] == "0.800"
    assert _row(text, "chat-16", "CPU/request")[2] == "1.00"


def test_unknown_commit_is_reported_in_one_line() -> None:
    with pytest.raises(InstallError, match="Needed a single revision"):
        commit_of("no-such-commit")


def test_every_contender_listens_on_loopback_and_asks_only_the_upstream(tmp_path: Path) -> None:
    for contender in CONTENDERS:
        work = tmp_path / contender.name
        work.mkdir()
        launch = contender.launch(Site(home=tmp_path / "home", work=work, port=20_001, upstream_port=20_005))
        told = " ".join([*launch.argv, *launch.headers.values(), *(path.read_text() for path in work.iterdir())])
        assert "127.0.0.1:20005" in told, contender.name
        assert "0.0.0.0" not in told, contender.name
