"""``loadtests/locustfile.py``: once run whole by the real locust, else what of it needs an environment of locust's."""

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
    return "--users", str(count), "--spawn-rate", str(count), "--run-time", f"{seconds}s", "--stop-timeout", "60"


async def test_mixed_traffic_shows_ttft_tpot_goodput_and_what_the_ledger_says_it_cost(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The one run of locust: its command line and files, with users who come and go by a shape that ends it."""
    upstream.model.ttft_s, upstream.model.tpot_s = 0.1, 0.02
    ceilings = ("--slo-ttft-ms", "60000", "--slo-tpot-ms", "60000")  # for a machine that stands still in a stream
    async with running_gateway(one_model(upstream.url), tmp_path) as gateway:
        options = ("--shape", "spike", "--stream-share", "0.25", "--min-goodput", "1", "MixedUser")
        run = await _locust(gateway.url, tmp_path, *_users(10, 5), *ceilings, *options)
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
    updates = [line.partition("updating to ")[2] for line in run.said.splitlines() if "Shape test updating" in line]
    assert [int(update.split()[0]) for update in updates] == [1, 10, 1]


# Each of these begins where a run of locust has begun: its environment, the options, and users that it would start.
_BEGUN = """
import sys
from argparse import Namespace
import gevent
from locust.env import Environment
from load.run import report
from load.users import ChatUser, MixedUser, ReplayUser, StreamUser

CEILINGS = {"slo_ttft_ms": 2000.0, "slo_tpot_ms": 200.0}
BOUNDS = {"min_goodput": None, "max_failures": None, "csv_prefix": None, "summary_csv": None}

def begin(user, **options):
    given = {"model": "auto", "api_key": "", "prompt": "hello", "prompt_tokens": 0, "max_tokens": 5} | CEILINGS | BOUNDS
    environment = Environment(user_classes=[user], parsed_options=Namespace(**given | options))
    user.host = sys.argv[1]
    environment.create_local_runner()
    return environment

def counts(environment, name, kind):
    entry = environment.stats.entries[name, kind]
    return entry.num_requests, entry.num_failures
"""


async def _begun(script: str, *arguments: str | Path) -> None:
    code, said = await _output(sys.executable, "-c", _BEGUN + script, *arguments, cwd=ROOT / "loadtests")
    assert code == 0, said


_BELOW_A_BOUND = """
environment = begin(StreamUser, slo_ttft_ms=0.0, min_goodput=0.9)
StreamUser(environment).stream()
report(environment)
assert counts(environment, "stream auto", "POST") == (1, 0)
assert counts(environment, "stream auto, TTFT<=0 TPOT<=200 ms", "GOODPUT") == (1, 1)
assert environment.process_exit_code == 1
"""


async def test_goodput_below_its_bound_ends_with_exit_code_1(upstream: ScriptedUpstream) -> None:
    await _begun(_BELOW_A_BOUND, upstream.url)


_WITHIN_A_BOUND = """
environment = begin(ChatUser, max_failures=1.0)
ChatUser(environment).chat()
for name, kind in (("chat auto", "POST"), ("chat auto, TTFT<=2000 TPOT<=200 ms", "GOODPUT")):
    assert counts(environment, name, kind) == (1, 1)
[error] = environment.stats.errors.values()
assert "400: not like this" in str(error.error), error.error
environment.process_exit_code = 1  # as locust itself has it when a request has failed
report(environment)
assert environment.process_exit_code == 0
"""


async def test_failures_within_their_bound_end_with_exit_code_0(upstream: ScriptedUpstream) -> None:
    upstream.on_path("/v1/chat/completions", error_answer(400, "not like this"))
    await _begun(_WITHIN_A_BOUND, upstream.url)


_WITHOUT_A_GATEWAY = """
environment = begin(
    MixedUser, model="scripted", api_key="s3cret", prompt_tokens=40, max_tokens=3, stream_share=0.5,
    summary_csv=sys.argv[2], shape="constant", num_users=1,
)
user = MixedUser(environment)
user.mixed()
user.mixed()
report(environment)
assert {kind for _, kind in environment.stats.entries} == {"POST", "TTFT", "TPOT", "GOODPUT"}
assert environment.process_exit_code is None
"""


async def test_a_server_without_the_gateway_has_every_figure_but_the_cost(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    await _begun(_WITHOUT_A_GATEWAY, upstream.url, tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(encoding="utf-8") as file:
        assert [row["cost_usd"] for row in csv.DictReader(file)] == ["", ""]
    assert [bool(seen.json.get("stream")) for seen in upstream.seen] == [False, True]
    for seen in upstream.seen:
        assert seen.headers["authorization"] == "Bearer s3cret"
        assert (seen.model, seen.json["max_tokens"]) == ("scripted", 3)
        assert len(seen.json["messages"][0]["content"].split()) == 36


_SENT_LATE = """
import time
environment = begin(StreamUser)
StreamUser(environment).send("hello", 5, stream=True, due_s=time.perf_counter() - 60)
for kind in ("POST", "TTFT"):
    assert environment.stats.entries["stream auto", kind].min_response_time >= 60_000, kind
assert counts(environment, "stream auto, TTFT<=2000 TPOT<=200 ms", "GOODPUT") == (1, 1)
"""


async def test_latency_counts_from_when_a_request_was_due(upstream: ScriptedUpstream) -> None:
    """A generator or a server that falls behind shows it, however fast the late requests are then answered."""
    await _begun(_SENT_LATE, upstream.url)


_REPLAYED = """
from locust.exception import StopUser
environment = begin(ReplayUser, trace=sys.argv[2], replay_skip=0.0, replay_speed=1000.0, run_time=None)
user = ReplayUser(environment)
user.on_start()
try:
    user.replay()
except StopUser:
    pass
"""
_ANSWERED = """
assert counts(environment, "stream auto", "POST") == counts(environment, "stream auto", "LATE") == (4, 0)
"""
_GIVEN_UP = """
stream_of = environment.stats.entries
user = ReplayUser(environment)
user.on_start()
replaying = gevent.spawn(user.replay)
while ("stream auto", "LATE") not in stream_of or stream_of["stream auto", "LATE"].num_requests < 4:
    gevent.sleep(0)
user.on_stop()
replaying.join()
for name, kind in (("stream auto", "POST"), ("stream auto, TTFT<=2000 TPOT<=200 ms", "GOODPUT")):
    assert counts(environment, name, kind) == (4, 4)
[error] = environment.stats.errors.values()
assert "not answered when the run ended" in str(error.error), error.error
"""


def _trace(path: Path) -> Path:
    rows = ((0.0, 100, 2), (0.8, 20, 3), (0.8, 6, 1), (4.0, 50, 4))
    lines = [f"2023-11-16 18:15:{40 + at_s:.7f},{prompt},{output}" for at_s, prompt, output in rows]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]), encoding="utf-8")
    return path


async def test_replayed_requests_have_the_sizes_of_the_trace(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """When each is due is decided by ``schedule.follow``, whose own tests have the clock in hand."""
    await _begun(_REPLAYED + _ANSWERED, upstream.url, _trace(tmp_path / "trace.csv"))
    # Two that are due at once may arrive in either order; the others are due 1 and 3 ms apart.
    sizes = [(len(seen.json["messages"][0]["content"].split()), seen.json["max_tokens"]) for seen in upstream.seen]
    assert sorted(sizes) == [(2, 1), (16, 3), (46, 4), (96, 2)]


async def test_replayed_request_without_an_answer_at_the_end_has_failed(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    def silence(_seen: Seen) -> Answer:
        return Answer(chunks=(Chunk(b"", delay_s=3600),))

    upstream.on_path("/v1/chat/completions", silence)
    begun = _REPLAYED.partition("user = ")[0]
    await _begun(begun + _GIVEN_UP, upstream.url, _trace(tmp_path / "trace.csv"))


async def test_make_load_says_what_is_missing_when_nothing_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and not listening: refused, and no other process gets the port
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        code, said = await _output(
            "make", "--no-print-directory", "load", f"PYTHON={sys.executable}", f"LOAD_URL={url}", cwd=ROOT
        )
    assert code != 0
    assert said.splitlines()[0] == f"tollway: nothing listens at {url}; run `make up` first, in another terminal."
