"""What the way out of a replica costs, in one run: ``python -m loadtests.workers``, from the repository's root.

One engine that makes tokens as fast as they are taken stands behind each way: a bare server; Ray Serve with Tollway's
own port in the replica, without and with the gateway; Serve's proxy; its proxy and a handle; Ray's direct ingress; its
HAProxy. All that serves is pinned to one core, the client has another. Within a round each group of ways has a Ray of
its own, which idles on that core whichever way is measured, and each is measured beside the bare server: ratios are
formed between neighbours. The bare server is measured once more with all the others frozen; the difference is what Ray
costs while it idles.
"""

import argparse
import datetime as dt
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from loadtests.bench.command import begin, repeat
from loadtests.bench.figures import Measure, measure_of
from loadtests.bench.install import REPOSITORY
from loadtests.bench.process import Process, StartError, core_busy_s, wait_until
from loadtests.bench.run import free_port
from loadtests.workers.servers import MODEL
from loadtests.workers.table import ALONE, BARE, Rounds, markdown, others

_TOKENS = 200
_START_LIMIT_S = 120.0
_CLIENT_LIMIT_S = 300.0
_KEY = "sk-bench-0123456789abcdef"
_CHAT = "/v1/chat/completions"
_GATEWAY = "direct, with the gateway"

GROUPS: Mapping[str, tuple[Sequence[str], Mapping[str, str]]] = {
    "own": (["direct", _GATEWAY, "Serve's proxy", "proxy and handle"], {}),
    "ingress": (["direct ingress"], {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "1"}),
    "haproxy": (["HAProxy"], {"RAY_SERVE_ENABLE_HA_PROXY": "1"}),
    "port": (["direct"], {}),
}
"""Groups of ways, each with the variables of its Ray; ``port`` is a part of ``own``, to be measured often."""

_PLACE = "<!-- the table of a run: python -m loadtests.workers --markdown -->\n"


@dataclass(frozen=True)
class _Way:
    """One way to the engine: where it is asked, which programs do the work, and which are frozen meanwhile."""

    name: str
    port: int
    path: str
    programs: Sequence[Process]
    headers: str = ""
    frozen: Sequence[Process] = ()


@dataclass
class _Run:
    wire: Path
    seconds: float
    turns: int
    streams: Sequence[int]
    server_core: int
    client_core: int
    rounds: Rounds = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    """Groups that did not start, each with the reason."""

    def round(self, groups: Sequence[str]) -> None:
        """Start every group once and measure its ways and the bare server in turns, for each number of streams."""
        turns: Rounds = [{} for _ in range(self.turns)]
        first = len(self.rounds) // self.turns % len(groups)
        self.rounds += turns  # what an interrupted round has measured counts too
        for group in [*groups[first:], *groups[:first]]:
            # A short path: Ray's sockets are below it.
            with tempfile.TemporaryDirectory(prefix="tw-", dir="/tmp") as name, ExitStack() as scope:
                try:
                    ways = self._start(group, Path(name), scope)
                except StartError as error:
                    self.problems[group] = str(error)
                    continue
                beside = list({id(program): program for way in ways for program in way.programs}.values())
                for number, measures in enumerate(turns, len(self.rounds)):
                    for place, streams in enumerate(self.streams):
                        shift = (number + place) % len(ways)
                        for way in [*ways[shift:], *ways[:shift]]:
                            measures[group, streams, way.name] = self._measure(way, streams, beside)

    def _start(self, group: str, work: Path, scope: ExitStack) -> list[_Way]:
        names, variables = GROUPS[group]
        env = {**os.environ, **variables, "PYTHONPATH": str(REPOSITORY), "BENCH_KEY": _KEY}

        def run(log: str, *argv: str) -> Process:
            return scope.enter_context(
                Process([*argv], core=self.server_core, log=work / f"{log}.log", env=env, cwd=REPOSITORY)
            )

        servers = (sys.executable, "-m", "loadtests.workers.servers")
        port = free_port()
        bare = _Way(BARE, port, _CHAT, [run("bare", *servers, "bare", str(port))])
        wait_until(partial(_answers, bare), bare.programs[0], _START_LIMIT_S)
        (work / "ray").mkdir()
        cluster = free_port()
        ray = run("ray", *servers, "cluster", str(cluster), str(work / "ray"))
        ready = work / "ray" / "ready.json"
        wait_until(lambda: None if ready.exists() else "Ray Serve is not ready", ray, _START_LIMIT_S)
        ways = [_Way(name, port, path, [ray]) for name, (port, path) in json.loads(ready.read_text()).items()]
        others = [ray]
        if _GATEWAY in names:
            port = free_port()
            config = work / "tollway.yaml"
            config.write_text(json.dumps(_configuration(port, cluster, work)))  # YAML 1.2 takes JSON
            tollway = str(Path(sys.executable).with_name("tollway"))
            gateway = run("gateway", tollway, "serve", "--config", str(config))
            others.append(gateway)
            ways.append(_Way(_GATEWAY, port, _CHAT, others, f"authorization: Bearer {_KEY}\n"))
        for way in ways:
            wait_until(partial(_answers, way), way.programs[-1], _START_LIMIT_S)
        alone = replace(bare, name=ALONE, frozen=others)
        return [bare, *(way for name in names for way in ways if way.name == name), alone]

    def _measure(self, way: _Way, streams: int, beside: Sequence[Process]) -> Measure:
        print(f"round {len(self.rounds)}: {streams}: {way.name}", file=sys.stderr, flush=True)
        argv = [str(self.wire), "client", "-port", str(way.port), "-path", way.path, "-headers", way.headers]
        # The engine's chunks have this once for each token, and the others of an answer do not.
        argv += ["-model", MODEL, "-mark", '"delta":{"content"', "-tokens", str(_TOKENS), "-stream"]
        argv += ["-connections", str(streams), "-seconds", f"{self.seconds:g}", "-warmup", "0.5"]
        # Some ways take a minute for the streams of a few seconds.
        argv += ["-limit", "150"]
        command = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(self.client_core), *argv]
        with (
            _without(way.frozen),
            subprocess.Popen(  # noqa: S603 - every command is a list of ours
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            ) as client,
        ):
            try:
                assert client.stdout is not None
                client.stdout.readline()  # "ready": all connections are open and warm
                before = self._clocks(way, beside)
                output, _ = client.communicate("go\n", timeout=_CLIENT_LIMIT_S)
                wall_s, own_s, others_s = (
                    now - then for now, then in zip(self._clocks(way, beside), before, strict=True)
                )
            except BaseException:
                client.kill()
                raise
        others_share = max(0.0, others_s) / wall_s
        return measure_of(json.loads(output), cpu_s=own_s, others_share=others_share, peak_growth_bytes=0)

    def _clocks(self, way: _Way, beside: Sequence[Process]) -> tuple[float, float, float]:
        """Return wall time, CPU time of the way's programs, and what programs that are not ours had of the core."""
        core_s = core_busy_s(self.server_core)
        return (
            time.monotonic(),
            sum(program.cpu_s() for program in way.programs),
            core_s - sum(program.cpu_s() for program in beside),
        )


@contextmanager
def _without(programs: Sequence[Process]) -> Iterator[None]:
    for program in programs:
        program.pause()
    try:
        yield
    finally:
        for program in programs:
            program.resume()


def _configuration(port: int, cluster: int, work: Path) -> dict[str, object]:
    """Return a gateway's configuration with a key, its limits, a route with a ceiling, a price, and the cluster."""
    # Limits that are counted but never reached: what is measured is the counting.
    key = {"name": "bench", "secret": "env:BENCH_KEY", "requests_per_minute": 600_000, "concurrency": 100_000}
    model = {"provider": "cluster", "upstream": MODEL, "context": 131072, "price": {"input": 1, "output": 4}}
    return {
        "server": {"host": "127.0.0.1", "port": port},
        "providers": {"cluster": {"type": "ray-serve", "base_url": f"http://127.0.0.1:{cluster}"}},
        "models": {"ours": model},
        "routes": {MODEL: {"models": ["ours"], "objective": "cost", "limits": {"ttft_ms": {"p95": 1500}}}},
        "state_dir": str(work / "state"),
        "keys": [key],
    }


def _answers(way: _Way) -> str | None:
    """Return why one short chat is not answered rightly, or None."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4})
    headers = {"content-type": "application/json"} | dict(line.split(": ") for line in way.headers.splitlines())
    connection = http.client.HTTPConnection("127.0.0.1", way.port, timeout=10)
    try:
        connection.request("POST", way.path, body, headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return None if response.status == 200 and "The toll is paid" in text else f"{response.status} {text[:200]}"


def main() -> int:
    """Run it and print the table; return 0 when every way was measured without an error, 130 when interrupted."""
    arguments = _parser().parse_args()
    _, wire = begin()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("two cores are needed: one for the servers, one for the client", file=sys.stderr)
        return 1
    run = _Run(wire, arguments.seconds, arguments.turns, arguments.streams, cores[0], cores[1])
    interrupted = repeat(arguments.rounds, partial(run.round, arguments.groups))
    head = (
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {len(run.rounds)} turn(s) in rounds of {arguments.turns}, "
        f"{arguments.seconds:g} s a point, {_TOKENS} tokens a stream, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}; programs of others took {others(run.rounds)} of the servers' core"
    )
    ways = [(group, name) for group, (names, _) in GROUPS.items() for name in (BARE, *names, ALONE)]
    page = f"{head}\n\n{markdown(run.rounds, ways, run.problems)}\n"
    if (path := arguments.markdown) is not None:
        before = path.read_text().partition(_PLACE)[0] if path.exists() else ""
        path.write_text(f"{before}{_PLACE}\n{page}")
    print(page, end="")
    errors = any(measure.errors for measures in run.rounds for measure in measures.values())
    return 130 if interrupted else int(bool(errors or run.problems))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.workers", description="Measure the ways from an engine in Ray Serve to its caller."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=1, help="how often each round measures; default 1")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each point")
    parser.add_argument("--streams", type=_numbers, default=[1, 16, 64], help="with commas between; default 1,16,64")
    parser.add_argument(
        "--groups",
        type=_groups,
        default=["own", "ingress", "haproxy"],
        help="some of these and port; default %(default)s",
    )
    parser.add_argument(
        "--markdown", type=Path, help="put the table at the end of this file, in place of the last one's"
    )
    return parser


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _groups(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(GROUPS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
