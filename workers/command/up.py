"""``tollway up``: the models of a configuration, then the gateway in front of them, on this machine until Ctrl-C.

The workers and the gateway are processes of their own; this one only watches them, says what is going on, and does not
call it ready before a completion has come back through the gateway.
"""

import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from workers.cluster.children import Child
from workers.command.leftovers import run_directory
from workers.command.run import PROGRESS, READY
from workers.command.signals import StopRequested, stop_deferred, stop_on_end_of_stdin, stop_on_signals
from workers.config.spec import load_workers
from workers.errors import WorkerError
from workers.replica.ports import LOOPBACK, free_port, require_free

# Nothing was said for this long: say that the step still runs.
_HEARTBEAT_S = 15.0
# The engine of a large model takes minutes; a start that takes longer than this will not end.
_START_S = 1800.0
_FIRST_COMPLETION_S = 120.0
_QUESTION = "What is the capital of France?"
# The last line of a Python traceback, after whatever Ray puts before it.
_ERROR_LINE = re.compile(r"(?<![\w.])[A-Z]\w*(?:Error|Exception): .+")


def up(config: Path, *, engine: str | None, port: int, workers_port: int, until_stdin_closes: bool) -> int:
    """Start everything in ``config`` with the gateway on 127.0.0.1:``port``; return 0 after Ctrl-C.

    ``engine`` replaces the engine of every worker; the workers get 127.0.0.1:``workers_port``, or some other free port,
    and the gateway is given that one. ``until_stdin_closes`` makes the end of standard input a stop as well. Raises
    ``WorkerError`` when something does not start or ends by itself; in every case no process, port or temporary file
    of the run is left.
    """
    if not load_workers(config):
        raise WorkerError(f"{config} has no `workers:` section, so there is nothing to start.")
    require_free(port)
    stop_on_signals()
    if until_stdin_closes:
        stop_on_end_of_stdin()
    try:
        with ExitStack() as stack:
            directory = stack.enter_context(run_directory())
            serve_port = free_port(workers_port, but=port)
            effective = _effective_config(config, engine, serve_port, directory)
            _Run(effective, serve_port=serve_port, port=port, directory=directory, stack=stack).go()
    except StopRequested:
        _say("stopped; nothing is left running")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


class _Run:
    """One run's processes and clock."""

    def __init__(self, config: Path, *, serve_port: int, port: int, directory: Path, stack: ExitStack) -> None:
        self._config = config
        self._serve_port = serve_port
        self._port = port
        self._directory = directory
        self._stack = stack
        self._started_at = time.monotonic()

    def go(self) -> None:
        """Start, prove, print, watch. Ends by an exception only: a stop request or a ``WorkerError``."""
        tollway = str(Path(sys.executable).with_name("tollway"))
        run = ["workers", "run", "--config", str(self._config), "--port", str(self._serve_port)]
        run += ["--temp-dir", str(self._directory)]
        serve = ["serve", "--config", str(self._config), "--host", LOOPBACK, "--port", str(self._port)]
        # Left in the reverse order: the gateway first, so that no request meets workers that go.
        workers = self._child("workers", [tollway, *run, "--until-stdin-closes"], patience_s=40)
        self._watch_start(workers)
        gateway = self._child("gateway", [tollway, *serve], patience_s=15)
        self._progress("starting the gateway")
        served_by = self._first_completion(workers, gateway)
        self._progress("a completion was served through the gateway")
        _say(_farewell(self._port, served_by))
        while True:
            _require_alive(workers, gateway)
            time.sleep(0.5)

    def _child(self, name: str, command: list[str], *, patience_s: float) -> tuple[str, Child]:
        # Unbuffered: lines of progress must arrive as they are written.
        with stop_deferred():
            child = Child(command, self._directory / f"{name}.log", {"PYTHONUNBUFFERED": "1"})
            self._stack.callback(child.sweep)
            self._stack.callback(child.stop, patience_s)
        return name, child

    def _watch_start(self, workers: tuple[str, Child]) -> None:
        last = "starting the workers"
        spoke_at = time.monotonic()
        for line in _lines(workers[1].log, self._started_at + _START_S):
            if line.startswith(PROGRESS):
                last = line.removeprefix(PROGRESS).rstrip()
                self._progress(last)
                spoke_at = time.monotonic()
                if last == READY:
                    return
            elif not line:
                _require_alive(workers)
                if time.monotonic() - spoke_at > _HEARTBEAT_S:
                    self._progress(f"still {last}")
                    spoke_at = time.monotonic()
        raise WorkerError(f"The workers were not ready after {_START_S / 60:.0f} minutes.")

    def _first_completion(self, *children: tuple[str, Child]) -> str:
        """Return the name of the model or route that answered."""
        name = _callable_name(self._config)
        question = {"model": name, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self._port}/v1/chat/completions",
            data=json.dumps(question).encode(),
            headers={"content-type": "application/json"},
        )
        # A proxy of the environment is for the way out, not for loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + _FIRST_COMPLETION_S
        said = "it did not answer"
        while time.monotonic() < deadline:
            _require_alive(*children)
            try:
                with opener.open(request, timeout=60) as reply:
                    if json.load(reply).get("choices"):
                        return name
            except urllib.error.HTTPError as error:
                said = f"it answered {error.code}: {error.read(300).decode(errors='replace').strip()}"
            except (OSError, ValueError):
                pass
            time.sleep(1.0)
        raise WorkerError(f"No completion came through the gateway in {_FIRST_COMPLETION_S:.0f} s; {said}.")

    def _progress(self, line: str) -> None:
        _say(f"[{time.monotonic() - self._started_at:4.0f} s] {line}")


def _effective_config(config: Path, engine: str | None, serve_port: int, directory: Path) -> Path:
    """Return ``config`` itself when it can be used as it is, so that errors name the user's own lines."""
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    changed = False
    for worker in document["workers"].values():
        if engine is not None and worker.get("engine", "vllm") != engine:
            worker["engine"] = engine
            changed = True
    providers = document.get("providers")
    for provider in providers.values() if isinstance(providers, dict) else ():
        if isinstance(provider, dict) and provider.get("type") == "ray-serve":
            url = urlsplit(str(provider.get("base_url")))
            if url.hostname in (LOOPBACK, "localhost") and url.port != serve_port:
                provider["base_url"] = f"http://{LOOPBACK}:{serve_port}"
                changed = True
    if not changed:
        return config
    made = directory / "tollway.yaml"
    made.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return made


def _callable_name(config: Path) -> str:
    """Return what an app would name as ``model``: the first route, or else the first name of a model of our own."""
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    workers, models = document["workers"], document.get("models") or {}
    own = (name for name, model in models.items() if (model or {}).get("upstream", name) in workers)
    return str(next(iter(document.get("routes") or own), next(iter(workers))))


def _lines(path: Path, deadline: float) -> Iterator[str]:
    """Yield the lines of a growing file, and an empty string whenever there is none for now, until ``deadline``."""
    with path.open(encoding="utf-8", errors="replace") as file:
        part = ""
        while time.monotonic() < deadline:
            part += file.readline()
            if part.endswith("\n"):
                yield part
                part = ""
            else:
                yield ""
                time.sleep(0.1)


def _require_alive(*children: tuple[str, Child]) -> None:
    for name, child in children:
        if child.exit_code is not None:
            said = [line.strip() for line in child.log.read_text(encoding="utf-8", errors="replace").splitlines()]
            # The sentence that a command of ours ended with, or else its last words.
            plain = [line.removeprefix("tollway: ") for line in said if line.startswith("tollway: ")]
            if not plain:
                _say("\n".join(said[-20:]))
            raise WorkerError(
                _with_cause(plain[-1], said) if plain else f"The {name} ended with code {child.exit_code}."
            )


def _with_cause(sentence: str, said: list[str]) -> str:
    """Add the first error of the log: what failed first is in a replica's or engine's own process."""
    causes = (found.group() for line in said if (found := _ERROR_LINE.search(line)))
    cause = next(causes, None)
    return sentence if cause is None else f"{sentence} The first error in its log: {cause}"


def _farewell(port: int, model: str) -> str:
    url = f"http://{LOOPBACK}:{port}"
    return f"""
Tollway is up. Try it:

  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "{_QUESTION}"}}],
         "max_tokens": 40, "temperature": 0}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="none-needed-on-loopback")
  question = [{{"role": "user", "content": "{_QUESTION}"}}]
  settings = {{"max_tokens": 40, "temperature": 0}}
  for chunk in client.chat.completions.create(model="{model}", messages=question, stream=True, **settings):
      print(chunk.choices[0].delta.content or "", end="")

  Metrics {url}/metrics    API reference {url}/docs

HTTP listens on loopback only. Ray opens one gRPC port per replica on all interfaces; a token of this run guards it.
Ctrl-C stops everything.
"""
