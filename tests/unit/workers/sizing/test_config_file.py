"""A hub id is proved right, by a real HTTP server in the place of the hub."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("huggingface_hub", reason="the hub's client comes with the engine")


class _Hub(BaseHTTPRequestHandler):
    """Knows one model, ``org/good``, without a revision but ``main``; ``org/gated`` asks for a licence."""

    def do_HEAD(self) -> None:
        """Answer as the hub does: an error has its kind in a header."""
        if self.path == "/org/good/resolve/main/config.json":
            self.send_response(200)
            self.send_header("etag", '"1"')
            self.send_header("x-repo-commit", "0" * 40)
            self.send_header("content-length", "2")
        else:
            known = {"/org/good/resolve/": (404, "RevisionNotFound"), "/org/gated/": (403, "GatedRepo")}
            code, kind = next((what for at, what in known.items() if self.path.startswith(at)), (401, "RepoNotFound"))
            self.send_response(code)
            self.send_header("x-error-code", kind)
            self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """Send the only file."""
        self.do_HEAD()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def asked(endpoint: str, cache: Path, model: str, revision: str | None = None, *, offline: bool = False) -> str:
    """Return what ``hub_config`` says in a process of its own: the client reads its settings on import."""
    program = (
        "import sys; from workers.errors import WorkerError; from workers.sizing.config_file import hub_config\n"
        "try: print(hub_config(sys.argv[1], sys.argv[2] or None))\n"
        "except WorkerError as error: print(error)"
    )
    # Offline is what the client calls it: unreachable at once, and not after half a minute of attempts.
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1" if offline else "0"}
    command = [sys.executable, "-c", program, model, revision or ""]
    done = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=True, timeout=50
    )
    return done.stdout.strip()


def test_a_good_id_gives_its_config(hub: str, tmp_path: Path) -> None:
    assert Path(asked(hub, tmp_path, "org/good")).read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize(
    ("model", "revision", "said"),
    [
        ("org/wrong", None, "There is no model org/wrong at http://127.0.0.1"),
        ("org/good", "v9", "There is no revision 'v9' of org/good at http://127.0.0.1"),
        ("org/gated", None, "org/gated is gated: its licence must be accepted"),
        ("what is this", None, "'what is this' is no hub id (org/name), no path"),
    ],
)
def test_a_wrong_id_is_one_sentence(hub: str, tmp_path: Path, model: str, revision: str | None, said: str) -> None:
    sentence = asked(hub, tmp_path, model, revision)
    assert sentence.startswith(said)
    assert "\n" not in sentence


def test_a_hub_that_is_away_is_one_sentence(hub: str, tmp_path: Path) -> None:
    """What was fetched before is still good."""
    assert (
        asked(hub, tmp_path, "org/good", offline=True)
        == f"org/good is not on this machine, and {hub} cannot be reached."
    )
    config = asked(hub, tmp_path, "org/good")
    assert asked(hub, tmp_path, "org/good", offline=True) == config
