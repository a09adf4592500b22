"""Replay conversations over HTTP and tell what prefix caches saved: docs/reference/replica-choice.md.

    python -m loadtests.replica_choice_live --url http://127.0.0.1:8080 --models prefix,least_active

Against a gateway, or any server that speaks OpenAI's dialect. Conversations begin when they are due, whatever became of
the others; each turn is asked a while after the last answer, with the answers that it really got. The figures are those
of the caller: TTFT from the request to the first content, cached tokens as ``usage.prompt_tokens_details`` has them
(vLLM: ``--enable-prompt-tokens-details``). In a round every model is asked the same, one model after the other, and the
order turns by one from round to round; but every run puts a word of its own before each conversation, so that none
finds in the caches what an earlier one left there. The last column is the median of a request's TTFT over that of the
same request to the first model.
"""

import argparse
import http.client
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from random import Random
from secrets import token_hex
from statistics import median, quantiles
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


def converse(caller: Caller, session: Session, begun_s: float) -> list[Measured | AskingError]:
    """Play a conversation to its end, or to its first failure; its clock began at ``begun_s`` of ``perf_counter``."""
    messages = [{"role": "system", "content": session.system}]
    outcomes: list[Measured | AskingError] = []
    wait_s = begun_s + session.due_s - time.perf_counter()
    for turn in session.turns:
        time.sleep(max(0.0, wait_s))
        messages.append({"role": "user", "content": turn.user})
        try:
            measured = ask(caller, messages, max(1, len(turn.answer) // TOKEN_BYTES))
        except AskingError as error:
            return [*outcomes, error]
        outcomes.append(measured)
        messages.append({"role": "assistant", "content": measured.text})
        wait_s = turn.think_s
    return outcomes


def replay(caller: Caller, sessions: Sequence[Session]) -> list[Measured | AskingError]:
    """Play all conversations, each when it is due; return what became of each request that was sent."""
    begun_s = time.perf_counter()
    with ThreadPoolExecutor(len(sessions)) as callers:
        played = callers.map(lambda session: converse(caller, session, begun_s), sessions)
        return [outcome for outcomes in played for outcome in outcomes]


def row(model: str, trace: str, outcomes: Sequence[Measured | AskingError], first: Sequence[Any]) -> str:
    """Write a row of the table; without two answers there is nothing to say. ``first``: the first model's outcomes."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Measured)]
    failed = len(outcomes) - len(answers)
    if len(answers) < 2:
        return f"| {trace} | {model} | {len(outcomes)} | {failed} | - | - | - | - | - |"
    cuts = quantiles([answer.ttft_ms for answer in answers], n=100, method="inclusive")
    cached = sum(answer.cached_tokens for answer in answers) / sum(answer.prompt_tokens for answer in answers)
    ttft = " | ".join(f"{cuts[percent - 1]:.0f}" for percent in (50, 90, 99))
    # Where none failed, the same request is at the same place in both.
    whole = not failed and all(isinstance(outcome, Measured) for outcome in first)
    pairs = [ours.ttft_ms / theirs.ttft_ms for ours, theirs in zip(answers, first, strict=True)] if whole else []
    ratio = f"{median(pairs):.3f}" if pairs else "-"
    return f"| {trace} | {model} | {len(outcomes)} | {failed} | {cached:.1%} | {ttft} | {ratio} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the traces, print a row for each; 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    usual = Sizes(systems=24, system_tokens=400, user_tokens=40, answer_tokens=16, think_s=3.0)
    add("--url", default="http://127.0.0.1:8080", help="of the gateway (default %(default)s)")
    add("--models", required=True, help="models or routes, with commas between")
    add("--api-key", default="none")
    add("--rounds", type=int, default=1, help="each with a seed of its own (default %(default)s)")
    add("--traces", default="prefix-heavy,unshared", help=f"of {', '.join(TRACES)} (default %(default)s)")
    add("--requests", type=int, default=120, help="of each trace, model and round (default %(default)s)")
    add("--per-s", type=float, default=2.0, help="requests a second, about (default %(default)s)")
    add("--systems", type=int, default=usual.systems, help="system prompts (default %(default)s)")
    add("--system-tokens", type=int, default=usual.system_tokens, help="median, about (default %(default)s)")
    add("--user-tokens", type=int, default=usual.user_tokens, help="median of a turn, about (default %(default)s)")
    add("--answer-tokens", type=int, default=usual.answer_tokens, help="median (default %(default)s)")
    add("--think-s", type=float, default=usual.think_s, help="mean, between two turns (default %(default)s)")
    add("--seed", type=int, default=1, help="of the first round (default %(default)s)")
    options = parser.parse_args(arguments)
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    models = options.models.split(",")
    failures: list[AskingError] = []
    print(
        f"| trace | model | requests | failed | cached tokens | TTFT p50 ms | p90 | p99 | of {models[0]}'s |\n"
        + "|---" * 9
        + "|"
    )
    for trace in options.traces.split(","):
        outcomes: dict[str, list[Measured | AskingError]] = {model: [] for model in models}
        for turn in range(options.rounds):
            random = Random(options.seed + turn)  # noqa: S311 - a made-up trace
            sessions = TRACES[trace](random, options.requests, options.per_s, sizes)
            for index in range(len(models)):
                model = models[(index + turn) % len(models)]
                nonce = token_hex(4)
                own = [replace(session, system=f"{nonce} {session.system}") for session in sessions]
                outcomes[model] += replay(Caller(urlsplit(options.url), model, options.api_key), own)
        for model in models:
            print(row(model, trace, outcomes[model], outcomes[models[0]]), flush=True)
            failures += [outcome for outcome in outcomes[model] if isinstance(outcome, AskingError)]
    for failure in failures[:5]:
        print(f"tollway: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
