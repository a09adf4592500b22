"""``tollway explain``: where a call went and why, where one would go, and what the second choice would have meant.

A past call and a hypothetical one are asked of a running gateway; without one a configuration alone says where a call
would go while nothing is measured.
"""

import argparse
import contextlib
import http.client
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.accounting.pricing import price_of
from gateway.app import read_snapshot
from gateway.auth.static_keys import ANONYMOUS
from gateway.clock import SystemClock
from gateway.config.problems import ConfigError
from gateway.config.secretless import AnyEnviron
from gateway.errors import GatewayError
from gateway.formats.openai.decode import CHAT
from gateway.formats.tokens import estimate_prompt_tokens, output_bytes
from gateway.routes.plan import planned
from gateway.routing.ceilings import total_ms, ttft_ms
from gateway.routing.resolve import resolve
from gateway.routing.sessions import Sessions
from gateway.targets.pool import Pool
from gateway.tariff import Amounts
from gateway.types import Considered, Inbound

_TIMEOUT_S = 30.0
_MOST_TOKENS = 2_000_000
_CANDIDATE = ("considered", "cost", "TTFT p50", "p95", "total p50", "cached", "ceilings")
_ATTEMPT = ("attempt", "outcome", "status", "tokens in", "out", "TTFT", "TPOT", "cost")


class ExplainError(Exception):
    """A failure whose text is one plain sentence for the person who typed the command."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explain",
        help="say why a call went where it went, or where one would go",
        description="Say why a call went where it went (its id is in the header x-tollway-request-id), or where one "
        "would go: by a running gateway (--url), or by a configuration alone (--config). Nothing is sent to a model. "
        "See docs/guide/explain.md.",
    )
    parser.add_argument("id", nargs="?", metavar="REQUEST_ID", help="a past call; without: one that is not made")
    parser.add_argument("--url", help="of the running gateway; default with an id: http://127.0.0.1:8080")
    parser.add_argument("--key-env", default="TOLLWAY_KEY", metavar="NAME", help="holds the key; default: %(default)s")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a configuration in place of a running gateway")
    parser.add_argument("--request", type=Path, metavar="FILE", help="the body of a chat completion, as JSON")
    parser.add_argument("--model", help="without --request: a route or a model")
    parser.add_argument("--prompt-tokens", type=_count, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--max-tokens", type=_count, metavar="N", help="default: no limit is asked for")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_explain)


def _count(written: str) -> int:
    number = int(written) if written.isascii() and written.isdigit() and len(written) < 9 else 0
    if not 1 <= number <= _MOST_TOKENS:
        raise argparse.ArgumentTypeError(f"should be a whole number from 1 to {_MOST_TOKENS}")
    return number


def _explain(arguments: argparse.Namespace) -> int:
    try:
        found = _found(arguments)
    except (ExplainError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(_lines(found)))
    return 0


def _found(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.id is not None:
        if arguments.config or arguments.request or arguments.model:
            raise ExplainError("A past call is asked of a running gateway by its id alone: leave out the rest.")
        if not arguments.id.isascii() or not arguments.id.replace("_", "").replace("-", "").isalnum():
            raise ExplainError("That is no request's id; it is in the header x-tollway-request-id of each answer.")
        return _ask(arguments, f"/v1/requests/{arguments.id}", None)
    if (arguments.url is None) == (arguments.config is None):
        raise ExplainError("Say the id of a past call, or --url of a running gateway, or --config of a file.")
    body = _body(arguments)
    if arguments.url is not None:
        return _ask(arguments, "/v1/explain/chat/completions", body)
    return _by_file(arguments.config, body)


def _body(arguments: argparse.Namespace) -> bytes:
    if (arguments.request is None) == (arguments.model is None):
        raise ExplainError("Say either --model, a route or a model, or --request, a file with a body.")
    if arguments.request is not None:
        try:
            body: bytes = arguments.request.read_bytes()
        except OSError as error:
            raise ExplainError(f"{arguments.request} cannot be read: {error.strerror}.") from error
        return body
    text = "x" * output_bytes(arguments.prompt_tokens)
    limit = {} if arguments.max_tokens is None else {"max_tokens": arguments.max_tokens}
    return msgspec.json.encode({"model": arguments.model, "messages": [{"role": "user", "content": text}], **limit})


def _by_file(path: Path, body: bytes) -> dict[str, Any]:
    """Plan by a configuration alone: nothing is measured, and no secret is needed."""
    snapshot, clock = read_snapshot(path, AnyEnviron(os.environ)), SystemClock()

    async def read_body(_hold: object) -> bytes:
        return body

    inbound = Inbound(
        id="",
        endpoint=CHAT,
        headers={},
        received_at_ns=clock.monotonic_ns(),
        read_body=read_body,
        caller_left=lambda: False,
    )
    try:
        call = resolve(
            inbound,
            CHAT.decode(body),
            ANONYMOUS,
            snapshot,
            estimate_input_tokens=estimate_prompt_tokens,
            price_of=price_of,
            sessions=Sessions(),
        )
    except GatewayError as error:
        raise ExplainError(error.message) from error
    plan = call.route.policy.plan(call, Pool(clock).view(call))
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(planned(call, plan)))
    return found


def _ask(arguments: argparse.Namespace, path: str, body: bytes | None) -> dict[str, Any]:
    """Ask the running gateway."""
    url = arguments.url or "http://127.0.0.1:8080"
    parts = urlsplit(url if "//" in url else f"//{url}", "http")
    key = os.environ.get(arguments.key_env)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    try:
        with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)) as connection:
            connection.request("GET" if body is None else "POST", prefix + path, body, headers)
            answer = connection.getresponse()
            read = answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ExplainError(f"No gateway answers at {url} ({type(error).__name__}); say --url.") from error
    try:
        found = json.loads(read)
        problem = found["error"]["message"] if isinstance(found.get("error"), dict) else None
        is_ours = str(found.get("object")).startswith("tollway.")
    except (ValueError, LookupError, AttributeError) as error:
        raise ExplainError(f"What answers at {url} is no Tollway gateway (status {answer.status}).") from error
    if problem is not None:
        raise ExplainError(f"{url} says: {problem}")
    if not is_ours:
        raise ExplainError(f"What answers at {url} is no Tollway gateway that explains (status {answer.status}).")
    return dict(found)


def _lines(found: Mapping[str, Any]) -> Iterable[str]:
    """Write for people what ``GET /v1/requests/{id}`` or ``/v1/explain`` says."""
    is_past = found["object"] == "tollway.request"
    if is_past:
        yield f"request {found['id']} to '{found['model']}': {found['outcome']}, status {found['status']}"
        yield f"answered by {found['target'] or 'no target'} after {_ms(found['duration_ms'])}, {_usd(found)}"
    else:
        limit = f", at most {tokens} tokens out" if (tokens := found["max_output_tokens"]) else ""
        yield f"a call to '{found['model']}' of about {found['input_tokens_estimate']} tokens{limit}"
        yield f"would go to {found['target']}" if found["target"] else "would go nowhere"
    if why := found["reason"] or found.get("error") or found.get("cause") or found.get("error_kind"):
        yield f"why: {why}"
    considered = msgspec.convert(found["considered"], list[Considered])
    if considered:
        yield ""
        yield from _table([_CANDIDATE, *map(_candidate, considered)])
    if found["dropped"]:
        yield ""
        yield from _table([("ruled out", "by", "why"), *map(_ruled_out, found["dropped"])])
    if is_past and found["attempts"]:
        yield ""
        yield from _table([_ATTEMPT, *map(_attempt, found["attempts"])])
        yield from _second_choice(found, considered)


def _candidate(each: Considered) -> tuple[str, ...]:
    prediction = each.prediction
    cached = prediction.cached_tokens
    return (
        each.target_id,
        f"{prediction.cost_nano_usd.p50 / 1e9:.6f} USD",
        _ms(ttft_ms(prediction, "p50")),
        _ms(ttft_ms(prediction, "p95")),
        _ms(total_ms(prediction, "p50")),
        "-" if cached is None else str(cached),
        ("kept" if each.within_ceilings else "broken") + (", a probe" if each.probe else ""),
    )


def _ruled_out(each: Mapping[str, Any]) -> tuple[str, ...]:
    return each["target_id"], each["filter"], each["reason"]


def _attempt(each: Mapping[str, Any]) -> tuple[str, ...]:
    usage = msgspec.convert(each["usage"], Amounts)
    return (
        each["target_id"],
        each["outcome"],
        str(each["status"] or "-"),
        str(usage.read_tokens),
        str(usage.written_tokens),
        _ms(each["ttft_ms"]),
        _ms(each["tpot_ms"]),
        _usd(each),
    )


def _second_choice(found: Mapping[str, Any], considered: Sequence[Considered]) -> Iterable[str]:
    """Say what the best candidate that did not answer was predicted to cost and take, beside what was measured."""
    others = [each for each in considered if each.target_id != found["target"]]
    if not others or found["target"] is None:
        return
    other = others[0]
    cost_usd = other.prediction.cost_nano_usd.p50 / 1e9
    more_usd = cost_usd - found["cost_nano_usd"] / 1e9
    predicted_ms = total_ms(other.prediction, "p50")
    took = "how long it would have taken is not known" if predicted_ms is None else f"taken {_ms(predicted_ms)}"
    yield ""
    yield (
        f"{other.target_id} would have cost {cost_usd:.6f} USD ({more_usd:+.6f}) and {took}, by its prediction; "
        f"{found['target']} took {_ms(found['duration_ms'])}"
    )


def _ms(ms: float | None) -> str:
    if ms is None:
        return "-"
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms"


def _usd(each: Mapping[str, Any]) -> str:
    return f"{each['cost_nano_usd'] / 1e9:.6f} USD"


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
