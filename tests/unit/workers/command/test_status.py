"""``tollway workers status`` against real HTTP servers that speak the contract of ADR 0006."""

import argparse
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from workers.command import cli

LOAD: dict[str, Any] = {
    "id": "x1",
    "model": "smollm2",
    "state": "ready",
    "in_flight": 3,
    "limit": 80,
    "running": 2,
    "waiting": 1,
    "kv_usage": 0.25,
    "kv_tokens": 65536,
    "ttft_ms": 41.0,
    "total": {
        "up_s": 3600.0,
        "busy_s": 900.0,
        "prompt_tokens": 600_000,
        "cached_tokens": 1024,
        "output_tokens": 400_000,
    },
    "window": {"up_s": 60.0, "busy_s": 15.0, "prompt_tokens": 660, "cached_tokens": 60, "output_tokens": 1200},
}
TOKEN = "a token"


class _Handler(BaseHTTPRequestHandler):
    answer: Callable[[], tuple[int, bytes]]
    token: str | None = None
    streams = False

    def do_GET(self) -> None:
        """Answer one thing; a stream stays open after its first line, as a replica's does."""
        if self.token and self.headers.get("authorization") != f"Bearer {self.token}":
            self.send_error(401)
            return
        code, body = self.answer()
        self.send_response(code)
        if not self.streams:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.streams:
            self.wfile.flush()
            # Until the reader has gone.
            self.rfile.read(1)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(code: int, body: object, *, token: str | None = None, streams: bool = False) -> Iterator[str]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode() + b"\n"
    members = {"answer": lambda _self: (code, content), "token": token, "streams": streams}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), members))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def cluster(*loads: dict[str, Any], price: float = 0.72, token: str | None = None, gone: int = 0) -> Iterator[str]:
    """Serve a directory of one model with a replica per load line, and as many replicas that are gone."""
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(200, load, streams=True, token=token)) for load in loads]
        for _ in range(gone):
            # Bound, so that nobody else gets the port, but not listening: refused.
            closed = stack.enter_context(socket.socket())
            closed.bind(("127.0.0.1", 0))
            urls.append(f"http://127.0.0.1:{closed.getsockname()[1]}")
        replicas = [{"id": str(index), "url": url} for index, url in enumerate(urls)]
        model = {"replicas": replicas, "serves": ["smollm2", "pirate"], "usd_per_hour": price}
        yield stack.enter_context(serving(200, {"version": 1, "models": {"smollm2": model}}, token=token))


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_workers(parser.add_subparsers(required=True))
    args = parser.parse_args(["workers", "status", *arguments])
    code = args.run(args)
    assert isinstance(code, int)
    return code


def as_json(url: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run("--url", url, "--json") == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert isinstance(model, dict)
    return model


def test_figures_are_those_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    """$0.72 an hour for one hour and 1M tokens is $0.72; a quarter of the time was busy."""
    with cluster(LOAD) as url:
        model = as_json(url, capsys)
    assert model["serves"] == ["smollm2", "pirate"]
    assert model["replicas"] == {"ready": 1}
    assert (model["running"], model["waiting"], model["kv_usage"]) == (2, 1, 0.25)
    assert model["prefill_tokens_per_s"] == pytest.approx(10.0), "cached tokens were not computed"
    assert model["decode_tokens_per_s"] == pytest.approx(20.0)
    assert model["utilisation"] == pytest.approx(0.25)
    assert model["usd_per_hour"] == pytest.approx(0.72)
    assert model["usd_per_million_tokens"] == {"average": pytest.approx(0.72), "marginal": pytest.approx(0.18)}


def test_replicas_are_added_up_and_counted_by_state(capsys: pytest.CaptureFixture[str]) -> None:
    """A replica that does not answer is silent, and is paid for all the same."""
    with cluster(LOAD, LOAD | {"state": "draining", "kv_usage": 0.75}, gone=1) as url:
        model = as_json(url, capsys)
    assert model["replicas"] == {"ready": 1, "draining": 1, "silent": 1}
    assert (model["running"], model["kv_usage"]) == (4, 0.5)
    assert model["decode_tokens_per_s"] == pytest.approx(40.0)
    assert model["usd_per_hour"] == pytest.approx(3 * 0.72)
    assert model["usd_per_million_tokens"]["average"] == pytest.approx(0.72)


def test_figure_that_an_engine_does_not_report_is_left_open(capsys: pytest.CaptureFixture[str]) -> None:
    """Null in JSON, a dash in the table: never a zero that nobody measured."""
    silent = dict.fromkeys(("running", "waiting", "kv_usage"))
    counts = {"up_s": 60.0, "busy_s": 0.0, "prompt_tokens": None, "cached_tokens": None, "output_tokens": None}
    with cluster(LOAD | silent | {"total": counts, "window": counts}) as url:
        model = as_json(url, capsys)
        assert run("--url", url) == 0
    assert model["running"] is model["kv_usage"] is model["decode_tokens_per_s"] is None
    assert model["usd_per_million_tokens"] == {"average": None, "marginal": None}
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row == ["smollm2", "pirate", "1", "ready", "-", "-", "-", "-", "-", "0%", "0.72", "-", "-"]


@pytest.mark.parametrize(
    "broken", [{"window": None}, {"total": []}, {"running": "2"}, {"window": {"up_s": "60"}}, {"kv_usage": {}}], ids=str
)
def test_a_replica_that_says_something_else_is_silent(
    broken: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with cluster(LOAD, LOAD | broken) as url:
        assert as_json(url, capsys)["replicas"] == {"ready": 1, "silent": 1}


def test_the_table_has_a_row_for_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    models = {
        "asleep": {"replicas": [], "serves": ["asleep"], "usd_per_hour": 4.0},
        "also": {"replicas": [], "serves": ["also"], "usd_per_hour": 0},
    }
    with serving(200, {"version": 1, "models": models}) as url:
        assert run("--url", url) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["model", "serves", "replicas"]
    assert [row.split()[0] for row in rows] == ["asleep", "also"]
    assert "at zero" in rows[0]
    assert " 0.00 " in rows[0], "nothing runs, nothing is paid for"


def test_status_without_a_model_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(200, {"version": 1, "models": {}}) as url:
        assert run("--url", url) == 0
    assert "serve no model" in capsys.readouterr().out


def test_the_token_goes_to_the_directory_and_the_replicas(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster(LOAD, token=TOKEN) as url:
        assert run("--url", url) == 1
        assert "TOLLWAY_REPLICA_TOKEN" in capsys.readouterr().err
        monkeypatch.setenv("TOLLWAY_REPLICA_TOKEN", TOKEN)
        assert as_json(url, capsys)["replicas"] == {"ready": 1}


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (404, b"nothing", "answers 404"),
        (500, b"oops", "answers 500"),
        (200, b"<html>", "does not answer as workers do"),
        (200, b"[]", "does not answer as workers do"),
        (200, b'{"version": 1}', "something else than replicas"),
        (200, b'{"models": {"m": {"replicas": [1]}}}', "something else than replicas"),
    ],
)
def test_other_server_at_the_address_is_one_sentence(
    code: int, body: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(code, body) as url:
        assert run("--url", url) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_address_without_a_server_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and not listening
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert run("--url", url) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"tollway: No workers answer at {url} (")
    assert error.count("\n") == 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8000"])
def test_address_other_than_http_is_not_asked(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the user nor a directory can make it read a file."""
    assert run("--url", url) == 1
    assert "begins with http://" in capsys.readouterr().err
    models = {"m": {"replicas": [{"id": "x", "url": "file:///etc/passwd"}], "usd_per_hour": 0}}
    with serving(200, {"version": 1, "models": models}) as server:
        assert as_json(server, capsys)["replicas"] == {"silent": 1}
