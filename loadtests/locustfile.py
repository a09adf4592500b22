r"""A locust user that streams chat completions and reports TTFT and TPOT beside locust's own figures.

A bounded run against a gateway on this machine:

    locust -f loadtests/locustfile.py --headless --users 8 --spawn-rate 8 --run-time 30s \
        --host http://127.0.0.1:8080 --model auto

Three rows per model: ``chat`` (until the stream's end), ``TTFT`` (request sent to the first content), ``TPOT``
((last - first) / (tokens - 1), the tokens from ``usage``; no sample for fewer than two). All in milliseconds. A stream
that ends without ``[DONE]``, carries an error, or reports no usage is a failure.
"""

import os
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import partial

import msgspec
from geventhttpclient.response import HTTPParseError
from locust import FastHttpUser, events, task
from locust.env import Environment

_PROMPT = "Explain in a few sentences how a toll road pays for itself."


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    options = parser.add_argument_group("Tollway", "what to ask for; each also by its environment variable")
    default = os.environ.get
    options.add_argument("--model", default=default("TOLLWAY_MODEL", "auto"), help="TOLLWAY_MODEL (default auto)")
    options.add_argument("--api-key", default=default("TOLLWAY_API_KEY", ""), help="TOLLWAY_API_KEY (default none)")
    options.add_argument("--prompt", default=default("TOLLWAY_PROMPT", _PROMPT), help="TOLLWAY_PROMPT")
    options.add_argument(
        "--max-tokens", type=int, default=int(default("TOLLWAY_MAX_TOKENS", "64")), help="TOLLWAY_MAX_TOKENS"
    )


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None

    @property
    def bears_content(self) -> bool:
        return bool(self.content or self.reasoning_content or self.reasoning or self.tool_calls)


class _Choice(msgspec.Struct):
    delta: _Delta


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw | None = None


class StreamError(Exception):
    """A stream that did not end as a whole answer."""


class ChatUser(FastHttpUser):
    """One client that sends its next request as soon as the last is answered: users are the concurrency."""

    host = os.environ.get("TOLLWAY_URL", "http://127.0.0.1:8080")
    abstract = False

    @task
    def chat(self) -> None:
        """Stream one completion and report it."""
        options = self.environment.parsed_options
        body = {
            "model": options.model,
            "messages": [{"role": "user", "content": options.prompt}],
            "max_tokens": options.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        started = time.perf_counter()
        with self.client.post(
            "/v1/chat/completions",
            name=f"chat {options.model}",
            json=body,
            headers=headers,
            stream=True,
            catch_response=True,
        ) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {(response.text or '')[:200]}")
                return
            try:
                first, last, tokens = _read(iter(partial(response.stream.readline, b"\n"), b""))
            except (StreamError, HTTPParseError, OSError, msgspec.DecodeError) as error:
                response.failure(error)
                return
            # Without this locust's own row would show the time to the headers.
            response.request_meta["response_time"] = (time.perf_counter() - started) * 1000
            response.success()
        _report(self.environment, "TTFT", options.model, (first - started) * 1000)
        if tokens >= 2:
            _report(self.environment, "TPOT", options.model, (last - first) * 1000 / (tokens - 1))


def _read(lines: Iterator[bytes]) -> tuple[float, float, int]:
    """Return when the first and the last content came (``time.perf_counter``) and the output tokens by usage."""
    first = last = None
    tokens = None
    done = False
    for line in lines:
        data = line.strip().removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        if data == b"[DONE]":
            done = True
        elif data:
            chunk = msgspec.json.decode(data, type=_Chunk)
            if chunk.error is not None:
                raise StreamError(bytes(chunk.error).decode()[:200])
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
            if any(choice.delta.bears_content for choice in chunk.choices):
                last = time.perf_counter()
                first = last if first is None else first
    if not done:
        raise StreamError("the stream ended without [DONE]")
    if first is None or last is None or tokens is None:
        raise StreamError("the stream had no content or no usage")
    return first, last, tokens


def _report(environment: Environment, kind: str, model: str, milliseconds: float) -> None:
    environment.events.request.fire(
        request_type=kind,
        name=f"chat {model}",
        response_time=milliseconds,
        response_length=0,
        exception=None,
        context={},
    )
