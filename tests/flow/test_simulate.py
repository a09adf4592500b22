"""``tollway simulate``: the whole gateway in front of modelled targets, without a request sent."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from gateway.app import configuration, read_snapshot
from gateway.cli import main
from gateway.config.load import load
from gateway.simulation.memory_ledger import MemoryLedger
from gateway.simulation.run import simulate, under_key
from gateway.simulation.trace import read_trace
from tests.ground.gateway import write_config

EXACT = {"ttft_ms": 1000, "ttft_spread": 0, "tpot_ms": 20, "tpot_spread": 0}
FAR = {
    "providers": {
        "a": {"type": "openai-compatible", "base_url": "https://a.test/v1"},
        "b": {"type": "openai-compatible", "base_url": "https://b.test/v1"},
    },
    "models": {
        "cheap": {"provider": "a", "price": {"input": 1, "cached_input": 0.1, "output": 4}},
        "dear": {"provider": "b", "price": {"input": 2, "cached_input": 0.2, "output": 8}},
    },
    "routes": {"auto": {"models": ["cheap", "dear"], "limits": {"ttft_ms": {"p95": 8000}}}},
    "simulation": {"cheap": {"provider": EXACT}, "dear": {"provider": EXACT}},
}
OWN = {
    "providers": {"ray": {"type": "ray-serve", "base_url": "http://127.0.0.1:9"}},
    "models": {"small": {"provider": "ray", "hardware": {"name": "gpu", "usd_per_hour": 2}}},
}
"""One model of a cluster."""


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(
    path: Path, config: Mapping[str, Any], trace: str, *, seed: int = 0, key: str | None = None, **options: Any
) -> MemoryLedger:
    """Simulate a trace: a made one, or rows."""
    if not trace.startswith("poisson:"):
        (path / "trace.jsonl").write_text(trace)
        trace = str(path / "trace.jsonl")
    file, environ = write_config(path, config), {"KEY": "k" * 32}
    snapshot, sections = read_snapshot(file, environ), load(file, environ, configuration()).simulation
    snapshot = snapshot if key is None else under_key(snapshot, key)
    route = next(iter(config.get("routes", config["models"])))
    return simulate(snapshot, sections, read_trace(trace, Random(seed), 40), route=route, seed=seed, **options)


def written(ledger: MemoryLedger) -> bytes:
    """Return all that the ledger would hold."""
    return msgspec.json.encode([ledger.entries, ledger.records])


TURNS = '{"t":0,"session":"s","in":10000,"out":101}\n{"t":60,"session":"s","in":12000,"out":101,"shared":10000}\n'


@pytest.mark.parametrize(
    ("provider", "model", "writes"),
    [
        ("openai-compatible", {}, False),
        ("openai", {}, True),
        ("openai", {"api": "responses"}, False),
        ("openai", {"api": "responses"}, True),
        ("anthropic", {}, False),
        ("anthropic", {}, True),
    ],
)
def test_cached_tokens_are_read_from_each_format_and_billed(
    tmp_path: Path, provider: str, model: dict[str, str], *, writes: bool
) -> None:
    """The second turn reads the first one's prompt from the cache, and writes the rest to it where that is billed."""
    key = {} if provider == "openai-compatible" else {"api_key": "env:KEY"}
    price = {"input": 1, "cached_input": 0.1, "output": 4} | ({"cache_write": 1.25} if writes else {})
    config = {
        "providers": {"p": {"type": provider, "base_url": "https://a.test", **key}},
        "models": {"m": {"provider": "p", "price": price, **model}},
        "simulation": {"m": {"provider": EXACT}},
    }
    first, second = run(tmp_path, config, TURNS).entries
    read = [(each.usage.input_tokens, each.usage.cache_write_tokens) for each in (first, second)]
    assert read == ([(0, 10_000), (0, 2000)] if writes else [(10_000, 0), (2000, 0)])
    assert (first.usage.cached_input_tokens, second.usage.cached_input_tokens) == (0, 10_000)
    assert {each.usage.origin for each in (first, second)} == {"provider"}
    assert second.cost_nano_usd == round(1000 * (10_000 * 0.1 + 2000 * price.get("cache_write", 1) + 101 * 4))
    assert first.ttft_ms == pytest.approx(1000 + 10 * 16)
    assert (first.tpot_ms, first.usage.output_tokens, first.outcome) == (pytest.approx(20), 101, "ok")


@pytest.mark.parametrize("config", [FAR, OWN, {**FAR, "simulation": {}}], ids=["far", "own", "defaults"])
def test_seed_replays_exactly(tmp_path: Path, config: dict[str, Any]) -> None:
    """Byte for byte; another seed gives something else."""
    one, again, other = (written(run(tmp_path, config, "poisson:5,3000,100", seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.slow
def test_seed_replays_exactly_in_another_process(tmp_path: Path) -> None:
    """Whatever Python's hashes are there, on which the order of sets depends."""
    write_config(tmp_path, {**FAR, **{name: FAR[name] | OWN[name] for name in ("providers", "models")}})
    asked = ["simulate", "--trace", "poisson:2,3000,100", "--requests", "100", "--seed", "7"]
    shown = {
        subprocess.run(
            [sys.executable, "-m", "gateway", *asked],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(shown) == 1


def test_outage_sends_calls_to_the_next_target(tmp_path: Path) -> None:
    """The breaker remembers it: not every call tries the one that is away."""
    away = {**EXACT, "episodes": [{"from_s": 0, "to_s": 3600, "status": 503}]}
    config = {**FAR, "simulation": {"cheap": {"provider": away}, "dear": {"provider": EXACT}}}
    ledger = run(tmp_path, config, "poisson:1,3000,10")
    assert [each.target_id for each in ledger.records] == ["dear"] * 40
    refused = [each for each in ledger.entries if each.status == 503]
    assert 0 < len(refused) < 40
    assert sum(each.cost_nano_usd for each in refused) == 0


def test_rate_limit_of_a_provider_spills_over(tmp_path: Path) -> None:
    """Two a minute go to the cheap one."""
    limited = {**EXACT, "requests_per_minute": 2}
    config = {**FAR, "simulation": {"cheap": {"provider": limited}, "dear": {"provider": EXACT}}}
    ledger = run(tmp_path, config, "poisson:1,3000,10")
    assert {each.outcome for each in ledger.records} == {"ok"}
    assert 2 <= sum(each.target_id == "cheap" for each in ledger.records) <= 4


def test_limits_of_a_key_hold_when_it_is_named(tmp_path: Path) -> None:
    """And no key's otherwise."""
    config = {**FAR, "keys": [{"name": "app", "secret": "env:KEY", "requests_per_minute": 3}]}
    trace = "".join(f'{{"t":{at},"in":100,"out":1}}\n' for at in range(10))
    assert {each.status for each in run(tmp_path, config, trace).records} == {200}
    under = run(tmp_path, config, trace, key="app").records
    assert sorted(each.status for each in under) == [200] * 3 + [429] * 7
    assert {each.key_id for each in under} == {"app"}


def test_first_request_starts_a_replica(tmp_path: Path) -> None:
    """It waits for it; the next one does not."""
    config = {**OWN, "simulation": {"small": {"replica": {"replicas": 0, "start_s": 30}}}}
    trace = '{"t":0,"in":1000,"out":10}\n{"t":100,"in":1000,"out":10}\n'
    first, second = run(tmp_path, config, trace).records
    assert {first.outcome, second.outcome} == {"ok"}
    assert 30_000 < (first.overhead_ms or 0) + first.duration_ms < 62_000
    assert second.duration_ms < 1000


def test_more_replicas_take_the_load_off_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What ``--replicas +1`` is asked for."""
    slow = {"small": {"replica": {"prefill_tokens_per_s": 5000}}}
    write_config(tmp_path, {**OWN, "simulation": slow})
    asked = ["simulate", "--config", str(tmp_path / "tollway.yaml"), "--trace", "poisson:1,4000,10", "--requests", "60"]
    p95_ms = []
    for more in ([], ["--replicas", "+1"]):
        assert main([*asked, *more]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("small"))
        p95_ms.append(int(line.split()[5]))
    assert p95_ms[1] < p95_ms[0] * 0.7


def test_slow_answer_is_no_silence(tmp_path: Path) -> None:
    """At 300 ms a token an answer still says something before ``idle_s`` is over, at a provider and a replica."""
    trace = '{"t":0,"in":100,"out":300}\n'
    own = {**OWN, "simulation": {"small": {"replica": {"step_ms": 300}}}}
    far = {**FAR, "simulation": {"cheap": {"provider": {**EXACT, "tpot_ms": 300}}}}
    for config in (own, far):
        (record,) = run(tmp_path, config, trace).records
        assert (record.outcome, record.tpot_ms) == ("ok", pytest.approx(300, rel=0.01))


def test_a_closed_loop_keeps_the_pauses_between_the_turns_of_a_session(tmp_path: Path) -> None:
    """At 1 s to the first token and 20 ms for each of 100 more, an answer takes 3 s here, whatever it took then."""
    write_config(tmp_path, FAR)
    rows = [
        {"t": 0, "session": "s", "in": 2000, "out": 101, "took": 10},
        {"t": 1, "in": 2000, "out": 101, "took": 1},
        {"t": 15, "session": "s", "in": 2000, "out": 101, "took": 4},
        {"t": 17, "session": "s", "in": 2000, "out": 101},
        {"t": 40, "session": "s", "in": 2000, "out": 101},
        {"t": 41, "in": 2000, "out": 101},
    ]
    trace = "".join(msgspec.json.encode(each).decode() + "\n" for each in rows)
    exact = {"provider": {**EXACT, "ttft_ms_per_1k_uncached": 0, "ttft_ms_per_1k_input": 0}}
    config = {**FAR, "simulation": {"cheap": exact, "dear": exact}}
    arrivals = {
        closed: sorted(each.received_at_ns for each in run(tmp_path, config, trace, closed_loop=closed).records)
        for closed in (False, True)
    }
    seconds = {closed: [round((at - each[0]) / 1e9, 3) for at in each] for closed, each in arrivals.items()}
    assert seconds[False] == [0, 1, 15, 17, 40, 41]
    # The pause of 5 s behind the first; 2 s after one that was still running; 23 s behind one of unknown length.
    assert seconds[True] == [0, 1, 3 + 5, 8 + 2, 10 + 23, 41]


def test_table_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exact latencies, the calls that missed the route's ceiling, cached tokens, the bill."""
    slow = {**EXACT, "ttft_ms_per_1k_uncached": 1000, "ttft_ms_per_1k_input": 0}
    routes = {"auto": {"models": ["cheap"], "limits": {"ttft_ms": {"p95": 8000}}}}
    file = write_config(tmp_path, {**FAR, "routes": routes, "simulation": {"cheap": {"provider": slow}}})
    (tmp_path / "trace.jsonl").write_text(TURNS)
    assert main(["simulate", "--config", str(file), "--trace", str(tmp_path / "trace.jsonl")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "2 requests to 'auto' within 60 s, 2 answered; seed 0"
    cost = f"{(10_000 * 1 + 10_000 * 0.1 + 2000 * 1 + 202 * 4) / 1e6:.6f}"
    line = ["2", "100.0%", cost, "3000", "11000", "20.0", "20.0", "1", "45.5%"]
    assert [each.split() for each in shown[2:]] == [
        ["cheap", *line],
        ["all", *line],
    ]


@pytest.mark.parametrize(
    ("config", "asked", "said"),
    [
        (FAR, ["--trace", "none.jsonl"], "cannot be read"),
        (FAR, ["--trace", "empty.jsonl"], "has no request"),
        (FAR, ["--trace", "bad.jsonl"], "bad.jsonl:2: is no request"),
        (FAR, ["--trace", "poisson:x"], "should be three numbers"),
        (FAR, ["--route", "atuo"], "there is no route 'atuo'"),
        (FAR, ["--key", "apq"], "there is no key 'apq'"),
        (FAR, ["--replicas", "+1"], "no model runs on replicas"),
        (FAR, ["--closed-loop"], "has no request with a `session` and with `took`"),
        (FAR, ["--config", "none.yaml"], "cannot be read"),
        ({**FAR, "routes": {}}, [], "--route is needed"),
        ({**FAR, "simulation": {"chaep": {}}}, [], "cheap"),
        ({**FAR, "simulation": {"cheap": {"replica": {}}}}, [], "is a provider's"),
        ({**OWN, "simulation": {"small": {"provider": {}}}}, [], "runs on own hardware"),
        ({**OWN, "simulation": {"small": {"replica": {"step_ms": 0}}}}, [], "step_ms"),
        ({**FAR, "simulation": {"cheap": {"provider": {"episodes": [{"from_s": 2, "to_s": 1}]}}}}, [], "to_s"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    config: dict[str, Any],
    asked: list[str],
    said: str,
) -> None:
    """On standard error, with an exit code of its own."""
    write_config(tmp_path, config)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bad.jsonl").write_text('{"t":0,"in":1,"out":1}\n{"t":0}\n')
    before = _files(tmp_path)
    assert main(["simulate", "--trace", "poisson:1,10,10", "--requests", "1", *asked]) == 1
    shown = capsys.readouterr()
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
    assert not shown.out
    assert _files(tmp_path) == before


def test_simulation_needs_no_secret_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No environment variable that the file names is set."""
    provider = {"type": "anthropic", "api_key": "env:NOT_SET", "base_url": "https://a.test"}
    model = {"provider": "a", "price": {"input": 1, "output": 1}}
    keys = [{"name": name, "secret": f"env:NOT_SET_{name}"} for name in ("one", "two")]
    write_config(tmp_path, {"providers": {"a": provider}, "models": {"m": model}, "keys": keys})
    before = _files(tmp_path)
    assert main(["simulate", "--trace", "poisson:1,100,10", "--requests", "5", "--key", "two"]) == 0
    assert "5 answered" in capsys.readouterr().out
    assert _files(tmp_path) == before


def _files(path: Path) -> dict[str, str]:
    return {str(each): hashlib.sha256(each.read_bytes()).hexdigest() for each in path.rglob("*") if each.is_file()}
