"""One run: rounds of every workload for every contender, each alone on its core.

The contender has one core, the client and the upstream share another. Within a round all contenders are started once
and frozen (SIGSTOP) while another is measured; the order turns by one from round to round, so that nobody always comes
after the same one. Whatever is started here is ended here, also when the run is interrupted.
"""

import http.client
import json
import math
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.contenders import Contender, Launch, Site, environment
from loadtests.bench.figures import DIRECT, Measure, measure_of
from loadtests.bench.install import Installed, InstallError
from loadtests.bench.process import Process, StartError, core_busy_s, wait_until
from loadtests.bench.workloads import Workload

_START_LIMIT_S = 120.0
_CLIENT_LIMIT_S = 300.0


@dataclass
class Entry:
    """A contender of this run: what became of it, over all rounds."""

    name: str
    contender: Contender | None
    """None: the upstream itself, asked directly."""
    home: Path
    installed: Installed | None = None
    start_s: list[float] = field(default_factory=list)
    peak_rss_bytes: list[int] = field(default_factory=list)
    problem: str | None = None
    """Why it was left out, in one line."""


@dataclass(frozen=True)
class _Running:
    entry: Entry
    port: int
    launch: Launch
    process: Process | None


class Bench:
    """A run's settings and its results so far."""

    def __init__(self, *, wire: Path, entries: Sequence[Entry], workloads: Sequence[Workload], seconds: float) -> None:
        """Take the entries in order; ``seconds`` is how long each point sends new requests."""
        self.entries = entries
        self.workloads = workloads
        self.rounds: list[dict[tuple[str, str], Measure]] = []
        self._wire = wire
        self._seconds = seconds
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise RuntimeError("the bench needs two cores: one for the contender, one for the client and the upstream")
        self._contender_core, self._load_core = cores[0], cores[1]

    def round(self) -> None:
        """Measure every workload once with every contender that can be started."""
        measures: dict[tuple[str, str], Measure] = {}
        turn = len(self.rounds) % len(self.entries)
        self.rounds.append(measures)  # what an interrupted round has measured counts too
        with ExitStack() as scope:
            work = Path(scope.enter_context(tempfile.TemporaryDirectory(prefix="tollway-bench-")))
            upstream_port = free_port()
            upstream = scope.enter_context(self._start_upstream(upstream_port, work))
            wait_until(lambda: _refuses(upstream_port), upstream, _START_LIMIT_S)
            running = []
            for entry in [*self.entries[turn:], *self.entries[:turn]]:
                one = self._start(entry, work, upstream_port, scope)
                if one is not None:
                    running.append(one)
            for workload in self.workloads:
                pace_us, delay_us = round(workload.pace_ms * 1000), round(workload.delay_ms * 1000)
                _get(upstream_port, f"/pace?us={pace_us}&delay_us={delay_us}")
                for one in running:
                    measure = self._measure(one, workload)
                    if measure is not None:
                        measures[workload.name, one.entry.name] = measure
            for one in running:
                if one.process is not None:
                    one.entry.peak_rss_bytes.append(one.process.peak_rss_bytes())

    def _start_upstream(self, port: int, work: Path) -> Process:
        return Process(
            [str(self._wire), "upstream", "-port", str(port)],
            core=self._load_core,
            log=work / "upstream.log",
            env=os.environ,
            cwd=work,
        )

    def _start(self, entry: Entry, work: Path, upstream_port: int, scope: ExitStack) -> _Running | None:
        """Start a contender, wait for its first right answer, and freeze it. None: it is left out from now on."""
        if entry.contender is None:
            return _Running(entry, upstream_port, Launch([]), None)
        if entry.problem is not None:
            return None
        own = work / entry.name.replace(" ", "-")
        own.mkdir()
        site = Site(home=entry.home, work=own, port=free_port(), upstream_port=upstream_port)
        launch = entry.contender.launch(site)
        process = Process(
            launch.argv, core=self._contender_core, log=own / "output.log", env=environment(launch), cwd=own
        )
        scope.enter_context(process)
        try:
            entry.start_s.append(wait_until(lambda: _answers(site.port, launch), process, _START_LIMIT_S))
        except StartError as error:
            entry.problem = f"did not start: {error}"
            process.stop()
            return None
        process.pause()
        return _Running(entry, site.port, launch, process)

    def _measure(self, one: _Running, workload: Workload) -> Measure | None:
        """Run the client once against one contender. None: it does not do this kind of work."""
        way = workload.asks, workload.speaks
        # The upstream itself gives the same stream in the caller's dialect, for the others to be compared with.
        model = one.launch.model if one.process is None or way == ("chat", "chat") else one.launch.models.get(way)
        if model is None:
            return None
        print(f"round {len(self.rounds)}: {workload.name}: {one.entry.name}", file=sys.stderr, flush=True)
        with _awake(one.process):
            if one.process is not None:
                one.process.begin_peak()
            argv = [str(self._wire), "client", "-port", str(one.port), "-model", model]
            argv += ["-headers", "".join(f"{name}: {value}\n" for name, value in one.launch.headers.items())]
            argv += workload.client_arguments(self._seconds)
            return self._run_client(argv, one.process)

    def _run_client(self, argv: list[str], contender: Process | None) -> Measure:
        command = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(self._load_core), *argv]
        with subprocess.Popen(  # noqa: S603 - every command is a list of ours
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as client:
            try:
                assert client.stdout is not None
                client.stdout.readline()  # "ready": all connections are open and warm
                clock = _Clock(contender, self._contender_core)
                output, _ = client.communicate("go\n", timeout=_CLIENT_LIMIT_S)
                clock.stop()
            except BaseException:
                client.kill()
                raise
        growth = math.nan if contender is None else contender.peak_growth_bytes()
        return measure_of(
            json.loads(output), cpu_s=clock.own_s, others_share=clock.others_share, peak_growth_bytes=growth
        )


class _Clock:
    """How the contender's core was used from now until ``stop``."""

    def __init__(self, contender: Process | None, core: int) -> None:
        self._contender = contender
        self._core = core
        self._from = self._read()

    def stop(self) -> None:
        """Note ``own_s``, the contender's CPU seconds, and ``others_share``, what others took of the core."""
        wall_s, own_s, busy_s = (now - then for now, then in zip(self._read(), self._from, strict=True))
        self.own_s = own_s
        self.others_share = max(0.0, busy_s - own_s) / wall_s

    def _read(self) -> tuple[float, float, float]:
        own_s = self._contender.cpu_s() if self._contender else 0.0
        return time.monotonic(), own_s, core_busy_s(self._core)


@contextmanager
def _awake(process: Process | None) -> Iterator[None]:
    """Let a frozen contender run for a while."""
    if process is None:
        yield
        return
    process.resume()
    try:
        yield
    finally:
        process.pause()


def install(entry: Entry) -> None:
    """Make a contender ready, or note why it cannot be."""
    if entry.contender is None:
        return
    try:
        entry.installed = entry.contender.install(entry.home)
    except (InstallError, OSError) as error:
        entry.problem = f"not installed: {error}"


def entries_of(contenders: Sequence[Contender], cache: Path, *, direct: bool) -> list[Entry]:
    """Give each contender its place in the cache; ``direct`` puts the bare upstream first."""
    entries = [Entry(DIRECT, None, cache)] if direct else []
    return entries + [Entry(one.name, one, cache / one.name.replace(" ", "-")) for one in contenders]


def free_port() -> int:
    """Return a port that is free, and whose next one is too, below the range that outgoing connections take."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - decides no security
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
        return port


def _refuses(port: int) -> str | None:
    """Return why a GET is not answered, or None."""
    try:
        _get(port, "/health")
    except OSError as error:
        return str(error)
    return None


def _get(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    connection.getresponse().read()
    connection.close()


def _answers(port: int, launch: Launch) -> str | None:
    """Return why one short chat is not answered rightly, or None."""
    body = json.dumps({"model": launch.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4})
    headers: Mapping[str, str] = {"content-type": "application/json", **launch.headers}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/chat/completions", body, dict(headers))
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return None if response.status == 200 and text.count("~") == 4 else f"{response.status} {text[:200]}"
