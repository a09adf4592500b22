"""How long a large body holds the event loop: the longest wait of anything else in the process, before and now.

``python -m loadtests.large_body --before TREE`` starts a gateway of this tree and one of ``TREE``, a checkout that
has its own ``.venv``, sends each the same chat bodies by turns, and prints the longest gap between two beats of its
event loop while it received, decoded and sent on the body. Ratios hold, times do not.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self

import uvloop

_HERE = Path(__file__).parents[1]
_BYTES = 9_700_000
_BEAT_S = 0.0005
_ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }
).encode()
_WORDS = 'She said: "So be it."\n'


def bodies() -> dict[str, bytes]:
    """Return chat bodies of 9.7 MB: by what they are made of."""
    turns = [{"role": ("user", "assistant")[at % 2], "content": _WORDS * 85} for at in range(_BYTES // 2_100)]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * (_BYTES // 8)}}
    made = {
        "many messages": turns,
        "one text": [{"role": "user", "content": _WORDS * (_BYTES // 25)}],
        "one image": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}],
    }
    return {name: json.dumps({"model": "m", "messages": messages}).encode() for name, messages in made.items()}


class _Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        left = int(self.headers["content-length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 16)))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(_ANSWER)))
        self.end_headers()
        self.wfile.write(_ANSWER)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Tree:
    """A gateway of one checkout, as a process of its own."""

    def __init__(self, root: Path, upstream: str) -> None:
        environ = {**os.environ, "PYTHONPATH": str(root)}
        command = [str(root / ".venv/bin/python"), __file__, "--serve", upstream]
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            command, cwd=root, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._url = f"{self._line()}/chat/completions"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def hold_ms(self, body: bytes) -> float:
        """Send a body; return the longest gap between two beats meanwhile, in ms."""
        self._line("begin")
        request = urllib.request.Request(self._url, body, {"content-type": "application/json"})  # noqa: S310 - loopback
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - the same
            assert answer.status == 200
            answer.read()
        return float(self._line("end"))

    def _line(self, word: str = "") -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if word:
            print(word, file=self._process.stdin, flush=True)
        line: str = self._process.stdout.readline()
        return line.strip()


async def _serve(upstream: str) -> None:
    """Run a gateway of the tree in PYTHONPATH; between the lines ``begin`` and ``end`` note the longest gap."""
    from tests.ground.gateway import running_gateway

    loop = asyncio.get_running_loop()
    last = longest = 0.0

    def beat() -> None:
        nonlocal last, longest
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        loop.call_later(_BEAT_S, beat)

    provider = {"type": "openai-compatible", "base_url": f"{upstream}/v1", "always_stream": False}
    config = {"providers": {"p": provider}, "models": {"m": {"provider": "p", "price": {"input": 1, "output": 1}}}}
    with tempfile.TemporaryDirectory() as directory:
        async with running_gateway(config, Path(directory)) as running:
            print(running.base_url, flush=True)
            sys.setswitchinterval(0.0005)  # as ``tollway serve`` does
            beat()
            while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
                print(f"{1e3 * longest:.2f}", flush=True)
                longest = 0.0 if word == "begin" else longest


@contextmanager
def _upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Upstream) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", metavar="UPSTREAM", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return uvloop.run(_serve(arguments.serve))
    with ExitStack() as stack:
        url = stack.enter_context(_upstream())
        roots = {"now": _HERE} | ({"before": arguments.before} if arguments.before else {})
        trees = {name: stack.enter_context(Tree(root, url)) for name, root in roots.items()}
        for name, body in bodies().items():
            found: dict[str, list[float]] = {each: [] for each in trees}
            for _ in range(arguments.rounds):
                for each, tree in trees.items():
                    found[each].append(tree.hold_ms(body))
            shown = [f"{each} {statistics.median(ms):.1f} ms (least {min(ms):.1f})" for each, ms in found.items()]
            print(f"{name}, {len(body) / 1e6:.1f} MB: {', '.join(shown)}", flush=True)
    return None


if __name__ == "__main__":
    main()
