"""Every wait for an upstream ends, streamed or not, and a failure of the moment is tried once more. In virtual time."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.simulation.virtual_time import run_virtual
from tests.ground.configs import one_model, two_models
from tests.ground.model import ScriptedModel
from tests.ground.script import Answer, Chunk, Seen, error_answer, json_answer
from tests.ground.upstream import ScriptedUpstream
from tests.ground.virtual_gateway import Answered, VirtualGateway, virtual_gateway

FIRST, SECOND = "http://first.test", "http://second.test"
DEFAULTS = {"first_token_s": 20, "idle_s": 15, "total_s": 600}
SILENT = Answer(raw=b"", stall_after=0)
HALF = json.dumps({"object": "chat.completion", "choices": []}).encode()[:20]
STALLED_BODY = Answer(headers=(("content-type", "application/json"),), chunks=(HALF, b"}"), stall_after=1)
BLANKS = Answer(
    headers=(("content-type", "application/json"),),
    chunks=tuple(Chunk(b" \n", delay_s=5.0) for _ in range(200)),
    framing="close",
)


def error_whose_body_stalls(status: int) -> Answer:
    return replace(error_answer(status), chunks=(b'{"error": ', b"{}}"), framing="chunked", stall_after=1)


def play(
    config: dict[str, Any],
    path: Path,
    scenario: Callable[[VirtualGateway], Coroutine[Any, Any, Any]],
    *upstreams: ScriptedUpstream,
) -> Any:
    async def run() -> Any:
        origins = dict(zip((FIRST, SECOND), upstreams, strict=False))
        async with virtual_gateway(config, path, origins) as running:
            return await scenario(running)

    return run_virtual(run())


async def timed(running: VirtualGateway, **members: Any) -> tuple[Answered, float]:
    """Ask once and say how many seconds it took."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    answered = await running.chat(**{"stream": False, "max_tokens": 100, **members})
    return answered, loop.time() - began_s


@pytest.mark.parametrize(
    ("fault", "always_stream", "after_s"),
    [
        (SILENT, False, 20 + 10),  # ten tokens a second are a slow model
        (SILENT, True, 20),
        (STALLED_BODY, False, 15),
        (BLANKS, False, 20 + 10),
        (error_whose_body_stalls(500), False, 5),
        (error_whose_body_stalls(429), True, 5),
    ],
)
def test_plain_call_goes_on_from_a_silent_target(
    fault: Answer, always_stream: bool, after_s: float, tmp_path: Path
) -> None:
    """With the default time-outs it waits no ten minutes while a healthy target stands behind."""
    bad, good = ScriptedUpstream().then(fault), ScriptedUpstream()
    config = two_models(FIRST, SECOND, timeouts=DEFAULTS)
    config["providers"]["one"]["always_stream"] = always_stream
    answered, took_s = play(config, tmp_path, timed, bad, good)
    assert (answered.status, answered.headers["x-tollway-target"]) == (200, "dear")
    assert took_s == pytest.approx(after_s)


def test_plain_call_waits_for_a_slow_answer_of_the_last_target(tmp_path: Path) -> None:
    """There is nothing to fail over to, so it has what is left of the total."""
    slow = ScriptedUpstream(ScriptedModel(ttft_s=500))
    answered, took_s = play(one_model(FIRST), tmp_path, timed, slow)
    assert (answered.status, took_s) == (200, 500)


def test_plain_call_ends_with_its_total(tmp_path: Path) -> None:
    answered, took_s = play(one_model(FIRST), tmp_path, timed, ScriptedUpstream().then(SILENT))
    assert (answered.status, took_s) == (504, 600)


@pytest.mark.parametrize(
    ("provider", "route", "stream", "after_s"),
    [
        ({"first_token_s": 3}, {}, True, 3),
        ({}, {"first_token_s": 4}, True, 4),
        ({"first_token_s": 3}, {"first_token_s": 4}, True, 4),
        ({"first_token_s": 3}, {}, False, 3 + 10),
        ({"total_s": 8, "first_token_s": 3}, {}, False, 8 / 2),
        ({"total_s": 8, "first_token_s": 7}, {}, True, 7),
        ({"first_token_s": 9, "total_s": 9}, {"total_s": 600}, True, 9),
    ],
)
def test_provider_and_route_have_timeouts_of_their_own(
    provider: dict[str, float], route: dict[str, float], stream: bool, after_s: float, tmp_path: Path
) -> None:
    """The route's come before the provider's, those before the file's; ``total_s`` of a provider is an attempt's."""
    config = two_models(FIRST, SECOND, timeouts=DEFAULTS)
    config["providers"]["one"]["timeouts"] = provider
    config["routes"]["auto"]["timeouts"] = route

    async def scenario(running: VirtualGateway) -> tuple[Answered, float]:
        return await timed(running, stream=stream)

    answered, took_s = play(config, tmp_path, scenario, ScriptedUpstream().then(SILENT), ScriptedUpstream())
    assert (answered.status, answered.headers["x-tollway-target"]) == (200, "dear")
    assert took_s == pytest.approx(after_s)


@pytest.mark.parametrize("where", ["providers", "routes"])
def test_idle_time_is_that_of_provider_or_route(where: str, tmp_path: Path) -> None:
    config = two_models(FIRST, SECOND, timeouts=DEFAULTS)
    config[where]["one" if where == "providers" else "auto"]["timeouts"] = {"idle_s": 2}
    answered, took_s = play(config, tmp_path, timed, ScriptedUpstream().then(STALLED_BODY), ScriptedUpstream())
    assert (answered.status, took_s) == (200, 2)


def test_total_is_that_of_the_route(tmp_path: Path) -> None:
    """Of the whole call; the model asked for by its own name has the file's."""
    config = one_model(FIRST, timeouts={"total_s": 50, "first_token_s": 30})
    upstream = ScriptedUpstream().then(SILENT, SILENT)

    async def scenario(running: VirtualGateway) -> list[tuple[int, float]]:
        ends = [await timed(running, model=model) for model in ("auto", "scripted")]
        return [(answered.status, took_s) for answered, took_s in ends]

    assert play(config, tmp_path, scenario, upstream) == [(504, 50), (504, 600)]


CUT_HEADERS = Answer(hang_up=True, reset=True)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "least_s"),
    [
        (error_answer(500), 0.0),
        (error_answer(503), 0.0),
        (error_answer(529), 0.0),
        (CUT_HEADERS, 0.0),
        (error_answer(429, retry_after_s=1), 1.0),
        (error_answer(503, retry_after_s=2), 2.0),
    ],
)
def test_only_target_is_asked_once_more(fault: Answer, least_s: float, stream: bool, tmp_path: Path) -> None:
    """After a part of half a second, or what it named; each request is an attempt with a row of its own."""
    upstream = ScriptedUpstream().then(fault)

    async def scenario(running: VirtualGateway) -> tuple[Answered, float]:
        answered, took_s = await timed(running, stream=stream)
        assert [entry.outcome for entry in running.ledger.entries] == [
            "cut" if fault is CUT_HEADERS else "refused",
            "ok",
        ]
        return answered, took_s

    answered, took_s = play(one_model(FIRST), tmp_path, scenario, upstream)
    assert answered.status == 200
    assert answered.headers["x-tollway-reason"].startswith("retry: scripted upstream_")
    assert least_s <= took_s <= least_s + 0.5
    ids = {seen.attempt_id for seen in upstream.seen}
    assert len(ids) == len(upstream.seen) == 2


def begun_then_cut(seen: Seen) -> Answer:
    return replace(ScriptedModel().answer(seen), cut_after=3)


def role_then_cut(seen: Seen) -> Answer:
    """Break a stream off before its content, and an answer in one piece before its body's end."""
    return replace(ScriptedModel().answer(seen), cut_after=1)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (error_answer(400), 400),
        (error_answer(401), 503),
        (error_answer(404), 503),
        (error_answer(429), 503),
        (error_answer(429, retry_after_s=60), 503),
        (begun_then_cut, None),
        (role_then_cut, 503),
        (Answer(cut_after=0, chunks=(b"x",)), 503),
        (replace(error_answer(500), first_byte_delay_s=25.0), None),
    ],
)
def test_fault_that_a_moment_does_not_mend_is_asked_for_once(
    fault: Any, status: int | None, stream: bool, tmp_path: Path
) -> None:
    """Nor what the upstream has begun to answer, or has worked on for as long as a first token may take."""
    upstream = ScriptedUpstream().then(fault)
    config = one_model(FIRST)
    config["providers"]["upstream"]["always_stream"] = True

    async def scenario(running: VirtualGateway) -> Answered:
        return (await timed(running, stream=stream))[0]

    answered = play(config, tmp_path, scenario, upstream)
    assert len(upstream.seen) == 1
    assert b"[DONE]" not in answered.body
    assert status in (None, answered.status)


def test_target_that_stays_broken_is_asked_twice_and_named(tmp_path: Path) -> None:
    upstream = ScriptedUpstream().on_path("/v1/chat/completions", error_answer(500))
    answered, _ = play(one_model(FIRST), tmp_path, timed, upstream)
    assert (answered.status, len(upstream.seen)) == (503, 2)
    assert answered.body.count(b"scripted: upstream_error") == 2


def test_retry_happens_behind_the_last_target_only(tmp_path: Path) -> None:
    """Both fail; the first is asked again, for the second has named a long time."""
    first = ScriptedUpstream().then(error_answer(500))
    second = ScriptedUpstream().then(error_answer(503, retry_after_s=100))
    answered, _ = play(two_models(FIRST, SECOND), tmp_path, timed, first, second)
    assert (answered.status, len(first.seen), len(second.seen)) == (200, 2, 1)
    assert answered.headers["x-tollway-target"] == "cheap"
    assert answered.headers["x-tollway-reason"] == "retry: cheap upstream_error, dear upstream_overloaded"


@pytest.mark.parametrize("named", ["86400", "999999999", "300"])
def test_retry_after_to_callers_is_at_most_five_minutes(named: str, tmp_path: Path) -> None:
    answer = json_answer({"error": {"message": "slow down"}}, status=429, headers=[("retry-after", named)])

    async def scenario(running: VirtualGateway) -> list[int]:
        ends = [await timed(running) for _ in range(2)]  # refused by the upstream, then by its breaker
        return [int(answered.headers["retry-after"]) for answered, _ in ends]

    assert play(one_model(FIRST), tmp_path, scenario, ScriptedUpstream().then(answer)) == [300, 300]


def test_healthy_streams_longer_than_an_attempt_may_take_are_no_silence(tmp_path: Path) -> None:
    """They end at the provider's ``total_s``, which says nothing against a target that has written all the while."""
    config = one_model(FIRST, timeouts=DEFAULTS)
    config["providers"]["upstream"]["timeouts"] = {"total_s": 10}
    writing = ScriptedUpstream(ScriptedModel(tokens=100, tpot_s=1))

    async def scenario(running: VirtualGateway) -> tuple[list[bool], str]:
        answers = [await running.chat(model="scripted", seed=number) for number in range(4)]
        return [b"w4" in each.body for each in answers], running.gateway.pool.breaker_states()["scripted"]

    assert play(config, tmp_path, scenario, writing) == ([True] * 4, "closed")


@pytest.mark.parametrize(
    ("stream", "bodies", "state"),
    [
        (True, 1, "open"),  # silence, whoever meets it
        (False, 1, "closed"),  # it may be the request that takes so long
        (False, 3, "open"),
    ],
)
def test_answer_past_its_predicted_time_counts_by_its_request(
    stream: bool, bodies: int, state: str, tmp_path: Path
) -> None:
    """An answer without a stream shows nothing until its end: a long one is not told from silence."""
    config = two_models(FIRST, SECOND, timeouts=DEFAULTS)

    async def scenario(running: VirtualGateway) -> str:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(running.chat(stream=stream, max_tokens=100, seed=number % bodies))
        states: Any = running.gateway.pool.breaker_states()
        return "closed" if states["cheap"] == "closed" else "open"

    assert play(config, tmp_path, scenario, ScriptedUpstream().then(*[SILENT] * 3), ScriptedUpstream()) == state


@pytest.mark.parametrize("stream", [True, False])
def test_silence_opens_the_breaker_where_an_attempt_has_less_than_the_first_token(stream: bool, tmp_path: Path) -> None:
    """The provider's ``total_s`` is smaller than ``first_token_s``, and the route has a ceiling."""
    config = two_models(FIRST, SECOND, timeouts=DEFAULTS, limits={"ttft_ms": {"p95": 5000}})
    config["providers"]["one"]["timeouts"] = {"total_s": 6}

    async def scenario(running: VirtualGateway) -> str:
        await running.chat()
        async with asyncio.TaskGroup() as group:
            for number in range(4):  # one of them may be a probe, which the ceiling cuts short
                group.create_task(running.chat(stream=stream, seed=number))
        return "closed" if running.gateway.pool.breaker_states()["cheap"] == "closed" else "open"

    upstream = ScriptedUpstream().then(ScriptedModel().answer, *[SILENT] * 4)
    assert play(config, tmp_path, scenario, upstream, ScriptedUpstream()) == "open"
