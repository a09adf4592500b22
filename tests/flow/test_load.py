"""``loadtests/locustfile.py``, run by the real locust against a gateway and against a bare model server."""

import asyncio
import csv
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ground.configs import one_model
from tests.ground.gateway import running_gateway
from tests.ground.script import Answer, Chunk, Seen, error_answer
from tests.ground.upstream import ScriptedUpstream

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOCUSTFILE = ROOT / "loadtests" / "locustfile.py"
PATIENCE_S = 40.0


@dataclass
class Run:
    """What a run of locust left behind."""

    code: int
    said: str
    rows: dict[tuple[str, str], dict[str, str]]
    """(type, name) -> that row of locust's own CSV."""
    summary: dict[str, dict[str, str]]
    """Name -> that row of ours."""
    html: str

    def count(self, kind: str, name: str) -> int:
        return int(self.rows[kind, name]["Request Count"])

    def total(self, kind: str, name: str) -> int:
        return round(float(self.rows[kind, name]["Average Response Time"]) * self.count(kind, name))


async def _output(*command: str | Path, cwd: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def _locust(url: str, path: Path, *arguments: str | Path) -> Run:
    """Run from another folder than the repository's, as a user may."""
    csvs = ("--csv", path / "load", "--html", path / "report.html", "--summary-csv", path / "summary.csv")
    command = (sys.executable, "-m", "locust", "-f", LOCUSTFILE, "--headless", "--only-summary", "--host", url)
    code, said = await _output(*command, *csvs, *arguments, cwd=path)
    with (path / "load_stats.csv").open(encoding="utf-8") as file:
        rows = {(row["Type"], row["Name"]): row for row in csv.DictReader(file)}
    with (path / "summary.csv").open(encoding="utf-8") as file:
        summary = {row["name"]: row for row in csv.DictReader(file)}
    return Run(code, said, rows, summary, (path / "report.html").read_text(encoding="utf-8"))


def _users(count: int, seconds: int) -> tuple[str, ...]:
    return "--users", str(count), "--spawn-rate", str(count), "--run-time", f"{seconds}s", "--stop-timeout", "20"


async def test_mixed_traffic_shows_ttft_tpot_goodput_and_what_the_ledger_says_it_cost(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.model.ttft_s, upstream.model.tpot_s = 0.1, 0.02
    ceilings = ("--slo-ttft-ms", "60000", "--slo-tpot-ms", "60000")  # for a machine that stands still in a stream
    async with running_gateway(one_model(upstream.url), tmp_path) as gateway:
        run = await _locust(
            gateway.url, tmp_path, *_users(4, 2), *ceilings, "--stream-share", "0.25", "--min-goodput", "1", "MixedUser"
        )
        ledger = await gateway.totals()
    assert run.code == 0, run.said
    chats, streams = run.count("POST", "chat auto"), run.count("POST", "stream auto")
    asked = len(upstream.seen)
    assert chats + streams == asked == sum(total.attempts for total in ledger)
    assert streams == sum(bool(seen.json.get("stream")) for seen in upstream.seen) == asked // 4
    for name, count in (("chat auto", chats), ("stream auto", streams)):
        assert run.count("GOODPUT", f"{name}, TTFT<=60000 TPOT<=60000 ms") == count
        assert run.count("COST", f"{name}, nano-USD") == count
    assert run.count("TTFT", "stream auto") == run.count("TPOT", "stream auto") == streams
    assert ("TTFT", "chat auto") not in run.rows
    assert float(run.rows["TTFT", "stream auto"]["Min Response Time"]) >= 100
    # Less than the model's 20 ms where the first token was taken late: nothing else shortens what is between them.
    assert float(run.rows["TPOT", "stream auto"]["Average Response Time"]) >= 10
    # Locust's own sum is of requests alone.
    assert run.count("", "Aggregated") == asked
    spent = sum(total.cost_nano_usd for total in ledger)
    assert spent > 0
    assert sum(run.total("COST", f"{name}, nano-USD") for name in ("chat auto", "stream auto")) == spent
    assert round(sum(float(row["cost_usd"]) for row in run.summary.values()) * 1e9) == spent
    assert "stream auto, nano-USD" in run.html
    assert "stream auto: " in run.said


async def test_goodput_below_its_bound_ends_with_exit_code_1(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.model.ttft_s = 0.1
    bounds = ("--slo-ttft-ms", "50", "--min-goodput", "0.9")
    async with running_gateway(one_model(upstream.url), tmp_path) as gateway:
        run = await _locust(gateway.url, tmp_path, *_users(1, 3), *bounds)
    assert run.code == 1, run.said
    goodput = run.rows["GOODPUT", "stream auto, TTFT<=50 TPOT<=200 ms"]
    assert goodput["Failure Count"] == goodput["Request Count"] == run.rows["POST", "stream auto"]["Request Count"]
    assert run.rows["POST", "stream auto"]["Failure Count"] == "0"
    assert "goodput 0.0% is less than --min-goodput 90.0%" in run.said


async def test_failures_within_their_bound_end_with_exit_code_0(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.on_path("/v1/chat/completions", error_answer(400, "not like this"))
    run = await _locust(upstream.url, tmp_path, *_users(1, 3), "--max-failures", "1", "ChatUser")
    assert run.code == 0, run.said
    for kind, name in (("POST", "chat auto"), ("GOODPUT", "chat auto, TTFT<=2000 TPOT<=200 ms")):
        assert run.rows[kind, name]["Failure Count"] == run.rows[kind, name]["Request Count"] != "0"
    assert "400: not like this" in run.said


async def test_a_server_without_the_gateway_has_every_figure_but_the_cost(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    options = ("--model", "scripted", "--api-key", "s3cret", "--prompt-tokens", "40", "--max-tokens", "3")
    run = await _locust(upstream.url, tmp_path, *_users(2, 3), *options, "MixedUser")
    assert run.code == 0, run.said
    kinds = {kind for kind, _ in run.rows}
    assert kinds == {"POST", "TTFT", "TPOT", "GOODPUT", ""}
    assert {row["cost_usd"] for row in run.summary.values()} == {""}
    for seen in upstream.seen:
        assert seen.headers["authorization"] == "Bearer s3cret"
        assert (seen.model, seen.json["max_tokens"]) == ("scripted", 3)
        assert len(seen.json["messages"][0]["content"].split()) == 36


async def test_a_shape_moves_the_users_and_ends_the_run(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.model.ttft_s = 0.05
    run = await _locust(upstream.url, tmp_path, *_users(10, 10), "--shape", "spike")
    assert run.code == 0, run.said
    updates = [line.partition("updating to ")[2] for line in run.said.splitlines() if "Shape test updating" in line]
    assert [int(update.split()[0]) for update in updates] == [1, 10, 1]


def _trace(path: Path, *rows: tuple[float, int, int]) -> Path:
    lines = [f"2023-11-16 18:15:{40 + at_s:.7f},{prompt},{output}" for at_s, prompt, output in rows]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]), encoding="utf-8")
    return path


async def test_a_replay_sends_when_a_request_is_due_whether_or_not_the_others_are_answered(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    rows = ((0.0, 100, 2), (0.8, 20, 3), (0.8, 6, 1), (4.0, 50, 4))
    trace = _trace(tmp_path / "trace.csv", *rows)
    upstream.model.ttft_s = 6.0  # nothing is answered before all has been sent
    options = ("--trace", trace, "--replay-skip", "0", "--replay-speed", "2")
    async with running_gateway(one_model(upstream.url), tmp_path) as gateway:
        run = await _locust(gateway.url, tmp_path, "--users", "1", *options, "ReplayUser")
    assert run.code == 0, run.said
    # Two that are due at once may arrive in either order.
    sizes = [(len(seen.json["messages"][0]["content"].split()), seen.json["max_tokens"]) for seen in upstream.seen]
    assert sizes[0] == (96, 2)
    assert sorted(sizes[1:3]) == [(2, 1), (16, 3)]
    assert sizes[3] == (46, 4)
    # The last is due two seconds after the first: not with it, and before the first is answered.
    assert 0.3 < upstream.seen[3].received_at_s - upstream.seen[0].received_at_s < 6.0
    assert float(run.rows["TTFT", "stream auto"]["Min Response Time"]) >= 6000
    assert run.count("LATE", "stream auto") == run.count("POST", "stream auto") == 4


async def test_replayed_request_without_an_answer_at_the_end_has_failed(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    def silence(_seen: Seen) -> Answer:
        return Answer(chunks=(Chunk(b"", delay_s=PATIENCE_S),))

    upstream.on_path("/v1/chat/completions", silence)
    trace = _trace(tmp_path / "trace.csv", (0.0, 10, 2), (0.2, 10, 2), (19.0, 10, 2))
    options = ("--trace", trace, "--replay-skip", "0", "--run-time", "6s")
    run = await _locust(upstream.url, tmp_path, "--users", "1", *options, "ReplayUser")
    assert run.code == 1, run.said
    # A request is late or in time when it is sent, whether or not the upstream has it by the end of the run.
    sent = run.count("LATE", "stream auto")
    assert sent == 2
    for kind, name in (("POST", "stream auto"), ("GOODPUT", "stream auto, TTFT<=2000 TPOT<=200 ms")):
        assert run.count(kind, name) == int(run.rows[kind, name]["Failure Count"]) == sent
    assert "not answered when the run ended" in run.said


_SENT_LATE = """
import sys, time
from argparse import Namespace
from locust.env import Environment
from load.users import StreamUser

options = Namespace(model="m", api_key="", slo_ttft_ms=2000.0, slo_tpot_ms=200.0)
environment = Environment(user_classes=[StreamUser], parsed_options=options)
StreamUser.host = sys.argv[1]
environment.create_local_runner()
StreamUser(environment).send("hello", 5, stream=True, due_s=time.perf_counter() - 60)
for key in (("stream m", "POST"), ("stream m", "TTFT")):
    assert environment.stats.entries[key].min_response_time >= 60_000, key
goodput = environment.stats.entries["stream m, TTFT<=2000 TPOT<=200 ms", "GOODPUT"]
assert (goodput.num_requests, goodput.num_failures) == (1, 1)
"""


async def test_latency_counts_from_when_a_request_was_due(upstream: ScriptedUpstream) -> None:
    """A generator or a server that falls behind shows it, however fast the late requests are then answered."""
    code, said = await _output(sys.executable, "-c", _SENT_LATE, upstream.url, cwd=ROOT / "loadtests")
    assert code == 0, said


async def test_make_load_says_what_is_missing_when_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    code, said = await _output(
        "make", "--no-print-directory", "load", f"PYTHON={sys.executable}", f"LOAD_URL={url}", cwd=ROOT
    )
    assert code != 0
    assert said.splitlines()[0] == f"tollway: nothing listens at {url}; run `make up` first, in another terminal."
