"""The traces, the simulation and the replay with which the policies of replica choice are compared."""

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from random import Random
from statistics import median

import pytest

from loadtests.replica_choice import Engine, play
from loadtests.replica_choice_live import AskingError, Measured, main, read, row
from loadtests.replica_traces import TRACES, Sizes
from tests.ground.script import Answer, Seen, sse_event
from tests.ground.upstream import ScriptedUpstream

SMALL = Sizes(systems=3, system_tokens=30, user_tokens=5, answer_tokens=5)
RUN = ("--requests", "9", "--per-s", "1e6", "--think-s", "1e-6", "--systems", "2", "--system-tokens", "30")


@pytest.mark.parametrize("trace", TRACES)
def test_a_trace_is_its_seeds_and_has_the_requests_asked_for(trace: str) -> None:
    made = [TRACES[trace](Random(seed), 50, 2.0, SMALL) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    assert sum(len(session.turns) for session in made[0]) == 50
    assert all(earlier.due_s <= later.due_s for earlier, later in pairwise(made[0]))


def test_each_turn_of_a_conversation_begins_with_all_before_it() -> None:
    session = max(TRACES["prefix-heavy"](Random(1), 50, 2.0, SMALL), key=lambda session: len(session.turns))
    prompts = [session.prompt(turn) for turn in range(len(session.turns))]
    assert prompts[0] == [session.system, session.turns[0].user]
    for turn, (earlier, later) in enumerate(pairwise(prompts)):
        assert later == [*earlier, session.turns[turn].answer, session.turns[turn + 1].user]


def test_an_idle_engine_answers_after_a_step_and_its_prefill() -> None:
    """At a request an hour nothing queues: TTFT is the step's base and the prompt's tokens at their rate."""
    engine = Engine(prefill_tokens_per_s=1000.0, step_s=0.5, decode_s=0.0)
    result = play("unshared", "round_robin", replicas=1, requests=20, per_s=1 / 3600, engine=engine, seed=1)
    sessions = TRACES["unshared"](Random(1), 20, 1 / 3600, Sizes())
    tokens = [sum(map(len, session.prompt(0))) // 4 for session in sessions]
    steps = [-(-count // 2048) for count in tokens]  # a long prompt takes several
    assert result.hit_ratio == 0
    assert result.ttft_ms == pytest.approx([500 * n + count for n, count in zip(steps, tokens, strict=True)])
    assert result.tpot_ms == pytest.approx([500.0] * 20)


def test_simulation_shows_lower_ttft_with_cached_prefixes() -> None:
    figures = {"replicas": 4, "requests": 400, "per_s": 2.0, "engine": Engine(), "seed": 1}
    aware, blind = (play("prefix-heavy", policy, **figures) for policy in ("prefix", "least_active"))  # type: ignore[arg-type]
    assert aware.hit_ratio > blind.hit_ratio + 0.1
    assert median(aware.ttft_ms) < median(blind.ttft_ms)


def test_simulation_shows_no_loss_without_shared_prefixes() -> None:
    figures = {"replicas": 4, "requests": 400, "per_s": 2.0, "engine": Engine(), "seed": 1}
    aware, least = (play("unshared", policy, **figures) for policy in ("prefix", "least_active"))  # type: ignore[arg-type]
    assert aware.hit_ratio == 0
    assert median(aware.ttft_ms) < 1.02 * median(least.ttft_ms)


def caching_model(cached: int) -> Callable[[Seen], Answer]:
    """Answer "ok" and tell that so many of 10 prompt tokens were cached."""
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": cached}}
    chunks = (
        sse_event({"choices": [{"delta": {"role": "assistant"}}]}),
        sse_event({"choices": [{"delta": {"content": "ok"}}]}),
        sse_event({"choices": [], "usage": usage}),
        b"data: [DONE]\n\n",
    )
    return lambda _seen: Answer(headers=(("content-type", "text/event-stream"),), chunks=chunks)


async def test_a_replay_asks_every_turn_with_the_answers_it_got(capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedUpstream().on_path("/v1/chat/completions", caching_model(4)) as upstream:
        code = await asyncio.to_thread(main, [*RUN, "--url", upstream.url, "--models", "prefix"])
    rows = [line.split("|")[1:6] for line in capsys.readouterr().out.splitlines()[2:]]
    asked = [json.loads(seen.body)["messages"] for seen in upstream.seen]
    assert code == 0
    assert [[cell.strip() for cell in cells] for cells in rows] == [
        ["prefix-heavy", "prefix", "9", "0", "40.0%"],
        ["unshared", "prefix", "9", "0", "40.0%"],
    ]
    assert len(asked) == 18
    assert {m["content"] for messages in asked for m in messages if m["role"] == "assistant"} == {"ok"}
    assert len({messages[0]["content"].split()[0] for messages in asked}) == 2


async def test_models_get_the_same_prompts_in_alternating_order(capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedUpstream().on_path("/v1/chat/completions", caching_model(4)) as upstream:
        run = [*RUN, "--url", upstream.url, "--models", "a,b", "--rounds", "2", "--traces", "unshared"]
        await asyncio.to_thread(main, run)
    asked = [json.loads(seen.body) for seen in upstream.seen]
    texts = [
        {body["messages"][0]["content"].split(" ", 1)[1] for body in asked[run : run + 9]} for run in (0, 9, 18, 27)
    ]
    assert [asked[run]["model"] for run in (0, 9, 18, 27)] == ["a", "b", "b", "a"]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert [line.split("|")[2:4] for line in capsys.readouterr().out.splitlines()[2:]] == [
        [" a ", " 18 "],
        [" b ", " 18 "],
    ]


async def test_no_run_finds_what_an_earlier_one_left_in_the_caches() -> None:
    async with ScriptedUpstream().on_path("/v1/chat/completions", caching_model(0)) as upstream:
        for _run in range(2):
            await asyncio.to_thread(main, [*RUN, "--url", upstream.url, "--models", "m"])
    asked = [json.loads(seen.body)["messages"][0]["content"] for seen in upstream.seen]
    assert not set(asked[:18]) & set(asked[18:])
    assert {text.split(" ", 1)[1] for text in asked[:18]} == {text.split(" ", 1)[1] for text in asked[18:]}


async def test_a_failed_request_ends_its_conversation_and_the_run_with_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = Answer(status=503, headers=(("content-type", "text/plain"),), chunks=(b"full",))
    async with ScriptedUpstream().on_path("/v1/chat/completions", refused) as upstream:
        code = await asyncio.to_thread(main, [*RUN, "--url", upstream.url, "--models", "m", "--traces", "unshared"])
    assert code == 1
    assert "503: full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([b'data: {"choices":[{"delta":{"content":"a"}}]}\n'], r"without \[DONE\]"),
        ([b'data: {"error":{"message":"died"}}\n', b"data: [DONE]\n"], "died"),
        ([b'data: {"choices":[{"delta":{"content":"a"}}]}\n', b"data: [DONE]\n"], "no usage"),
    ],
    ids=["cut", "error", "no usage"],
)
def test_an_answer_that_is_not_whole_is_a_failure(lines: list[bytes], says: str) -> None:
    with pytest.raises(AskingError, match=says):
        read(lines, 0.0)


def test_the_cached_share_is_that_of_all_prompt_tokens() -> None:
    outcomes = [Measured("", 10.0, 100, 0), Measured("", 20.0, 300, 200), AskingError()]
    assert row("p", "t", outcomes, outcomes) == "| t | p | 3 | 1 | 50.0% | 15 | 19 | 20 | - |"


def test_a_request_is_compared_with_the_same_one_to_the_first_model() -> None:
    first = [Measured("", ttft_ms, 100, 0) for ttft_ms in (100.0, 10.0, 1.0)]
    ours = [Measured("", ttft_ms, 100, 0) for ttft_ms in (50.0, 20.0, 0.1)]
    assert row("p", "t", ours, first).endswith(" | 0.500 |")
