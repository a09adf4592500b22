"""Replay conversations over HTTP and tell what prefix caches saved: docs/reference/replica-choice.md.

    python -m loadtests.replica_choice_live --url http://127.0.0.1:8080 --model smollm2 --label prefix

Against a gateway, or any server that speaks OpenAI's dialect. A closed loop: each of ``--concurrency`` callers plays
one conversation after another, each turn with the answers that it really got. The figures are those of the caller:
TTFT from the request to the first content, cached tokens as ``usage.prompt_tokens_details`` has them (vLLM:
``--enable-prompt-tokens-details``). The same seed makes the same conversations, but every run puts a word of its own
before each, so that none finds in the caches what an earlier one left there.
"""

import argparse
import http.client
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from secrets import token_hex
from statistics import quantiles
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Struct

from loadtests.replica_traces import TOKEN_BYTES, TRACES, Session, Sizes

_TIMEOUT_S = 600.0


class Caller(Struct, frozen=True):
    """Where to ask, and as whom."""

    url: SplitResult
    model: str
    api_key: str = ""


class Measured(Struct, frozen=True):
    """One answer."""

    text: str
    ttft_ms: float
    prompt_tokens: int
    cached_tokens: int


class AskingError(Exception):
    """A request that was refused, or whose answer is not whole."""


class _Details(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int
    prompt_tokens_details: _Details | None = None


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


def read(lines: Iterable[bytes], asked_s: float) -> Measured:
    """Read a stream to its end; ``asked_s`` is of ``time.perf_counter``. Raises ``AskingError``."""
    texts: list[str] = []
    first_s = usage = None
    for line in lines:
        data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        if data == b"[DONE]":
            break
        if not data:
            continue
        chunk = msgspec.json.decode(data, type=_Chunk)
        if chunk.error is not None:
            raise AskingError(msgspec.json.encode(chunk.error).decode()[:200])
        usage = chunk.usage or usage
        if text := "".join(choice.delta.content or "" for choice in chunk.choices):
            first_s = first_s or time.perf_counter()
            texts.append(text)
    else:
        raise AskingError("the stream ended without [DONE]")
    if first_s is None or usage is None:
        raise AskingError("the stream had no content or no usage")
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    return Measured("".join(texts), (first_s - asked_s) * 1000, usage.prompt_tokens, cached or 0)


def ask(caller: Caller, messages: list[dict[str, str]], max_tokens: int) -> Measured:
    """Send one request on a connection of its own and read its stream. Raises ``AskingError``."""
    body = {"model": caller.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = {"content-type": "application/json", "authorization": f"Bearer {caller.api_key}"}
    connect = http.client.HTTPSConnection if caller.url.scheme == "https" else http.client.HTTPConnection
    connection = connect(caller.url.netloc, timeout=_TIMEOUT_S)
    try:
        asked_s = time.perf_counter()
        path = caller.url.path.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
        connection.request("POST", path, msgspec.json.encode(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise AskingError(f"{answer.status}: {answer.read(200).decode(errors='replace')}")
        return read(answer, asked_s)
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise AskingError(repr(error)) from error
    finally:
        connection.close()


def converse(caller: Caller, session: Session) -> list[Measured | AskingError]:
    """Play a conversation to its end, or to its first failure."""
    messages = [{"role": "system", "content": session.system}]
    outcomes: list[Measured | AskingError] = []
    for turn in session.turns:
        messages.append({"role": "user", "content": turn.user})
        try:
            measured = ask(caller, messages, max(1, len(turn.answer) // TOKEN_BYTES))
        except AskingError as error:
            return [*outcomes, error]
        outcomes.append(measured)
        messages.append({"role": "assistant", "content": measured.text})
    return outcomes


def replay(caller: Caller, sessions: Sequence[Session], concurrency: int) -> list[Measured | AskingError]:
    """Play all conversations, so many at a time; return what became of each request that was sent."""
    with ThreadPoolExecutor(concurrency) as callers:
        return [outcome for outcomes in callers.map(lambda s: converse(caller, s), sessions) for outcome in outcomes]


def row(label: str, trace: str, outcomes: Sequence[Measured | AskingError]) -> str:
    """Write a row of the table; without two answers there is nothing to say."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Measured)]
    failed = len(outcomes) - len(answers)
    if len(answers) < 2:
        return f"| {trace} | {label} | {len(outcomes)} | {failed} | - | - | - | - |"
    cuts = quantiles([answer.ttft_ms for answer in answers], n=100, method="inclusive")
    cached = sum(answer.cached_tokens for answer in answers) / sum(answer.prompt_tokens for answer in answers)
    ttft = " | ".join(f"{cuts[percent - 1]:.0f}" for percent in (50, 90, 99))
    return f"| {trace} | {label} | {len(outcomes)} | {failed} | {cached:.1%} | {ttft} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the traces, print a row for each; 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    sizes = Sizes(systems=8, system_tokens=500, user_tokens=40, answer_tokens=24)
    add("--url", default="http://127.0.0.1:8080", help="of the gateway (default %(default)s)")
    add("--model", required=True, help="model or route")
    add("--api-key", default="none")
    add("--label", default="", help="what to call this run in the table, such as its policy")
    add("--traces", default="prefix-heavy,unshared", help=f"of {', '.join(TRACES)} (default %(default)s)")
    add("--requests", type=int, default=200, help="of each trace (default %(default)s)")
    add("--concurrency", type=int, default=4, help="conversations at a time (default %(default)s)")
    add("--systems", type=int, default=sizes.systems, help="system prompts (default %(default)s)")
    add("--system-tokens", type=int, default=sizes.system_tokens, help="median, about (default %(default)s)")
    add("--user-tokens", type=int, default=sizes.user_tokens, help="median of a turn, about (default %(default)s)")
    add("--answer-tokens", type=int, default=sizes.answer_tokens, help="median (default %(default)s)")
    add("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    sizes = Sizes(options.systems, options.system_tokens, options.user_tokens, options.answer_tokens)
    caller = Caller(urlsplit(options.url), options.model, options.api_key)
    nonce = token_hex(4)
    failures: list[AskingError] = []
    print("| trace | run | requests | failed | cached tokens | TTFT p50 ms | p90 | p99 |\n" + "|---" * 8 + "|")
    for trace in options.traces.split(","):
        random = Random(options.seed)  # noqa: S311 - a made-up trace
        sessions = [
            replace(session, system=f"{nonce} {session.system}")
            for session in TRACES[trace](random, options.requests, 1.0, sizes)
        ]
        outcomes = replay(caller, sessions, options.concurrency)
        print(row(options.label, trace, outcomes), flush=True)
        failures += [outcome for outcome in outcomes if isinstance(outcome, AskingError)]
    for failure in failures[:5]:
        print(f"tollway: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
