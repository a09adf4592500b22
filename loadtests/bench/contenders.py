"""Who is measured: how each is installed, configured and started, by its own documentation's advice for production.

A contender listens on 127.0.0.1 alone, has one core, and asks nobody but the bench's upstream. A new one is a class
with ``install`` and ``launch``, and a place in ``CONTENDERS``.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec

from loadtests.bench.install import (
    Installed,
    committed_tree,
    debian_package,
    locked_tree,
    npm_package,
    python_packages,
)
from loadtests.bench.workloads import Dialect

_KEY = "sk-bench-0123456789abcdef"
_TRANSLATED = "claude"
"""The name by which callers ask for the model behind Anthropic's dialect."""
_NATIVE = "gpt"
"""And for the one behind OpenAI's Responses."""
_PASSED: dict[tuple[Dialect, Dialect], str] = {("messages", "messages"): "bench", ("responses", "responses"): "bench"}
"""What goes through whatever sends bytes on as they are."""


@dataclass(frozen=True)
class Site:
    """Where a contender runs: its installation, a directory of its own for this run, and two ports on 127.0.0.1."""

    home: Path
    work: Path
    port: int
    upstream_port: int

    @property
    def upstream(self) -> str:
        """The upstream's address."""
        return f"http://127.0.0.1:{self.upstream_port}"


@dataclass(frozen=True)
class Launch:
    """How a contender is started, and how callers talk to it."""

    argv: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = "bench"
    models: Mapping[tuple[Dialect, Dialect], str] = field(default_factory=dict)
    """What the caller speaks and what the upstream speaks, unless both is chat -> the model to ask for; a way that is
    not here it does not go, or not without more settings, and is left out there."""


class Contender(Protocol):
    """One gateway, router or proxy."""

    name: str

    def install(self, home: Path) -> Installed:
        """Make it ready below ``home``, or find it. Raises InstallError."""

    def launch(self, site: Site) -> Launch:
        """Write its configuration into ``site.work`` and say how it is started."""


class Nginx:
    """Debian's nginx as a reverse proxy: one worker, connections to the upstream kept, answers not buffered."""

    name = "nginx"

    def install(self, home: Path) -> Installed:  # noqa: ARG002 - it comes with the system
        """See ``Contender.install``."""
        return debian_package("nginx", ["nginx", "nginx-common"])

    def launch(self, site: Site) -> Launch:
        """See ``Contender.launch``."""
        config = site.work / "nginx.conf"
        config.write_text(f"""daemon off;
worker_processes 1;
pid {site.work}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {site.work}/body;
  proxy_temp_path {site.work}/proxy;
  fastcgi_temp_path {site.work}/fastcgi;
  uwsgi_temp_path {site.work}/uwsgi;
  scgi_temp_path {site.work}/scgi;
  client_body_buffer_size 128k;
  keepalive_requests 1000000000;
  upstream engine {{ server 127.0.0.1:{site.upstream_port}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{site.port} backlog=2048;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
""")
        return Launch(["nginx", "-c", str(config), "-p", str(site.work)], models=_PASSED)


class BareRelay:
    """Tollway's HTTP client behind its HTTP server, and nothing else."""

    name = "bare relay"

    def install(self, home: Path) -> Installed:
        """See ``Contender.install``."""
        return locked_tree(home.with_name("tollway"))

    def launch(self, site: Site) -> Launch:
        """See ``Contender.launch``."""
        python = site.home.with_name("tollway") / "bin" / "python"
        program = Path(__file__).with_name("bare_relay.py")
        return Launch([str(python), str(program), str(site.port), site.upstream], models=_PASSED)


class Tollway:
    """Tollway with everything switched on: key, limits, a route over five candidates with ceilings, metrics, ledger."""

    name = "tollway"

    def install(self, home: Path) -> Installed:
        """See ``Contender.install``."""
        return locked_tree(home)

    def launch(self, site: Site) -> Launch:
        """See ``Contender.launch``."""
        models = {
            f"candidate-{i}": {"provider": "engine", "context": 131072, "price": {"input": i, "output": 4 * i}}
            for i in range(1, 6)
        }
        translated = {"provider": "anthropic", "price": {"input": 1, "output": 5}}
        native = {"provider": "openai", "price": {"input": 1, "output": 5}}
        route = {
            "models": list(models),
            "objective": "cost",
            "limits": {"ttft_ms": {"p95": 1500}, "tpot_ms": {"p95": 250}},
        }
        # Limits that are counted but never reached: what is measured is the counting.
        key = {"name": "bench", "secret": "env:BENCH_KEY", "requests_per_minute": 600_000, "concurrency": 100_000}
        config = {
            "server": {"host": "127.0.0.1", "port": site.port},
            "providers": {
                "engine": {"type": "openai-compatible", "base_url": f"{site.upstream}/v1"},
                "anthropic": {"type": "anthropic", "base_url": site.upstream, "api_key": "env:BENCH_KEY"},
                "openai": {"type": "openai", "base_url": f"{site.upstream}/v1", "api_key": "env:BENCH_KEY"},
            },
            "models": models | {_TRANSLATED: translated, _NATIVE: native},
            "routes": {"auto": route},
            "state_dir": str(site.work / "state"),
            "keys": [key],
        }
        path = site.work / "tollway.yaml"
        path.write_bytes(msgspec.json.encode(config))  # YAML 1.2 takes JSON
        return Launch(
            [str(site.home / "bin" / "tollway"), "serve", "--config", str(path)],
            env={"BENCH_KEY": _KEY},
            headers={"authorization": f"Bearer {_KEY}"},
            model="auto",
            models={
                ("chat", "messages"): _TRANSLATED,
                ("messages", "messages"): _TRANSLATED,
                ("messages", "chat"): "auto",
                ("responses", "responses"): _NATIVE,
                ("responses", "chat"): "auto",
            },
        )


class TollwayAt(Tollway):
    """The same at another commit: what a change has cost or saved, measured in the same rounds."""

    def __init__(self, commit: str) -> None:
        """Take the commit by its whole hash."""
        self.name = f"tollway@{commit[:12]}"
        self._commit = commit

    def install(self, home: Path) -> Installed:
        """See ``Contender.install``."""
        return committed_tree(home, self._commit)


class TollwayOfTwo(Tollway):
    """The same by two processes; on one core, so that the CPU of a request can be compared, not the speed."""

    name = "tollway x2"

    def install(self, home: Path) -> Installed:
        """See ``Contender.install``."""
        return locked_tree(home.with_name("tollway"))

    def launch(self, site: Site) -> Launch:
        """See ``Contender.launch``."""
        one = super().launch(replace(site, home=site.home.with_name("tollway")))
        return replace(one, argv=[*one.argv, "--workers", "2"])


class VllmRouter:
    """The vLLM project's router (Rust): it balances over workers, here one; no keys, prices or ledger."""

    name = "vllm-router"

    def install(self, home: Path) -> Installed:
        """See ``Contender.install``."""
        return python_packages(home, ["vllm-router"], named="vllm-router")

    def launch(self, site: Site) -> Launch:
        """See ``Contender.launch``."""
        argv = [str(site.home / "bin" / "vllm-router"), "--host", "127.0.0.1", "--port", str(site.port)]
        argv += ["--worker-urls", site.upstream, "--policy", "round_robin", "--log-level", "error"]
        # Its metrics have a port of their own, which cannot be 0.
        return Launch([*argv, "--prometheus-host", "127.0.0.1", "--prometheus-port", str(site.port + 1)])


class Switchyard:
    """NVIDIA's Switchyard (Rust): it translates and routes, here by its plainest route; no keys, prices or ledger."""

    name = "switchyard"

    def install(self, home: Path) -> Installed:
        """See ``Contender.install``."""
        return python_packages(home, ["nemo-switchyard"], named="nemo-switchyard")

    def launch(self, site: Site) -> Launch:
        """See ``Contender.launch``."""
        routes = "schema_version = 1\n"
        for name, dialect in (("bench", "openai_chat"), (_TRANSLATED, "anthropic_messages")):
            routes += f"""
[llm_clients.{name}]
format = "{dialect}"
base_url = "{site.upstream}/v1"
api_key_env = "BENCH_KEY"
[targets.{name}]
id = "bench"
llm_client = "{name}"
[routes.{name}]
id = "{name}"
type = "passthrough"
target = "{name}"
"""
        config = site.work / "routes.toml"
        config.write_text(routes)
        serve = "import sys, signal; from switchyard_rust.server import Server; "
        serve += "server = Server(sys.argv[1], int(sys.argv[2])); signal.pause()"
        argv = [str(site.home / "bin" / "python"), "-c", serve, str(config), str(site.port)]
        return Launch(argv, env={"BENCH_KEY": _KEY, "RUST_LOG": "error"}, models={("chat", "messages"): _TRANSLATED})


class LiteLLM:
    """LiteLLM's proxy as its page of production best practices has it, with a key; one worker, for one core.

    Without Redis and Postgres, which those pages want for several instances and for keys made at run time.
    """

    name = "litellm"

    def install(self, home: Path) -> Installed:
        """See ``Contender.install``."""
        return python_packages(home, ["litellm[proxy]"], named="litellm")

    def launch(self, site: Site) -> Launch:
        """See ``Contender.launch``."""
        config = {
            "model_list": [
                {
                    "model_name": "bench",
                    "litellm_params": {"model": "openai/bench", "api_key": "none", "api_base": f"{site.upstream}/v1"},
                },
                {
                    "model_name": _TRANSLATED,
                    "litellm_params": {"model": "anthropic/bench", "api_key": "none", "api_base": site.upstream},
                },
            ],
            "general_settings": {"master_key": _KEY, "disable_spend_logs": True, "disable_error_logs": True},
            "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True, "telemetry": False},
        }
        path = site.work / "litellm.yaml"
        path.write_text(json.dumps(config))
        argv = [str(site.home / "bin" / "litellm"), "--host", "127.0.0.1", "--port", str(site.port)]
        return Launch(
            [*argv, "--config", str(path), "--num_workers", "1"],
            env={
                "LITELLM_MODE": "PRODUCTION",
                "LITELLM_LOG": "ERROR",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet for prices
            },
            headers={"authorization": f"Bearer {_KEY}"},
            models={("chat", "messages"): _TRANSLATED},
        )


class Portkey:
    """Portkey's open-source gateway (Node), without its console; where to send is told in each request's headers."""

    name = "portkey"

    def install(self, home: Path) -> Installed:
        """See ``Contender.install``."""
        # With later versions of this part (1.19 at least) every stream is answered 500, "TypeError: immutable".
        return npm_package(home, "@portkey-ai/gateway", held={"@hono/node-server": "1.13.8"})

    def launch(self, site: Site) -> Launch:
        """See ``Contender.launch``."""
        program = site.home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
        loopback = Path(__file__).with_name("loopback.cjs")  # it has no setting for the address
        return Launch(
            ["node", "--require", str(loopback), str(program), f"--port={site.port}", "--headless"],
            env={"NODE_ENV": "production"},
            headers={
                "authorization": f"Bearer {_KEY}",
                "x-portkey-provider": "openai",
                "x-portkey-custom-host": f"{site.upstream}/v1",
            },
        )


CONTENDERS: tuple[Contender, ...] = (
    Nginx(),
    BareRelay(),
    Tollway(),
    TollwayOfTwo(),
    VllmRouter(),
    Switchyard(),
    LiteLLM(),
    Portkey(),
)


def environment(launch: Launch) -> dict[str, str]:
    """Return the variables a contender runs with: little of the caller's, so that two machines run the same."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | dict(launch.env)
